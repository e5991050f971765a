-- The event store. Every name begins with `es_`, so that the user's own tables can share the file.
-- Append-only tables refuse UPDATE and DELETE by trigger.

create table es_store (
    one      integer primary key check (one = 1),
    identity blob    not null,                  -- tells this store from any other
    schema   integer not null                   -- the last migration that ran
) strict;

create table es_streams (
    id   integer primary key,
    name text    not null unique
) strict;

-- One row for each stored name, schema version and codec: an event carries the number.
create table es_types (
    id     integer primary key,
    name   text    not null,
    schema integer not null,
    codec  text    not null,
    unique (name, schema, codec)
) strict;

-- No AUTOINCREMENT: positions are head + 1 under the write lock, and rows never leave, so none is reused.
create table es_events (
    position    integer primary key,            -- contiguous from 1, equal to commit order
    stream      integer not null references es_streams (id),
    version     integer not null,               -- contiguous from 1 in its stream
    type        integer not null references es_types (id),
    recorded_at integer not null,               -- microseconds since 1970, never going backwards
    head        blob    not null,               -- time, type, id, causes, metadata, tags: see row.rs
    data        blob    not null,               -- the payload, as the codec wrote it
    unique (stream, version)
) strict;

create table es_tags (
    tag      text    not null,
    position integer not null references es_events (position),
    primary key (tag, position)
) strict, without rowid;

create table es_outcomes (
    key         text    primary key,
    fingerprint blob    not null,
    stream      text    not null,
    version     integer not null,
    position    integer not null,
    events      integer not null,
    refusal     blob
) strict, without rowid;

-- Rows of keyed views, and of the framework: its checkpoints are the table `checkpoints`, and the table `current`
-- says which table a name stands for.
create table es_rows (
    tbl  text    not null,
    key  text    not null,
    rev  integer not null,                      -- goes up by one with every write
    data blob    not null,
    primary key (tbl, key)
) strict, without rowid;

create table es_snapshots (
    stream  text    primary key,
    version integer not null,
    event   blob    not null,
    schema  integer not null,
    data    blob    not null
) strict, without rowid;

-- Which tables belong to which generation of which version of which projection.
create table es_projections (
    name       text    not null,
    version    integer not null,
    generation integer not null,
    current    integer not null check (current in (0, 1)), -- whether its tables have their plain names
    schema     text    not null,                -- the DDL that made them
    objects    text    not null,                -- JSON: [["table", "balances"], ..], by their plain names
    primary key (name, version, generation)
) strict, without rowid;

create unique index es_projections_current on es_projections (name, version) where current = 1;

create trigger es_events_update before update on es_events
begin select raise(abort, 'es_events is append-only'); end;
create trigger es_events_delete before delete on es_events
begin select raise(abort, 'es_events is append-only'); end;
create trigger es_streams_update before update on es_streams
begin select raise(abort, 'es_streams is append-only'); end;
create trigger es_streams_delete before delete on es_streams
begin select raise(abort, 'es_streams is append-only'); end;

-- For people.
create view es_log as
select e.position, s.name as stream, e.version, t.name as type, t.schema,
       datetime(e.recorded_at / 1000000, 'unixepoch') as recorded_at,
       lower(hex(substr(e.head, 13, 16))) as id,
       cast(e.data as text) as data
from es_events e
join es_streams s on s.id = e.stream
join es_types t on t.id = e.type;

create view es_checkpoints as
select key as name, cast(data as text) ->> '$.position' as position, rev from es_rows
-- A range that was merged into its neighbour keeps its row, for its revision; it is no checkpoint any more.
where tbl = 'checkpoints' and cast(data as text) ->> '$.last' is not null;
