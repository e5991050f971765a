-- The one write path. `{es}` stands for the quoted name of the schema, `{gate}` for the key of its gate.

-- Numbers of event types, in the order they are asked for; makes those that are new.
create function {es}.type_ids(names text[], schemas integer[], codecs text[]) returns integer[]
language plpgsql as $$
begin
    insert into {es}.event_types (name, schema, codec)
    select a.n, a.s, a.c from unnest(names, schemas, codecs) a (n, s, c)
    where not exists (select from {es}.event_types t where t.name = a.n and t.schema = a.s and t.codec = a.c)
    order by a.n, a.s, a.c
    on conflict do nothing;
    return (
        select array_agg(t.type_id order by a.i)
        from unnest(names, schemas, codecs) with ordinality a (n, s, c, i)
        join {es}.event_types t on t.name = a.n and t.schema = a.s and t.codec = a.c
    );
end $$;

-- Whether anything matches one alternative of a condition behind a position.
create function {es}.matches(after bigint, types text[], tags text[]) returns boolean
language sql stable as $$
    select case
        when tags is null then exists (
            select from {es}.events e
            where e.position > after
              and (types is null or e.type_id in (select k.type_id from {es}.event_types k where k.name = any (types))))
        else exists (
            select from {es}.tags t
            where t.tag = tags[1] and t.position > after
              and not exists (
                  select from unnest(tags[2:]) other (tag)
                  where not exists (select from {es}.tags o where o.tag = other.tag and o.position = t.position))
              and (types is null or exists (
                  select from {es}.events e join {es}.event_types k using (type_id)
                  where e.position = t.position and k.name = any (types))))
    end
$$;

-- Writes the rows that have data, in the order they are given. Each must be at the revision that was read; if one is
-- not, or somebody has made or removed it meanwhile, nothing is written.
create function {es}.put_rows(tables text[], keys text[], revs bigint[], data bytea[]) returns void
language plpgsql as $$
declare
    n    bigint;
    lost boolean;
begin
    with put as (
        insert into {es}.rows as r (tbl, key, rev, data)
        select a.tbl, a.key, a.rev + 1, a.data
        from unnest(tables, keys, revs, data) a (tbl, key, rev, data) where a.data is not null
        on conflict (tbl, key) do update set rev = excluded.rev, data = excluded.data where r.rev = excluded.rev - 1
        -- One that was there had to be locked.
        returning r.rev > 1 and r.xmax = '0'::xid as lost
    )
    select count(*), bool_or(put.lost) into n, lost from put;
    if lost or n <> cardinality(array_remove(data, null)) then
        raise exception 'a row was written meanwhile' using errcode = 'serialization_failure';
    end if;
end $$;

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
    row_tables      text[]    default null,     -- tables and keys: in the order of both
    row_keys        text[]    default null,
    row_revs        bigint[]  default null,     -- as they were read
    row_data        bytea[]   default null,     -- null deletes
    out written     boolean,
    out head        bigint,                     -- before the batch
    out known       boolean,                    -- whether the asker's last batch is still the last
    out ids         bigint[],                   -- of the streams; null if all were known, like
    out versions    bigint[],                   -- their versions, before the batch
    out refused     integer[],
    out outdated    boolean                     -- whether another set of inline projections is stored: no events
) language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    numbers bigint[] := known_ids;
    bases   bigint[] := known_versions;
    -- The set of inline projections changes between two appends, not during one.
    gated   boolean  := names is not null or conditions is not null
                        or (row_tables is not null and 'inline' = any (row_tables));
    time    timestamptz;
    stored  bigint;
    fenced  boolean;
    n       bigint;
begin
    -- Whoever resolves this attempt waits here for its end, or has fenced it.
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    -- Rows in the order of their keys, then the gate, then only the log.
    if row_tables is not null then
        if not gated and marks is null and array_position(row_data, null) is null then
            -- Nothing else can refuse them: they are written in one walk, and looked at only if that does not succeed.
            begin
                perform {es}.put_rows(row_tables, row_keys, row_revs, row_data);
                row_tables := null;
            exception when serialization_failure then
                null;
            end;
        end if;
    end if;
    if row_tables is not null then
        refused := array(
            select a.request from unnest(row_requests, row_tables, row_keys, row_revs) a (request, tbl, key, rev)
            where a.rev <> coalesce((
                select r.rev from {es}.rows r where r.tbl = a.tbl and r.key = a.key for update
            ), 0));
    end if;
    -- The gate: position order is commit order. The statements behind it have snapshots newer than the wait.
    -- What touches no stream and asks for no condition needs it not.
    if gated then
        perform pg_advisory_xact_lock({gate});
    end if;

    select coalesce(l.position, 0),
           greatest(coalesce(timestamptz 'epoch' + at * interval '1 microsecond', clock_timestamp()), l.recorded_at),
           coalesce(l.position = known_head and substr(l.envelope, 1, 16) = uuid_send(known_event), false),
           coalesce((select r.rev from {es}.rows r where r.tbl = 'inline' and r.key = 'set'), 0),
           exists (select from {es}.fenced f where f.attempt = append.attempt)
    into head, time, known, stored, fenced
    from (select) one
    left join (select e.position, e.recorded_at, e.envelope from {es}.events e order by e.position desc limit 1) l on true;
    if fenced then
        raise exception 'attempt % is fenced', attempt using errcode = 'ES001';
    end if;

    outdated := writes > 0 and stored <> inline;
    written := true;
    if names is not null and (not known or numbers is null or array_position(numbers, null) is not null) then
        if not known then
            numbers := null;
            bases := null;
        end if;
        select array_agg(s.id), array_agg(s.version), bool_and(s.version between s.low and s.high)
        into ids, versions, written
        from (
            select a.id, a.low, a.high, coalesce(a.version, (
                select e.version from {es}.events e where e.stream_id = a.id order by e.version desc limit 1
            ), (select r.version from {es}.archived_streams r where r.stream_id = a.id), 0) as version
            from (
                select n.low, n.high, n.version,
                       coalesce(n.id, (select t.stream_id from {es}.streams t where t.name = n.name)) as id
                from unnest(names, lows, highs, numbers, bases) n (name, low, high, id, version) offset 0
            ) a offset 0
        ) s;
        numbers := ids;
        bases := versions;
    end if;
    if conditions is not null then
        refused := refused || array(
            select c.request from jsonb_to_recordset(conditions) c (request integer, after bigint, types text[], tags text[])
            where case
                when c.after >= head then false
                -- The usual one: nothing new has its first tag. A look at the index, without a call.
                when not exists (select from {es}.tags t where t.tag = c.tags[1] and t.position > c.after)
                    and c.tags is not null then false
                else {es}.matches(c.after, c.types, c.tags)
            end);
    end if;
    if marks is not null then
        refused := refused || array(
            select m.request from jsonb_to_recordset(marks) m (request integer, key text)
            where exists (select from {es}.outcomes o where o.key = m.key));
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
        from unnest(event_envelopes, event_data) with ordinality e (envelope, data, i);
    end if;
    if tag_texts is not null then
        insert into {es}.tags (tag, position)
        select a.tag, head + a.event from unnest(tag_texts, tag_events) a (tag, event);
    end if;
    if marks is not null then
        insert into {es}.outcomes (key, fingerprint, stream, version, position, events, refusal)
        select m.key, decode(m.fingerprint, 'hex'), m.stream, m.version, coalesce((
            select e.position from {es}.events e join {es}.streams s using (stream_id)
            where s.name = m.stream and e.version = m.version
        ), (
            select r.position from {es}.archived_streams r join {es}.streams s using (stream_id)
            where s.name = m.stream and r.version = m.version
        ), 0), m.events, decode(m.refusal, 'hex')
        from jsonb_to_recordset(marks) m (key text, fingerprint text, stream text, version bigint, events integer, refusal text)
        on conflict (key) do nothing;
        get diagnostics n = row_count;
        -- Whoever needs no gate may have used the key since it was looked for: the whole batch is done again.
        if n <> jsonb_array_length(marks) then
            raise exception 'a key was used meanwhile' using errcode = 'serialization_failure';
        end if;
    end if;
    if row_tables is not null then
        if array_position(row_data, null) is not null then
            delete from {es}.rows r
            using unnest(row_tables, row_keys, row_revs, row_data) a (tbl, key, rev, data)
            where r.tbl = a.tbl and r.key = a.key and r.rev = a.rev and a.data is null;
        end if;
        perform {es}.put_rows(row_tables, row_keys, row_revs, row_data);
    end if;
end $$;

-- For a transaction of the user's own, right before its COMMIT: it must be the one that was opened for `tx`, and
-- nobody's rows may hide what others have committed meanwhile.
create function {es}.check_transaction(tx text) returns void language plpgsql as $$
begin
    if current_setting('es.tx', true) is distinct from tx then
        raise exception 'the transaction has been ended by SQL of its user' using errcode = 'ES003';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the transaction is %, and only `read committed` can append', current_setting('transaction_isolation')
            using errcode = 'ES004';
    end if;
end $$;

-- Ends a transaction whose batch was refused.
create function {es}.must(written boolean) returns boolean language plpgsql as $$
begin
    if not written then
        raise exception 'refused' using errcode = 'ES002';
    end if;
    return true;
end $$;

-- Whether an attempt was applied: where the last event of each append stands, null for what is not there. If anything
-- is not there, the attempt is fenced first: it will never be applied.
create function {es}.resolve(
    attempt      uuid,
    names        text[],
    ids          uuid[],                        -- of the last events; null for an append without events
    keys         text[],
    row_tables   text[],
    row_keys     text[],
    targets      bigint[],                      -- the revisions of the rows; null: it was to be deleted
    out applied  boolean,
    out versions bigint[],
    out last     bigint
) language plpgsql as $$
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    select array_agg(coalesce(e.version, 0) order by a.i), max(e.position), bool_and(a.id is null or e.version is not null)
    into versions, last, applied
    from unnest(names, ids) with ordinality a (name, id, i)
    left join lateral (
        select e.version, e.position from {es}.streams s join {es}.events e using (stream_id)
        where s.name = a.name and substr(e.envelope, 1, 16) = uuid_send(a.id)
        order by e.version desc limit 1
    ) e on true;
    applied := coalesce(applied, true)
        and not exists (select from unnest(keys) k (key) where not exists (select from {es}.outcomes o where o.key = k.key))
        and not exists (
            select from unnest(row_tables, row_keys, targets) a (tbl, key, target)
            cross join lateral (
                select (select r.rev from {es}.rows r where r.tbl = a.tbl and r.key = a.key) as rev offset 0
            ) r
            -- It may have been written since: its revision never goes back.
            where case when a.target is null then r.rev is not null else coalesce(r.rev, 0) < a.target end);
    if not applied then
        insert into {es}.fenced (attempt) values (resolve.attempt) on conflict do nothing;
    end if;
end $$;

-- The last position before a time. Recorded times never go backwards, so this is a binary search.
create function {es}.position_at(micros bigint) returns bigint language plpgsql stable as $$
declare
    time   timestamptz := timestamptz 'epoch' + micros * interval '1 microsecond';
    low    bigint := (select coalesce(min(e.position), 1) - 1 from {es}.events e);
    high   bigint := (select coalesce(max(e.position), 0) from {es}.events e);
    middle bigint;
begin
    while low < high loop
        middle := low + (high - low + 1) / 2;
        if (select e.recorded_at < time from {es}.events e where e.position = middle) then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end $$;
