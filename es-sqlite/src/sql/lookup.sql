-- What a batch asks, under the write lock. Each statement binds one JSON array of what it is asked for, and says of what
-- was found where it stands in there. CROSS keeps the asked ones outside: SQLite would else scan tables for them.

-- The head, and what is forgotten; then what tells the histories of the store apart, as in `look.sql`.
select coalesce((select max(position) from es_events), 0),
       coalesce((select recorded_at from es_events order by position desc limit 1), 0),
       coalesce((select max(id) from es_streams), 0),
       coalesce((select max(id) from es_types), 0),
       (select before from es_forgotten),
       (select identity from es_store), (select token from es_history),
       exists (select 1 from es_events seen where seen.position = ? and substr(seen.head, 13, 16) = ?);
-- Streams: [place in what is asked, number, version, position, id of the last event], all in one row. A row is a message between threads.
select json_group_array(json_array(asked.key, s.id,
       coalesce((select e.version from es_events e where e.stream = s.id order by e.version desc limit 1), 0),
       coalesce((select e.position from es_events e where e.stream = s.id order by e.version desc limit 1), 0),
       (select hex(substr(e.head, 13, 16)) from es_events e where e.stream = s.id order by e.version desc limit 1)))
from json_each(?) asked
cross join es_streams s on s.name = asked.value;
-- Outcomes, by key.
select o.key, o.fingerprint, o.stream, o.version, o.position, o.events, o.refusal
from json_each(?) asked
cross join es_outcomes o on o.key = asked.value;
-- Rows: [place in what is asked, revision], all in one row; then, without revisions, the places of fences. In one statement,
-- since each costs more than what it finds.
select json_group_array(json_array(asked.key, r.rev)), true
from json_each(?) asked
cross join es_rows r on r.tbl = asked.value ->> 0 and r.key = asked.value ->> 1
union all
select json_group_array(asked.key), false
from json_each(?) asked
cross join es_attempts a on a.id = unhex(asked.value)
where a.applied_at is null
