-- Versions of a projection are next to each other. `current` says which generation the queries of its version read; of one
-- version, that generation's tables have their plain names, and all others have a suffix.

alter table es_projections add column suffix text not null default '';  -- behind the names of its tables, while they are not plain
update es_projections set suffix = '~' || generation;

-- The version that has the plain names.
create table es_published (
    name    text    primary key,
    version integer not null
) strict, without rowid;

insert into es_published select name, max(version) from es_projections where current = 1 group by name;

-- Goes up when names mean other tables, so that each connection of an app sees with one look whether it knows what they mean.
create table es_names (
    one     integer primary key check (one = 1),
    changed integer not null
) strict;

insert into es_names values (1, 1);
