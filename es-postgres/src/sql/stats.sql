-- The numbers of a store, in one row.
select coalesce((select e.position from events e order by e.position desc limit 1), 0),
       s.archived, (select count(*) from streams), s.partition_size, s.identity, h.generation
from store s, history h
