-- Witnesses: [attempt in hexadecimal, time].
insert into es_attempts (id, applied_at)
select unhex(value ->> 0), value ->> 1 from json_each(?) where true
on conflict do nothing;
