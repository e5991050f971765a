-- One page of one stream, by its unique index; versions have no holes, so the rows count them.
-- ?1: name, ?2: after this version, ?3: at most so many.
select e.position, e.head, e.data
from es_events e
where e.stream = (select id from es_streams where name = ?1) and e.version > ?2
order by e.version
limit ?3
