-- An append says how long it has waited for the gate: in the setting `es.waited` of its transaction, in microseconds. Its
-- result is what it was, so programs that were started before this migration go on with the statements that they have
-- prepared. `{es}` stands for the quoted name of the schema, `{gate}` for the key of its gate.

-- A batch of requests: written as a whole, or not at all. `written` says which; if not, whoever asked leaves out the
-- requests in `refused`, and those whose streams are not where they must be, and asks again for the others.
--
-- Each stream stands once, the `writes` ones that get events first, with the bounds that all requests agree on.
-- Of events: the number of the stream, and the rank in it. All numbers count from 1. What is null is nothing of its kind.
create or replace function {es}.append(
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
    asked   timestamptz;
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
        asked := clock_timestamp();
        perform pg_advisory_xact_lock({gate});
        perform set_config('es.waited', (extract(epoch from clock_timestamp() - asked) * 1000000)::bigint::text, true);
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
