-- Some rows of a view. ?1: the view, ?2: JSON array of keys. CROSS keeps the asked ones outside: SQLite would else scan the table for them.
select v.key, v.rev, v.data
from json_each(?2) asked
cross join es_views v on v.view = ?1 and v.key = asked.value
