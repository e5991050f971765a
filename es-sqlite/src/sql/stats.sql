-- The store and its generation, the head, how many streams there are, and the size of the file.
select s.identity, h.generation,
       coalesce((select max(position) from es_events), 0),
       (select count(*) from es_streams),
       (select page_count from pragma_page_count) * (select page_size from pragma_page_size)
from es_store s, es_history h
