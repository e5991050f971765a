-- One page of one stream, by its unique index; versions have no holes, so the rows count them.
-- $1: name, $2: after this version, $3: at most so many.
select e.position, e.type_id, e.recorded_at, e.envelope, e.data
from events e
where e.stream_id = (select s.stream_id from streams s where s.name = $1) and e.version > $2
order by e.version
limit $3
