-- A table of a build in which an event is set aside: parked, or passed over because it could not be decoded.
-- ?1: its position, as keys have it.
select tbl from es_rows
where tbl glob '*~*/parked/events' and substr(key, -20) = ?1
   or tbl glob '*~*/undecoded' and substr(key, 1, 20) = ?1
limit 1
