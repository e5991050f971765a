-- Format 1 of the guard rows that es_core::guard describes.
create table es_guards (
    run blob not null check (length(run) = 16),
    call text not null,
    state text not null check (state in ('intent', 'done', 'confirmed', 'undone', 'tomb')),
    fingerprint blob not null check (length(fingerprint) = 16),
    result text not null, -- as JSON: an output, or the reason of a refusal
    primary key (run, call)
) strict, without rowid;

create table es_guard_about (
    one integer primary key default 1 check (one = 1),
    format integer not null,
    floor blob not null -- rows of runs before it were forgotten
) strict;
insert into es_guard_about (format, floor) values (1, x'00000000000000000000000000000000');
