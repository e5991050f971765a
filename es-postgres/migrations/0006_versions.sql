-- Versions of a projection next to each other, and stable names for their tables. `{es}` stands for the quoted name of
-- the schema.
--
-- The tables of each generation are in a schema of its own. The plain name of each table is a view in the schema where
-- the tables would be without that; it shows the current generation of one version. A generation without a schema
-- (`projections.place` is null) has the plain names itself: where the account may make no schema, and in a store that is
-- older than this migration. It gives them up when another generation needs them.

-- Which version the plain names of a projection's tables mean.
create table {es}.published (
    name    text    primary key,
    version integer not null,
    base    text,                               -- the schema of the plain names; null: not needed so far
    views   jsonb   not null default '[]',      -- [["view", "public.balances", "es_balances_1_2.balances"], ..]: name, and table
    grants  jsonb   not null default '{}'       -- {"public.balances": [["SELECT", "role"], ..]}: outlive a view
);

insert into {es}.published (name, version)
select p.name, max(p.version) from {es}.projections p where p.current group by p.name;

-- Roles that write notes of generations write these too.
do $$
declare
    this record;
begin
    for this in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role,
               a.privilege_type as privilege
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = '{es}.projections'::regclass and a.grantee <> c.relowner
          and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant %s on {es}.published to %s', this.privilege, this.role);
    end loop;
end $$;

-- The search path of whoever writes one generation. One that has the plain names itself is held until the transaction ends:
-- its names must not come to mean another one's tables in between.
create or replace function {es}.path_at(name text, version integer, generation integer, base text) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    found_ {es}.projections;
begin
    select p.* into found_ from {es}.projections p
    where (p.name, p.version, p.generation) = (path_at.name, path_at.version, path_at.generation);
    if found and found_.place is null then
        select p.* into found_ from {es}.projections p
        where (p.name, p.version, p.generation) = (path_at.name, path_at.version, path_at.generation) for share;
    end if;
    if not found then
        raise exception 'generation % of %/% is not installed: install it first', generation, name, version
            using errcode = 'ES005';
    end if;
    -- Without it, its names would mean the tables of another generation.
    if not exists (select from pg_namespace n where n.nspname = coalesce(found_.place, 'pg_catalog')) then
        raise exception 'the schema % of generation % of %/% is gone: uninstall the generation',
            found_.place, generation, name, version using errcode = 'ES005';
    end if;
    return concat_ws(', ', quote_ident(found_.place), nullif(base, ''));
end $$;

-- Gives a session of queries its search path as of now: for each projection the schema of the current generation, of the
-- published version, or of another one if that is named; then what the session began with. Called each time that a
-- connection is taken, so it does no more than it has to.
create function {es}.follow(names text[], versions integer[]) returns void language plpgsql as $$
declare
    -- Behind a mark, since what is not set may be empty.
    base text := current_setting('es.base', true);
    path text;
begin
    if coalesce(base, '') = '' then
        base := set_config('es.base', '=' || (select s.reset_val from pg_settings s where s.name = 'search_path'), false);
    end if;
    path := concat_ws(', ', (
        select string_agg(quote_ident(p.place), ', ' order by p.name)
        from {es}.projections p left join {es}.published u on (u.name, u.version) = (p.name, p.version)
        where p.current and p.place is not null and case when p.name = any (names)
              then p.version = versions[array_position(names, p.name)] else u.name is not null end
    ), nullif(substr(base, 2), ''));
    if path <> current_setting('search_path') then
        perform set_config('search_path', path, false);
    end if;
end $$;

-- As programs of the version before ask for it.
create or replace function {es}.follow() returns void language sql as $$ select {es}.follow('{}', '{}') $$;

-- What others were granted on a table or view: [["SELECT", "role"], ..].
create function {es}.grants_on(relation text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce(jsonb_agg(jsonb_build_array(
        a.privilege_type, case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)), '[]')
    from pg_class c cross join aclexplode(c.relacl) a
    where c.oid = to_regclass(relation) and a.grantee <> c.relowner
      and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
$$;

-- Has the plain names of a projection's tables be these views: `views` as in `published`.
create function {es}.show(projection text, views jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    known   jsonb := (select u.views from {es}.published u where u.name = projection);
    kept    jsonb;
    this    record;
    given   record;
    why     text;
begin
    update {es}.published u set views = show.views, grants = u.grants || coalesce(
        (select jsonb_object_agg(k ->> 1, {es}.grants_on(k ->> 1)) from jsonb_array_elements(known) k
         where to_regclass(k ->> 1) is not null), '{}')
    where u.name = projection
    returning u.grants into kept;
    for this in
        select k ->> 1 as name from jsonb_array_elements(known) k
        where not exists (select from jsonb_array_elements(show.views) v where v ->> 1 = k ->> 1)
    loop
        execute format('drop view if exists %s', this.name);
    end loop;
    for this in
        select v ->> 1 as name, v ->> 2 as shows, exists (
            select from jsonb_array_elements(known) k where k ->> 1 = v ->> 1 and to_regclass(k ->> 1) is not null) as there
        from jsonb_array_elements(show.views) v
    loop
        if this.there then
            begin
                execute format('create or replace view %s as select * from %s', this.name, this.shows);
            exception when invalid_table_definition then
                -- It has other columns.
                execute format('drop view %s', this.name);
                execute format('create view %s as select * from %s', this.name, this.shows);
            end;
        else
            execute format('create view %s as select * from %s', this.name, this.shows);
        end if;
        -- What was granted on the name before, and what the DDL grants.
        for given in
            select distinct g ->> 0 as privilege, g ->> 1 as role
            from jsonb_array_elements({es}.grants_on(this.shows) || coalesce(kept -> this.name, '[]')) g
            where g ->> 1 = 'public' or exists (select from pg_roles r where quote_ident(r.rolname) = g ->> 1)
        loop
            execute format('grant %s on %s to %s', given.privilege, this.name, given.role);
        end loop;
    end loop;
exception when dependent_objects_still_exist then
    get stacked diagnostics why = pg_exception_detail;
    raise exception 'others depend on the plain names of projection %: %; drop them, and recreate them afterwards',
        projection, why using errcode = 'dependent_objects_still_exist';
end $$;

-- Moves what a DDL made into a schema; gives what it is called there.
create function {es}.move_objects(objects jsonb, place text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moved jsonb := '[]';
    this  record;
begin
    for this in
        select f.id, f.kind from jsonb_array_elements(objects) with ordinality o (made, i)
        join {es}.objects() f on (f.kind, f.name) = (o.made ->> 0, o.made ->> 1) order by o.i
    loop
        -- By its name of now: that of a function says where the types of its arguments are. Partitions do not follow.
        execute (
            select string_agg(format('alter %s %s set schema %I', this.kind, n.name, place), '; ')
            from (
                select f.name from {es}.objects() f where (f.id, f.kind) = (this.id, this.kind)
                union all
                select t.relid::regclass::text from pg_partition_tree(this.id) t where this.kind = 'table' and t.level > 0
            ) n
        );
    end loop;
    select coalesce(jsonb_agg(jsonb_build_array(f.kind, f.name) order by f.id desc), '[]') into moved
    from {es}.objects() f
    where f.place = move_objects.place;
    return moved;
end $$;

-- Deletes the rows of one generation, and those of tables below its name, or, if the name ends in `~`, the rows of all
-- generations of that version: in the order in which rows are written, and none of the framework's own. Hot ones are
-- elsewhere.
create or replace function {es}.delete_rows(name text) returns void
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    if right(name, 1) = '~' then
        -- DEL comes after `~`.
        delete from {es}.rows r
        where r.tbl > name and r.tbl < left(name, -1) || chr(127) and not starts_with(r.tbl, 'es.');
        return;
    end if;
    delete from {es}.rows r where r.tbl = name and not starts_with(r.tbl, 'es.');
    -- `0` comes after `/`.
    delete from {es}.rows r where r.tbl > name || '/' and r.tbl < name || '0' and not starts_with(r.tbl, 'es.');
end $$;

-- Another version leaves them alone.
drop function {es}.delete_other_versions(text, integer);
drop function {es}.version_in(text, text);
