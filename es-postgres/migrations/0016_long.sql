-- What a store of many years, and of many streams, asks of its functions. `{es}` stands for the quoted name of the schema,
-- `{gate}` for the key of its gate.

-- When a key was made, as far as it says so: the last UUID of version 7 in it. Keys of commands that processes send say
-- nothing: the one in them is as old as the instance. One look, as a rule: this is asked of every key that is remembered.
create function {es}.made_anywhere(key text) returns uuid language sql immutable as $$
    select max(m.found[1] collate "C")::uuid
    from regexp_matches(lower(key), '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}', 'g') m (found)
$$;
create or replace function {es}.made(key text) returns uuid language sql immutable as $$
    select case
        when starts_with(key, 'process/') then null
        when key !~* '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}' then null
        -- At the end, and nowhere else.
        when right(key, 36) ~* '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
            and left(key, -36) !~* '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}' then right(key, 36)::uuid
        else {es}.made_anywhere(key)
    end
$$;

-- Up to which key outcomes were looked at, and what was forgotten when that walk began.
alter table {es}.forgotten add reached text collate "C" not null default '', add begun uuid;

-- Removes outcomes that are forgotten, of so many keys behind one. Keys that do not say when they were made stay. Gives how
-- many were removed, and the last key that was looked at; null if there was none.
create or replace function {es}.forget_keys(after text, most integer, out gone bigint, out last text)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    upto uuid := (select f.upto from {es}.forgotten f where f.what = 'keys');
    seen text[];
begin
    seen := array(select o.key from {es}.outcomes o where o.key > after order by o.key limit most);
    last := seen[cardinality(seen)];
    delete from {es}.outcomes o
    where o.key = any (array(select k.key from unnest(seen) k (key) where {es}.made(k.key) < upto));
    get diagnostics gone = row_count;
    -- Whoever is broken off goes on here.
    update {es}.forgotten f
    set reached = coalesce(forget_keys.last, ''), begun = case after when '' then f.upto else f.begun end
    where f.what = 'keys';
end $$;
