-- Format 3 of the undo log: what calls have changed in tracked tables, and which rows are locked until it is decided.
create table es_undo.about (
    one boolean primary key default true check (one),
    format integer not null
);
insert into es_undo.about (format) values (3);

create table es_undo.tables (
    tab regclass primary key,
    name text not null, -- says which one it was once it is gone
    id bigint generated always as identity, -- names its functions: an oid is another one in a copy
    since timestamptz not null default clock_timestamp()
);
comment on table es_undo.tables is 'tables whose changes are noted';

-- Numbers the calls of triggers. Of two transactions that change one row the later one draws the larger number: it had to
-- wait for the row. That is true without a cache only.
create sequence es_undo.statements as bigint cache 1;

-- One row for a statement on a table. The arrays have an element for each row that it has changed; one that is shorter than
-- the others ends in nulls.
create table es_undo.images (
    run uuid not null,
    call text collate "C" not null,
    statement bigint not null,
    tab regclass not null,
    shape bytea not null, -- of the columns that the rows have
    keys text[] collate "C" not null, -- null: the row was inserted
    new_keys text[] collate "C" not null, -- null: the row was deleted
    befores text[] collate "C" not null,
    afters text[] collate "C" not null,
    primary key (run, call, statement)
);
-- To compress them costs more than to write them: they are gone with the decision.
alter table es_undo.images alter keys set storage external, alter new_keys set storage external,
    alter befores set storage external, alter afters set storage external;
comment on table es_undo.images is 'rows as they were before and after each change, as text under settings that never change';

-- The primary key is what two runs meet at. `calls` are those of the run that have changed the row. A key that does not begin
-- with a parenthesis is of another unique constraint, and was freed: `columns=(values)`.
create table es_undo.locks (
    tab regclass not null,
    key text collate "C" not null,
    run uuid not null,
    calls text[] collate "C" not null,
    since timestamptz not null default clock_timestamp(),
    primary key (tab, key)
);
create index locks_of_run on es_undo.locks (run);
comment on table es_undo.locks is 'rows that nobody but this run may change until it is decided';
