-- Rows of a table, or of the one that its name stands for, in key order. ?1: the table, ?2: after this key,
-- ?3: at most so many.
select r.key, r.rev, r.data
from es_rows r
where r.tbl = coalesce((select cast(c.data as text) from es_rows c where c.tbl = 'current' and c.key = ?1), ?1)
  and r.key > ?2
order by r.key
limit ?3
