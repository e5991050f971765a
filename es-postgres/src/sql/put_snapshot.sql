-- Keeps the newer of two snapshots of one schema; another schema always replaces. The token of the history comes back: what
-- was put may be of one that is gone.
insert into snapshots as s (stream, version, event, schema, data)
values ($1, $2, $3, $4, $5)
on conflict (stream) do update
set version = excluded.version, event = excluded.event, schema = excluded.schema, data = excluded.data
where excluded.schema <> s.schema or excluded.version >= s.version
returning (select (h.tableoid::bigint << 32) | h.xmin::text::bigint from history h) as history
