-- Under the write lock: the head, and where the asked streams are. ?1: JSON array of stream names.
select coalesce((select max(position) from es_events), 0),
       coalesce((select recorded_at from es_events order by position desc limit 1), 0),
       coalesce((select max(id) from es_streams), 0),
       coalesce((select max(id) from es_types), 0);
select s.name, s.id,
       (select e.version from es_events e where e.stream = s.id order by e.version desc limit 1),
       (select e.position from es_events e where e.stream = s.id order by e.version desc limit 1)
from json_each(?1) asked
join es_streams s on s.name = asked.value
