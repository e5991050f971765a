-- One page of one stream, by its unique index. ?1: name, ?2: after this version, ?3: at most so many.
select e.position, e.version, e.type, e.recorded_at, e.ident, e.data, e.meta
from es_events e
where e.stream = (select id from es_streams where name = ?1) and e.version > ?2
order by e.version
limit ?3
