-- Transactions that write rows and nothing else go a shorter way. `{es}` stands for the quoted name of the schema.

-- The end of a transaction of the user's own that stages rows alone: what `append` does for them, without a look at the
-- log. Raises if a row is at another revision. Gives the head.
create function {es}.write_staged(
    tx      text,                               -- as the transaction was begun
    attempt uuid,
    named   bigint,                             -- when the attempt was named: microseconds since 1970
    tables  text[],                             -- in the order of tables and keys; hot tables after the others
    keys    text[],
    revs    bigint[],                           -- as they were read
    data    bytea[],                            -- null deletes
    hot     integer                             -- how many of the rows are hot
) returns bigint language plpgsql as $$
begin
    perform {es}.check_transaction(tx);
    -- `resolve` waits here for the end of the attempt, or has fenced it.
    perform pg_advisory_xact_lock(uuid_hash_extended(attempt, 0));
    if exists (select from {es}.fenced f where f.attempt = write_staged.attempt) then
        raise exception 'attempt % is fenced', attempt using errcode = 'ES001';
    end if;
    perform {es}.write_rows(tables, keys, revs, data, hot);
    insert into {es}.witnesses (attempt, until)
    values (attempt, greatest(clock_timestamp(), timestamptz 'epoch' + named * interval '1 microsecond') + interval '1 hour');
    return coalesce((select e.position from {es}.events e order by e.position desc limit 1), 0);
end $$;

-- As `follow` of no names, which transactions begin with: it does no more than it has to.
create or replace function {es}.follow() returns void language plpgsql as $$
declare
    -- Behind a mark, since what is not set may be empty.
    base text := current_setting('es.base', true);
    path text;
begin
    if coalesce(base, '') = '' then
        base := set_config('es.base', '=' || (select s.reset_val from pg_settings s where s.name = 'search_path'), false);
    end if;
    path := concat_ws(', ', (
        select string_agg(quote_ident(p.place), ', ' order by p.name)
        from {es}.projections p join {es}.published u on (u.name, u.version) = (p.name, p.version)
        where p.current and p.place is not null
    ), nullif(substr(base, 2), ''));
    if path <> current_setting('search_path') then
        perform set_config('search_path', path, false);
    end if;
end $$;
