-- What a store of many years, and of many streams, asks of its functions. `{es}` stands for the quoted name of the schema,
-- `{gate}` for the key of its gate.

-- JSON, as it is stored in a row, to be looked into: without NUL, which PostgreSQL cannot have in a text. Null if it cannot
-- be read.
create function {es}.json_of(data bytea) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return convert_from(data, 'UTF8')::jsonb;
exception when data_exception or program_limit_exceeded or statement_too_complex then
    begin
        return regexp_replace(convert_from(data, 'UTF8'), '(^|[^\\])((?:\\\\)*)\\u0000', '\1\2', 'g')::jsonb;
    exception when data_exception or program_limit_exceeded or statement_too_complex then
        return null;
    end;
end $$;

-- The names of the tables that have rows, one look in the index for each: there may be very many rows.
create function {es}.row_tables() returns setof text
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
    with recursive tables (tbl) as (
        select min(r.tbl) from {es}.rows r
        union all
        select (select min(r.tbl) from {es}.rows r where r.tbl > t.tbl) from tables t where t.tbl is not null
    )
    select t.tbl from tables t where t.tbl is not null
$$;

-- The events up to a position that their processors have passed and not handled: those of parked sequences; those that could
-- not be decoded; those that wait for the start of their instance of a process, or for an instance that is parked or behind.
-- `kept` is the key of the row that says so, up to where those of one sequence or instance are the same.
create function {es}.set_aside(upto bigint)
returns table (build text, what text, "position" bigint, kept text, key text)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    this   text;
    -- Positions are written with twenty digits, so they sort as texts.
    behind text := lpad((upto + 1)::text, 20, '0');
begin
    for this in select {es}.row_tables() loop
        if this like '%~%/parked/events' then
            -- An event that was taken in late is before the one that its sequence began with.
            return query
                select left(this, -length('/parked/events')), 'is parked in', right(r.key, 20)::bigint, left(r.key, 37), null::text
                from {es}.rows r
                where r.tbl = this and r.key ~ '^[0-9]{20}:[0-9a-f]{16}:[0-9]{20}$' and right(r.key, 20) collate "C" < behind;
        elsif this like '%~%/undecoded' then
            return query
                select left(this, -length('/undecoded')), 'could not be decoded by', left(r.key, 20)::bigint, '', null::text
                from {es}.rows r
                where r.tbl = this and r.key < behind and r.key ~ '^[0-9]{20}';
        elsif starts_with(this, 'process.early.') then
            return query
                select substr(this, length('process.early.') + 1), 'waits for its start in process',
                       split_part(r.key, ':', 3)::bigint, split_part(r.key, ':', 2), {es}.json_of(r.data) ->> 'key'
                from {es}.rows r
                where r.tbl = this and r.key ~ '^[0-9]{4}:[0-9a-f]{16}:[0-9]{20}:' and split_part(r.key, ':', 3) collate "C" < behind;
        elsif starts_with(this, 'process.instances.') then
            return query
                select substr(this, length('process.instances.') + 1), 'is an input that waits in process',
                       n.place::bigint, i.instance ->> 'id', i.instance ->> 'key'
                from (
                    select split_part(r.key, ':', 1) as slice, {es}.json_of(r.data) as instance from {es}.rows r where r.tbl = this
                    offset 0
                ) i
                cross join lateral (
                    select i.slice || ':' || replace(i.instance ->> 'id', '-', '') || ':' as prefix,
                           lpad(i.instance ->> 'taken', 20, '0') as taken
                    where lpad(i.instance ->> 'taken', 20, '0') < lpad(i.instance ->> 'noted', 20, '0')
                    offset 0
                ) b
                cross join lateral (
                    select {es}.json_of(r.data) -> 'input' -> 'event' ->> 'position' as place from {es}.rows r
                    where r.tbl = 'process.inputs.' || substr(this, length('process.instances.') + 1)
                      and r.key > b.prefix || b.taken and r.key < b.prefix || '9'
                    offset 0
                ) n
                where n.place ~ '^[0-9]{1,18}$' and n.place::bigint <= upto;
        end if;
    end loop;
end $$;

-- The first of them of each parked sequence and each instance, and of each build that could not decode some.
drop function {es}.unhandled_events(bigint);
create function {es}.unhandled_events(upto bigint, out build text, out "position" bigint, out what text, out key text)
returns setof record
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
    with firsts as materialized (
        select distinct on (a.build, a.what, a.kept) a.build, a.what, a.kept, a.position, a.key
        from {es}.set_aside(upto) a order by a.build, a.what, a.kept, a.position
    ), names as materialized (
        -- Of a parked sequence, as it is written; what cannot be read names no key.
        select b.build, {es}.json_of(r.data) ->> 'first' as first, min(r.key) as key
        from (select distinct f.build from firsts f where f.what = 'is parked in') b
        join {es}.rows r on r.tbl = b.build || '/parked'
        group by 1, 2
    )
    select f.build, f.position, f.what, coalesce(f.key, n.key)
    from firsts f
    left join names n on f.what = 'is parked in' and n.build = f.build and n.first = ltrim(left(f.kept, 20), '0')
    order by f.position, f.build, f.kept
$$;

revoke execute on function {es}.row_tables(), {es}.set_aside(bigint), {es}.unhandled_events(bigint) from public;

-- When a key was made, as far as it says so: the last UUID of version 7 in it. Keys of commands that processes send say
-- nothing: the one in them is as old as the instance. One look, as a rule: this is asked of every key that is remembered.
create function {es}.made_anywhere(key text) returns uuid language sql immutable as $$
    select max(m.found[1] collate "C")::uuid
    from regexp_matches(lower(key), '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}', 'g') m (found)
$$;
create or replace function {es}.made(key text) returns uuid language sql immutable as $$
    select case
        when starts_with(key, 'process/') then null
        when key !~* '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}' then null
        -- At the end, and nowhere else.
        when right(key, 36) ~* '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
            and left(key, -36) !~* '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}' then right(key, 36)::uuid
        else {es}.made_anywhere(key)
    end
$$;

-- Up to which key outcomes were looked at, and what was forgotten when that walk began.
alter table {es}.forgotten add reached text collate "C" not null default '', add begun uuid;

-- Removes outcomes that are forgotten, of so many keys behind one. Keys that do not say when they were made stay. Gives how
-- many were removed, and the last key that was looked at; null if there was none.
create or replace function {es}.forget_keys(after text, most integer, out gone bigint, out last text)
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
    -- Whoever is broken off goes on here.
    update {es}.forgotten f
    set reached = coalesce(forget_keys.last, ''), begun = case after when '' then f.upto else f.begun end
    where f.what = 'keys';
end $$;

-- The text of what is stored; null if it is none.
create function {es}.text_of(data bytea) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return convert_from(data, 'UTF8');
exception when data_exception then
    return null;
end $$;

-- For people. What cannot be read is null, and hides nothing else.
create or replace view {es}.log as
select e.position, s.name as stream, e.version, t.name as type, t.schema, e.recorded_at,
       encode(substr(e.envelope, 1, 16), 'hex')::uuid as id,
       case when t.codec = 'json' then {es}.text_of(e.data) collate "C" end as data
from {es}.events e
join {es}.streams s using (stream_id)
join {es}.event_types t using (type_id);

-- Of one table, so that people can delete from it.
create or replace view {es}.checkpoints as
select r.key as name,
       case when jsonb_typeof({es}.json_of(r.data)) = 'object'
             and coalesce({es}.json_of(r.data) ->> 'position', '0') ~ '^[0-9]{1,18}$'
            then coalesce({es}.json_of(r.data) ->> 'position', '0')::bigint end as position
from {es}.rows r
-- A range that was merged into its neighbour keeps its row, for its revision; it is no checkpoint any more.
where r.tbl = 'checkpoints'
  and (jsonb_typeof({es}.json_of(r.data)) is distinct from 'object' or {es}.json_of(r.data) -> 'last' is not null);

-- What would miss the events up to a position, if they were archived: processors that are behind, or whose place cannot be
-- read; events that are set aside; and streams that could not be loaded any more, by their last events.
create or replace function {es}.in_the_way(
    edge       bigint,
    out what   text,
    out advice text,
    out loads  boolean                          -- false of a stream that could not be loaded
) returns setof record
language plpgsql stable as $$
begin
    return query
        select case when c.position is null then format('the place of processor %s cannot be read', c.name)
                    else format('processor %s is at %s and would miss events up to %s', c.name, c.position, edge) end,
               case when c.position is null then 'Repair its row in the table `checkpoints`.' else 'Let it catch up.' end
               || ' If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.', true
        from {es}.checkpoints c where c.position is null or c.position < edge order by c.position nulls first, c.name;
    return query
        select format('event %s %s %s, and would not be there any more',
                      e.position, e.what, e.build || coalesce(' for ' || quote_literal(e.key), '')),
               case when e.what like '%process' then
                   'Retry, skip or end what is parked; let what waits begin. If nobody runs the process any more: `forget_processor`.'
               else
                   'Retry or discard it; of an older build, `drop_previous`; of a rebuild under way, switch to it first, or `abort` it. If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.'
               end, true
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

-- Who keeps others from `events` and its partitions, besides this session. Of sessions of other accounts no more is shown than
-- that they are there; so is of autovacuum.
create function {es}.holders(out pid integer, out who text, out may_be_vacuum boolean) returns setof record
language sql stable set search_path = pg_catalog, pg_temp as $$
    select l.pid,
           coalesce(min(a.backend_type), 'a session of another account, or autovacuum')
               || coalesce(', in a transaction since ' || date_trunc('second', min(a.xact_start))::text, ''),
           bool_or(l.mode = 'ShareUpdateExclusiveLock') and coalesce(min(a.backend_type), 'autovacuum worker') = 'autovacuum worker'
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and (l.relation = '{es}.events'::regclass
           or l.relation in (select i.inhrelid from pg_inherits i where i.inhparent = '{es}.events'::regclass))
    group by l.pid order by l.pid
$$;

-- Does something to `events` that shuts out readers and writers. It lets them pass each time that it has waited for 20 ms; but
-- autovacuum gives way only to who has waited for `deadlock_timeout`, so once in five seconds it waits that long for it.
create or replace function {es}.shut(change text) returns void language plpgsql as $$
declare
    until   timestamptz := clock_timestamp() + interval '10 seconds';
    patient timestamptz := clock_timestamp() + interval '500 milliseconds';
    waits   interval;
begin
    loop
        waits := interval '20 milliseconds';
        if clock_timestamp() > patient and exists (select from {es}.holders() h where h.may_be_vacuum) then
            waits := current_setting('deadlock_timeout')::interval + interval '200 milliseconds';
            patient := clock_timestamp() + interval '5 seconds';
        end if;
        begin
            perform set_config('lock_timeout', ceil(extract(epoch from waits) * 1000)::bigint || 'ms', true);
            lock table only {es}.events in access exclusive mode;
            execute change;
            perform set_config('lock_timeout', '0', true);
            return;
        exception when lock_not_available or deadlock_detected then
            if clock_timestamp() > until then
                raise exception 'the events are in use: %', coalesce(
                        (select string_agg('process ' || h.pid || ' (' || h.who || ')', ', ') from {es}.holders() h),
                        'by transactions that have ended by now')
                    using errcode = 'lock_not_available', hint = 'End what is in the way, or try again.';
            end if;
        end;
        perform pg_sleep(0.05 + random() / 10);
    end loop;
end $$;

-- Removes the tags of the events up to a position, by what the events say.
create function {es}.drop_tags(edge bigint) returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    delete from {es}.tags t
    using {es}.events e, {es}.tags_of(e.envelope) own (tag)
    where e.position <= edge and t.tag = own.tag and t.position = e.position;
end $$;

-- Takes the whole partitions up to a position out of the log. Their tables stay, as `events_archived_<first>_<last>`, to
-- be dumped and dropped. Gives their names.
create or replace function {es}.archive(
    upto       bigint,
    unloadable boolean default false            -- also of streams that could not be loaded any more
) returns setof text language plpgsql as $$
declare
    edge bigint;
    miss record;
    part record;
    left_ integer := 6;
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
    -- The same step, taken back: what cannot be done now is not prepared for long.
    begin
        perform {es}.shut(format('select {es}.detach(%s)', edge));
        raise exception 'it can be done' using errcode = 'ES011';
    exception when sqlstate 'ES011' then
        null;
    end;
    insert into {es}.archived_streams as a (stream_id, version, position, type_id, recorded_at, envelope, data)
    select distinct on (e.stream_id) e.stream_id, e.version, e.position, e.type_id, e.recorded_at, e.envelope, e.data
    from {es}.events e where e.position <= edge
    order by e.stream_id, e.version desc
    on conflict (stream_id) do update
    set version = excluded.version, position = excluded.position, type_id = excluded.type_id,
        recorded_at = excluded.recorded_at, envelope = excluded.envelope, data = excluded.data;
    perform {es}.drop_tags(edge);
    update {es}.store set archived = edge;
    -- Until here nobody waited, and what was done is kept while others are in the way.
    loop
        begin
            perform {es}.shut(format('select {es}.detach(%s)', edge));
            exit;
        exception when lock_not_available then
            left_ := left_ - 1;
            if left_ = 0 then
                -- Another code: it is not done all over again.
                raise exception '%', sqlerrm using errcode = 'object_in_use', hint = 'End what is in the way, or try again.';
            end if;
        end;
    end loop;
    for part in delete from {es}.partitions p where p.last <= edge returning p.first, p.last loop
        return next 'events_archived_' || part.first || '_' || part.last;
    end loop;
    perform set_config('es.maintenance', 'off', true);
end $$;

revoke execute on function {es}.holders(), {es}.drop_tags(bigint) from public;

-- Behind the gate only what came since the look before it is walked through: as one condition among two, a plan that is made
-- once would walk through the streams, which may be long. Nothing else of `append` changes, so only these lines are replaced.
do $$
declare
    text text := pg_get_functiondef((
        select p.oid from pg_proc p where p.pronamespace = '{es}'::regnamespace and p.proname = 'append'));
    old  text := 'from {es}.events e where e.position > seen and e.stream_id = any (numbers)';
    new  text := 'from (select * from {es}.events e where e.position > seen and e.position <= head offset 0) e
                where e.stream_id = any (numbers)';
begin
    if strpos(text, old) = 0 then
        raise exception 'the function append is not the one that this migration mends';
    end if;
    execute replace(text, old, new);
end $$;

-- Where the payloads of events are: in the log, beside it, and in archives that are there.
create function {es}.payload_tables() returns setof regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.oid::regclass from pg_class c
    where c.relnamespace = '{es}'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and (c.relname in ('events', 'archived_streams') or c.relname like 'events\_archived\_%')
$$;

-- Raises for an event that is nowhere.
create function {es}.must_have(streams text[], versions bigint[]) returns void language plpgsql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    place regclass;
    these integer[];
    seen  integer[] := '{}';
    miss  record;
begin
    for place in select {es}.payload_tables() loop
        execute format(
            'select array_agg(a.i::integer) from unnest($1::text[], $2::bigint[]) with ordinality a (stream, version, i)
             join {es}.streams s on s.name = a.stream join %s e on e.stream_id = s.stream_id and e.version = a.version', place)
            into these using streams, versions;
        seen := seen || these;
    end loop;
    select a.stream, a.version into miss
    from unnest(streams, versions) with ordinality a (stream, version, i) where a.i <> all (seen) order by a.i limit 1;
    if found then
        raise exception 'stream % has no event with version %', miss.stream, miss.version using errcode = 'invalid_parameter_value';
    end if;
end $$;

-- Why the payloads of some events, and the snapshots of their streams, are needed as they are; null if they are not.
create function {es}.need(streams text[], versions bigint[]) returns text language plpgsql stable
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    places bigint[];
    needed text;
begin
    perform {es}.must_have(streams, versions);
    needed := (
        select s.name from unnest(streams) a (stream)
        join {es}.streams s on s.name = a.stream
        join {es}.archived_streams r using (stream_id)
        join {es}.snapshots n on n.stream = s.name
        where n.version >= r.version and {es}.stands(n.stream, n.version, n.event) order by s.name limit 1);
    if needed is not null then
        return format('stream %s is archived in part: without its snapshot it could not be loaded', needed);
    end if;
    places := array(
        select e.position from unnest(streams, versions) a (stream, version)
        join {es}.streams s on s.name = a.stream
        join {es}.events e on e.stream_id = s.stream_id and e.version = a.version);
    return (
        select case when a.what like '%process' then format('event %s %s %s', a.position, a.what, a.build)
                    else format('event %s is set aside in %s', a.position, a.build) end
        from {es}.set_aside((select max(p) from unnest(places) p)) a
        where a.position = any (places) order by a.position, a.build limit 1);
end $$;

create or replace function {es}.needs(stream text, version bigint) returns text language sql stable as $$
    select {es}.need(array[stream], array[version])
$$;

-- Replaces the payloads of some events, wherever they are by now, and forgets the snapshots of their streams: all of it, or
-- nothing, and as one new history. Refused where that would keep a stream from being loaded, or where a processor has an event
-- set aside, and the new payload may be none that it reads.
create function {es}.redact_all(
    streams  text[],
    versions bigint[],
    payloads bytea[],
    needed   boolean default false              -- also where they are needed
) returns void language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    place regclass;
    why   text;
begin
    if exists (select from unnest(payloads) p where octet_length(p) > 1000000) then
        raise exception 'the payload is larger than 1000000 bytes' using errcode = 'program_limit_exceeded';
    end if;
    perform {es}.maintain();
    why := {es}.need(streams, versions);
    if why is not null and not needed then
        raise exception '%', why using errcode = 'object_not_in_prerequisite_state',
            hint = 'Attach what was archived, or have what is set aside retried or discarded; or redact it all the same.';
    end if;
    perform set_config('es.maintenance', 'on', true);
    -- Nobody puts a snapshot between this and the end of the transaction.
    lock table {es}.snapshots in share row exclusive mode;
    for place in select {es}.payload_tables() loop
        execute format(
            'with done as (
                 update %s e set data = a.data
                 from unnest($1::text[], $2::bigint[], $3::bytea[]) a (stream, version, data)
                 join {es}.streams s on s.name = a.stream, {es}.event_types t
                 where e.stream_id = s.stream_id and e.version = a.version and t.type_id = e.type_id
                 returning case when t.codec = ''json'' then convert_from(a.data, ''UTF8'')::json end as parsed)
             select count(d.parsed) from done d', place)
            using streams, versions, payloads;
    end loop;
    delete from {es}.snapshots n where n.stream = any (streams);
    -- What programs have read of the store is of another history from now on: they forget it before they write again.
    update {es}.history set one = true;
    perform set_config('es.maintenance', 'off', true);
end $$;

create or replace function {es}.redact(
    stream  text,
    version bigint,
    data    bytea,
    needed  boolean default false               -- also where it is needed
) returns void language sql as $$
    select {es}.redact_all(array[stream], array[version], array[data], needed)
$$;

revoke execute on function {es}.payload_tables(), {es}.must_have(text[], bigint[]), {es}.need(text[], bigint[]),
    {es}.redact_all(text[], bigint[], bytea[], boolean) from public;

-- Of some tags the one that the fewest events have behind a position, of each as many are counted as it takes to tell, and
-- no more than so many: a read along a tag that has more is cut there.
create function {es}.rarer(tags text[], after bigint, most bigint) returns text
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    enough bigint := least(64, most);
    rare   record;
begin
    loop
        select a.tag, c.n into rare
        from unnest(tags) with ordinality a (tag, i)
        cross join lateral (
            select count(*) as n from (
                select from {es}.tags t where t.tag = a.tag and t.position > rarer.after order by t.position limit enough
            ) t
        ) c
        order by c.n, a.i limit 1;
        if rare.n < enough or enough >= most then
            return rare.tag;
        end if;
        enough := least(enough * 16, most);
    end loop;
end $$;

-- The last version of a stream that was recorded before a time, or one before that; 0 for all of it. Times never go backwards,
-- so this is a binary search.
create function {es}.version_before(id bigint, since timestamptz) returns bigint language plpgsql stable as $$
declare
    low    bigint := coalesce((select r.version from {es}.archived_streams r where r.stream_id = id), 0);
    high   bigint := (select e.version from {es}.events e where e.stream_id = id order by e.version desc limit 1);
    middle bigint;
begin
    if since is null or high is null then
        return 0;
    end if;
    while low < high loop
        middle := low + (high - low + 1) / 2;
        if (select e.recorded_at < since from {es}.events e where e.stream_id = id and e.version = middle) then
            low := middle;
        else
            high := middle - 1;
        end if;
    end loop;
    return low;
end $$;

-- What became of an attempt: `applied`, `never`, or `old` if it left nothing that is kept so long. One that was not
-- applied is fenced first: it will never be. A stream is looked through from a week before the attempt was named, by its name
-- and the server's clock; all of it where times are by another clock, or the name is from the future.
create or replace function {es}.resolve(
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
    since   timestamptz := case
        when at is null and timestamptz 'epoch' + named * interval '1 microsecond' <= clock_timestamp()
        then timestamptz 'epoch' + named * interval '1 microsecond' - interval '7 days' end;
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
        select s.stream_id, case when a.id is null then 0 else {es}.version_before(s.stream_id, since) end as before
        from {es}.streams s where s.name = a.name offset 0
    ) s on true
    left join lateral (
        select e.version, e.position from {es}.events e
        where e.stream_id = s.stream_id and e.version > s.before and substr(e.envelope, 1, 16) = uuid_send(a.id)
        order by e.version desc limit 1
    ) e on true
    left join lateral (
        select r.version, r.position from {es}.archived_streams r
        where r.stream_id = s.stream_id and substr(r.envelope, 1, 16) = uuid_send(a.id)
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
