-- What there was in format 1. Privileges on the tables stay as they are, so the tables do.
lock table es_undo.images, es_undo.locks in access exclusive mode;
create temporary table es_undo_noted on commit drop as
    select run, call, statement, tab, array_agg(key order by n) as keys, array_agg(new_key order by n) as new_keys,
        array_agg(before order by n) as befores, array_agg(after order by n) as afters
    from es_undo.images group by run, call, statement, tab;
delete from es_undo.images;
alter table es_undo.images drop column n, drop column key, drop column new_key, drop column before, drop column after,
    add column shape bytea not null, add column keys text[] collate "C" not null, add column new_keys text[] collate "C" not null,
    add column befores text[] collate "C" not null, add column afters text[] collate "C" not null,
    add primary key (run, call, statement);
alter table es_undo.images alter keys set storage external, alter new_keys set storage external,
    alter befores set storage external, alter afters set storage external;
alter table es_undo.tables add column name text;
update es_undo.tables t set name = coalesce(
    (select format('%I.%I', c.relnamespace::regnamespace::name, c.relname) from pg_catalog.pg_class c where c.oid = t.tab), t.tab::text);
alter table es_undo.tables alter column name set not null;

-- Whoever could accept what a call has changed writes down now who that was.
do $$
declare
    grantee record;
begin
    for grantee in
        select a.grantee::regrole as role, a.grantee = 0 as is_public
        from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        where c.oid = 'es_undo.locks'::regclass and a.privilege_type = 'DELETE' and a.grantee <> c.relowner
    loop
        execute format('grant select, insert, delete on es_undo.acts to %s',
            case when grantee.is_public then 'public' else grantee.role::text end);
    end loop;
end
$$;
