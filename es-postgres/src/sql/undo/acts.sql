create table es_undo.acts (
    n bigint generated always as identity primary key,
    run uuid not null,
    call text not null,
    act text not null check (act in ('accepted', 'mended')),
    locked_rows bigint not null,
    actor text not null,
    reason text not null,
    at timestamptz not null default clock_timestamp()
);
comment on table es_undo.acts is 'what people have done about calls whose undo was blocked';
