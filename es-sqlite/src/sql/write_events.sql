-- The events of a batch, with the types and streams that are new. Positions and versions were given out
-- under the write lock. ?1: [id, name, schema, codec], ?2: [id, name], ?3: events, ?4: the blob that they
-- point into with [from, length].
insert into es_types (id, name, schema, codec)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each(?1);
insert into es_streams (id, name)
select value ->> 0, value ->> 1 from json_each(?2);
insert into es_events (position, stream, version, type, recorded_at, ident, data, meta)
select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
       substr(?4, value ->> '$[5][0]', value ->> '$[5][1]'),
       substr(?4, value ->> '$[6][0]', value ->> '$[6][1]'),
       value ->> 7
from json_each(?3);
