-- Where streams are, in the order they are asked for. $1: their names.
select coalesce((
    select e.version from streams s join events e using (stream_id)
    where s.name = a.name order by e.version desc limit 1
), (
    select r.version from streams s join archived_streams r using (stream_id) where s.name = a.name
), 0)
from unnest($1::text[]) with ordinality a (name, i)
order by a.i
