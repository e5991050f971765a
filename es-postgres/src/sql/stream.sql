-- One page of one stream, by its unique index; versions have no holes, so the rows count them. The last event that was
-- archived comes before those that are kept, with its version: whoever asks for what lies before it asks in vain.
-- The token of the history comes with them.
-- $1: name, $2: after this version, $3: at most so many.
(
    select r.position, r.type_id, r.recorded_at, r.envelope, r.data, r.version,
        (select (h.tableoid::bigint << 32) | h.xmin::text::bigint from history h) as history
    from archived_streams r
    where r.stream_id = (select s.stream_id from streams s where s.name = $1) and r.version > $2
) union all (
    select e.position, e.type_id, e.recorded_at, e.envelope, e.data, null::bigint,
        (select (h.tableoid::bigint << 32) | h.xmin::text::bigint from history h)
    from events e
    where e.stream_id = (select s.stream_id from streams s where s.name = $1) and e.version > $2
    order by e.version
    limit $3
)
