-- A bank. Money leaves an account only by its own columns, so its balance follows from them, and is never below zero.
create table if not exists accounts (
    number   int primary key,
    opened   bigint not null,
    sent     bigint not null default 0 check (sent >= 0),
    received bigint not null default 0 check (received >= 0),
    -- Set aside for transfers that are not decided: what is to go, and what is to come.
    reserved bigint not null default 0 check (reserved >= 0),
    expected bigint not null default 0 check (expected >= 0),
    balance  bigint not null generated always as (opened + received - sent - reserved) stored check (balance >= 0)
);
-- What has moved, a row each. A transfer does each of these once.
create table if not exists ledger (
    transfer text not null,
    kind     text not null check (kind in ('sent', 'received', 'given back')),
    account  int not null,
    cents    bigint not null check (cents > 0),
    primary key (transfer, kind)
);
-- Whether it takes transfers from the other bank. One row.
create table if not exists door (is_open boolean not null);
insert into door select true where not exists (select from door);
