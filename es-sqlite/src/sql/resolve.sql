-- Where an event of a stream stands. ?1: the stream's name, ?2: the event's id.
select e.version, e.position
from es_events e
where e.stream = (select id from es_streams where name = ?1) and substr(e.head, 13, 16) = ?2
order by e.version desc
limit 1
