-- The event store. `{es}` stands for the quoted name of its schema.

create table {es}.store (
    one      boolean     primary key default true check (one),
    identity uuid        not null,              -- tells this store from any other
    schema   integer     not null,              -- the last migration that ran
    made_at  timestamptz not null default clock_timestamp()
);

-- Insert-only: a version column here would bloat under every long snapshot.
create table {es}.streams (
    stream_id bigint generated always as identity primary key,
    name      text collate "C" not null unique
);

-- One row for each stored name, schema version and codec: an event carries the number.
create table {es}.event_types (
    type_id integer generated always as identity primary key,
    name    text collate "C" not null,
    schema  integer          not null,
    codec   text collate "C" not null,
    unique (name, schema, codec)
);

-- No sequence and no default: positions are head + 1 under the gate, so they have no holes.
create table {es}.events (
    position    bigint      primary key,        -- contiguous from 1, equal to commit order
    stream_id   bigint      not null,
    version     bigint      not null,           -- contiguous from 1 in its stream
    type_id     integer     not null,
    recorded_at timestamptz not null,           -- never going backwards
    envelope    bytea       not null,           -- event id, causes, metadata, tags
    data        bytea       not null            -- the payload, as the codec wrote it
);
create unique index events_stream on {es}.events (stream_id, version);

create table {es}.tags (
    tag      text collate "C" not null,
    position bigint           not null,
    primary key (tag, position)
);

create table {es}.outcomes (
    key         text collate "C" primary key,
    fingerprint bytea            not null,
    stream      text collate "C" not null,
    version     bigint           not null,
    position    bigint           not null,
    events      integer          not null,
    refusal     bytea
);

-- Of keyed views, and of the framework itself: where processors are, which tables names stand for, and so on.
create table {es}.rows (
    tbl  text collate "C" not null,
    key  text collate "C" not null,
    rev  bigint           not null,             -- goes up by one with every write
    data bytea            not null,
    primary key (tbl, key)
) with (fillfactor = 80);

create table {es}.snapshots (
    stream  text collate "C" primary key,
    version bigint           not null,
    event   uuid             not null,
    schema  integer          not null,
    data    bytea            not null
) with (fillfactor = 70);

-- Attempts that will never be applied: whoever asked was told so.
create table {es}.fenced (
    attempt uuid        primary key,
    at      timestamptz not null default clock_timestamp()
);

-- Which tables belong to which generation of which version of which projection.
create table {es}.projections (
    name       text    not null,
    version    integer not null,
    generation integer not null,                -- counts the builds of the version, from 1
    current    boolean not null,                -- whether queries read it
    place      text,                            -- the schema made for it; null: it is on the search path of its user
    schema     text    not null,                -- the DDL that made its tables
    objects    jsonb   not null,                -- [["table", "public.balances"], ..]
    primary key (name, version, generation)
);
create unique index projections_current on {es}.projections (name, version) where current;

-- Append-only, whoever asks; archiving and redaction say so in their own transaction.
create function {es}.refuse() returns trigger language plpgsql as $$
begin
    if current_setting('es.maintenance', true) is distinct from 'on' then
        raise exception '%.% is append-only: % is refused', tg_table_schema, tg_table_name, lower(tg_op)
            using errcode = 'restrict_violation';
    end if;
    return null;
end $$;

create trigger append_only before update or delete or truncate on {es}.events
    for each statement execute function {es}.refuse();
create trigger append_only before update or delete or truncate on {es}.streams
    for each statement execute function {es}.refuse();
create trigger append_only before update or delete or truncate on {es}.event_types
    for each statement execute function {es}.refuse();

-- For people.
create view {es}.log as
select e.position, s.name as stream, e.version, t.name as type, t.schema, e.recorded_at,
       encode(substr(e.envelope, 1, 16), 'hex')::uuid as id,
       case when t.codec = 'json' then convert_from(e.data, 'UTF8') end as data
from {es}.events e
join {es}.streams s using (stream_id)
join {es}.event_types t using (type_id);

-- For people: how far each processor is. One that works in slices has a line for each.
create view {es}.checkpoints as
select r.key as name, (convert_from(r.data, 'UTF8')::jsonb ->> 'position')::bigint as position
from {es}.rows r
where r.tbl = 'checkpoints'
  -- A range that was merged into its neighbour keeps its row, for its revision; it is no checkpoint any more.
  and convert_from(r.data, 'UTF8')::jsonb -> 'last' is not null;
