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
