-- Which tables can be tracked, and the triggers of those that are.

-- The columns of a table's primary key, in its order.
create function es_undo.key_columns(of_tab regclass)
returns table (place bigint, name name, type regtype, collation_of oid) language sql stable {pinned}
as $$
    select k.place, a.attname, a.atttypid::regtype, a.attcollation
    from pg_constraint c, unnest(c.conkey) with ordinality k (attnum, place), pg_attribute a
    where c.conrelid = of_tab and c.contype = 'p' and a.attrelid = of_tab and a.attnum = k.attnum
    order by k.place
$$;

-- What a column of a domain really is.
create function es_undo.base_type(of_type regtype) returns regtype language sql stable {pinned}
as $$
    with recursive up (type, base, kind) as (
        select t.oid, t.typbasetype, t.typtype from pg_type t where t.oid = of_type
        union all
        select t.oid, t.typbasetype, t.typtype from up join pg_type t on t.oid = up.base where up.kind = 'd'
    )
    select type::regtype from up where kind <> 'd'
$$;

-- Why a table cannot be tracked: nothing, if it can.
create function es_undo.unfit(of_tab regclass) returns setof text language sql stable {pinned}
as $$
    select case
        when c.relkind = 'p' then format('%s is partitioned: track tables that are not', of_tab)
        when c.relispartition then format('%s is a partition: track tables that are not', of_tab)
        when c.relkind <> 'r' then format('%s is no table', of_tab)
        when c.relpersistence <> 'p' then format('%s is temporary or unlogged, and may lose what its images go back to', of_tab)
        when c.relnamespace in ('pg_catalog'::regnamespace, 'es_undo'::regnamespace) then format('%s is of the system', of_tab)
        when c.relrowsecurity then format('%s has row security, which hides rows from an undo', of_tab)
        when exists (select from pg_inherits where inhparent = of_tab or inhrelid = of_tab)
            then format('%s inherits, or is inherited from', of_tab)
        when not exists (select from pg_constraint p where p.conrelid = of_tab and p.contype = 'p')
            then format('%s has no primary key', of_tab)
        when exists (select from pg_constraint p where p.conrelid = of_tab and p.contype = 'p' and p.condeferrable)
            then format('%s has a primary key that is deferrable: two rows may have one key for a while', of_tab)
    end
    from pg_class c where c.oid = of_tab
    union all
    select format('%s has the rule %I', of_tab, r.rulename) from pg_rewrite r where r.ev_class = of_tab
    union all
    -- Locks are found by the text of a key: equal keys have to have one text.
    select format('column %I of the primary key of %s has type %s, of which equal values may be written in several ways',
        k.name, of_tab, k.type)
    from es_undo.key_columns(of_tab) k, pg_type t
    where t.oid = es_undo.base_type(k.type) and t.typtype <> 'e' and t.oid not in ('bool'::regtype, 'bytea'::regtype,
        'bpchar'::regtype, '"char"'::regtype, 'date'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
        'name'::regtype, 'numeric'::regtype, 'text'::regtype, 'time'::regtype, 'timestamp'::regtype,
        'timestamptz'::regtype, 'uuid'::regtype, 'varchar'::regtype)
    union all
    select format('column %I of the primary key of %s has a collation that takes different texts for equal', k.name, of_tab)
    from es_undo.key_columns(of_tab) k join pg_collation c on c.oid = k.collation_of where not c.collisdeterministic
    union all
    select format('column %I of %s is computed when it is read', a.attname, of_tab) from pg_attribute a
    where a.attrelid = of_tab and a.attnum > 0 and not a.attisdropped and a.attgenerated not in ('', 's')
    union all
    -- Rows elsewhere that are deleted or changed with a row of it have to leave images too.
    select format('rows of %s go or change with those of %s (%I), and are not tracked: track it first, or together',
        f.conrelid::regclass, of_tab, f.conname)
    from pg_constraint f where f.confrelid = of_tab and f.contype = 'f'
        and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))
        and not exists (select from es_undo.tables t where t.tab = f.conrelid)
    union all
    select format('trigger %I of %s would fire again when a change is undone: give it `when (not es_undo.undoing())`',
        t.tgname, of_tab)
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = of_tab and not t.tgisinternal and t.tgenabled in ('O', 'A')
        and p.pronamespace <> 'es_undo'::regnamespace
        and pg_get_triggerdef(t.oid) !~ 'WHEN \(.*NOT es_undo\.undoing\(\)'
$$;

-- SQL that says that a row of a table, `t`, has the key of another one. Types of their own that are enums have no `=`.
create function es_undo.same_key(of_tab regclass, other text) returns text language sql stable {pinned}
as $$
    select string_agg(format('t.%1$I%3$s = (%2$s).%1$I%3$s', k.name, other,
        case when k.type <> b.type and t.typtype = 'e' then '::' || b.type end), ' and ' order by k.place)
    from es_undo.key_columns(of_tab) k, es_undo.base_type(k.type) b (type), pg_type t where t.oid = b.type
$$;

-- A key of a row, as the locks have it. Digits behind the point that say nothing are left out.
create function es_undo.key_of(of_tab regclass, alias text) returns text language sql stable {pinned}
as $$
    select 'row(' || string_agg(format(case es_undo.base_type(k.type) when 'numeric'::regtype
        then 'trim_scale(%s.%I)' else '%s.%I' end, alias, k.name), ', ' order by k.place) || ')::text'
    from es_undo.key_columns(of_tab) k
$$;

-- Makes the functions and triggers of a table.
create function es_undo.equip(of_tab regclass) returns void language plpgsql {pinned}
as $$
declare
    nothing constant text := 'array[]::text[]';
    -- Both tables of an UPDATE have its rows in the order in which it has changed them. `*` stands for the
    -- columns that there are when a statement runs.
    keys constant text := format('array(select %s from old_rows o)', es_undo.key_of(of_tab, 'o'));
    new_keys constant text := format('array(select %s from new_rows w)', es_undo.key_of(of_tab, 'w'));
    befores constant text := 'array(select row(o.*)::text from old_rows o)';
    afters constant text := 'array(select row(w.*)::text from new_rows w)';
    id constant bigint := (select t.id from es_undo.tables t where t.tab = of_tab);
    it record;
    name text;
begin
    for it in select * from (values
        ('insert', 'new table as new_rows', nothing, new_keys, nothing, afters),
        ('delete', 'old table as old_rows', keys, nothing, befores, nothing),
        ('update', 'old table as old_rows new table as new_rows', keys, new_keys, befores, afters)
    ) v (op, tables, keys, new_keys, befores, afters) loop
        name := format('es_undo.%I', it.op || '_' || id);
        execute format('create or replace function %s() returns trigger language plpgsql security definer {quoted_pinned}
            as %L', name, format($trigger${trigger}$trigger$, it.keys, it.new_keys, it.befores, it.afters));
        execute format('create or replace trigger %I after %s on %s referencing %s for each statement execute function %s()',
            'es_undo_' || it.op, it.op, of_tab, it.tables, name);
    end loop;
    execute format('create or replace trigger es_undo_truncate before truncate on %s
        for each statement execute function es_undo.keep()', of_tab);
end
$$;

-- Tracks tables, all or none.
create function es_undo.track(tabs regclass[]) returns void language plpgsql {pinned}
as $$
declare
    why text;
    t regclass;
begin
    -- Nobody writes while it changes whether that is noted.
    foreach t in array tabs loop
        if (select c.relkind in ('r', 'p') from pg_class c where c.oid = t) then
            execute format('lock table %s in share row exclusive mode', t);
        end if;
    end loop;
    insert into es_undo.tables (tab) select unnest(tabs) on conflict do nothing;
    select string_agg(w, '; ') into why from unnest(tabs) u (tab), es_undo.unfit(u.tab) w where w is not null;
    if why is not null then
        raise exception using errcode = 'ESU05', message = format('it cannot be tracked: %s', why);
    end if;
    foreach t in array tabs loop
        perform es_undo.equip(t);
    end loop;
end
$$;

-- Ends that a table is tracked.
create function es_undo.untrack(of_tab regclass) returns void language plpgsql {pinned}
as $$
declare
    id constant bigint := (select t.id from es_undo.tables t where t.tab = of_tab);
    held record;
    op text;
begin
    execute format('lock table %s in share row exclusive mode', of_tab);
    select i.run into held from es_undo.images i where i.tab = of_tab limit 1;
    if found then
        raise exception using errcode = 'ESU05',
            message = format('%s has images of run %s, which is not decided', of_tab, held.run);
    end if;
    select f.confrelid::regclass as tab into held from pg_constraint f join es_undo.tables t on t.tab = f.confrelid
        where f.conrelid = of_tab and f.contype = 'f' and f.confrelid <> of_tab
            and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd')) limit 1;
    if found then
        raise exception using errcode = 'ESU05', message = format(
            'rows of %s go or change with those of %s, which is tracked: untrack that first', of_tab, held.tab);
    end if;
    foreach op in array array['insert', 'update', 'delete'] loop
        execute format('drop trigger if exists %I on %s', 'es_undo_' || op, of_tab);
        execute format('drop function if exists es_undo.%I()', op || '_' || id);
    end loop;
    execute format('drop trigger if exists es_undo_truncate on %s', of_tab);
    delete from es_undo.tables t where t.tab = of_tab;
end
$$;
