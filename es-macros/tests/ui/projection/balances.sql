create table balances (id text primary key);
