-- What is done with images once it is decided.

-- Forgets what a call has changed, and frees the rows that no other call of its run has changed.
create function es_undo.release(of_run uuid, of_call text) returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    delete from es_undo.images i where i.run = of_run and i.call = of_call;
    delete from es_undo.locks l where l.run = of_run and l.calls = array[of_call];
    -- In this order: of two calls that let go at the same time, the second one finds nobody left.
    update es_undo.locks l set calls = array_remove(l.calls, of_call)
        where l.run = of_run and l.calls @> array[of_call];
    if found then
        delete from es_undo.locks l where l.run = of_run and cardinality(l.calls) = 0;
    end if;
end
$$;

-- The rows that a call has changed in a table, one for each change.
create function es_undo.noted(of_run uuid, of_call text, of_tab regclass)
returns table (key text, new_key text, before text, after text) language sql stable {pinned}
as $$
    select c.key, c.new_key, c.before, c.after
    from es_undo.images i, unnest(i.keys, i.new_keys, i.befores, i.afters) c (key, new_key, before, after)
    where i.run = of_run and i.call = of_call and i.tab = of_tab
$$;

-- What the images of a call come to in a table: for each key the row before all of them, and after all of them; null if there was none.
--
-- Each image leads from one state of a key to the next one, so the states of a key are a path. The one that it begins at was
-- left once more often than it was reached, the one that it ends at was reached once more often than it was left, all others
-- as often. So the order of the images makes no difference, which is hard to tell: triggers and foreign keys change rows
-- while a statement is at work. Keys that end where they began are left out.
create function es_undo.nets(of_run uuid, of_call text, of_tab regclass)
returns table (key text, before text, after text, is_broken boolean) language sql stable {pinned}
as $$
    with changes as materialized (
        select * from es_undo.noted(of_run, of_call, of_tab)
    ), edges as (
        select i.key, i.before, case when i.key = i.new_key then i.after end as after from changes i where i.key is not null
        union all
        select i.new_key, null, i.after from changes i where i.new_key is not null and i.new_key is distinct from i.key
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
create function es_undo.tables_of(of_run uuid, of_call text) returns setof regclass language sql stable {pinned}
as $$
    select distinct i.tab from es_undo.images i where i.run = of_run and i.call = of_call
$$;

-- Why row text that a call has left cannot be read as the columns of its table are now: nothing, if it can.
create function es_undo.misshapen(of_run uuid, of_call text, of_tab regclass) returns setof text language sql stable {pinned}
as $$
    select case when es_undo.shape_of(of_tab) is null then format('table %s is gone', of_tab)
        else format('%s has other columns than when its rows were noted', of_tab) end
    from es_undo.images i
    where i.run = of_run and i.call = of_call and i.tab = of_tab and i.shape is distinct from es_undo.shape_of(of_tab) limit 1
$$;

-- SQL that finds the rows of a table that a call has changed, `$1` and `$2`: as they were before it and after it, as they
-- are now, and in which columns the first two differ. Computed columns follow the others. `lock`: of what is found.
create function es_undo.find_sql(of_tab regclass, lock text) returns text language sql stable {pinned}
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
language plpgsql stable {pinned}
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
language plpgsql {pinned}
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
create function es_undo.await_later(of_run uuid, of_call text) returns void language plpgsql {pinned}
as $$
declare
    later text;
begin
    perform from es_undo.locks l where l.run = of_run and l.calls @> array[of_call] order by l.tab::oid, l.key for update;
    if not exists (
        select from es_undo.locks l where l.run = of_run and l.calls @> array[of_call] and cardinality(l.calls) > 1
    ) then
        return;
    end if;
    select last.call into later from (
        select (array_agg(i.call order by i.statement desc))[1] as call, bool_or(i.call = of_call) as is_its
        from es_undo.images i, lateral (select unnest(i.keys) union select unnest(i.new_keys)) k (key)
        where i.run = of_run and k.key is not null group by i.tab, k.key
    ) last where last.is_its and last.call <> of_call limit 1;
    if found then
        perform es_undo.wait_for(later, null);
    end if;
end
$$;

-- The tables whose rows are in the way, if a constraint of a table refuses what is put back: its own. For a foreign key, rows
-- that go are in the way of those that refer to them, and rows that come lack the one that they refer to.
create function es_undo.in_the_way(kinds text[], tabs regclass[], in_schema text, in_table text, of_name text) returns setof regclass
language sql stable {pinned}
as $$
    with its (tab) as (
        select case when in_table <> '' then to_regclass(format('%I.%I', in_schema, in_table)) end
    ), keys as (
        select f.conrelid, f.confrelid from its join pg_constraint f on f.conrelid = its.tab where f.contype = 'f' and f.conname = of_name
    ), put as (
        select * from unnest(kinds, tabs) p (kind, tab)
    )
    select its.tab from its where not exists (select from keys)
    union select k.conrelid::regclass from keys k join put p on p.tab = k.confrelid where p.kind <> 'insert'
    union select k.confrelid::regclass from keys k join put p on p.tab = k.conrelid where p.kind <> 'delete'
$$;

-- Which call of the run goes first, if rows of these tables are in the way of what this one has changed: one that has begun to
-- change rows when this one had ended. It may refer to what would go, or have what is unique.
create function es_undo.later_call(of_run uuid, of_call text, of_tabs regclass[]) returns text language sql stable {pinned}
as $$
    select i.call from es_undo.images i where i.run = of_run and i.call <> of_call and i.tab = any (of_tabs)
        and i.statement > (select max(m.statement) from es_undo.images m where m.run = of_run and m.call = of_call)
    order by i.statement desc limit 1
$$;

-- Puts rows back as `put_back` does. Rows that have exchanged what is unique go and come, those of the tables where that is in
-- the way.
create function es_undo.put_back_all(kinds text[], tabs regclass[], columns text[], befores text[], afters text[]) returns void
language plpgsql {pinned}
as $$
declare
    its regclass;
    split regclass[] := '{}';
    in_schema text;
    in_table text;
begin
    set constraints all deferred;
    loop
        begin
            perform es_undo.put_back(kinds, tabs, columns, befores, afters);
            exit;
        exception when unique_violation or exclusion_violation then
            get stacked diagnostics in_schema = schema_name, in_table = table_name;
            its := format('%I.%I', in_schema, in_table)::regclass;
            if its = any (split) or not exists (
                select from unnest(kinds, tabs) s (kind, tab) where s.kind = 'update' and s.tab = its
            ) then
                raise;
            end if;
            split := split || its;
            select array_agg(k), array_agg(s.tab), array_agg(case k when 'update' then s.columns end), array_agg(s.before),
                    array_agg(s.after)
                into kinds, tabs, columns, befores, afters
                from unnest(kinds, tabs, columns, befores, afters) s (kind, tab, columns, before, after),
                    unnest(case when s.kind = 'update' and s.tab = its then array['delete', 'insert'] else array[s.kind] end) k;
        end;
    end loop;
    set constraints all immediate;
end
$$;

-- Lets go of rows of a call that stay as they are: it has changed them back itself, or a person has. So what goes back takes
-- none of them with it.
create function es_undo.let_go(of_tab regclass, but text[], of_run uuid, of_call text) returns void language sql {pinned}
as $$
    update es_undo.locks l set calls = array_remove(l.calls, of_call)
        where l.tab = of_tab and l.run = of_run and l.key = any (array(
            select o.key from es_undo.locks o where o.tab = of_tab and o.run = of_run and o.calls @> array[of_call]
            except select unnest(but)
        ));
    delete from es_undo.locks l where l.run = of_run and cardinality(l.calls) = 0;
$$;

-- Undoes what a call has changed, all of it or, with an error, nothing.
create function es_undo.restore(of_run uuid, of_call text) returns void language plpgsql {pinned}
as $$
declare
    why text;
    later text;
    in_schema text;
    in_table text;
    of_name text;
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
    select string_agg(w.why, '; ') into why from es_undo.tables_of(of_run, of_call) t, lateral (
        select es_undo.misshapen(of_run, of_call, t) union all select es_undo.unfit(t) union all select es_undo.unnoted(t)
    ) w (why) where w.why is not null;
    if why is not null then
        raise exception using errcode = 'ESU05', message = format('it cannot be undone as its tables are now: %s', why),
            hint = 'Make the tables what they were, and undo again; or es_undo.accept(run, call, actor, reason).';
    end if;
    for changed in select t from es_undo.tables_of(of_run, of_call) t order by t::oid loop
        -- A row that is as it was before has been put right by somebody.
        execute format('with found as materialized (%s), as_left as (
                select f.*, case when f.before is null then ''delete'' when f.after is null then ''insert'' else ''update'' end as kind
                from found f where not f.is_broken and f.now is not distinct from f.after
            )
            select array_agg(l.kind) as kinds, array_agg(l.columns) as columns, array_agg(l.before) as befores,
                array_agg(l.after) as afters, array_agg(l.key) as keys,
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
                    coalesce(wrong[4], 'none')),
                hint = 'Make it as it was before or after, behind es_undo.mend(run, call, actor, reason), and undo again; or es_undo.accept(run, call, actor, reason).';
        end if;
        perform es_undo.let_go(changed, coalesce(part.keys, '{}'), of_run, of_call);
        kinds := kinds || part.kinds;
        tabs := tabs || array_fill(changed, array[coalesce(cardinality(part.kinds), 0)]);
        columns := columns || part.columns;
        befores := befores || part.befores;
        afters := afters || part.afters;
    end loop;
    begin
        perform es_undo.put_back_all(kinds, tabs, columns, befores, afters);
    exception when foreign_key_violation or restrict_violation or unique_violation or exclusion_violation then
        get stacked diagnostics in_schema = schema_name, in_table = table_name, of_name = constraint_name;
        later := es_undo.later_call(of_run, of_call, array(
            select t from es_undo.in_the_way(kinds, tabs, in_schema, in_table, of_name) t));
        if later is not null then
            perform es_undo.wait_for(later, sqlerrm);
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

-- The rows that a call has changed, as they were before it, after it, and as they are. What the row text of a table that has
-- other columns by now stands for, nobody can tell: its rows are not looked for.
create function es_undo.rows_of(of_run uuid, of_call text)
returns table (tab text, key text, before text, after text, now text, has_changed boolean) language plpgsql {pinned}
as $$
declare
    changed regclass;
begin
    for changed in select t from es_undo.tables_of(of_run, of_call) t order by t::oid loop
        if exists (select from es_undo.misshapen(of_run, of_call, changed)) then
            return query select changed::text, n.key, n.before, n.after, null, true from es_undo.nets(of_run, of_call, changed) n;
        else
            return query execute format('select %L, f.key, f.before, f.after, f.now, f.now is distinct from f.after from (%s) f',
                changed::text, es_undo.find_sql(changed, '')) using of_run, of_call;
        end if;
    end loop;
end
$$;

-- Writes down what a person does about a call that is not decided. How many rows that call has locked.
create function es_undo.act(of_run uuid, of_call text, of_act text, actor text, reason text) returns bigint language plpgsql {pinned}
as $$
declare
    n bigint;
    earlier record;
begin
    perform from es_undo.locks l where l.run = of_run and l.calls @> array[of_call] order by l.tab::oid, l.key for update;
    select count(*) into n from es_undo.locks l where l.run = of_run and l.calls @> array[of_call] and l.key like '(%';
    if n = 0 then
        select a.actor, a.reason, a.at into earlier from es_undo.acts a
            where a.run = of_run and a.call = of_call and a.act = 'accepted' order by a.n desc limit 1;
        raise exception using errcode = 'ESU05', message = format('call %s of run %s has no rows that are not decided%s', of_call,
            of_run, case when found then format(': it was accepted by %s at %s (%s)', earlier.actor, earlier.at, earlier.reason) end);
    end if;
    insert into es_undo.acts (run, call, act, locked_rows, actor, reason) values (of_run, of_call, of_act, n, actor, reason);
    return n;
end
$$;

-- Takes what a call has changed as it is. How many rows that frees.
create function es_undo.accept(of_run uuid, of_call text, actor text, reason text) returns bigint language plpgsql {pinned}
as $$
declare
    n constant bigint := es_undo.act(of_run, of_call, 'accepted', actor, reason);
begin
    perform es_undo.release(of_run, of_call);
    return n;
end
$$;

-- From here to the end of the transaction, the rows of this call can be set right, and no others that are tracked; nothing of it
-- is noted. How many rows these are.
create function es_undo.mend(of_run uuid, of_call text, actor text, reason text) returns bigint language plpgsql
as $$
declare
    n constant bigint := es_undo.act(of_run, of_call, 'mended', actor, reason);
begin
    perform pg_catalog.set_config('es_undo.run', of_run::text, true), pg_catalog.set_config('es_undo.call', of_call, true),
        pg_catalog.set_config('es_undo.mode', 'undo', true);
    return n;
end
$$;
