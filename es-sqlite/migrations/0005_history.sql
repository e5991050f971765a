-- Which history a file has: whoever restores or clones it says so, and a redaction makes another one of it.

create table es_history (
    one        integer primary key check (one = 1),
    generation blob    not null check (length(generation) = 16), -- another one with each `adopt`
    token      blob    not null check (length(token) = 16),      -- another one with each `adopt` and each redaction
    redacts    integer                                           -- the position that is being redacted; null between transactions
) strict;

insert into es_history values (1, randomblob(16), randomblob(16), null);

-- Of an event that is being redacted the payload may change, and nothing else.
drop trigger es_events_update;
create trigger es_events_update before update on es_events
when old.position is not (select redacts from es_history)
    or (old.position, old.stream, old.version, old.type, old.recorded_at, old.head)
        is not (new.position, new.stream, new.version, new.type, new.recorded_at, new.head)
begin select raise(abort, 'es_events is append-only'); end;

-- A row that cannot be read is shown without a position, and hides no other.
drop view es_checkpoints;
create view es_checkpoints as
select key as name, case when json_valid(cast(data as text)) then cast(data as text) ->> '$.position' end as position, rev
from es_rows
-- A range that was merged into its neighbour keeps its row, for its revision; it is no checkpoint any more.
where tbl = 'checkpoints'
  and case when json_valid(cast(data as text)) then cast(data as text) ->> '$.last' is not null else true end;
