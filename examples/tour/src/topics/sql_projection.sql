-- One row for each account. A rebuild and a new version drop what is made here, and make it again.
create table balances (
    account text primary key,
    owner   text not null,
    amount  integer not null
) strict, without rowid;

create index balances_by_owner on balances (owner, amount);
