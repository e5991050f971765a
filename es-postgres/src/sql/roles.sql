-- The roles of the store in schema {es}, each with the least that it needs:
--   {schema}_owner   owns the schema and everything in it: migrates, makes partitions, archives, redacts;
--   {schema}_writer  what an application needs: it appends, and changes nothing that was appended;
--   {schema}_reader  reads the view `log`, for people.
-- Nobody logs in as one of them; grant them: `grant {schema}_writer to shop`.
--
-- The tables of each generation of a projection are in a schema of their own, which the application makes:
-- `grant create on database .. to {schema}_writer`. Without that grant a projection has one version and one generation.
--
-- Run it as a superuser, before the first migration and after each one: it can be run again at any time. Migrate as the
-- owner: with `set role`, or with `options=-c role={schema}_owner` in the URL. Roles belong to the whole server, so two
-- databases with a schema of this name share them.
begin;

do $$
declare
    role text;
    this record;
begin
    foreach role in array array['{schema}_owner', '{schema}_writer', '{schema}_reader'] loop
        if not exists (select from pg_roles r where r.rolname = role) then
            execute format('create role %I nologin', role);
        end if;
    end loop;
    create schema if not exists {es};
    alter schema {es} owner to {schema}_owner;
    revoke all on schema {es} from public;
    grant usage on schema {es} to {schema}_writer, {schema}_reader;

    for this in
        select c.relkind as kind, c.oid::regclass as name from pg_class c
        where c.relnamespace = '{es}'::regnamespace and c.relkind in ('r', 'p', 'v')
    loop
        execute format('alter %s %s owner to {schema}_owner', case this.kind when 'v' then 'view' else 'table' end, this.name);
    end loop;
    for this in
        select p.oid::regprocedure as name from pg_proc p where p.pronamespace = '{es}'::regnamespace
    loop
        execute format('alter routine %s owner to {schema}_owner', this.name);
    end loop;

    revoke all on all tables in schema {es} from public, {schema}_writer, {schema}_reader;
    revoke all on all routines in schema {es} from public, {schema}_writer, {schema}_reader;
    if to_regclass('{es}.store') is null then
        raise notice 'schema {schema} is empty: migrate it as {schema}_owner, and run this again';
        return;
    end if;

    grant select on {es}.store, {es}.history, {es}.partitions, {es}.archived_streams, {es}.forgotten to {schema}_writer;
    grant select, insert on {es}.streams, {es}.event_types, {es}.events, {es}.tags, {es}.outcomes, {es}.fenced
        to {schema}_writer;
    grant select on {es}.checkpoints to {schema}_writer;
    grant select, insert, update, delete on {es}.rows, {es}.hot_rows, {es}.witnesses, {es}.snapshots, {es}.projections,
        {es}.published to {schema}_writer;
    for this in
        select p.oid::regprocedure as name from pg_proc p
        where p.pronamespace = '{es}'::regnamespace and p.prorettype <> 'trigger'::regtype
          and p.proname not in ('adopt', 'archive_edge', 'in_the_way', 'attach_archive', 'attach', 'needs', 'forget', 'forget_keys', 'forget_attempts', 'archive', 'detach', 'shut', 'unhandled_events', 'redact', 'maintain', 'partition',
              'become_partition', 'make_partition', 'row_tables', 'set_aside', 'holders', 'drop_tags', 'payload_tables',
              'must_have', 'need', 'redact_all')
    loop
        execute format('grant execute on routine %s to {schema}_writer', this.name);
    end loop;
    grant select on {es}.log to {schema}_reader;
    grant execute on function {es}.text_of(bytea) to {schema}_reader;
end $$;

commit;
