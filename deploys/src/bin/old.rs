//! The program before the deploy: accounts that are opened and paid into.

use deploys::{Check, Effects, Program, Sent, sent};
use es_core::AppBuilder;
use es_core::prelude::*;
use es_postgres::PgBackend;
use es_sqlite::SqliteBackend;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Deposited {
    amount: i64,
}

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("an amount is more than nothing")]
struct NoAmount;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = AccountEvent, error = NoAmount)]
struct Account;

impl Apply for Account {
    fn apply(&mut self, _: &AccountEvent) {}
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposit {
    amount: i64,
}

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<Opened, NoAmount> {
        Ok(Opened { owner: cmd.owner })
    }

    fn deposit(&self, cmd: Deposit) -> Result<Deposited, NoAmount> {
        if cmd.amount > 0 { Ok(Deposited { amount: cmd.amount }) } else { Err(NoAmount) }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Balance {
    amount: i64,
    events: u64,
}

#[view(name = "balance", version = 1, key = String)]
impl Balance {
    fn opened(&mut self, _: &Opened) {
        self.events += 1;
    }

    fn deposited(&mut self, e: &Deposited) {
        self.amount += e.amount;
        self.events += 1;
    }
}

/// How often something was paid into an account, and what last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Activity {
    times: u64,
    last: i64,
}

#[view(name = "activity", version = 1, key = String)]
impl Activity {
    fn deposited(&mut self, e: &Deposited) {
        self.times += 1;
        self.last = e.amount;
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
            version = 1,
            schema_sql = "create table totals (account text primary key, times bigint not null, paid bigint not null)"
        )]
        impl $totals {
            async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut $tx) -> Result<(), sqlx::Error> {
                let sql = "insert into totals values ($1, 1, $2) on conflict (account)
                           do update set times = totals.times + 1, paid = totals.paid + excluded.paid";
                sqlx::query(sql).bind(e.stream().as_str()).bind(e.amount).execute(&mut **tx).await.map(drop)
            }
        }
    };
}

totals!(OnServer, es_postgres::Tx);
totals!(InFile, es_sqlite::Tx);

/// Of a newer program: what it writes of the balance is its own matter.
fn is_newer(event: &RecordedEvent) -> bool {
    AccountEvent::TYPES.iter().all(|known| known.name != &*event.name)
}

struct Old;

impl Program for Old {
    fn on_postgres(app: AppBuilder<PgBackend>) -> AppBuilder<PgBackend> {
        app.view::<Balance>().view::<Activity>().projection(OnServer).reactor(Receipts)
    }

    fn on_sqlite(app: AppBuilder<SqliteBackend>) -> AppBuilder<SqliteBackend> {
        app.view::<Balance>().view::<Activity>().projection(InFile).reactor(Receipts)
    }

    async fn act(app: &App, account: &str, percent: u32, _: bool) -> anyhow::Result<Sent> {
        let account = &account.to_owned();
        match percent {
            0..20 => sent(app.send(account, Open { owner: format!("owner-{}", percent % 7) }).await),
            _ => sent(app.send(account, Deposit { amount: i64::from(percent) }).await),
        }
    }

    async fn check(check: &mut Check<'_>) -> anyhow::Result<()> {
        check.view_but_for::<Balance>(is_newer).await?;
        check.view::<Activity>().await?;
        let fold = |rows: &mut std::collections::BTreeMap<String, (i64, i64)>, event: &RecordedEvent| {
            if let Some(Deposited { amount }) = event.payload()? {
                let (times, paid) = rows.entry(event.stream.to_string()).or_default();
                (*times, *paid) = (*times + 1, *paid + amount);
            }
            anyhow::Ok(())
        };
        check.table("totals/1", "select account, times, paid from totals", fold).await
    }
}

fn main() -> anyhow::Result<()> {
    deploys::main::<Old>()
}
