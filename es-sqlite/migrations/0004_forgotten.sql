-- Up to where outcomes of keys and fences of attempts are forgotten. What says of itself that it is older is refused: it may
-- have been used before.

create table es_forgotten (
    one    integer primary key check (one = 1),
    before integer not null                     -- microseconds since 1970
) strict;
