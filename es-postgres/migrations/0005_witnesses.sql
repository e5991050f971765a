-- One witness for each attempt, rows in one order before the gate, and a table of its own for rows that come and go.
-- `{es}` stands for the quoted name of the schema, `{gate}` for the key of its gate.

-- Attempts without events that were applied. An attempt with events is proven by those.
create table {es}.witnesses (
    attempt uuid        primary key,
    until   timestamptz not null                -- it can be asked for until then
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, vacuum_truncate = off);
create index witnesses_until on {es}.witnesses (until);

-- Rows of tables that begin with `hot.`: queues, timers, requests. Autovacuum looks at a whole table, and would wait
-- for a fifth of all rows to change before it removed what has gone from a queue.
create table {es}.hot_rows (
    tbl  text collate "C" not null,
    key  text collate "C" not null,
    rev  bigint not null,                       -- goes up by one with every write
    data bytea  not null,
    primary key (tbl, key)
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000,
    -- Index entries of what has gone are what a scan walks over, however few they are.
    vacuum_index_cleanup = on,
    -- To cut off the end of the file takes a lock that readers wait for.
    vacuum_truncate = off,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- `store::is_hot`.
create function {es}.is_hot(tbl text) returns boolean language sql immutable as $$
    select starts_with(tbl, 'hot.') and strpos(tbl, '~') = 0 and strpos(tbl, '/') = 0
$$;

with moved as (
    delete from {es}.rows r where r.tbl >= 'hot.' and r.tbl < 'hot/' and {es}.is_hot(r.tbl)
    returning r.tbl, r.key, r.rev, r.data
)
insert into {es}.hot_rows (tbl, key, rev, data) select m.tbl, m.key, m.rev, m.data from moved m;

-- Roles that write rows write these too.
do $$
declare
    this record;
begin
    for this in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role,
               a.privilege_type as privilege
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = '{es}.rows'::regclass and a.grantee <> c.relowner
          and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant %s on {es}.hot_rows, {es}.witnesses to %s', this.privilege, this.role);
    end loop;
end $$;

-- Up to now the rows were written behind the gate.
drop function {es}.append(
    uuid, bigint, bigint, integer, text[], bigint[], bigint[], bigint, uuid, bigint[], bigint[], integer[], integer[],
    integer[], bytea[], bytea[], text[], integer[], jsonb, jsonb, integer[], text[], text[], bigint[], bytea[]);

-- Writes rows, those without data deleted: in the order that they are given, the hot ones, which are so many, after the
-- others. Each must be at the revision that was read; if one is not, it raises.
create function {es}.write_rows(tables text[], keys text[], revs bigint[], data bytea[], hot integer) returns void
language plpgsql as $$
declare
    total   integer := cardinality(tables);
    kept    integer := cardinality(array_remove(data, null));
    n       bigint  := 0;
    gone    bigint  := 0;
    more    bigint;
    lost    boolean := false;
    too     boolean;
begin
    -- One statement takes all turns: it waits for another writer of a row, present or not, and locks it. A row that is
    -- to go is locked where it is; where it is not, a place is held for it, which no revision is like.
    if hot < total then
        with put as (
            insert into {es}.rows as r (tbl, key, rev, data)
            select a.tbl, a.key, case when a.data is null then -a.rev else a.rev + 1 end, coalesce(a.data, '')
            from unnest(tables, keys, revs, data) a (tbl, key, rev, data)
            where hot = 0 or not {es}.is_hot(a.tbl)
            on conflict (tbl, key) do update set rev = excluded.rev, data = excluded.data where r.rev = excluded.rev - 1
            -- One that was there had to be locked.
            returning r.rev, r.rev < 0 or r.rev > 1 and r.xmax = '0'::xid as lost
        )
        select count(*) filter (where put.rev > 0), coalesce(bool_or(put.lost), false) into n, lost from put;
        if kept < total then
            delete from {es}.rows r
            using unnest(tables, keys, revs, write_rows.data) a (tbl, key, rev, data)
            where a.data is null and r.tbl = a.tbl and r.key = a.key and r.rev = a.rev;
            get diagnostics gone = row_count;
        end if;
    end if;
    if hot > 0 then
        with put as (
            insert into {es}.hot_rows as r (tbl, key, rev, data)
            select a.tbl, a.key, case when a.data is null then -a.rev else a.rev + 1 end, coalesce(a.data, '')
            from unnest(tables, keys, revs, data) a (tbl, key, rev, data)
            where {es}.is_hot(a.tbl)
            on conflict (tbl, key) do update set rev = excluded.rev, data = excluded.data where r.rev = excluded.rev - 1
            returning r.rev, r.rev < 0 or r.rev > 1 and r.xmax = '0'::xid as lost
        )
        select n + count(*) filter (where put.rev > 0), coalesce(bool_or(put.lost), false) into n, too from put;
        lost := lost or too;
        if kept < total then
            delete from {es}.hot_rows r
            using unnest(tables, keys, revs, write_rows.data) a (tbl, key, rev, data)
            where a.data is null and r.tbl = a.tbl and r.key = a.key and r.rev = a.rev;
            get diagnostics more = row_count;
            gone := gone + more;
        end if;
    end if;
    if lost or n <> kept or gone <> total - kept then
        raise exception 'a row is at another revision' using errcode = 'ES006';
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
    others  boolean  := names is not null or conditions is not null or marks is not null;
    time    timestamptz;
    before  bigint;
    changed record;
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
            where exists (select from {es}.fenced f where f.attempt = a.name));
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
            if others then
                select a.written, a.head, a.known, a.ids, a.versions, a.refused, a.outdated
                into written, head, known, ids, versions, refused, outdated
                from {es}.append(
                    attempt, at, inline, writes, names, lows, highs, known_head, known_event, known_ids, known_versions,
                    event_streams, event_ranks, event_types, event_envelopes, event_data, tag_texts, tag_events,
                    conditions, marks, row_requests => row_requests, witnesses => witnesses, witnesses_named => witnesses_named) a;
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
    if names is not null or conditions is not null then
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
        -- In one order, as rows.
        order by m.key collate "C"
        on conflict (key) do nothing;
        get diagnostics n = row_count;
        -- Whoever needs no gate may have used the key since it was looked for: the whole batch is done again.
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

-- What became of an attempt: `applied`, `never`, or `old` if it left nothing that is kept so long. One that was not
-- applied is fenced first: it will never be. The function of the same name and more arguments is that of programs which
-- were started before this migration.
create function {es}.resolve(
    attempt      uuid,                          -- null: it has no name
    names        text[],
    ids          uuid[],                        -- of the last events; null for an append without events
    named        bigint,                        -- when it was named: microseconds since 1970; null: not known
    at           bigint,                        -- the time, by a clock of the asker's own
    out fate     text,
    out versions bigint[],
    out last     bigint
) language plpgsql as $$
declare
    now     timestamptz;
    applied boolean;
begin
    if attempt is not null then
        perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
        if exists (select from {es}.fenced f where f.attempt = resolve.attempt) then
            fate := 'never';
            return;
        end if;
    end if;
    -- Where its events are, and where the streams are that have none of it.
    select array_agg(coalesce(e.version, r.version, (
               select l.version from {es}.streams s join {es}.events l using (stream_id)
               where s.name = a.name order by l.version desc limit 1
           ), (
               select l.version from {es}.streams s join {es}.archived_streams l using (stream_id) where s.name = a.name
           ), 0) order by a.i),
           max(coalesce(e.position, r.position)), bool_or(coalesce(e.position, r.position) is not null)
    into versions, last, applied
    from unnest(names, ids) with ordinality a (name, id, i)
    left join lateral (
        select e.version, e.position from {es}.streams s join {es}.events e using (stream_id)
        where s.name = a.name and substr(e.envelope, 1, 16) = uuid_send(a.id)
        order by e.version desc limit 1
    ) e on true
    left join lateral (
        select r.version, r.position from {es}.streams s join {es}.archived_streams r using (stream_id)
        where s.name = a.name and substr(r.envelope, 1, 16) = uuid_send(a.id)
    ) r on true;
    if coalesce(cardinality(array_remove(ids, null)), 0) = 0 then
        applied := exists (select from {es}.witnesses w where w.attempt = resolve.attempt);
        last := coalesce((select e.position from {es}.events e order by e.position desc limit 1), 0);
        -- By both clocks, if there are two.
        now := least(timestamptz 'epoch' + at * interval '1 microsecond', clock_timestamp());
        if not applied and timestamptz 'epoch' + named * interval '1 microsecond' < now - interval '1 hour' then
            fate := 'old';
            return;
        end if;
    end if;
    if applied then
        fate := 'applied';
        return;
    end if;
    fate := 'never';
    if attempt is not null then
        insert into {es}.fenced (attempt) values (resolve.attempt) on conflict do nothing;
    end if;
end $$;

-- Waits for the end of an attempt whose connection broke, and fences it unless it was applied. It was sent when the log
-- went up to `after`: so its events, some of whose ids these are, lie behind that, and no long stream is looked through.
create function {es}.settle(attempt uuid, ids uuid[], after bigint) returns void language plpgsql as $$
declare
    applied boolean;
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    if cardinality(ids) = 0 then
        applied := exists (select from {es}.witnesses w where w.attempt = settle.attempt);
    else
        applied := exists (
            select from {es}.events e
            where e.position > after and substr(e.envelope, 1, 16) in (select uuid_send(a.id) from unnest(ids) a (id)));
    end if;
    if not applied then
        insert into {es}.fenced (attempt) values (settle.attempt) on conflict do nothing;
    end if;
end $$;

-- Forgets some of the witnesses that are too old: those behind the last one that was forgotten. Gives how many
-- they were, and the last of them.
create function {es}.forget_witnesses(
    after         bigint,                       -- microseconds since 1970, like
    most          integer,
    out forgotten bigint,
    out last      bigint
) language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    first timestamptz := timestamptz 'epoch' + after * interval '1 microsecond';
begin
    with gone as (
        delete from {es}.witnesses w
        where w.ctid = any (array(
            select o.ctid from {es}.witnesses o
            where o.until >= first and o.until < clock_timestamp()
            order by o.until limit most for update skip locked))
        returning w.until
    )
    select count(*), coalesce((extract(epoch from max(g.until)) * 1000000)::bigint, after) into forgotten, last from gone g;
end $$;

-- Many scans at once, in one snapshot: of each the rows whose keys lie between two, in order, a number of them at most.
-- Never planned for a table that was small once: a queue is empty before it is full.
create function {es}.scan_rows(name text, afters text[], befores text[], limits bigint[])
returns table (span bigint, key text, rev bigint, data bytea)
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
    -- The table that the name stands for, in the same snapshot.
    place text := coalesce(
        (select convert_from(c.data, 'UTF8') from {es}.rows c where c.tbl = 'current' and c.key = name), name);
begin
    if {es}.is_hot(place) then
        return query
            select s.i, r.key, r.rev, r.data
            from unnest(afters, befores, limits) with ordinality s (after, before, most, i)
            cross join lateral (
                select h.key, h.rev, h.data from {es}.hot_rows h
                where h.tbl = place and h.key > s.after and h.key < s.before order by h.key limit s.most
            ) r;
    else
        return query
            select s.i, r.key, r.rev, r.data
            from unnest(afters, befores, limits) with ordinality s (after, before, most, i)
            cross join lateral (
                select h.key, h.rev, h.data from {es}.rows h
                where h.tbl = place and h.key > s.after and h.key < s.before order by h.key limit s.most
            ) r;
    end if;
end $$;

-- Deletes the rows of one generation, and those of tables below its name: in the order in which rows are written, and
-- none of the framework's own. Hot ones are elsewhere.
create or replace function {es}.delete_rows(name text) returns void
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    delete from {es}.rows r where r.tbl = name and not starts_with(r.tbl, 'es.');
    -- `0` comes after `/`.
    delete from {es}.rows r where r.tbl > name || '/' and r.tbl < name || '0' and not starts_with(r.tbl, 'es.');
end $$;

-- Deletes the rows that other versions of a projection have left. Their names and checkpoints stay, for their revisions:
-- what a worker of such a version still writes must not find them again, should it come back.
create or replace function {es}.delete_other_versions(projection text, version integer) returns void language sql as $$
    delete from {es}.rows r
    where r.tbl > projection || '/' and r.tbl < projection || '0' and {es}.version_in(r.tbl, projection) <> version::text
      and not starts_with(r.tbl, 'es.');
$$;
