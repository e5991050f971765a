-- Writers of tracked tables end first, and others wait: each of them looks into the log while it has its table. Nobody waits behind
-- this for longer than it waits itself.
set local lock_timeout = '5s';
do $$
declare
    tracked regclass;
begin
    for tracked in
        select t.tab from es_undo.tables t join pg_catalog.pg_class c on c.oid = t.tab where c.relkind = 'r' order by c.oid
    loop
        execute format('lock table %s in share row exclusive mode', tracked);
    end loop;
end
$$;
