-- A batch. Positions, versions and numbers were given out under the write lock. Each statement binds what
-- its comment says: JSON arrays of rows, and a blob that the rows point into with [from, length].

-- Types: [id, name, schema, codec].
insert into es_types (id, name, schema, codec)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each(?);
-- Streams: [id, name].
insert into es_streams (id, name)
select value ->> 0, value ->> 1 from json_each(?);
-- Events: the blob, [position, stream, version, type, recorded_at, head, data].
insert into es_events (position, stream, version, type, recorded_at, head, data)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
       substr(bytes, value ->> '$[5][0]', value ->> '$[5][1]'),
       substr(bytes, value ->> '$[6][0]', value ->> '$[6][1]')
from (select ? as bytes), json_each(?);
-- Tags: [tag, position]. An event may name a tag twice.
insert into es_tags (tag, position)
select value ->> 0, value ->> 1 from json_each(?) where true
on conflict do nothing;
-- Outcomes: the blob, [key, fingerprint, stream, version, position, events, refusal].
insert into es_outcomes (key, fingerprint, stream, version, position, events, refusal)
select value ->> 0, substr(bytes, value ->> '$[1][0]', value ->> '$[1][1]'), value ->> 2, value ->> 3, value ->> 4,
       value ->> 5, substr(bytes, value ->> '$[6][0]', value ->> '$[6][1]')
from (select ? as bytes), json_each(?);
-- Rows: the blob, [table, key, rev, data].
insert into es_rows (tbl, key, rev, data)
select value ->> 0, value ->> 1, value ->> 2, substr(bytes, value ->> '$[3][0]', value ->> '$[3][1]')
from (select ? as bytes), json_each(?) where true
on conflict (tbl, key) do update set rev = excluded.rev, data = excluded.data;
-- Rows to delete: [table, key].
delete from es_rows where (tbl, key) in (select value ->> 0, value ->> 1 from json_each(?));
