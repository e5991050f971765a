-- Which history a store has: whoever restores or clones it says so, and every write says of which history it is. `{es}` stands
-- for the quoted name of the schema, `{gate}` for the key of its gate.

-- In a table of its own, which nothing else writes: a restore and `adopt` write its row anew, and so it tells histories apart.
create table {es}.history (
    one        boolean primary key default true check (one),
    generation uuid    not null default gen_random_uuid()   -- another one with each `adopt`
);
insert into {es}.history default values;
-- Whoever may look at the store may look at its history.
do $$
declare
    this record;
begin
    for this in
        select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as role
        from pg_class c cross join lateral aclexplode(c.relacl) a
        where c.oid = '{es}.store'::regclass and a.grantee <> c.relowner and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on {es}.history to %s', this.role);
    end loop;
end $$;

-- Refuses what was decided on another history. Called beside `append`, so it takes back what that has written.
create function {es}.same_history(token bigint) returns boolean language plpgsql as $$
begin
    if token is distinct from (select (h.tableoid::bigint << 32) | h.xmin::text::bigint from {es}.history h) then
        raise exception 'the store has another history' using errcode = 'ES009';
    end if;
    return true;
end $$;

-- Says that the store has another history than before; a clone becomes a store of its own. Gives the new generation. Numbers
-- of streams and types go on behind those that are stored, whatever a restore has made of their counters.
create function {es}.adopt(cloned boolean) returns uuid language plpgsql as $$
declare
    adopted uuid;
begin
    perform pg_advisory_xact_lock({gate});
    perform setval(pg_get_serial_sequence('{es}.streams', 'stream_id'), max(s.stream_id)) from {es}.streams s
    having max(s.stream_id) is not null;
    perform setval(pg_get_serial_sequence('{es}.event_types', 'type_id'), max(t.type_id)) from {es}.event_types t
    having max(t.type_id) is not null;
    if cloned then
        update {es}.store set identity = gen_random_uuid();
    end if;
    update {es}.history set generation = gen_random_uuid() returning generation into adopted;
    return adopted;
end $$;
revoke execute on function {es}.adopt(boolean) from public;
