//! What the stored files were written with: a domain, and everything that the framework can run on it. Stored, like the
//! files: change nothing that would read or write other bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::prelude::*;
use es_sqlite::{SqliteBackend, Tx};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Paid {
    pub(super) amount: i64,
    /// What is to happen to whoever handles it: nothing, if it is empty.
    pub(super) note: String,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "account")]
pub(super) enum AccountEvent {
    #[event(tags(owner))]
    Opened(Opened),
    Paid(Paid),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Refused {
    TooMuch { limit: i64 },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refused {}

#[derive(Aggregate, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[aggregate(id = String, event = AccountEvent, error = Refused, snapshot(every = 3))]
pub(super) struct Account {
    pub(super) owner: String,
    pub(super) balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(e) => e.owner.clone_into(&mut self.owner),
            AccountEvent::Paid(e) => self.balance += e.amount,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pay {
    pub(super) amount: i64,
    pub(super) note: String,
}

#[commands]
impl Account {
    fn open(cmd: Open) -> Result<Opened, Refused> {
        Ok(Opened { owner: cmd.owner })
    }

    fn pay(&self, cmd: Pay) -> Result<Paid, Refused> {
        if cmd.amount > 1_000 {
            Err(Refused::TooMuch { limit: 1_000 })
        } else {
            Ok(Paid { amount: cmd.amount, note: cmd.note })
        }
    }
}

/// Whether handlers have been fixed since.
pub(super) static FIXED: AtomicBool = AtomicBool::new(false);
/// Whether the view has a mistake that it did not have when it first handled the event.
pub(super) static LATER: AtomicBool = AtomicBool::new(false);

fn check(paid: &Paid, name: &str) -> Result<(), BoxError> {
    // A rebuild stops at what fails, so those that are rebuilt to the end handle everything.
    let fails = matches!(name, "tally" | "skipping" | "payments" | "mail");
    match &*paid.note {
        "broken" if fails && !FIXED.load(Ordering::SeqCst) => {
            Err(format!("{name} cannot handle this").into())
        }
        "later" if name == "tally" && LATER.load(Ordering::SeqCst) => Err("it has a mistake now".into()),
        _ => Ok(()),
    }
}

/// What was paid into an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) n: u64,
    pub(super) sum: i64,
}

macro_rules! views { ($($view:ident = $name:literal, $on_failure:ident;)+) => { $(
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub(super) struct $view(pub(super) Sum);

    #[view(name = $name, key = String, on_failure = $on_failure)]
    impl $view {
        fn paid(&mut self, e: Recorded<'_, Paid>) -> Result<(), BoxError> {
            check(e.payload(), $name)?;
            self.0.n += 1;
            self.0.sum += e.amount;
            Ok(())
        }
    }
)+ } }

views! {
    Tally = "tally", park;
    Skipping = "skipping", skip;
    Switched = "switched", park;
    Switching = "switching", park;
    Alive = "alive", park;
}

/// Written in the commit of the event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Balance {
    pub(super) amount: i64,
}

#[view(name = "balance", key = String)]
impl Balance {
    fn paid(&mut self, e: &Paid) {
        self.amount += e.amount;
    }
}

pub(super) struct Payments;

#[projection(
    name = "payments",
    partition = stream,
    schema_sql = "create table payments (account text primary key, n integer not null, sum integer not null) strict"
)]
impl Payments {
    async fn paid(&self, e: Recorded<'_, Paid>, tx: &mut Tx) -> Result<(), BoxError> {
        let sql = "insert into payments (account, n, sum) values (?, 1, ?)
                   on conflict (account) do update set n = n + 1, sum = sum + excluded.sum";
        sqlx::query(sql).bind(e.aggregate_id()?).bind(e.amount).execute(&mut **tx).await?;
        check(e.payload(), "payments")
    }
}

/// Which mails were sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Mails(pub(super) Arc<Mutex<Vec<(String, i64)>>>);

pub(super) struct Mail;

#[reactor(name = "mail", on_failure = park)]
impl Mail {
    async fn paid(&self, e: Recorded<'_, Paid>, mails: &Mails) -> Result<(), BoxError> {
        check(e.payload(), "mail")?;
        mails.0.lock().unwrap().push((e.aggregate_id()?, e.amount));
        Ok(())
    }
}

/// Everything there is, but the view that another node runs.
pub(super) fn wiring(backend: &SqliteBackend, mails: &Mails) -> es_core::AppBuilder<SqliteBackend> {
    let soon = Duration::from_millis(1);
    App::on(backend.clone())
        .provide(mails.clone())
        .inline_view::<Balance>()
        .view::<Tally>()
        .view::<Skipping>()
        .view::<Switched>()
        .view::<Switching>()
        .projection(Payments)
        .reactor(Mail)
        .processor_retries(1, soon, soon)
}

/// The node that was alive when the file was written.
pub(super) fn other_node(backend: &SqliteBackend) -> es_core::AppBuilder<SqliteBackend> {
    App::on(backend.clone()).inline_view::<Balance>().view::<Alive>()
}
