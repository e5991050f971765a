-- An event of a stream. ?1: the stream's name, ?2: its version.
select e.position, t.name, t.codec
from es_events e join es_types t on t.id = e.type
where e.stream = (select id from es_streams where name = ?1) and e.version = ?2
