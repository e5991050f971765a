-- Where streams are, and the ids of their last events, in the order they are asked for. $1: their names.
select coalesce(e.version, r.version, 0), coalesce(e.event, r.event)
from unnest($1::text[]) with ordinality a (name, i)
left join streams s on s.name = a.name
left join lateral (
    select e.version, substr(e.envelope, 1, 16) as event from events e
    where e.stream_id = s.stream_id order by e.version desc limit 1
) e on true
left join lateral (
    select r.version, substr(r.envelope, 1, 16) as event from archived_streams r
    where e.version is null and r.stream_id = s.stream_id limit 1
) r on true
order by a.i
