-- What is forgotten with time. `{es}` stands for the quoted name of the schema, `{gate}` for the key of its gate.

-- Records that outcomes of keys and fences of attempts from before a time are forgotten. They are refused from now on, and
-- removed by `forget_keys` and `forget_attempts`.
create function {es}.forget(before timestamptz) returns uuid language plpgsql as $$
declare
    millis bigint := (extract(epoch from before) * 1000)::bigint;
    bound  uuid;
begin
    if before > clock_timestamp() - interval '1 day' then
        raise exception 'what is younger than a day may still be asked for: take a time before that'
            using errcode = 'invalid_parameter_value';
    end if;
    bound := (lpad(to_hex(greatest(millis, 0)), 12, '0') || '70008000000000000000')::uuid;
    insert into {es}.forgotten as f (what, upto) values ('keys', bound), ('attempts', bound)
    on conflict (what) do update set upto = greatest(f.upto, excluded.upto);
    return bound;
end $$;

-- Removes outcomes that are forgotten, of so many keys behind one. Keys that do not say when they were made stay. Gives how
-- many were removed, and the last key that was looked at; null if there was none.
create function {es}.forget_keys(after text, most integer, out gone bigint, out last text)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    upto uuid := (select f.upto from {es}.forgotten f where f.what = 'keys');
    seen text[];
begin
    seen := array(select o.key from {es}.outcomes o where o.key > after order by o.key limit most);
    last := seen[cardinality(seen)];
    delete from {es}.outcomes o
    where o.key = any (array(select k.key from unnest(seen) k (key) where {es}.made(k.key) < upto));
    get diagnostics gone = row_count;
end $$;

-- Removes fences that are forgotten, so many at most. Names that do not say when they were given stay.
create function {es}.forget_attempts(after uuid, most integer, out gone bigint, out last uuid)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    upto uuid := (select f.upto from {es}.forgotten f where f.what = 'attempts');
    seen uuid[];
begin
    seen := array(
        select f.attempt from {es}.fenced f where f.attempt > after and f.attempt < upto order by f.attempt limit most);
    last := seen[cardinality(seen)];
    delete from {es}.fenced f
    where f.attempt = any (array(select a.name from unnest(seen) a (name) where substr(a.name::text, 15, 1) = '7'));
    get diagnostics gone = row_count;
end $$;

revoke execute on function {es}.forget(timestamptz), {es}.forget_keys(text, integer), {es}.forget_attempts(uuid, integer)
    from public;

-- Archives and redactions that would take from a running system what it needs are refused, and say what; a dry run says it
-- beforehand.

-- The last position of the whole partitions up to one; null if there are none. The last event stays: positions and recorded
-- times go on from it.
create function {es}.archive_edge(upto bigint) returns bigint language plpgsql stable as $$
begin
    if not exists (select from {es}.store s where s.partition_size is not null) then
        raise exception 'the store has no partitions: make them first, by `partition`' using errcode = 'object_not_in_prerequisite_state';
    end if;
    return (
        select max(p.last) from {es}.partitions p
        where p.last <= upto and p.last < (select max(e.position) from {es}.events e));
end $$;

-- What would miss the events up to a position, if they were archived: processors that are behind, the first event that one
-- has set aside, and streams that could not be loaded any more, by their last events.
create function {es}.in_the_way(
    edge       bigint,
    out what   text,
    out advice text,
    out loads  boolean                          -- false of a stream that could not be loaded
) returns setof record
language plpgsql stable as $$
begin
    return query
        select format('processor %s is at %s and would miss events up to %s', c.name, c.position, edge),
               'Let it catch up. If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.', true
        from {es}.checkpoints c where c.position < edge order by c.position, c.name;
    return query
        select format('event %s %s %s, and would not be there any more',
                      e.position, e.what, e.build || coalesce(' for ' || quote_literal(e.key), '')),
               'Retry or discard it; of an older build, `drop_previous`; of a rebuild under way, switch to it first, or `abort` it. If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.',
               true
        from {es}.unhandled_events(edge) e;
    return query
        select format('stream %s has no snapshot at version %s or later, and could not be loaded', s.name, l.version),
               'Have a snapshot taken; or archive it all the same, if nobody loads it.', false
        from (
            select e.stream_id, max(e.version) as version from {es}.events e where e.position <= edge group by e.stream_id
        ) l
        join {es}.streams s using (stream_id)
        where not exists (select from {es}.snapshots n where n.stream = s.name and n.version >= l.version)
        order by s.name;
end $$;

-- Takes the whole partitions up to a position out of the log. Their tables stay, as `events_archived_<first>_<last>`, to
-- be dumped and dropped. Gives their names.
drop function {es}.archive(bigint);
create function {es}.archive(
    upto       bigint,
    unloadable boolean default false            -- also of streams that could not be loaded any more
) returns setof text language plpgsql as $$
declare
    edge bigint;
    miss record;
    part record;
begin
    perform {es}.maintain();
    edge := {es}.archive_edge(upto);
    if edge is null then
        return;
    end if;
    select w.what, w.advice into miss from {es}.in_the_way(edge) w where w.loads or not unloadable limit 1;
    if found then
        raise exception '%', miss.what using errcode = 'object_not_in_prerequisite_state', hint = miss.advice;
    end if;
    perform set_config('es.maintenance', 'on', true);
    insert into {es}.archived_streams as a (stream_id, version, position, type_id, recorded_at, envelope, data)
    select distinct on (e.stream_id) e.stream_id, e.version, e.position, e.type_id, e.recorded_at, e.envelope, e.data
    from {es}.events e where e.position <= edge
    order by e.stream_id, e.version desc
    on conflict (stream_id) do update
    set version = excluded.version, position = excluded.position, type_id = excluded.type_id,
        recorded_at = excluded.recorded_at, envelope = excluded.envelope, data = excluded.data;
    delete from {es}.tags t where t.position <= edge;
    update {es}.store set archived = edge;
    -- Until here nobody waited.
    perform {es}.shut(format('select {es}.detach(%s)', edge));
    for part in delete from {es}.partitions p where p.last <= edge returning p.first, p.last loop
        return next 'events_archived_' || part.first || '_' || part.last;
    end loop;
    perform set_config('es.maintenance', 'off', true);
end $$;

-- The tags that an event was stored with.
create function {es}.tags_of(envelope bytea) returns setof text language sql immutable as $$
    select distinct t.tag from (
        select get_byte(envelope, 16) as flags
    ) f
    cross join lateral (
        select convert_from(substr(envelope, 18 + 16 * (f.flags & 1) + 8 * (f.flags & 2)), 'UTF8')::json -> 'tags' as tags
        where f.flags & 8 > 0
    ) m
    cross join lateral json_array_elements_text(m.tags) t (tag)
$$;

-- Takes an archived table into the log again, the last one that has left. Those that left before must be there still, where
-- they hold what a stream of it goes on from.
create function {es}.attach_archive(name text) returns void language plpgsql as $$
declare
    first  bigint := substring(name from '^events_archived_([0-9]+)_[0-9]+$')::bigint;
    last   bigint := substring(name from '^events_archived_[0-9]+_([0-9]+)$')::bigint;
    place  regclass := to_regclass('{es}.' || quote_ident(name));
    before regclass;
    lacks  text;
begin
    perform {es}.maintain();
    if first is null or place is null then
        raise exception 'there is no archived table %: restore it first, into the schema of the store', name
            using errcode = 'invalid_parameter_value';
    end if;
    if last <> (select s.archived from {es}.store s) then
        raise exception '% does not end where the log begins, at %: attach the tables that left later first',
            name, (select s.archived from {es}.store s) using errcode = 'object_not_in_prerequisite_state';
    end if;
    execute format('select case when count(*) <> max(position) - min(position) + 1 or max(position) <> $1 or min(position) < $2
                    then ''is not whole'' end from %s', place) into lacks using last, first;
    if lacks is not null then
        raise exception '% is not whole: restore it again', name using errcode = 'object_not_in_prerequisite_state';
    end if;
    perform set_config('es.maintenance', 'on', true);
    create temporary table begins on commit drop as
        select null::bigint as stream_id, null::bigint as version limit 0;
    execute format('insert into begins select stream_id, min(version) - 1 from %s group by stream_id', place);
    -- What a stream of it goes on from, in the tables that left before.
    delete from {es}.archived_streams r using begins b where r.stream_id = b.stream_id;
    for before in
        select c.oid from pg_class c
        where c.relnamespace = '{es}'::regnamespace and c.relkind = 'r' and c.relname like 'events\_archived\_%' and c.oid <> place
    loop
        execute format(
            'insert into {es}.archived_streams (stream_id, version, position, type_id, recorded_at, envelope, data)
             select e.stream_id, e.version, e.position, e.type_id, e.recorded_at, e.envelope, e.data
             from begins b join %s e on e.stream_id = b.stream_id and e.version = b.version', before);
    end loop;
    select s.name into lacks from begins b join {es}.streams s using (stream_id)
    where b.version > 0 and not exists (select from {es}.archived_streams r where r.stream_id = b.stream_id) limit 1;
    if found then
        raise exception 'stream % goes on from an event that is in an archived table which is not there: restore that one first', lacks
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    execute format('insert into {es}.tags (tag, position)
                    select t.tag, e.position from %s e cross join lateral {es}.tags_of(e.envelope) t (tag)', place);
    insert into {es}.partitions values (first, last);
    update {es}.store set archived = first - 1;
    -- Its bounds are proven before, so nobody waits for that.
    execute format('alter table %s add constraint bounds check (position between %s and %s)', place, first, last);
    perform {es}.shut(format('select {es}.attach(%L, %s, %s)', name, first, last));
    perform set_config('es.maintenance', 'off', true);
end $$;

-- The last step of `attach_archive`, under its lock.
create function {es}.attach(name text, first bigint, last bigint) returns void language plpgsql as $$
begin
    execute format('alter table {es}.%I rename to %I', name, 'events_' || first);
    execute format('alter table {es}.events attach partition {es}.%I for values from (%s) to (%s)', 'events_' || first,
                   case when first = 1 then 'minvalue' else first::text end, last + 1);
    execute format('alter table {es}.%I drop constraint bounds', 'events_' || first);
end $$;

-- Replaces the payload of one event, wherever it is by now, and forgets the stream's snapshot. Refused where that would keep
-- the stream from being loaded, or where a processor has the event set aside, and the new payload may be none that it reads.
drop function {es}.redact(text, bigint, bytea);
create function {es}.redact(
    stream  text,
    version bigint,
    data    bytea,
    needed  boolean default false               -- also where it is needed
) returns void language plpgsql as $$
declare
    id    bigint := (select s.stream_id from {es}.streams s where s.name = redact.stream);
    place regclass;
    codec text;
    found_in integer := 0;
    why   text;
begin
    if octet_length(data) > 1000000 then
        raise exception 'the payload is larger than 1000000 bytes' using errcode = 'program_limit_exceeded';
    end if;
    perform {es}.maintain();
    why := {es}.needs(stream, version);
    if why is not null and not needed then
        raise exception '%', why using errcode = 'object_not_in_prerequisite_state',
            hint = 'Attach what was archived, or have what is set aside retried or discarded; or redact it all the same.';
    end if;
    perform set_config('es.maintenance', 'on', true);
    for place in
        select c.oid from pg_class c
        where c.relnamespace = '{es}'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
          and (c.relname in ('events', 'archived_streams') or c.relname like 'events\_archived\_%')
    loop
        execute format('update %s e set data = $1 from {es}.event_types t
                        where e.stream_id = $2 and e.version = $3 and t.type_id = e.type_id returning t.codec', place)
            into codec using data, id, version;
        if codec is not null then
            found_in := found_in + 1;
            if codec = 'json' then
                perform convert_from(data, 'UTF8')::json;
            end if;
        end if;
    end loop;
    if found_in = 0 then
        raise exception 'stream % has no event with version %', stream, version using errcode = 'invalid_parameter_value';
    end if;
    delete from {es}.snapshots s where s.stream = redact.stream;
    -- What programs have read of the store is of another history from now on: they forget it before they write again.
    update {es}.history set one = true;
    perform set_config('es.maintenance', 'off', true);
end $$;

-- Why the payload and the snapshot of an event's stream are needed as they are; null if they are not.
create function {es}.needs(stream text, version bigint) returns text language plpgsql stable as $$
declare
    id   bigint := (select s.stream_id from {es}.streams s where s.name = needs.stream);
    at   bigint := (select e.position from {es}.events e where e.stream_id = id and e.version = needs.version);
    here text   := lpad(at::text, 20, '0');
begin
    if exists (
        select from {es}.archived_streams r join {es}.snapshots n on n.stream = needs.stream
        where r.stream_id = id and n.version >= r.version)
    then
        return format('stream %s is archived in part: without its snapshot it could not be loaded', stream);
    end if;
    return (
        select format('event %s is set aside in %s', at, r.tbl) from {es}.rows r
        where strpos(r.tbl, '~') > 0 and (
            r.tbl like '%/parked/events' and right(r.key, 20) = here or r.tbl like '%/undecoded' and left(r.key, 20) = here)
        limit 1);
end $$;

revoke execute on function {es}.archive_edge(bigint), {es}.in_the_way(bigint), {es}.archive(bigint, boolean),
    {es}.attach_archive(text), {es}.attach(text, bigint, bigint), {es}.redact(text, bigint, bytea, boolean),
    {es}.needs(text, bigint) from public;
