-- An archive takes no event away that a processor has passed and not handled: parked sequences and events that could not
-- be decoded name events that are in the log. `{es}` stands for the quoted name of the schema, `{gate}` for the key of its
-- gate.

-- The first event up to a position that some build has still to handle, though its checkpoint is behind it.
create function {es}.unhandled_events(upto bigint, out build text, out "position" bigint, out what text, out key text)
returns setof record
language sql stable set search_path = pg_catalog, pg_temp as $$
    -- Which tables there are, one look in the index for each: there may be very many rows.
    with recursive tables (tbl) as (
        select min(r.tbl) from {es}.rows r
        union all
        select (select min(r.tbl) from {es}.rows r where r.tbl > t.tbl) from tables t where t.tbl is not null
    ), kinds (suffix, what) as (
        values ('/parked/events', 'is parked in'), ('/undecoded', 'could not be decoded by')
    ), bound (behind) as (
        -- Positions are written with twenty digits, so they sort as texts.
        select lpad((upto + 1)::text, 20, '0') collate "C"
    )
    select left(r.tbl, -length(k.suffix)), e.at::bigint, k.what, case k.suffix when '/undecoded' then null else (
        select p.key from {es}.rows p
        where p.tbl = left(r.tbl, -length('/events'))
          -- As it is written; what cannot be read names no key.
          and strpos(encode(p.data, 'escape'), '"first":' || ltrim(left(r.key, 20), '0') || ',') > 0
        order by p.key limit 1
    ) end
    from bound b cross join tables t
    join kinds k on starts_with(reverse(t.tbl), reverse(k.suffix)) and strpos(t.tbl, '~') > 0
    -- The rows of a sequence's events begin with the event that began it, and one that was taken in late is before that.
    join {es}.rows r on r.tbl = t.tbl and (k.suffix = '/parked/events' or r.key < b.behind)
    cross join lateral (select case k.suffix when '/undecoded' then left(r.key, 20) else right(r.key, 20) end) e (at)
    where e.at ~ '^[0-9]{20}$' and e.at collate "C" < b.behind
    order by e.at, r.tbl, r.key limit 1
$$;
revoke execute on function {es}.unhandled_events(bigint) from public;

-- Takes the whole partitions up to a position out of the log. Their tables stay, as `events_archived_<first>_<last>`, to
-- be dumped and dropped. Gives their names.
create or replace function {es}.archive(upto bigint) returns setof text language plpgsql as $$
declare
    head bigint;
    edge bigint;
    late record;
    left_ record;
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
                  hint = 'Let it catch up. If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.';
    end if;
    select e.build, e.position, e.what, e.key into left_ from {es}.unhandled_events(edge) e;
    if found then
        raise exception 'event % % %, and would not be there any more', left_.position, left_.what, left_.build || coalesce(' for ' || quote_literal(left_.key), '')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Retry or discard it; of an older build, `drop_previous`; of a rebuild under way, switch to it first, or `abort` it. If nobody runs it any more: `drop_version` of a version, `forget_processor` of a reactor.';
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
