-- What became of attempts that no event proves. A row is the witness of a commit without events, written with it and
-- removed about an hour later; or it is a fence: the attempt was given up, so nothing is ever committed under its name.

create table es_attempts (
    id         blob    primary key,             -- the name of the attempt, a UUID
    applied_at integer                          -- microseconds since 1970, not before the attempt was named; null: a fence
) strict, without rowid;

create index es_attempts_applied_at on es_attempts (applied_at) where applied_at is not null;
