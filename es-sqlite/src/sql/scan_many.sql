-- Many scans of a table, or of the one that its name stands for: rows with the number of their span, spans in order,
-- each in key order. ?1: the table, ?2: JSON array of [after, before], ?3: at most so many rows of each.
-- CROSS keeps the asked ones outside. The last key of a span is looked up first, since SQLite has no LATERAL and LIMIT
-- knows no columns: so both steps are ranges of the primary key that end at the limit. A blob is behind any text.
select asked.key, r.key, r.rev, r.data
from (select coalesce((select cast(c.data as text) from es_rows c where c.tbl = 'current' and c.key = ?1), ?1) as tbl) named
cross join json_each(?2) asked
cross join es_rows r
on r.tbl = named.tbl
   and r.key > asked.value ->> 0
   and r.key <= (
       select max(n.key) from (
           select n.key from es_rows n
           where n.tbl = named.tbl and n.key > asked.value ->> 0 and n.key < coalesce(asked.value ->> 1, x'')
           order by n.key
           limit ?3
       ) n
   )
