-- What an app reads of a projection whose own version is not there. `{es}` stands for the quoted name of the schema.

-- As before; but while a version that is named is not there and another one is, the schemas of the session's beginning are
-- left out: the plain names in them mean the other version's tables, which the app would take for its own.
create or replace function {es}.follow(names text[], versions integer[]) returns void language plpgsql as $$
declare
    -- Behind a mark, since what is not set may be empty.
    base    text := current_setting('es.base', true);
    missing boolean;
    path    text;
begin
    if coalesce(base, '') = '' then
        base := set_config('es.base', '=' || (select s.reset_val from pg_settings s where s.name = 'search_path'), false);
    end if;
    missing := exists (
        select from unnest(names, versions) as own (name, version)
        where exists (select from {es}.projections p where p.name = own.name)
          and not exists (select from {es}.projections p where (p.name, p.version) = (own.name, own.version))
    );
    path := concat_ws(', ', (
        select string_agg(quote_ident(p.place), ', ' order by p.name)
        from {es}.projections p left join {es}.published u on (u.name, u.version) = (p.name, p.version)
        where p.current and p.place is not null and case when p.name = any (names)
              then p.version = versions[array_position(names, p.name)] else u.name is not null end
    ), case when not missing then nullif(substr(base, 2), '') end);
    if path <> current_setting('search_path') then
        perform set_config('search_path', path, false);
    end if;
end $$;
