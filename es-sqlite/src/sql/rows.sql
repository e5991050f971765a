-- Some rows of a table, or of the one that its name stands for. ?1: the table, ?2: JSON array of keys.
-- CROSS keeps the asked ones outside: SQLite would else scan the table for them.
select r.key, r.rev, r.data
from json_each(?2) asked
cross join es_rows r
on r.tbl = coalesce((select cast(c.data as text) from es_rows c where c.tbl = 'current' and c.key = ?1), ?1)
   and r.key = asked.value
