-- The store, the token of its history, and whether an event is there: a position and an id. Plain placeholders: it stands
-- behind other statements in one message.
select (select identity from es_store) as store, (select token from es_history),
       exists (select 1 from es_events seen where seen.position = ? and substr(seen.head, 13, 16) = ?)
