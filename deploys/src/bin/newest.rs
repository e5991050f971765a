//! The program after that: an account can be closed, and then it has no balance.

use std::collections::BTreeMap;

use deploys::{Check, Effects, Program, Sent, sent};
use es_core::AppBuilder;
use es_core::prelude::*;
use es_postgres::PgBackend;
use es_sqlite::SqliteBackend;
use serde::{Deserialize, Serialize};

/// What the first program stored.
mod before {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Deposited {
        pub(super) amount: i64,
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Deposited {
    cents: i64,
    currency: String,
}

impl From<before::Deposited> for Deposited {
    fn from(before: before::Deposited) -> Self {
        Self { cents: before.amount * 100, currency: "EUR".to_owned() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Withdrawn {
    cents: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Closed {}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
    #[event(version = 2, upcast(1 = before::Deposited))]
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Closed(Closed),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("only {0} left")]
struct Overdrawn(i64);

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = Overdrawn)]
struct Account {
    cents: i64,
    closed: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => {}
            AccountEvent::Deposited(e) => self.cents += e.cents,
            AccountEvent::Withdrawn(e) => self.cents -= e.cents,
            AccountEvent::Closed(_) => self.closed = true,
        }
    }

    fn ended(&self) -> bool {
        self.closed
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposit {
    cents: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Withdraw {
    cents: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Close {}

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<Opened, Overdrawn> {
        Ok(Opened { owner: cmd.owner })
    }

    fn deposit(&self, cmd: Deposit) -> Result<Deposited, Overdrawn> {
        Ok(Deposited { cents: cmd.cents, currency: "EUR".to_owned() })
    }

    fn withdraw(&self, cmd: Withdraw) -> Result<Withdrawn, Overdrawn> {
        if cmd.cents > self.cents { Err(Overdrawn(self.cents)) } else { Ok(Withdrawn { cents: cmd.cents }) }
    }

    fn close(&self, _: Close) -> Result<Closed, Overdrawn> {
        Ok(Closed {})
    }
}

/// In cents, and only of accounts that are open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Balance {
    owner: String,
    cents: i64,
}

#[view(name = "balance", version = 2, key = String)]
impl Balance {
    fn opened(&mut self, e: &Opened) {
        self.owner.clone_from(&e.owner);
    }

    fn deposited(&mut self, e: &Deposited) {
        self.cents += e.cents;
    }

    fn withdrawn(&mut self, e: &Withdrawn) {
        self.cents -= e.cents;
    }

    fn closed(self, _: &Closed) -> Option<Self> {
        None
    }
}

/// How often an amount was paid in or out: rows that accounts share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Activity {
    paid_in: u64,
    paid_out: u64,
}

#[view(name = "activity", version = 2, key = i64)]
impl Activity {
    #[on(by = cents)]
    fn deposited(&mut self, _: &Deposited) {
        self.paid_in += 1;
    }

    #[on(by = cents)]
    fn withdrawn(&mut self, _: &Withdrawn) {
        self.paid_out += 1;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Owner {
    accounts: u64,
}

#[view(name = "owner", version = 1, key = String)]
impl Owner {
    #[on(by = owner)]
    fn opened(&mut self, _: &Opened) {
        self.accounts += 1;
    }
}

struct Receipts;

#[reactor(name = "receipts")]
impl Receipts {
    async fn deposited(&self, e: Recorded<'_, Deposited>, effects: &Effects) -> Result<(), std::io::Error> {
        effects.note(&e)
    }
}

/// A projection is of one backend; the code is the same for both.
macro_rules! totals {
    ($totals:ident, $tx:ty) => {
        struct $totals;

        #[projection(
            name = "totals",
            version = 2,
            partition = stream,
            schema_sql = "create table totals (
                account text primary key, paid_in bigint not null, paid_out bigint not null, currency text not null
            )"
        )]
        impl $totals {
            async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut $tx) -> Result<(), sqlx::Error> {
                let sql = "insert into totals values ($1, $2, 0, $3)
                           on conflict (account) do update set paid_in = totals.paid_in + excluded.paid_in";
                let query = sqlx::query(sql).bind(e.stream().as_str()).bind(e.cents).bind(&e.currency);
                query.execute(&mut **tx).await.map(drop)
            }

            async fn withdrawn(&self, e: Recorded<'_, Withdrawn>, tx: &mut $tx) -> Result<(), sqlx::Error> {
                let sql = "update totals set paid_out = paid_out + $2 where account = $1";
                sqlx::query(sql).bind(e.stream().as_str()).bind(e.cents).execute(&mut **tx).await.map(drop)
            }
        }
    };
}

totals!(OnServer, es_postgres::Tx);
totals!(InFile, es_sqlite::Tx);

fn totals(rows: &mut BTreeMap<String, (i64, i64)>, event: &RecordedEvent) -> anyhow::Result<()> {
    let account = event.stream.to_string();
    if let Some(e) = event.payload::<Deposited>()? {
        rows.entry(account).or_default().0 += e.cents;
    } else if let Some(e) = event.payload::<Withdrawn>()? {
        rows.entry(account).or_default().1 += e.cents;
    }
    Ok(())
}

struct Newest;

impl Program for Newest {
    fn on_postgres(app: AppBuilder<PgBackend>) -> AppBuilder<PgBackend> {
        app.view::<Balance>().view::<Activity>().view::<Owner>().projection(OnServer).reactor(Receipts)
    }

    fn on_sqlite(app: AppBuilder<SqliteBackend>) -> AppBuilder<SqliteBackend> {
        app.view::<Balance>().view::<Activity>().view::<Owner>().projection(InFile).reactor(Receipts)
    }

    async fn act(app: &App, account: &str, percent: u32, _: bool) -> anyhow::Result<Sent> {
        let account = &account.to_owned();
        let cents = i64::from(percent) * 100;
        match percent {
            0..20 => sent(app.send(account, Open { owner: format!("owner-{}", percent % 7) }).await),
            20..70 => sent(app.send(account, Deposit { cents }).await),
            98.. => sent(app.send(account, Close {}).await),
            _ => sent(app.send(account, Withdraw { cents: cents / 10 }).await),
        }
    }

    async fn check(check: &mut Check<'_>) -> anyhow::Result<()> {
        check.view::<Balance>().await?;
        check.view::<Activity>().await?;
        check.view::<Owner>().await?;
        check.table("totals/2", "select account, paid_in, paid_out from totals", totals).await
    }
}

fn main() -> anyhow::Result<()> {
    deploys::main::<Newest>()
}
