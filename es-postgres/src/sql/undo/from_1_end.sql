-- Nobody knows any more which columns they have: those that there are, named as an undo names them.
set local search_path = pg_catalog, pg_temp;
set local quote_all_identifiers = off;
insert into es_undo.images (run, call, statement, tab, shape, keys, new_keys, befores, afters)
    select i.run, i.call, i.statement, i.tab, coalesce(es_undo.shape_of(i.tab), ''), i.keys, i.new_keys, i.befores, i.afters
    from es_undo_noted i;
select es_undo.equip(t.tab) from es_undo.tables t join pg_catalog.pg_class c on c.oid = t.tab;
