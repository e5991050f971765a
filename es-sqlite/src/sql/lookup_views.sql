-- The revisions of some rows. ?1: JSON array of [view, key].
select v.view, v.key, v.rev
from json_each(?1) asked
join es_views v on v.view = asked.value ->> 0 and v.key = asked.value ->> 1
