-- What an operator does to a store: partitions, archives, redacts, imports. `{es}` stands for the quoted name of the
-- schema, `{gate}` for the key of its gate.

alter table {es}.store
    add partition_size bigint,                  -- positions of each further partition; null: there are none
    add archived       bigint not null default 0; -- positions up to here have left

-- The partitions of `events`, each named `events_<first>`.
create table {es}.partitions (
    first bigint primary key,                   -- its first position
    last  bigint not null unique                -- its last
);

-- The last event of each stream that has left: its version goes on from there, and a snapshot at it can be believed.
create table {es}.archived_streams (
    stream_id   bigint      primary key,
    version     bigint      not null,
    position    bigint      not null,
    type_id     integer     not null,
    recorded_at timestamptz not null,
    envelope    bytea       not null,
    data        bytea       not null
);
create trigger append_only before update or delete or truncate on {es}.archived_streams
    for each statement execute function {es}.refuse();

-- One maintenance at a time: an archive does not copy what a redaction is replacing. Held until COMMIT.
create function {es}.maintain() returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock({gate} # hashtextextended('maintenance', 0));
end $$;

-- Makes partitions until a whole empty one stands behind the head and the events that are `ahead` of it. Gives the
-- position from which on it is to be called again; null where `events` is one table.
create function {es}.add_partition(ahead bigint default 0) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    size  bigint;
    due   bigint;
    spare {es}.partitions;
begin
    -- No append is under way, so the log does not grow past what is made here.
    perform pg_advisory_xact_lock({gate});
    select s.partition_size into size from {es}.store s;
    if size is null then
        -- `partition` that was broken off must not stop the log.
        if exists (select from pg_constraint c where c.conrelid = '{es}.events'::regclass and c.conname = 'events_first') then
            alter table {es}.events drop constraint events_first;
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

-- The empty partition that begins at this position.
create function {es}.make_partition(first bigint) returns void language plpgsql as $$
declare
    last bigint := first + (select s.partition_size from {es}.store s) - 1;
    name text   := 'events_' || first;
begin
    -- Made aside and attached: neither readers nor writers of the others wait for it.
    execute format('create table {es}.%I (like {es}.events including defaults including storage)', name);
    execute format('create unique index %I on {es}.%I (stream_id, version)', name || '_stream', name);
    execute format('create trigger append_only before update or delete or truncate on {es}.%I
        for each statement execute function {es}.refuse()', name);
    execute format('alter table {es}.events attach partition {es}.%I for values from (%s) to (%s)', name, first, last + 1);
    insert into {es}.partitions values (first, last);
end $$;

-- Makes `events` a table of partitions by ranges of `size` positions. What it holds by now becomes the first of them.
-- Called again, it sets the size of the partitions that are made from then on.
--
-- A procedure, for it commits on its way: the events are read through once while appends go on.
create procedure {es}.partition(size bigint) language plpgsql as $$
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

    perform {es}.add_partition();               -- takes the gate; clears away what was broken off before
    head := coalesce((select max(e.position) from {es}.events e), 0);
    -- The log would have to grow by an eighth while it is read through to outrun this.
    edge := (head + head / 8 + 2 * size) / size * size;
    execute format('alter table {es}.events add constraint events_first check (position <= %s) not valid', edge);
    commit;

    alter table {es}.events validate constraint events_first;
    commit;

    -- Readers of a long query are waited for, but not long: whoever reads or appends waits behind this.
    for try in 1 .. 20 loop
        begin
            perform set_config('lock_timeout', '1s', true);
            perform pg_advisory_xact_lock({gate});
            lock table {es}.events in access exclusive mode;
            perform {es}.become_partition(edge, size);
            return;
        exception when lock_not_available or deadlock_detected then
            if try = 20 then
                raise exception 'the events are in use by long transactions: end them, or try again'
                    using errcode = 'lock_not_available';
            end if;
        end;
        perform pg_sleep(0.2);
    end loop;
end $$;

-- The last step of `partition`, under its locks: a new `events` around the old one.
create function {es}.become_partition(edge bigint, size bigint) returns void language plpgsql as $$
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
    perform {es}.add_partition();
end $$;

-- Takes the whole partitions up to a position out of the log. Their tables stay, as `events_archived_<first>_<last>`, to
-- be dumped and dropped. Gives their names.
create function {es}.archive(upto bigint) returns setof text language plpgsql as $$
declare
    head bigint;
    edge bigint;
    late record;
    part record;
begin
    perform {es}.maintain();
    if not exists (select from {es}.store s where s.partition_size is not null) then
        raise exception 'the store has no partitions: make them first, by `partition`' using errcode = 'object_not_in_prerequisite_state';
    end if;
    -- The last event stays: positions and recorded times go on from it.
    head := (select max(e.position) from {es}.events e);
    edge := (select max(p.last) from {es}.partitions p where p.last <= upto and p.last < head);
    if edge is null then
        return;
    end if;
    select c.name, c.position into late from {es}.checkpoints c where c.position < edge order by c.position limit 1;
    if found then
        raise exception 'processor % is at % and would miss events up to %', late.name, late.position, edge
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Let it catch up, or delete its row from checkpoints if nobody runs it any more.';
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
    -- Until here nobody waited. Whoever reads or appends now does, so this does not wait long.
    perform set_config('lock_timeout', '2s', true);
    perform pg_advisory_xact_lock({gate});
    for part in delete from {es}.partitions p where p.last <= edge returning p.first, p.last loop
        execute format('alter table {es}.events detach partition {es}.%I', 'events_' || part.first);
        execute format('alter table {es}.%I rename to %I', 'events_' || part.first,
                       'events_archived_' || part.first || '_' || part.last);
        return next 'events_archived_' || part.first || '_' || part.last;
    end loop;
    update {es}.store set archived = edge;
    perform set_config('es.maintenance', 'off', true);
end $$;

-- Replaces the payload of one event, wherever it is by now, and forgets the stream's snapshot.
create function {es}.redact(stream text, version bigint, data bytea) returns void language plpgsql as $$
declare
    id    bigint := (select s.stream_id from {es}.streams s where s.name = redact.stream);
    place regclass;
    codec text;
    found_in integer := 0;
begin
    if octet_length(data) > 1000000 then
        raise exception 'the payload is larger than 1000000 bytes' using errcode = 'program_limit_exceeded';
    end if;
    perform {es}.maintain();
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
    perform set_config('es.maintenance', 'off', true);
end $$;

-- Begins a chunk of an import: takes the gate, makes the streams that are new, and says where everything is. The caller
-- copies the events in, in the same transaction.
create function {es}.begin_import(
    names           text[],
    events          bigint,
    out head        bigint,
    out recorded_at timestamptz,                -- of the last event
    out now         timestamptz,
    out ids         bigint[],
    out versions    bigint[]
) language plpgsql as $$
begin
    perform {es}.add_partition(events);         -- takes the gate
    insert into {es}.streams (name)
    select a.name from unnest(names) with ordinality a (name, i)
    where not exists (select from {es}.streams s where s.name = a.name) order by a.i;
    select e.position, e.recorded_at into head, recorded_at from {es}.events e order by e.position desc limit 1;
    head := coalesce(head, 0);
    now := clock_timestamp();
    select array_agg(s.stream_id order by a.i), array_agg(coalesce(
        (select e.version from {es}.events e where e.stream_id = s.stream_id order by e.version desc limit 1),
        (select r.version from {es}.archived_streams r where r.stream_id = s.stream_id), 0) order by a.i)
    into ids, versions
    from unnest(names) with ordinality a (name, i) join {es}.streams s on s.name = a.name;
end $$;

-- What changes the log in other ways than appending is the owner's.
revoke execute on function {es}.make_partition(bigint), {es}.become_partition(bigint, bigint), {es}.maintain(),
    {es}.archive(bigint), {es}.redact(text, bigint, bytea), {es}.add_partition(bigint) from public;
revoke execute on procedure {es}.partition(bigint) from public;
