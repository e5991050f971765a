-- The head, then what tells the histories of the store apart, as in `look.sql`: in one snapshot.
select coalesce((select max(position) from es_events), 0),
       (select identity from es_store) as store, (select token from es_history),
       exists (select 1 from es_events seen where seen.position = ? and substr(seen.head, 13, 16) = ?)
