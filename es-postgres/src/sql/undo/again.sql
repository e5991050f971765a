-- What is not called by triggers is made again.
do $$
declare
    f regprocedure;
begin
    for f in
        select p.oid from pg_catalog.pg_proc p where p.pronamespace = 'es_undo'::regnamespace
            and p.prorettype <> 'trigger'::regtype and p.proname <> 'undoing'
    loop
        execute format('drop function %s', f);
    end loop;
end
$$;
