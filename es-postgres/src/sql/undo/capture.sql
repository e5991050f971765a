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
create function es_undo.keep() returns trigger language plpgsql security definer {pinned}
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
