-- Format 1 of the guard rows that es_core::guard describes.
create table es_guard.guards (
    run uuid not null,
    call text collate "C" not null,
    state text not null check (state in ('intent', 'done', 'confirmed', 'undone', 'tomb')),
    fingerprint bytea not null check (length(fingerprint) = 16),
    result text not null, -- as JSON: an output, or the reason of a refusal
    changed timestamptz not null default clock_timestamp(),
    primary key (run, call)
);
comment on table es_guard.guards is 'calls that were made to this database, each of which acts once';

create table es_guard.about (
    one boolean primary key default true check (one),
    format integer not null,
    floor uuid not null -- rows of runs before it were forgotten
);
insert into es_guard.about (format, floor) values (1, '00000000-0000-0000-0000-000000000000');
