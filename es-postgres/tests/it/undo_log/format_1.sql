create schema es_undo;
-- Format 1 of the undo log: what calls have changed in tracked tables, and which rows are locked until it is decided.
create table es_undo.about (
    one boolean primary key default true check (one),
    format integer not null
);
insert into es_undo.about (format) values (1);

create table es_undo.tables (
    tab regclass primary key,
    id bigint generated always as identity, -- names its functions: an oid is another one in a copy
    since timestamptz not null default clock_timestamp()
);
comment on table es_undo.tables is 'tables whose changes are noted';

-- Numbers the calls of triggers. Of two transactions that change one row the later one draws the larger number: it had to
-- wait for the row. That is true without a cache only.
create sequence es_undo.statements as bigint cache 1;

create table es_undo.images (
    run uuid not null,
    call text collate "C" not null,
    statement bigint not null,
    n bigint not null, -- rows of a statement, in the order in which it changed them
    tab regclass not null,
    key text collate "C", -- null: the row was inserted
    new_key text collate "C", -- null: the row was deleted
    before text collate "C",
    after text collate "C",
    primary key (run, call, statement, n)
);
comment on table es_undo.images is 'rows as they were before and after each change, as text under settings that never change';

-- The primary key is what two runs meet at. `calls` are those of the run that have changed the row.
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

-- What notes changes. The functions that run in the sessions of writers are SECURITY DEFINER: whoever may write to a tracked
-- table needs no privilege on the log, and can neither read nor change what others have noted there. They resolve names in
-- pg_catalog only, and call nothing of the user's but the text output of column types.

-- For triggers of the user's own: `when (not es_undo.undoing())`.
create function es_undo.undoing() returns boolean language sql stable parallel safe
as $$ select coalesce(pg_catalog.current_setting('es_undo.mode', true), '') = 'undo' $$;

-- From here to the end of the transaction, changes are noted for this call.
create function es_undo.begin(of_run uuid, of_call text) returns void language sql
as $$
    select pg_catalog.set_config('es_undo.run', of_run::text, true), pg_catalog.set_config('es_undo.call', of_call, true),
        pg_catalog.set_config('es_undo.mode', 'capture', true);
$$;

-- Locks these rows for a call. Called by triggers only, whose settings and privileges it has.
create function es_undo.lock_rows(of_tab regclass, touched text[], of_run uuid, of_call text) returns void language plpgsql
as $$
declare
    held record;
    n bigint;
begin
    loop
        insert into es_undo.locks (tab, key, run, calls)
            select of_tab, k, of_run, array[of_call] from unnest(touched) k on conflict do nothing;
        get diagnostics n = row_count;
        exit when n = cardinality(touched);
        -- Some are locked: by this run, or by another one. Each statement sees what was committed before it.
        select l.key, l.run into held from es_undo.locks l
            where l.tab = of_tab and l.key = any (touched) and l.run <> of_run limit 1;
        if found then
            raise exception using errcode = 'ESU01',
                message = format('row %s of %s is busy, held by run %s', held.key, of_tab, held.run),
                detail = held.run::text, hint = 'It is free once that run is decided: try again.';
        end if;
        update es_undo.locks l set calls = l.calls || of_call
            where l.tab = of_tab and l.key = any (touched) and l.run = of_run and not l.calls @> array[of_call];
        exit when cardinality(touched) = (
            select count(*) from es_undo.locks l
            where l.tab = of_tab and l.key = any (touched) and l.run = of_run and l.calls @> array[of_call]
        );
        -- One was released in between: once more.
    end loop;
end
$$;

-- Says that another call of the same run is to be undone first.
create function es_undo.wait_for(later text) returns void language plpgsql
as $$
begin
    raise exception using errcode = 'ESU04',
        message = format('it is undone once %s is, which came later and has changed the same rows, or refers to them', later);
end
$$;

-- Notes what a statement has changed. The arrays have an element for each row, in the order in which they were changed.
-- Called by triggers only, whose settings and privileges it has.
create function es_undo.note(of_tab regclass, keys text[], new_keys text[], befores text[], afters text[]) returns void
language plpgsql
as $$
declare
    this_run constant uuid := current_setting('es_undo.run');
    this_call constant text := current_setting('es_undo.call');
    touched constant text[] := array(
        select distinct t.key from unnest(keys, new_keys, befores, afters) c (key, new_key, before, after),
            lateral (values (c.key), (c.new_key)) t (key)
        where c.before is distinct from c.after and t.key is not null order by 1
    );
    this_statement bigint;
    other record;
begin
    if touched = '{}' then
        return;
    end if;
    if current_setting('es_undo.mode') = 'undo' then
        -- What goes back takes rows with it that refer to it: not those of others.
        select t.key, l.calls[1] as call into other
            from unnest(touched) t (key) left join es_undo.locks l on l.tab = of_tab and l.key = t.key and l.run = this_run
            where l.calls is null or not l.calls @> array[this_call] order by l.calls nulls first limit 1;
        if other.call is not null then
            perform es_undo.wait_for(other.call);
        elsif found then
            raise exception using errcode = 'ESU03', message = format(
                'row %s of %s would change with what is undone, and is not of this run', other.key, of_tab);
        end if;
        return;
    end if;
    perform es_undo.lock_rows(of_tab, touched, this_run, this_call);
    this_statement := nextval('es_undo.statements');
    insert into es_undo.images (run, call, statement, n, tab, key, new_key, before, after)
        select this_run, this_call, this_statement, c.n, of_tab, c.key, c.new_key, c.before, c.after
        from unnest(keys, new_keys, befores, afters) with ordinality c (key, new_key, before, after, n)
        where c.before is distinct from c.after;
end
$$;

-- A writer without a run meets rows that are locked.
create function es_undo.refuse(of_tab regclass, held_key text, held_run uuid) returns void language plpgsql
as $$
begin
    raise exception using errcode = 'ESU02',
        message = format('row %s of %s is locked by run %s until that is decided', held_key, of_tab, held_run),
        detail = held_run::text, hint = 'Try again later, or write within a run.';
end
$$;

-- What a writer without a run has touched, and what it has made. Called by triggers only.
create function es_undo.meet(of_tab regclass, touched text[], made text[]) returns void language plpgsql
as $$
declare
    held record;
    nobody constant uuid := '00000000-0000-0000-0000-000000000000';
begin
    -- A snapshot that is older than a lock does not show it. Rows that were changed since say so by themselves; a key that
    -- was freed does not, so the lock is met where it is unique.
    if made <> '{}' and current_setting('transaction_isolation') <> 'read committed' then
        insert into es_undo.locks (tab, key, run, calls)
            select of_tab, k, nobody, '{}' from (select distinct unnest(made) order by 1) u (k) on conflict do nothing;
        delete from es_undo.locks l where l.tab = of_tab and l.key = any (made) and l.run = nobody;
    end if;
    select l.key, l.run into held from es_undo.locks l where l.tab = of_tab and l.key = any (touched) limit 1;
    if found then
        perform es_undo.refuse(of_tab, held.key, held.run);
    end if;
end
$$;

-- TRUNCATE leaves no images.
create function es_undo.keep() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    held record;
begin
    if coalesce(current_setting('es_undo.mode', true), '') <> '' then
        raise exception using errcode = 'ESU05',
            message = format('%s is tracked: TRUNCATE cannot be undone, use DELETE', tg_relid::regclass);
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using errcode = 'ESU05',
            message = format('%s is tracked: TRUNCATE it at READ COMMITTED, where its locks are seen', tg_relid::regclass);
    end if;
    select l.key, l.run into held from es_undo.locks l where l.tab = tg_relid limit 1;
    if found then
        perform es_undo.refuse(tg_relid, held.key, held.run);
    end if;
    return null;
end
$$;

-- Which tables can be tracked, and the triggers of those that are.

-- The columns of a table's primary key, in its order.
create function es_undo.key_columns(of_tab regclass)
returns table (place bigint, name name, type regtype, collation_of oid) language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    select k.place, a.attname, a.atttypid::regtype, a.attcollation
    from pg_constraint c, unnest(c.conkey) with ordinality k (attnum, place), pg_attribute a
    where c.conrelid = of_tab and c.contype = 'p' and a.attrelid = of_tab and a.attnum = k.attnum
    order by k.place
$$;

-- What a column of a domain really is.
create function es_undo.base_type(of_type regtype) returns regtype language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    with recursive up (type, base, kind) as (
        select t.oid, t.typbasetype, t.typtype from pg_type t where t.oid = of_type
        union all
        select t.oid, t.typbasetype, t.typtype from up join pg_type t on t.oid = up.base where up.kind = 'd'
    )
    select type::regtype from up where kind <> 'd'
$$;

-- Why a table cannot be tracked: nothing, if it can.
create function es_undo.unfit(of_tab regclass) returns setof text language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
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
create function es_undo.same_key(of_tab regclass, other text) returns text language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    select string_agg(format('t.%1$I%3$s = (%2$s).%1$I%3$s', k.name, other,
        case when k.type <> b.type and t.typtype = 'e' then '::' || b.type end), ' and ' order by k.place)
    from es_undo.key_columns(of_tab) k, es_undo.base_type(k.type) b (type), pg_type t where t.oid = b.type
$$;

-- A key of a row, as the locks have it. Digits behind the point that say nothing are left out.
create function es_undo.key_of(of_tab regclass, alias text) returns text language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    select 'row(' || string_agg(format(case es_undo.base_type(k.type) when 'numeric'::regtype
        then 'trim_scale(%s.%I)' else '%s.%I' end, alias, k.name), ', ' order by k.place) || ')::text'
    from es_undo.key_columns(of_tab) k
$$;

-- Makes the functions and triggers of a table.
create function es_undo.equip(of_tab regclass) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
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
        execute format('create or replace function %s() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp set TimeZone = ''UTC'' set DateStyle = ''ISO, YMD'' set IntervalStyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = ''1'' set lc_monetary = ''C'' set xmloption = ''content'' set array_nulls = ''on'' set quote_all_identifiers = ''off''
            as %L', name, format($trigger$-- The trigger of one table and one kind of statement, once a statement. A template of `format`: 1 and 2 select the keys of
-- rows before and after it, 3 and 4 these rows.
declare
    mode constant text := coalesce(current_setting('es_undo.mode', true), '');
begin
    if mode <> '' then
        perform es_undo.note(tg_relid, %1$s, %2$s, %3$s, %4$s);
    elsif current_setting('transaction_isolation') <> 'read committed'
        or exists (select from es_undo.locks l where l.tab = tg_relid)
    then
        perform es_undo.meet(tg_relid, %1$s || %2$s, %2$s);
    end if;
    return null;
end
$trigger$, it.keys, it.new_keys, it.befores, it.afters));
        execute format('create or replace trigger %I after %s on %s referencing %s for each statement execute function %s()',
            'es_undo_' || it.op, it.op, of_tab, it.tables, name);
    end loop;
    execute format('create or replace trigger es_undo_truncate before truncate on %s
        for each statement execute function es_undo.keep()', of_tab);
end
$$;

-- Tracks tables, all or none.
create function es_undo.track(tabs regclass[]) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
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
create function es_undo.untrack(of_tab regclass) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
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

-- What is done with images once it is decided.

-- Forgets what a call has changed, and frees the rows that no other call of its run has changed.
create function es_undo.release(of_run uuid, of_call text) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
begin
    delete from es_undo.images i where i.run = of_run and i.call = of_call;
    delete from es_undo.locks l where l.run = of_run and l.calls = array[of_call];
    -- In this order: of two calls that let go at the same time, the second one finds nobody left.
    update es_undo.locks l set calls = array_remove(l.calls, of_call)
        where l.run = of_run and l.calls @> array[of_call];
    delete from es_undo.locks l where l.run = of_run and cardinality(l.calls) = 0;
end
$$;

-- What the images of a call come to in a table: for each key the row before all of them, and after all of them; null if there was none.
--
-- Each image leads from one state of a key to the next one, so the states of a key are a path. The one that it begins at was
-- left once more often than it was reached, the one that it ends at was reached once more often than it was left, all others
-- as often. So the order of the images makes no difference, which is hard to tell: triggers and foreign keys change rows
-- while a statement is at work. Keys that end where they began are left out.
create function es_undo.nets(of_run uuid, of_call text, of_tab regclass)
returns table (key text, before text, after text, is_broken boolean) language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    with edges as (
        select i.key, i.before, case when i.key = i.new_key then i.after end as after
        from es_undo.images i where i.run = of_run and i.call = of_call and i.tab = of_tab and i.key is not null
        union all
        select i.new_key, null, i.after from es_undo.images i
        where i.run = of_run and i.call = of_call and i.tab = of_tab and i.new_key is not null
            and i.new_key is distinct from i.key
    ), states as (
        select s.key, s.state, sum(s.way) as way
        from (select e.key, e.before, 1 from edges e union all select e.key, e.after, -1 from edges e) s (key, state, way)
        group by s.key, s.state having sum(s.way) <> 0
    )
    select s.key, max(s.state) filter (where s.way > 0), max(s.state) filter (where s.way < 0),
        count(*) <> 2 or max(abs(s.way)) <> 1
    from states s group by s.key
$$;

-- The tables that a call has changed.
create function es_undo.tables_of(of_run uuid, of_call text) returns setof regclass language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    select distinct i.tab from es_undo.images i where i.run = of_run and i.call = of_call
$$;

-- SQL that finds the rows of a table that a call has changed, `$1` and `$2`: as they were before it and after it, as they
-- are now, and in which columns the first two differ. Computed columns follow the others. `lock`: of what is found.
create function es_undo.find_sql(of_tab regclass, lock text) returns text language sql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
    select format('select n.key, n.before, n.after, n.is_broken, f.now, d.columns from es_undo.nets($1, $2, %s) n
            left join lateral (select row(t.*)::text as now from only %s t where %s %s) f on true
            left join lateral (
                select array_remove(array[%s], null)::text as columns from (select n.before::%2$s as b, n.after::%2$s as a offset 0) r
                where n.before is not null and n.after is not null
            ) d on true',
        of_tab::oid, of_tab,
        es_undo.same_key(of_tab, format('coalesce(n.after, n.before)::%s', of_tab)), lock,
        (select string_agg(format('case when row((r.b).%1$I)::text <> row((r.a).%1$I)::text then %1$L end', c.attname), ', '
                order by c.attnum)
            from pg_attribute c
            where c.attrelid = of_tab and c.attnum > 0 and not c.attisdropped and c.attgenerated = ''))
$$;

-- A part of the statement that undoes a call: what becomes of the rows of one slot. It reads slots as `$1`, rows before the
-- call as `$2`, and after it as `$3`. `columns`: those that are set back. `others`: what has to have happened.
create function es_undo.part_sql(slot integer, kind text, of_tab regclass, columns text[], others text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    rows constant text := format('(select u.%1$s::%2$s as r, u.before from unnest($1, $2, $3) u (slot, before, after)
        where u.slot = %3$s offset 0) d', case kind when 'insert' then 'before' else 'after' end, of_tab, slot);
    matches constant text := es_undo.same_key(of_tab, 'd.r');
    names text;
    reads text;
begin
    if kind = 'delete' then
        return format('delete from only %s t using %s where %s and %s returning 1', of_tab, rows, matches, others);
    elsif kind = 'update' then
        return format('update only %1$s t set %2$s
            from %3$s, lateral (select d.before::%1$s as r offset 0) b where %4$s and %5$s returning 1',
            of_tab, (select string_agg(format('%1$I = (b.r).%1$I', c), ', ') from unnest(columns) c), rows, matches, others);
    end if;
    select string_agg(format('%I', c.attname), ', ' order by c.attnum),
            string_agg(format('(d.r).%I', c.attname), ', ' order by c.attnum)
        into names, reads from pg_attribute c
        where c.attrelid = of_tab and c.attnum > 0 and not c.attisdropped and c.attgenerated = '';
    return format('insert into %s (%s) overriding system value select %s from %s where %s returning 1',
        of_tab, names, reads, rows, others);
end
$$;

-- Puts rows back in one statement, so that foreign keys are checked once all of them are back. Unique indexes do not wait for
-- that: first rows go, then rows change, then rows come. The arrays have an element for each row.
create function es_undo.put_back(kinds text[], tabs regclass[], columns text[], befores text[], afters text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    slots constant integer[] := array(
        select dense_rank() over (order by array_position('{delete,update,insert}', s.kind), s.tab::oid, s.columns)
        from unnest(kinds, tabs, columns) with ordinality s (kind, tab, columns, place) order by s.place
    );
    part record;
    kind text;
    earlier text := 'true';
    same text := '';
    parts text[] := '{}';
begin
    for part in
        select distinct s.slot, s.kind, s.tab, s.columns
        from unnest(slots, kinds, tabs, columns) s (slot, kind, tab, columns) order by s.slot
    loop
        if part.kind is distinct from kind then
            earlier := earlier || same;
            same := '';
            kind := part.kind;
        end if;
        same := same || format(' and (select count(*) from p%s) >= 0', part.slot);
        parts := parts || format('p%s as (%s)', part.slot,
            es_undo.part_sql(part.slot, part.kind, part.tab, part.columns::text[], earlier));
    end loop;
    if parts <> '{}' then
        execute 'with ' || array_to_string(parts, ', ') || ' select' using slots, befores, afters;
    end if;
end
$$;

-- A call of the same run that has changed the same rows later is undone first; one that is changing them has to end.
create function es_undo.await_later(of_run uuid, of_call text) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    shared record;
    later text;
begin
    perform from es_undo.locks l where l.run = of_run and l.calls @> array[of_call] order by l.tab::oid, l.key for update;
    for shared in
        select l.tab, l.key from es_undo.locks l
        where l.run = of_run and l.calls @> array[of_call] and cardinality(l.calls) > 1
    loop
        select j.call into later from es_undo.images j
            where j.run = of_run and j.tab = shared.tab and shared.key in (j.key, j.new_key)
            order by j.statement desc limit 1;
        if later <> of_call then
            perform es_undo.wait_for(later);
        end if;
    end loop;
end
$$;

-- Undoes what a call has changed, all of it or, with an error, nothing.
create function es_undo.restore(of_run uuid, of_call text) returns void language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    why text;
    later text;
    changed regclass;
    part record;
    wrong text[];
    kinds text[] := '{}';
    tabs regclass[] := '{}';
    columns text[] := '{}';
    befores text[] := '{}';
    afters text[] := '{}';
begin
    perform set_config('es_undo.run', of_run::text, true), set_config('es_undo.call', of_call, true),
        set_config('es_undo.mode', 'undo', true);
    perform es_undo.await_later(of_run, of_call);
    select string_agg(w, '; ') into why from es_undo.tables_of(of_run, of_call) t, es_undo.unfit(t) w where w is not null;
    if why is not null then
        raise exception using errcode = 'ESU05', message = format('it cannot be undone as its tables are now: %s', why);
    end if;
    for changed in select t from es_undo.tables_of(of_run, of_call) t order by t::oid loop
        -- A row that is as it was before has been put right by somebody.
        execute format('with found as materialized (%s), as_left as (
                select f.*, case when f.before is null then ''delete'' when f.after is null then ''insert'' else ''update'' end as kind
                from found f where not f.is_broken and f.now is not distinct from f.after
            )
            select array_agg(l.kind) as kinds, array_agg(l.columns) as columns, array_agg(l.before) as befores,
                array_agg(l.after) as afters,
                (select array[f.key, f.before, f.after, f.now, f.is_broken::text] from found f where f.is_broken or f.now is distinct from f.after and f.now is distinct from f.before
                    order by f.key limit 1) as wrong
            from as_left l', es_undo.find_sql(changed, 'for update of t')) into part using of_run, of_call;
        wrong := part.wrong;
        if wrong[5]::boolean then
            raise exception using errcode = 'ESU03',
                message = format('the images of row %s of %s do not follow each other', wrong[1], changed);
        elsif wrong is not null then
            raise exception using errcode = 'ESU03', message = format('row %s of %s has changed since', wrong[1], changed),
                detail = format('before: %s; after: %s; now: %s', coalesce(wrong[2], 'none'), coalesce(wrong[3], 'none'),
                    coalesce(wrong[4], 'none'));
        end if;
        kinds := kinds || part.kinds;
        tabs := tabs || array_fill(changed, array[coalesce(cardinality(part.kinds), 0)]);
        columns := columns || part.columns;
        befores := befores || part.befores;
        afters := afters || part.afters;
    end loop;
    set constraints all deferred;
    begin
        begin
            perform es_undo.put_back(kinds, tabs, columns, befores, afters);
        exception when unique_violation then
            -- Rows may have exchanged what is unique: those that change go and come.
            select array_agg(k), array_agg(s.tab), array_agg(null::text), array_agg(s.before), array_agg(s.after)
                into kinds, tabs, columns, befores, afters
                from unnest(kinds, tabs, befores, afters) s (kind, tab, before, after),
                    unnest(case s.kind when 'update' then array['delete', 'insert'] else array[s.kind] end) k;
            perform es_undo.put_back(kinds, tabs, columns, befores, afters);
        end;
        set constraints all immediate;
    exception when foreign_key_violation or restrict_violation then
        -- It may be a row of a later call that refers to what would go.
        select i.call into later from es_undo.images i where i.run = of_run and i.call <> of_call
            and i.statement > (select min(m.statement) from es_undo.images m where m.run = of_run and m.call = of_call) limit 1;
        if found then
            perform es_undo.wait_for(later);
        end if;
        raise;
    end;
    -- What is computed, and what foreign keys may have made of it, is as it was too.
    for changed in select t from es_undo.tables_of(of_run, of_call) t order by t::oid loop
        execute format('select array[f.key, f.before, f.now] from (%s) f where f.now is distinct from f.before limit 1',
            es_undo.find_sql(changed, '')) into wrong using of_run, of_call;
        if wrong is not null then
            raise exception using errcode = 'ESU03',
                message = format('row %s of %s does not become what it was', wrong[1], changed),
                detail = format('before: %s; it becomes: %s', coalesce(wrong[2], 'none'), coalesce(wrong[3], 'none'));
        end if;
    end loop;
    perform es_undo.release(of_run, of_call);
    perform set_config('es_undo.mode', '', true);
end
$$;

-- The rows that a call has changed, as they were before it, after it, and as they are.
create function es_undo.rows_of(of_run uuid, of_call text)
returns table (tab text, key text, before text, after text, now text, has_changed boolean) language plpgsql set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'
as $$
declare
    changed regclass;
begin
    for changed in select t from es_undo.tables_of(of_run, of_call) t order by t::oid loop
        return query execute format('select %L, f.key, f.before, f.after, f.now, f.now is distinct from f.after from (%s) f',
            changed::text, es_undo.find_sql(changed, '')) using of_run, of_call;
    end loop;
end
$$;
