-- Which tables can be tracked, and the triggers of those that are.

-- The columns of a table's primary key, in its order.
create function es_undo.key_columns(of_tab regclass)
returns table (place bigint, name name, type regtype, modifier integer, collation_of oid) language sql stable {pinned}
as $$
    select k.place, a.attname, a.atttypid::regtype, a.atttypmod, a.attcollation
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

-- Whether equal values of a type have one text. Two texts of a `bpchar` without a length may differ in spaces at their ends.
create function es_undo.has_one_text(of_type regtype, modifier integer) returns boolean language sql stable {pinned}
as $$
    with recursive up (type, base, kind, modifier) as (
        select t.oid, t.typbasetype, t.typtype, case t.typtype when 'd' then t.typtypmod else modifier end
        from pg_type t where t.oid = of_type
        union all
        select t.oid, t.typbasetype, t.typtype, case t.typtype when 'd' then t.typtypmod else up.modifier end
        from up join pg_type t on t.oid = up.base where up.kind = 'd'
    )
    select kind = 'e' or type in ('bool'::regtype, 'bytea'::regtype, '"char"'::regtype, 'date'::regtype, 'int2'::regtype,
        'int4'::regtype, 'int8'::regtype, 'name'::regtype, 'numeric'::regtype, 'text'::regtype, 'time'::regtype,
        'timestamp'::regtype, 'timestamptz'::regtype, 'uuid'::regtype, 'varchar'::regtype)
        or type = 'bpchar'::regtype and up.modifier <> -1
    from up where kind <> 'd'
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
    from es_undo.key_columns(of_tab) k where not es_undo.has_one_text(k.type, k.modifier)
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
        -- All of its condition, or one of those that all have to hold.
        and pg_get_triggerdef(t.oid) !~ ' WHEN \(\(NOT es_undo\.undoing\(\)\)\) EXECUTE '
        and pg_get_triggerdef(t.oid) !~ ' WHEN \(\(\(NOT es_undo\.undoing\(\)\) AND '
        and pg_get_triggerdef(t.oid) !~ ' AND \(NOT es_undo\.undoing\(\)\)\)\) EXECUTE '
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

-- SQL of what is unique in a row besides its primary key, as the locks have it: an array. Null if nothing is, of which equal
-- values have one text. Indexes of expressions, and of some of the rows only, are left out.
create function es_undo.unique_sql(of_tab regclass, rows text, alias text) returns text language sql stable {pinned}
as $$
    with columns as (
        select i.indexrelid, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as are_nulls_equal, k.place,
            a.attname as name, case es_undo.base_type(a.atttypid) when 'numeric'::regtype then format('trim_scale(%s.%I)', alias, a.attname)
                else format('%s.%I', alias, a.attname) end as read
        from pg_index i, unnest(i.indkey) with ordinality k (attnum, place), pg_attribute a
        where i.indrelid = of_tab and i.indisunique and not i.indisprimary and i.indisvalid and i.indexprs is null and i.indpred is null
            and k.place <= i.indnkeyatts and a.attrelid = of_tab and a.attnum = k.attnum
            and not exists (
                select from unnest(i.indkey) with ordinality o (attnum, place), pg_attribute b left join pg_collation c on c.oid = b.attcollation
                where o.place <= i.indnkeyatts and b.attrelid = of_tab and b.attnum = o.attnum
                    and not (es_undo.has_one_text(b.atttypid, b.atttypmod) and coalesce(c.collisdeterministic, true))
            )
    ), uniques as (
        select format('(%s%L || row(%s)::text%s)', case when not c.are_nulls_equal
                then format('case when %s then ', string_agg(c.read || ' is not null', ' and ' order by c.place)) end,
            string_agg(quote_ident(c.name), ',' order by c.place) || '=', string_agg(c.read, ', ' order by c.place),
            case when not c.are_nulls_equal then ' end' end) as value
        from columns c group by c.indexrelid, c.are_nulls_equal
    )
    select format('array(select u.value from %s %s, lateral (values %s) u (value) where u.value is not null)', rows, alias,
        string_agg(distinct value, ', ')) from uniques having count(*) > 0
$$;

-- The body of the trigger function of a table, for a kind of statement.
create function es_undo.trigger_body(of_tab regclass, op text) returns text language sql stable {pinned}
as $body$
    with sides (side, uniques, keys, rows) as (
        -- Both tables of an UPDATE have its rows in the order in which it has changed them.
        select s.* from (values ('old_rows', 'had', 'keys', 'befores', 'insert'), ('new_rows', 'made', 'new_keys', 'afters', 'delete'))
            s (side, uniques, keys, rows, except_of) where s.except_of <> op
    ), reads (side, uniques, keys, rows) as (
        -- `*` stands for the columns that there are when a statement runs.
        select s.side, coalesce(s.uniques || ' := ' || es_undo.unique_sql(of_tab, s.side, 'r') || '; ', ''),
            format('select coalesce(array_agg(%s), ''{}'') into %s from %s r; ', es_undo.key_of(of_tab, 'r'), s.keys, s.side),
            format('select coalesce(array_agg(%s), ''{}''), coalesce(array_agg(row(r.*)::text), ''{}'') into %s, %s from %s r; ',
                es_undo.key_of(of_tab, 'r'), s.keys, s.rows, s.side)
        from sides s
    )
    select format($trigger${trigger}$trigger$, string_agg(r.uniques || r.keys, '' order by r.side),
        string_agg(r.uniques || r.rows, '' order by r.side)) from reads r
$body$;

-- The triggers of a table, as they are named, and the functions of its own that they call.
create function es_undo.triggers_of(of_tab regclass) returns table (op text, trigger name, tables text, function name)
language sql stable {pinned}
as $$
    select v.op, 'es_undo_' || v.op, v.tables, case v.op when 'truncate' then 'keep' else v.op || '_' || t.id end
    from (values
        ('insert', 'new table as new_rows'), ('delete', 'old table as old_rows'),
        ('update', 'old table as old_rows new table as new_rows'), ('truncate', null)
    ) v (op, tables) left join es_undo.tables t on t.tab = of_tab and v.op <> 'truncate'
$$;

-- Makes the functions and triggers of a table.
create function es_undo.equip(of_tab regclass) returns void language plpgsql {pinned}
as $$
declare
    it record;
begin
    for it in select * from es_undo.triggers_of(of_tab) loop
        if it.tables is not null then
            execute format('create or replace function es_undo.%I() returns trigger language plpgsql security definer {quoted_pinned}
                as %L', it.function, es_undo.trigger_body(of_tab, it.op));
            execute format('revoke execute on function es_undo.%I() from public', it.function);
        end if;
        execute format('create or replace trigger %I after %s on %s %s for each statement execute function es_undo.%I()',
            it.trigger, it.op, of_tab, 'referencing ' || it.tables, it.function);
        execute format('alter table %s enable trigger %I', of_tab, it.trigger);
    end loop;
end
$$;

-- What a tracked table lacks to be noted: nothing, if all is well.
create function es_undo.unnoted(of_tab regclass) returns setof text language sql stable {pinned}
as $$
    select case
        when g.oid is null then format('%s has lost its trigger %I: track it again', of_tab, t.trigger)
        when g.tgenabled not in ('O', 'A') then format('trigger %I of %s is switched off: enable it, or track the table again',
            t.trigger, of_tab)
        when p.oid is null or t.tables is not null and p.prosrc is distinct from es_undo.trigger_body(of_tab, t.op)
            then format('trigger %I of %s is for other columns of keys than there are now: track it again', t.trigger, of_tab)
    end
    from es_undo.triggers_of(of_tab) t
    left join pg_trigger g on g.tgrelid = of_tab and g.tgname = t.trigger
    left join pg_proc p on p.oid = g.tgfoid and p.pronamespace = 'es_undo'::regnamespace and p.proname = t.function
$$;

-- Why tables that are tracked are not noted, or could not be undone, as they are now: nothing, if all is well.
create function es_undo.check() returns setof text language sql stable {pinned}
as $$
    select format('%s is gone: track what has come in its place, or untrack it', t.name)
    from es_undo.tables t where not exists (select from pg_class c where c.oid = t.tab)
    union all
    select w.why from es_undo.tables t join pg_class c on c.oid = t.tab, lateral (
        select es_undo.unfit(t.tab) union all select es_undo.unnoted(t.tab)
    ) w (why) where w.why is not null
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
    delete from es_undo.tables g using unnest(tabs) u (tab)
        where g.name = u.tab::text and not exists (select from pg_class c where c.oid = g.tab);
    insert into es_undo.tables (tab, name) select u.tab, u.tab::text from unnest(tabs) u (tab)
        on conflict (tab) do update set name = excluded.name;
    select string_agg(w, '; ') into why from unnest(tabs) u (tab), es_undo.unfit(u.tab) w where w is not null;
    if why is not null then
        raise exception using errcode = 'ESU05', message = format('it cannot be tracked: %s', why);
    end if;
    foreach t in array tabs loop
        perform es_undo.equip(t);
    end loop;
end
$$;

-- Ends that a table is tracked; one that is not found, as it is gone, by the name that it had.
create function es_undo.untrack(found_tab regclass, of_name text) returns void language plpgsql {pinned}
as $$
declare
    of_tab constant regclass := coalesce(found_tab::oid, (
        select t.tab::oid from es_undo.tables t where t.name = of_name and not exists (select from pg_class c where c.oid = t.tab)));
    held record;
    it record;
begin
    if of_tab is null then
        raise undefined_table using message = format('relation %s does not exist, and was not tracked', of_name);
    end if;
    if found_tab is not null then
        execute format('lock table %s in share row exclusive mode', of_tab);
    end if;
    select i.run into held from es_undo.images i where i.tab = of_tab limit 1;
    if found then
        raise exception using errcode = 'ESU05',
            message = format('%s has images of run %s, which is not decided', coalesce(found_tab::text, of_name), held.run);
    end if;
    select f.confrelid::regclass as tab into held from pg_constraint f join es_undo.tables t on t.tab = f.confrelid
        where f.conrelid = of_tab and f.contype = 'f' and f.confrelid <> of_tab
            and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd')) limit 1;
    if found then
        raise exception using errcode = 'ESU05', message = format(
            'rows of %s go or change with those of %s, which is tracked: untrack that first', of_tab, held.tab);
    end if;
    for it in select * from es_undo.triggers_of(of_tab) loop
        if found_tab is not null then
            execute format('drop trigger if exists %I on %s', it.trigger, of_tab);
        end if;
        if it.tables is not null and it.function is not null then
            execute format('drop function if exists es_undo.%I()', it.function);
        end if;
    end loop;
    delete from es_undo.tables t where t.tab = of_tab;
end
$$;
