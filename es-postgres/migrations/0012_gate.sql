-- Nothing that grows with the log, and nothing that waits for others, is done behind the gate. `{es}` stands for the quoted
-- name of the schema, `{gate}` for the key of its gate.

-- The tag that the fewest events have behind a position. Of each so many are counted as it takes to tell.
create function {es}.rarest(tags text[], after bigint) returns text
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    enough bigint := 64;
    rare   record;
begin
    if cardinality(tags) = 1 then
        return tags[1];
    end if;
    loop
        select a.tag, c.n into rare
        from unnest(tags) a (tag)
        cross join lateral (
            select count(*) as n from (
                select from {es}.tags t where t.tag = a.tag and t.position > rarest.after order by t.position limit enough
            ) t
        ) c
        order by c.n limit 1;
        if rare.n < enough then
            return rare.tag;
        end if;
        enough := enough * 16;
    end loop;
end $$;

-- Whether anything matches one alternative of a condition behind a position and up to another one: along its rarest tag,
-- or along the log.
drop function {es}.matches(bigint, text[], text[]);
create function {es}.matches(after bigint, upto bigint, types text[], tags text[]) returns boolean
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    kinds  integer[] := array(select k.type_id from {es}.event_types k where k.name = any (types));
    rare   text;
    others text[];
begin
    if cardinality(types) > 0 and cardinality(kinds) = 0 then
        return false;
    end if;
    if tags is null then
        if types is null then
            return exists (select from {es}.events e where e.position > after and e.position <= upto);
        end if;
        -- Along the log, or along an index on (type_id, position), if the operator has made one.
        return exists (
            select from {es}.events e where e.position > after and e.position <= upto and e.type_id = any (kinds));
    end if;
    rare := {es}.rarest(tags, after);
    others := array_remove(tags, rare);
    return exists (
        select from {es}.tags t
        where t.tag = rare and t.position > after and t.position <= upto
          and not exists (
              select from unnest(others) other (tag)
              where not exists (select from {es}.tags o where o.tag = other.tag and o.position = t.position))
          and (types is null or exists (
              select from {es}.events e where e.position = t.position and e.type_id = any (kinds))));
end $$;

-- The requests whose conditions are broken by events up to a position. What lies up to `seen` was looked at before.
create function {es}.broken(conditions jsonb, seen bigint, upto bigint) returns integer[] language plpgsql stable as $$
begin
    return array(
        select c.request
        from jsonb_to_recordset(conditions) c (request integer, after bigint, types text[], tags text[])
        cross join lateral (select greatest(c.after, seen) as after offset 0) b
        where case
            when b.after >= upto then false
            -- The usual one: nothing new has its first tag. A look at the index, without a call.
            when c.tags is not null and not exists (
                select from {es}.tags t where t.tag = c.tags[1] and t.position > b.after and t.position <= upto) then false
            else {es}.matches(b.after, upto, c.types, c.tags)
        end);
end $$;

-- Numbers, versions and ids of the last events of streams that are not known. Most are in the last partitions; for the
-- others every one is looked into, so it is done before the gate.
create function {es}.locate(
    names        text[],
    seen         bigint,                        -- the head
    known_ids    bigint[],                      -- of those that are known; null: none is
    known_ends   bigint[],                      -- and their versions
    out ids      bigint[],
    out versions bigint[],                      -- 0 where there is no stream
    out events   bytea[]                        -- null of those that are known; empty where there is no stream
) language plpgsql stable as $$
declare
    recent bigint;
begin
    ids := array(
        select coalesce(n.id, (select t.stream_id from {es}.streams t where t.name = n.name))
        from unnest(names, known_ids) n (name, id));
    versions := coalesce(known_ends, array_fill(null::bigint, array[cardinality(names)]));
    select array_agg(case when n.version is null and n.id is null then '' end::bytea order by n.i),
           array_agg(case when n.id is null then 0 else n.version end order by n.i)
    into events, versions
    from unnest(ids, versions) with ordinality n (id, version, i);
    if array_position(versions, null) is null then
        return;
    end if;
    -- No later than the partition before that of the head.
    recent := (select p.first from {es}.partitions p where p.last < seen order by p.first desc limit 1);
    if recent is not null then
        select array_agg(coalesce(a.version, e.version) order by a.i), array_agg(coalesce(a.event, e.event) order by a.i)
        into versions, events
        from unnest(ids, versions, events) with ordinality a (id, version, event, i)
        left join lateral (
            select e.version, substr(e.envelope, 1, 16) as event from {es}.events e
            where a.version is null and e.stream_id = a.id and e.position >= recent order by e.version desc limit 1
        ) e on true;
        if array_position(versions, null) is null then
            return;
        end if;
    end if;
    select array_agg(coalesce(a.version, e.version, r.version, 0) order by a.i),
           array_agg(case when a.version is null then coalesce(e.event, r.event, '') else a.event end order by a.i)
    into versions, events
    from unnest(ids, versions, events) with ordinality a (id, version, event, i)
    left join lateral (
        select e.version, substr(e.envelope, 1, 16) as event from {es}.events e
        where a.version is null and e.stream_id = a.id order by e.version desc limit 1
    ) e on true
    left join lateral (
        select r.version, substr(r.envelope, 1, 16) as event from {es}.archived_streams r
        where e.version is null and a.version is null and r.stream_id = a.id limit 1
    ) r on true;
end $$;

-- Up to where outcomes of keys and fences of attempts are forgotten. What says of itself that it is older is refused: it
-- may have been used before.
create table {es}.forgotten (
    what text primary key,                      -- `keys` or `attempts`
    upto uuid not null                          -- the first of version 7 that is not
);

-- Roles that look for fences look there too.
do $$
declare
    this record;
begin
    for this in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = '{es}.fenced'::regclass and a.grantee <> c.relowner and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on {es}.forgotten to %s', this.role);
    end loop;
end $$;

-- When a key was made, as far as it says so: the last UUID of version 7 in it.
create function {es}.made(key text) returns uuid language sql immutable as $$
    select max(m.found[1] collate "C")::uuid
    from regexp_matches(lower(key), '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}', 'g') m (found)
$$;

-- Whether nothing is ever applied under this name.
create function {es}.is_fenced(attempt uuid) returns boolean language plpgsql stable as $$
begin
    return exists (select from {es}.fenced f where f.attempt = is_fenced.attempt)
        or exists (
            select from {es}.forgotten f
            where f.what = 'attempts' and is_fenced.attempt < f.upto and substr(is_fenced.attempt::text, 15, 1) = '7');
end $$;

-- An import is an append with times of its own.
drop function {es}.begin_import(text[], bigint);

-- Programs that were started before this migration call the new function: what they leave out has a default.
drop function {es}.append(
    uuid, bigint, bigint, integer, text[], bigint[], bigint[], bigint, uuid, bigint[], bigint[], integer[], integer[],
    integer[], bytea[], bytea[], text[], integer[], jsonb, jsonb, integer[], text[], text[], bigint[], bytea[], integer[],
    uuid[], uuid[], bigint[], integer, text, uuid[], integer[], text[], integer[], text[]);

-- A batch of requests: written as a whole, or not at all. `written` says which; if not, whoever asked leaves out the
-- requests in `refused`, and those whose streams are not where they must be, and asks again for the others.
--
-- Each stream stands once, the `writes` ones that get events first, with the bounds that all requests agree on.
-- Of events: the number of the stream, and the rank in it. All numbers count from 1. What is null is nothing of its kind.
create function {es}.append(
    attempt         uuid,
    at              bigint,                     -- microseconds since 1970; null: the server's clock
    inline          bigint,                     -- the set of inline projections that all requests with events name
    writes          integer,
    names           text[],
    lows            bigint[],
    highs           bigint[],
    known_head      bigint,                     -- what the asker's last batch left: the position and the id of the last
    known_event     uuid,                       -- event of the log. If it is still the last, nobody else has appended,
    known_ids       bigint[],                   -- and these are the streams' numbers and versions; null where the asker
    known_versions  bigint[],                   -- does not know. If all are known, they are within the bounds.
    event_streams   integer[],
    event_ranks     integer[],
    event_types     integer[],
    event_envelopes bytea[],
    event_data      bytea[],
    tag_texts       text[]    default null,
    tag_events      integer[] default null,
    conditions      jsonb     default null,     -- [{"request", "after", "types": [..], "tags": [..]}]
    marks           jsonb     default null,     -- [{"request", "key", "fingerprint", "stream", "version", "events", "refusal"}]
    row_requests    integer[] default null,
    row_tables      text[]    default null,     -- in the order of tables and keys; hot tables after the others
    row_keys        text[]    default null,
    row_revs        bigint[]  default null,     -- as they were read
    row_data        bytea[]   default null,     -- null deletes
    named_requests  integer[] default null,     -- requests whose attempt has a name of its own
    named           uuid[]    default null,
    witnesses       uuid[]    default null,     -- attempts without events: what they leave beside what they wrote, if anything
    witnesses_named bigint[]  default null,     -- when they were named: microseconds since 1970; null: not known
    row_hot         integer   default null,     -- how many of the rows are hot
    cleared         text      default null,     -- the table of a generation: its rows go, and those of tables below it
    lasts           uuid[]    default null,     -- of the streams: the last event that the asker decided on; null: any
    type_numbers    integer[] default null,     -- of the types of the events: the numbers that the asker knows,
    type_names      text[]    default null,     -- and what they stand for
    type_schemas    integer[] default null,
    type_codecs     text[]    default null,
    event_times     bigint[]  default null,     -- of an import: when the events were recorded, microseconds since 1970
    seen            bigint    default null,     -- of a call within a call: up to where the log was looked at before the gate,
    seen_event      bytea     default null,     -- the id of the event there,
    ends            bytea[]   default null,     -- those of the last events of the streams that were not known,
    mark_places     bigint[]  default null,     -- and where the events are that the marks name
    out written     boolean,
    out head        bigint,                     -- before the batch
    out known       boolean,                    -- whether the asker's last batch is still the last
    out ids         bigint[],                   -- of the streams; null if all were known, like
    out versions    bigint[],                   -- their versions, before the batch; with another last event: -1 - version
    out refused     integer[],
    out outdated    boolean                     -- whether another set of inline projections is stored: no events
) language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    numbers bigint[] := known_ids;
    bases   bigint[] := known_versions;
    gated   boolean  := names is not null or conditions is not null;
    time    timestamptz;
    before_all timestamptz;                     -- when the last event was recorded
    last    bytea;
    before  bigint;
    changed record;
    moved   record;
    stored  bigint;
    fenced  boolean;
    n       bigint;
begin
    -- `resolve` waits here for the end of the attempt, or has fenced it.
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    if named is not null then
        perform pg_advisory_xact_lock(k.key)
        from (select distinct uuid_hash_extended(a.name, 0) as key from unnest(named) a (name) order by 1) k;
        refused := array(
            select a.request from unnest(named_requests, named) a (request, name)
            where {es}.is_fenced(a.name));
        if cardinality(refused) > 0 then
            written := false;
            head := 0;
            known := true;
            outdated := false;
            return;
        end if;
    end if;
    -- What grows with the log, and keys that others may be writing, come before the gate. Behind it is looked at what came
    -- since.
    if seen is null then
        if marks is not null then
            perform pg_advisory_xact_lock(k.key) from (
                select distinct {gate} # hashtextextended(m.key, 1) as key from jsonb_to_recordset(marks) m (key text) order by 1
            ) k;
            refused := array(
                select m.request from jsonb_to_recordset(marks) m (request integer, key text)
                where exists (select from {es}.outcomes o where o.key = m.key));
            -- Behind the look for its outcome, so none is forgotten in between.
            if exists (
                select from {es}.forgotten f, jsonb_to_recordset(marks) m (key text)
                where f.what = 'keys' and {es}.made(m.key) < f.upto
                  and not exists (select from {es}.outcomes o where o.key = m.key))
            then
                raise exception 'the idempotency key is older than what is remembered of keys: look at what is there; a new request takes a new key'
                    using errcode = 'ES010';
            end if;
            mark_places := array(
                select case
                    -- That of an event of its own.
                    when m.events > 0 and m.stream = any (names[:writes]) then 0
                    else coalesce((
                        select e.position from {es}.events e where e.stream_id = s.stream_id and e.version = m.version
                    ), (
                        select r.position from {es}.archived_streams r where r.stream_id = s.stream_id and r.version = m.version
                    ), 0) end
                from jsonb_to_recordset(marks) m (stream text, version bigint, events integer)
                left join {es}.streams s on s.name = m.stream);
        end if;
        seen := coalesce(known_head, 0);
        if gated then
            select e.position, substr(e.envelope, 1, 16) into seen, seen_event
            from {es}.events e where e.position >= append.seen order by e.position desc limit 1;
            if not found and known_head > 0 then
                select e.position, substr(e.envelope, 1, 16) into seen, seen_event
                from {es}.events e order by e.position desc limit 1;
            end if;
            seen := coalesce(seen, 0);
            if conditions is not null then
                refused := refused || {es}.broken(conditions, 0, seen);
            end if;
            -- What the asker knows holds only if nobody else has appended.
            if (seen, seen_event) is distinct from (known_head, uuid_send(known_event)) then
                numbers := null;
                bases := null;
            end if;
            if names is not null and (numbers is null or array_position(numbers, null) is not null) then
                select l.ids, l.versions, l.events into numbers, bases, ends from {es}.locate(names, seen, numbers, bases) l;
            end if;
        end if;
        if cardinality(refused) > 0 then
            written := false;
            head := 0;
            known := true;
            outdated := false;
            return;
        end if;
    end if;
    -- Rows in their order, then the gate, then only the log. What the rest refuses takes the rows back with it.
    if row_tables is not null then
        begin
            if row_hot is null then
                row_hot := (select count(*) from unnest(row_tables) a (tbl) where {es}.is_hot(a.tbl));
            end if;
            if cleared is null then
                perform {es}.write_rows(row_tables, row_keys, row_revs, row_data, row_hot);
            else
                -- In one order with the others.
                select count(*) into before from unnest(row_tables) a (tbl)
                where not {es}.is_hot(a.tbl) and a.tbl < cleared collate "C";
                if before > 0 then
                    perform {es}.write_rows(row_tables[:before], row_keys[:before], row_revs[:before], row_data[:before], 0);
                end if;
                perform {es}.delete_rows(cleared);
                if before < cardinality(row_tables) then
                    perform {es}.write_rows(
                        row_tables[before + 1:], row_keys[before + 1:], row_revs[before + 1:], row_data[before + 1:], row_hot);
                end if;
            end if;
            -- The set of inline projections changes between two appends, not during one.
            if 'inline' = any (row_tables) then
                perform pg_advisory_xact_lock({gate});
                -- The others name the set as it was before this.
                select r.rev, r.data into changed from unnest(row_tables, row_keys, row_revs, row_data) r (tbl, key, rev, data)
                where r.tbl = 'inline' and r.key = 'set';
                if found then
                    inline := case when inline <> changed.rev then -1 when changed.data is null then 0 else inline + 1 end;
                end if;
            end if;
            if gated or marks is not null then
                select a.written, a.head, a.known, a.ids, a.versions, a.refused, a.outdated
                into written, head, known, ids, versions, refused, outdated
                from {es}.append(
                    attempt, at, inline, writes, names, lows, highs, known_head, known_event, numbers, bases,
                    event_streams, event_ranks, event_types, event_envelopes, event_data, tag_texts, tag_events,
                    conditions, marks, row_requests => row_requests, witnesses => witnesses, witnesses_named => witnesses_named,
                    lasts => lasts, type_numbers => type_numbers, type_names => type_names, type_schemas => type_schemas,
                    type_codecs => type_codecs, seen => seen, seen_event => seen_event, ends => ends,
                    mark_places => mark_places) a;
                if not written then
                    raise exception 'the rest is refused' using errcode = 'ES007';
                end if;
                return;
            end if;
        exception
            when sqlstate 'ES006' then
                refused := array(
                    select a.request from unnest(row_requests, row_tables, row_keys, row_revs) a (request, tbl, key, rev)
                    where a.rev <> coalesce(
                        (select r.rev from {es}.rows r where r.tbl = a.tbl and r.key = a.key),
                        (select r.rev from {es}.hot_rows r where r.tbl = a.tbl and r.key = a.key), 0));
                if cardinality(refused) = 0 then
                    raise exception 'a row was written there and back' using errcode = 'serialization_failure';
                end if;
                written := false;
                head := 0;
                known := true;
                outdated := false;
                return;
            when sqlstate 'ES007' then
                return;
        end;
    elsif cleared is not null then
        perform {es}.delete_rows(cleared);
    end if;
    -- The gate: position order is commit order. The statements behind it have snapshots newer than the wait.
    -- What touches no stream and asks for no condition needs it not.
    if gated then
        perform pg_advisory_xact_lock({gate});
    end if;

    -- No partition is looked into that ends before `seen`. If the log ends there too, this is another history.
    select e.position, e.recorded_at, substr(e.envelope, 1, 16) into head, time, last
    from {es}.events e where e.position >= seen order by e.position desc limit 1;
    if not found and seen > 0 then
        select e.position, e.recorded_at, substr(e.envelope, 1, 16) into head, time, last
        from {es}.events e order by e.position desc limit 1;
    end if;
    head := coalesce(head, 0);
    before_all := time;
    time := greatest(coalesce(timestamptz 'epoch' + at * interval '1 microsecond', clock_timestamp()), time);
    known := coalesce(head = known_head and last = uuid_send(known_event), false);
    stored := coalesce((select r.rev from {es}.rows r where r.tbl = 'inline' and r.key = 'set'), 0);
    fenced := {es}.is_fenced(attempt);
    if fenced then
        raise exception 'attempt % is fenced', attempt using errcode = 'ES001';
    end if;
    -- Where the asker's last batch is still the last, its numbers stand for what they stood for.
    if not known and type_numbers is not null and exists (
        select from unnest(type_numbers, type_names, type_schemas, type_codecs) a (number, name, schema, codec)
        where not exists (
            select from {es}.event_types t
            where t.type_id = a.number and t.name = a.name and t.schema = a.schema and t.codec = a.codec))
    then
        raise exception 'an event type has another number in this history of the store' using errcode = 'ES008';
    end if;

    outdated := writes > 0 and stored <> inline;
    written := true;
    if gated and (head, last) is distinct from (seen, seen_event) then
        if seen > 0 and not exists (
            select from {es}.events e where e.position = seen and substr(e.envelope, 1, 16) = seen_event)
        then
            -- Another history: nothing that was seen is there.
            seen := 0;
            select l.ids, l.versions, l.events into numbers, bases, ends from {es}.locate(names, head, null, null) l;
        elsif names is not null then
            if array_position(numbers, null) is not null then
                numbers := array(
                    select coalesce(n.id, (select t.stream_id from {es}.streams t where t.name = n.name))
                    from unnest(names, numbers) n (name, id));
            end if;
            ends := coalesce(ends, array_fill(null::bytea, array[cardinality(names)]));
            for moved in
                select distinct on (e.stream_id) e.stream_id as id, e.version, substr(e.envelope, 1, 16) as event
                from {es}.events e where e.position > seen and e.stream_id = any (numbers)
                order by e.stream_id, e.version desc
            loop
                n := array_position(numbers, moved.id);
                bases[n] := moved.version;
                ends[n] := moved.event;
            end loop;
        end if;
        if conditions is not null then
            refused := refused || {es}.broken(conditions, seen, head);
        end if;
    end if;
    if ends is not null then
        ids := numbers;
        select array_agg(case when s.other then -1 - s.version else s.version end order by s.i),
               bool_and(s.version between s.low and s.high and not s.other)
        into versions, written
        from (
            select a.i, a.version, a.low, a.high,
                   coalesce(a.event <> uuid_send(a.last), false) as other
            from unnest(bases, ends, lows, highs, lasts) with ordinality a (version, event, low, high, last, i)
        ) s;
    end if;
    if conditions is not null then
        refused := refused || array(
            -- It was decided on another history.
            select c.request from jsonb_to_recordset(conditions) c (request integer, after bigint) where c.after > head);
    end if;
    written := written and not outdated and coalesce(cardinality(refused), 0) = 0;
    if not written then
        return;
    end if;

    if writes > 0 then
        if array_position(numbers[:writes], null) is not null then
            insert into {es}.streams (name)
            select a.name from unnest(names[:writes], numbers[:writes]) with ordinality a (name, id, i)
            where a.id is null order by a.i;
            numbers := array(select (select t.stream_id from {es}.streams t where t.name = a.name) from unnest(names) a (name));
            ids := numbers;
        end if;
        insert into {es}.events (position, stream_id, version, type_id, recorded_at, envelope, data)
        -- Arrays of numbers are looked into, which costs nothing; those of bytes are walked through.
        select head + e.i, numbers[event_streams[e.i]], bases[event_streams[e.i]] + event_ranks[e.i], event_types[e.i],
               time, e.envelope, e.data
        from unnest(event_envelopes, event_data) with ordinality e (envelope, data, i)
        where event_times is null;
        if event_times is not null then
            insert into {es}.events (position, stream_id, version, type_id, recorded_at, envelope, data)
            -- Times never go backwards in the log.
            select head + e.i, numbers[event_streams[e.i]], bases[event_streams[e.i]] + event_ranks[e.i], event_types[e.i],
                   greatest(before_all, max(timestamptz 'epoch' + e.time * interval '1 microsecond') over (order by e.i)),
                   e.envelope, e.data
            from unnest(event_envelopes, event_data, event_times) with ordinality e (envelope, data, time, i);
        end if;
    end if;
    if tag_texts is not null then
        insert into {es}.tags (tag, position)
        select a.tag, head + a.event from unnest(tag_texts, tag_events) a (tag, event);
    end if;
    if marks is not null then
        insert into {es}.outcomes (key, fingerprint, stream, version, position, events, refusal)
        select m.key, decode(m.fingerprint, 'hex'), m.stream, m.version, coalesce((
            select e.position from {es}.events e join {es}.streams s using (stream_id)
            where s.name = m.stream and e.version = m.version and e.position > seen and writes > 0
        ), m.place), m.events, decode(m.refusal, 'hex')
        from rows from (
            jsonb_to_recordset(marks) as (key text, fingerprint text, stream text, version bigint, events integer, refusal text),
            unnest(mark_places)
        ) m (key, fingerprint, stream, version, events, refusal, place)
        -- In one order, as rows.
        order by m.key collate "C"
        on conflict (key) do nothing;
        get diagnostics n = row_count;
        -- Others that use it wait for its lock: this is a program that does not know of that.
        if n <> jsonb_array_length(marks) then
            raise exception 'a key was used meanwhile' using errcode = 'serialization_failure';
        end if;
    end if;
    -- A transaction of the user's own that wrote nothing needs none. Rows may have been written by the call around this.
    if witnesses is not null
        and (marks is not null or cardinality(row_requests) > 0 or pg_current_xact_id_if_assigned() is not null)
    then
        insert into {es}.witnesses (attempt, until)
        -- Kept for an hour after it was named; for a day, if it is not known when that was.
        select w.attempt, case
            when w.named is null then clock_timestamp() + interval '1 day'
            else greatest(clock_timestamp(), timestamptz 'epoch' + w.named * interval '1 microsecond') + interval '1 hour' end
        from unnest(witnesses, witnesses_named) w (attempt, named)
        on conflict do nothing;
    end if;
end $$;

-- The end of a transaction of the user's own that stages rows alone: what `append` does for them, without a look at the
-- log. Raises if a row is at another revision. Gives the head.
create or replace function {es}.write_staged(
    tx      text,                               -- as the transaction was begun
    attempt uuid,
    named   bigint,                             -- when the attempt was named: microseconds since 1970
    tables  text[],                             -- in the order of tables and keys; hot tables after the others
    keys    text[],
    revs    bigint[],                           -- as they were read
    data    bytea[],                            -- null deletes
    hot     integer                             -- how many of the rows are hot
) returns bigint language plpgsql as $$
begin
    perform {es}.check_transaction(tx);
    -- `resolve` waits here for the end of the attempt, or has fenced it.
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    if {es}.is_fenced(attempt) then
        raise exception 'attempt % is fenced', attempt using errcode = 'ES001';
    end if;
    perform {es}.write_rows(tables, keys, revs, data, hot);
    insert into {es}.witnesses (attempt, until)
    values (attempt, greatest(clock_timestamp(), timestamptz 'epoch' + named * interval '1 microsecond') + interval '1 hour');
    return coalesce((select e.position from {es}.events e order by e.position desc limit 1), 0);
end $$;

-- Partitions are made, and archives moved, while appends go on: what has to shut them out takes no time, and does not wait
-- long for its turn, since whoever comes meanwhile waits behind it.

-- Makes partitions until a whole empty one stands behind the head and the events that are `ahead` of it. Gives the
-- position from which on it is to be called again; null where `events` is one table. Nobody waits for it: should the log
-- outgrow what is made here, the append that finds no partition asks again.
create or replace function {es}.add_partition(ahead bigint default 0) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    size  bigint;
    due   bigint;
    spare {es}.partitions;
begin
    -- One at a time.
    perform pg_advisory_xact_lock({gate} # hashtextextended('partitions', 0));
    select s.partition_size into size from {es}.store s;
    if size is null then
        -- `partition` that was broken off must not stop the log.
        if exists (select from pg_constraint c where c.conrelid = '{es}.events'::regclass and c.conname = 'events_first') then
            perform {es}.shut('alter table {es}.events drop constraint events_first');
        end if;
        return null;
    end if;
    due := coalesce((select e.position from {es}.events e order by e.position desc limit 1), 0) + least(ahead, 10000);
    loop
        select p.* into strict spare from {es}.partitions p order by p.first desc limit 1;
        exit when spare.first > due;
        perform {es}.make_partition(spare.last + 1);
    end loop;
    return spare.first;
end $$;

-- Does something to `events` that shuts out readers and writers. It lets them pass each time that it has waited for 20 ms.
create function {es}.shut(change text) returns void language plpgsql as $$
declare
    until timestamptz := clock_timestamp() + interval '10 seconds';
begin
    loop
        begin
            perform set_config('lock_timeout', '20ms', true);
            lock table only {es}.events in access exclusive mode;
            execute change;
            perform set_config('lock_timeout', '0', true);
            return;
        exception when lock_not_available or deadlock_detected then
            if clock_timestamp() > until then
                raise exception 'the events are in use by long transactions: end them, or try again'
                    using errcode = 'lock_not_available';
            end if;
        end;
        perform pg_sleep(0.05 + random() / 10);
    end loop;
end $$;

-- Makes `events` a table of partitions by ranges of `size` positions. What it holds by now becomes the first of them.
-- Called again, it sets the size of the partitions that are made from then on.
--
-- A procedure, for it commits on its way: the events are read through once while appends go on.
create or replace procedure {es}.partition(size bigint) language plpgsql as $$
declare
    head bigint;
    edge bigint;
begin
    if size is null or size < 1 then
        raise exception 'a partition of % positions is refused: take at least 1', size using errcode = 'invalid_parameter_value';
    end if;
    if exists (select from {es}.store s where s.partition_size is not null) then
        update {es}.store set partition_size = size;
        return;
    end if;

    perform {es}.add_partition();               -- clears away what was broken off before
    head := coalesce((select max(e.position) from {es}.events e), 0);
    -- The log would have to grow by an eighth while it is read through to outrun this.
    edge := (head + head / 8 + 2 * size) / size * size;
    perform {es}.shut(format('alter table {es}.events add constraint events_first check (position <= %s) not valid', edge));
    commit;

    alter table {es}.events validate constraint events_first;
    commit;

    perform {es}.shut(format('select {es}.become_partition(%s, %s)', edge, size));
    commit;
    perform {es}.add_partition();
end $$;

-- The last step of `partition`, under its locks: a new `events` around the old one.
create or replace function {es}.become_partition(edge bigint, size bigint) returns void language plpgsql as $$
declare
    log   text := pg_get_viewdef('{es}.log'::regclass);
    grant_ record;
begin
    if not exists (
        select from pg_constraint c
        where c.conrelid = '{es}.events'::regclass and c.conname = 'events_first' and c.convalidated
    ) then
        raise exception 'the log has grown past its first partition meanwhile: try again'
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    alter table {es}.events rename to events_1;
    alter index {es}.events_pkey rename to events_1_pkey;
    alter index {es}.events_stream rename to events_1_stream;
    -- (stream_id, version) is unique in each partition, and by the gate in all of them.
    create table {es}.events (like {es}.events_1 including defaults including storage) partition by range (position);
    alter table {es}.events add constraint events_pkey primary key (position);
    create trigger append_only before update or delete or truncate on {es}.events
        for each statement execute function {es}.refuse();
    -- The check proves the bound, so nothing is read.
    execute format('alter table {es}.events attach partition {es}.events_1 for values from (minvalue) to (%s)', edge + 1);
    alter table {es}.events_1 drop constraint events_first;
    insert into {es}.partitions values (1, edge);
    update {es}.store set partition_size = size;
    -- Views and privileges stick to the old table; they belong to the new one.
    execute 'create or replace view {es}.log as ' || log;
    for grant_ in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role, a.privilege_type as privilege
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = '{es}.events_1'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on {es}.events to %s', grant_.privilege, grant_.role);
        execute format('revoke %s on {es}.events_1 from %s', grant_.privilege, grant_.role);
    end loop;
    execute (select format('alter table {es}.events owner to %I', pg_get_userbyid(c.relowner))
             from pg_class c where c.oid = '{es}.events_1'::regclass);
end $$;

-- The last step of `archive`, under its lock.
create function {es}.detach(edge bigint) returns void language plpgsql as $$
declare
    part record;
begin
    for part in select p.first, p.last from {es}.partitions p where p.last <= edge order by p.first loop
        execute format('alter table {es}.events detach partition {es}.%I', 'events_' || part.first);
        execute format('alter table {es}.%I rename to %I', 'events_' || part.first,
                       'events_archived_' || part.first || '_' || part.last);
    end loop;
end $$;
revoke execute on function {es}.detach(bigint), {es}.shut(text) from public;
