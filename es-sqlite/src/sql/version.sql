-- Where a stream is. ?1: its name.
select e.version, e.position
from es_events e
where e.stream = (select id from es_streams where name = ?1)
order by e.version desc
limit 1
