-- What notes changes. The functions that run in the sessions of writers are SECURITY DEFINER: whoever may write to a tracked
-- table needs no privilege on the log, and can neither read nor change what others have noted there. They resolve names in
-- pg_catalog only, and call nothing of the user's but the text output of column types.

-- For triggers of the user's own: `when (not es_undo.undoing())`.
create or replace function es_undo.undoing() returns boolean language sql stable parallel safe
as $$ select coalesce(pg_catalog.current_setting('es_undo.mode', true), '') = 'undo' $$;

-- From here to the end of the transaction, changes are noted for this call.
create function es_undo.begin(of_run uuid, of_call text) returns void language plpgsql
as $$
begin
    perform pg_catalog.set_config('es_undo.run', of_run::text, true), pg_catalog.set_config('es_undo.call', of_call, true),
        pg_catalog.set_config('es_undo.mode', 'capture', true);
end
$$;

-- What the columns of a table are, in their order: what row text is of. Null if the table is gone. Under the settings of whoever
-- calls it, so that it costs little.
create function es_undo.shape_of(of_tab regclass) returns bytea language plpgsql stable
as $$
begin
    return (
        select substr(sha256(convert_to(string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', '
            order by a.attnum), 'UTF8')), 1, 8)
        from pg_attribute a where a.attrelid = of_tab and a.attnum > 0 and not a.attisdropped
    );
end
$$;

-- Says that another run has this one.
create function es_undo.busy(of_tab regclass, held_key text, held_run uuid) returns void language plpgsql
as $$
begin
    raise exception using errcode = 'ESU01',
        message = format('row %s of %s is busy, held by run %s', held_key, of_tab, held_run),
        detail = held_run::text, hint = 'It is free once that run is decided: try again.';
end
$$;

-- Locks these keys for a call. Called by triggers only, whose settings and privileges it has.
create function es_undo.lock_keys(of_tab regclass, touched text[], of_run uuid, of_call text) returns void language plpgsql
as $$
declare
    held record;
    n bigint;
begin
    loop
        insert into es_undo.locks (tab, key, run, calls)
            select of_tab, k, of_run, array[of_call] from unnest(touched) k order by k on conflict do nothing;
        get diagnostics n = row_count;
        exit when n = cardinality(touched);
        -- Some are locked: by this run, or by another one. Each statement sees what was committed before it.
        select l.key, l.run into held from es_undo.locks l
            where l.tab = of_tab and l.key = any (touched) and l.run <> of_run limit 1;
        if found then
            perform es_undo.busy(of_tab, held.key, held.run);
        end if;
        update es_undo.locks l set calls = l.calls || of_call
            where l.tab = of_tab and l.key = any (touched) and l.run = of_run and not l.calls @> array[of_call];
        exit when (select count(distinct k) from unnest(touched) k) = (
            select count(*) from es_undo.locks l
            where l.tab = of_tab and l.key = any (touched) and l.run = of_run and l.calls @> array[of_call]
        );
        -- One was released in between: once more.
    end loop;
end
$$;

-- Says that another call of the same run is to be undone first, and why.
create function es_undo.wait_for(later text, why text) returns void language plpgsql
as $$
begin
    raise exception using errcode = 'ESU04',
        message = format('it is undone once %s is, which came later and has changed the same rows, or refers to them%s', later,
            ': ' || why);
end
$$;

-- What an undo, or a person, changes: rows of its call, and no others. What goes takes rows with it that refer to it.
create function es_undo.only_own(of_tab regclass, touched text[], of_run uuid, of_call text) returns void language plpgsql
as $$
declare
    other record;
begin
    select t.key, l.calls[1] as call into other
        from unnest(touched) t (key) left join es_undo.locks l on l.tab = of_tab and l.key = t.key and l.run = of_run
        where l.calls is null or not l.calls @> array[of_call] order by l.calls nulls first limit 1;
    if other.call is not null then
        perform es_undo.wait_for(other.call, null);
    elsif found then
        raise exception using errcode = 'ESU03', message = format(
            'row %s of %s would change with what is undone, and is not of this run', other.key, of_tab);
    end if;
end
$$;

-- Notes what a statement has changed. The arrays have an element for each row, in the order in which they were changed, or
-- none. `had` and `made`: what is unique besides the key, before and after. Called by triggers only, whose settings and
-- privileges it has.
create function es_undo.note(of_tab regclass, keys text[], new_keys text[], befores text[], afters text[], had text[], made text[])
returns void language plpgsql
as $$
declare
    this_run constant uuid := current_setting('es_undo.run');
    this_call constant text := current_setting('es_undo.call');
    touched text[];
    held record;
begin
    -- An UPDATE may leave rows as they are.
    if befores = afters then
        return;
    elsif cardinality(befores) > 1 and afters <> '{}'
        and exists (select from unnest(befores, afters) c (before, after) where c.before = c.after)
    then
        select array_agg(c.key), array_agg(c.new_key), array_agg(c.before), array_agg(c.after)
            into keys, new_keys, befores, afters
            from unnest(keys, new_keys, befores, afters) c (key, new_key, before, after) where c.before <> c.after;
    end if;
    touched := case when keys = new_keys then keys else keys || new_keys end;
    if made <> '{}' then
        -- What is unique and there is kept by its row. What another run has freed is not there.
        select l.key, l.run into held from es_undo.locks l
            where l.tab = of_tab and l.key = any (made) and l.run <> this_run limit 1;
        if found then
            perform es_undo.busy(of_tab, held.key, held.run);
        end if;
    end if;
    if current_setting('es_undo.mode') = 'undo' then
        perform es_undo.only_own(of_tab, touched, this_run, this_call);
        return;
    end if;
    if had <> '{}' then
        touched := touched || array(select unnest(had) except select unnest(made));
    end if;
    perform es_undo.lock_keys(of_tab, touched, this_run, this_call);
    insert into es_undo.images (run, call, statement, tab, shape, keys, new_keys, befores, afters)
        values (this_run, this_call, nextval('es_undo.statements'), of_tab, es_undo.shape_of(of_tab), keys, new_keys, befores, afters);
end
$$;

-- A writer without a run meets rows that are locked.
create function es_undo.refuse(of_tab regclass, held_key text, held_run uuid) returns void language plpgsql
as $$
begin
    raise exception using errcode = 'ESU02',
        message = format('row %s of %s is locked by run %s until that is decided', held_key, of_tab, held_run),
        detail = held_run::text,
        hint = 'Try again later. To set it right for an undo that is blocked, begin with es_undo.mend(run, call, actor, reason).';
end
$$;

-- What a writer without a run has touched, and what it has made. Called by triggers only.
create function es_undo.meet(of_tab regclass, keys text[], new_keys text[], had text[], made text[]) returns void language plpgsql
as $$
declare
    held record;
    nobody constant uuid := '00000000-0000-0000-0000-000000000000';
    taken constant text[] := array(select unnest(new_keys || made) except select unnest(keys || had));
begin
    -- A snapshot that is older than a lock does not show it. Rows that were changed since say so by themselves; a key that
    -- was freed does not, so the lock is met where it is unique.
    if taken <> '{}' and current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        insert into es_undo.locks (tab, key, run, calls)
            select of_tab, k, nobody, '{}' from unnest(taken) k order by k on conflict do nothing;
        delete from es_undo.locks l where l.tab = of_tab and l.key = any (taken) and l.run = nobody;
    end if;
    select l.key, l.run into held from es_undo.locks l
        where l.tab = of_tab and l.key = any (keys || taken) limit 1;
    if found then
        perform es_undo.refuse(of_tab, held.key, held.run);
    end if;
end
$$;

-- TRUNCATE leaves no images.
create or replace function es_undo.keep() returns trigger language plpgsql security definer {pinned}
as $$
declare
    held record;
begin
    if coalesce(current_setting('es_undo.mode', true), '') <> '' then
        raise exception using errcode = 'ESU05',
            message = format('%s is tracked: TRUNCATE cannot be undone, use DELETE', tg_relid::regclass);
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
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
