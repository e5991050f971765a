-- A snapshot is believed for its last event, so that event has to stand in the stream: where snapshots are stored, and where
-- they are counted on. `{es}` stands for the quoted name of the schema, `{gate}` for the key of its gate.

-- Whether a stream has this event at this version: in the log, or as the last one that was archived.
create function {es}.stands(stream text, version bigint, event uuid) returns boolean language sql stable as $$
    select exists (
        select from {es}.streams s join {es}.events e on e.stream_id = s.stream_id
        where s.name = stands.stream and e.version = stands.version and substr(e.envelope, 1, 16) = uuid_send(stands.event)
    ) or exists (
        select from {es}.streams s join {es}.archived_streams r on r.stream_id = s.stream_id
        where s.name = stands.stream and r.version = stands.version and substr(r.envelope, 1, 16) = uuid_send(stands.event)
    )
$$;

-- Keeps the newer of two snapshots of one schema; another schema always replaces, and so does any where the event of the one
-- that is there is gone. Nothing is stored of another history than that of the token: neither a state whose last event is
-- not there, nor one with a payload that was redacted since. Says whether it was.
create function {es}.put_snapshot(stream text, version bigint, event uuid, schema integer, data bytea, token bigint)
returns boolean language plpgsql as $$
begin
    -- A redaction lets nobody in until it is committed. What follows sees it.
    lock table {es}.snapshots in row exclusive mode;
    insert into {es}.snapshots as s (stream, version, event, schema, data)
    select put_snapshot.stream, put_snapshot.version, put_snapshot.event, put_snapshot.schema, put_snapshot.data
    from {es}.history h
    where (h.tableoid::bigint << 32) | h.xmin::text::bigint = token
      and {es}.stands(put_snapshot.stream, put_snapshot.version, put_snapshot.event)
    on conflict on constraint snapshots_pkey do update
    set version = excluded.version, event = excluded.event, schema = excluded.schema, data = excluded.data
    where excluded.schema <> s.schema or excluded.version >= s.version or not {es}.stands(s.stream, s.version, s.event);
    return found;
end $$;

-- What would miss the events up to a position, if they were archived: processors that are behind, the first event that one
-- has set aside, and streams that could not be loaded any more, by their last events.
create or replace function {es}.in_the_way(
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
        where not exists (
            select from {es}.snapshots n
            where n.stream = s.name and n.version >= l.version and {es}.stands(n.stream, n.version, n.event))
        order by s.name;
end $$;

-- Replaces the payload of one event, wherever it is by now, and forgets the stream's snapshot. Refused where that would keep
-- the stream from being loaded, or where a processor has the event set aside, and the new payload may be none that it reads.
create or replace function {es}.redact(
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
    -- Whoever stores a snapshot of before waits, and then finds that this was committed.
    lock table {es}.snapshots in share row exclusive mode;
    delete from {es}.snapshots s where s.stream = redact.stream;
    -- What programs have read of the store is of another history from now on: they forget it before they write again.
    update {es}.history set one = true;
    perform set_config('es.maintenance', 'off', true);
end $$;

-- Why the payload and the snapshot of an event's stream are needed as they are; null if they are not.
create or replace function {es}.needs(stream text, version bigint) returns text language plpgsql stable as $$
declare
    id   bigint := (select s.stream_id from {es}.streams s where s.name = needs.stream);
    at   bigint := (select e.position from {es}.events e where e.stream_id = id and e.version = needs.version);
    here text   := lpad(at::text, 20, '0');
begin
    if exists (
        select from {es}.archived_streams r join {es}.snapshots n on n.stream = needs.stream
        where r.stream_id = id and n.version >= r.version and {es}.stands(n.stream, n.version, n.event))
    then
        return format('stream %s is archived in part: without its snapshot it could not be loaded', stream);
    end if;
    return (
        select format('event %s is set aside in %s', at, r.tbl) from {es}.rows r
        where strpos(r.tbl, '~') > 0 and (
            r.tbl like '%/parked/events' and right(r.key, 20) = here or r.tbl like '%/undecoded' and left(r.key, 20) = here)
        limit 1);
end $$;

-- A name that the store has just given itself was never used, however far behind the clock of its program is: of such a one
-- it is only asked whether it was given up.
create function {es}.was_given_up(attempt uuid) returns boolean language sql stable as $$
    select exists (select from {es}.fenced f where f.attempt = was_given_up.attempt)
$$;
do $$
declare
    name   text;
    asks   text;
    mended text;
begin
    foreach name in array array['append', 'write_staged'] loop
        select pg_get_functiondef(p.oid) into strict asks
        from pg_proc p where p.pronamespace = '{es}'::regnamespace and p.proname = name;
        mended := replace(asks, '{es}.is_fenced(attempt)', '{es}.was_given_up(attempt)');
        if mended = asks then
            raise exception '% does not ask whether its attempt is fenced', name;
        end if;
        execute mended;
    end loop;
end $$;
