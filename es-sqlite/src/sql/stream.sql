-- One page of one stream, by its unique index; versions have no holes, so the rows count them.
-- Bound: name, after this version, at most so many. Plain placeholders: other statements may follow in one message.
select e.position, e.head, e.data
from es_events e
where e.stream = (select id from es_streams where name = ?) and e.version > ?
order by e.version
limit ?
