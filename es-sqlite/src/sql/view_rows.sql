-- Some rows of a view. ?1: the view, ?2: JSON array of keys.
select v.key, v.rev, v.data
from json_each(?2) asked
join es_views v on v.view = ?1 and v.key = asked.value
