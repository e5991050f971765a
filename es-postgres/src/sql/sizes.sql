-- Tables of the schema, in bytes with their indexes; the log and its partitions are one.
select case when c.relispartition or c.relname = 'events' then 'events' else c.relname::text end as name,
       sum(pg_total_relation_size(c.oid))::bigint as bytes
from pg_class c
where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
group by 1
order by bytes desc, name
