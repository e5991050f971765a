-- Everything of a batch that is no event. ?1: [tag, position], ?2: outcomes, ?3: [name, position or null],
-- ?4: [view, key, rev, piece or null], ?5: the blob that they point into with [from, length].
insert into es_tags (tag, position)
select value ->> 0, value ->> 1 from json_each(?1) where true
on conflict do nothing;
insert into es_outcomes (key, fingerprint, stream, version, position, events, refusal)
select value ->> 0, substr(?5, value ->> '$[1][0]', value ->> '$[1][1]'), value ->> 2, value ->> 3, value ->> 4,
       value ->> 5, substr(?5, value ->> '$[6][0]', value ->> '$[6][1]')
from json_each(?2);
insert into es_checkpoints (name, position)
select value ->> 0, value ->> 1 from json_each(?3) where value ->> 1 is not null
on conflict (name) do update set position = excluded.position;
delete from es_checkpoints
where name in (select value ->> 0 from json_each(?3) where value ->> 1 is null);
insert into es_views (view, key, rev, data)
select value ->> 0, value ->> 1, value ->> 2, substr(?5, value ->> '$[3][0]', value ->> '$[3][1]')
from json_each(?4) where value ->> 3 is not null
on conflict (view, key) do update set rev = excluded.rev, data = excluded.data;
delete from es_views
where (view, key) in (select value ->> 0, value ->> 1 from json_each(?4) where value ->> 3 is null)
