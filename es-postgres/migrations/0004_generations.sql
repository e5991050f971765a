-- Generations of the tables of projections. `{es}` stands for the quoted name of the schema.
--
-- The first generation is where its user's search path puts it; each later one has a schema of its own. Queries find
-- the tables of one of them by their search path.

-- Gives a session of queries its search path as of now: the schemas of the generations that are current, then what the
-- session began with. Called each time that a connection is taken, so it does no more than it has to.
create function {es}.follow() returns void language plpgsql as $$
declare
    -- Behind a mark, since what is not set may be empty.
    base text := current_setting('es.base', true);
    path text;
begin
    if coalesce(base, '') = '' then
        base := set_config('es.base', '=' || (select s.reset_val from pg_settings s where s.name = 'search_path'), false);
    end if;
    path := concat_ws(', ', (
        select string_agg(quote_ident(p.place), ', ' order by p.name, p.version)
        from {es}.projections p where p.current and p.place is not null
    ), nullif(substr(base, 2), ''));
    if path <> current_setting('search_path') then
        perform set_config('search_path', path, false);
    end if;
end $$;

-- The search path of whoever writes one generation.
create function {es}.path_at(name text, version integer, generation integer, base text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    found_ {es}.projections;
begin
    select p.* into found_ from {es}.projections p
    where (p.name, p.version, p.generation) = (path_at.name, path_at.version, path_at.generation);
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

-- What stands in the database that a projection can make, and whether this transaction has made or touched it.
create function {es}.objects(out id oid, out kind text, out place name, out name text, out touched boolean)
returns setof record language sql stable set search_path = pg_catalog, pg_temp as $$
    select o.oid, o.kind, n.nspname, coalesce(o.signature, format('%I.%I', n.nspname, o.name)),
           o.xmin = pg_current_xact_id()::xid
    from (
        select 'pg_class'::regclass as class, c.oid, c.xmin, c.relnamespace as place, c.relname as name, null as signature,
               case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                    when 'f' then 'foreign table' when 'c' then 'type' else 'table' end as kind
        from pg_class c
        where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and not c.relispartition
        union all
        select 'pg_proc'::regclass, p.oid, p.xmin, p.pronamespace, p.proname, p.oid::regprocedure::text, 'routine'
        from pg_proc p
        union all
        select 'pg_type'::regclass, t.oid, t.xmin, t.typnamespace, t.typname, null, 'type'
        from pg_type t
        where t.typtype in ('e', 'd', 'r')
    ) o
    join pg_namespace n on n.oid = o.place
    where n.nspname !~ '^pg_'
      -- What belongs to a column or to an extension goes with it.
      and not exists (
          select from pg_depend d
          where d.classid = o.class and d.objid = o.oid and d.objsubid = 0 and d.deptype in ('a', 'i', 'e'))
$$;

-- Drops objects; refused if anybody else depends on them.
create function {es}.drop_objects(objects jsonb) returns void language plpgsql as $$
declare
    waiting jsonb := objects;
    later   jsonb;
    object  jsonb;
    tables_ text;
    why     text;
begin
    -- Whatever others of them depend on has to wait until those are gone.
    while waiting <> '[]' loop
        later := '[]';
        for object in select o from jsonb_array_elements(waiting) o loop
            begin
                execute format('drop %s if exists %s', object ->> 0, object ->> 1);
            exception when dependent_objects_still_exist then
                get stacked diagnostics why = pg_exception_detail;
                later := later || jsonb_build_array(object);
            end;
        end loop;
        if later = waiting then
            -- Tables that point to each other.
            tables_ := (select string_agg(o ->> 1, ', ') from jsonb_array_elements(later) o where o ->> 0 = 'table');
            begin
                execute 'drop table ' || coalesce(tables_, '');
            exception when dependent_objects_still_exist or syntax_error then
                raise exception 'others depend on the tables: %', why using errcode = 'dependent_objects_still_exist';
            end;
            later := coalesce((select jsonb_agg(o) from jsonb_array_elements(later) o where o ->> 0 <> 'table'), '[]');
        end if;
        waiting := later;
    end loop;
end $$;

-- The version in the name of a generation's rows, as in `balances/1~2`; null if it is not this projection's.
create function {es}.version_in(name text, projection text) returns text language sql immutable as $$
    select case when starts_with(name, projection || '/')
                then substring(substr(name, length(projection) + 2) from '^([0-9]+)(?:[~/]|$)') end
$$;

-- Deletes the rows of one generation, and those of tables below its name.
create function {es}.delete_rows(name text) returns void language sql as $$
    delete from {es}.rows r where r.tbl = name;
    -- `0` comes after `/`.
    delete from {es}.rows r where r.tbl > name || '/' and r.tbl < name || '0';
$$;

-- Deletes what other versions of a projection have left: rows, names and checkpoints.
create function {es}.delete_other_versions(projection text, version integer) returns void language sql as $$
    delete from {es}.rows r
    where r.tbl > projection || '/' and r.tbl < projection || '0' and {es}.version_in(r.tbl, projection) <> version::text;
    delete from {es}.rows r
    where r.tbl in ('current', 'checkpoints') and {es}.version_in(r.key, projection) <> version::text;
$$;
