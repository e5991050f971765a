//! A small domain, and a projection of it whose handler can be slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use es_core::prelude::*;
use es_sqlite::Tx;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deposited {
    pub(crate) amount: i64,
    /// How many milliseconds its handler takes.
    pub(crate) takes: u64,
}

#[derive(Event, Clone, Debug)]
#[event(prefix = "account")]
pub(crate) enum AccountEvent {
    Deposited(Deposited),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Never;

impl std::fmt::Display for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("never")
    }
}

impl std::error::Error for Never {}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = String, event = AccountEvent, error = Never)]
pub(crate) struct Account {
    balance: i64,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(e) => self.balance += e.amount,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deposit {
    pub(crate) amount: i64,
}

#[commands]
impl Account {
    #[create_if_missing]
    fn deposit(&self, cmd: Deposit) -> Result<Deposited, Never> {
        Ok(Deposited { amount: cmd.amount, takes: 0 })
    }
}

/// Counts what it has handled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals(pub(crate) Arc<AtomicUsize>);

#[projection(
    name = "totals",
    schema_sql = "create table totals (one integer primary key check (one = 1), amount integer not null) strict;
                  insert into totals values (1, 0)"
)]
impl Totals {
    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        sqlx::query("update totals set amount = amount + ?").bind(e.amount).execute(&mut **tx).await?;
        if e.takes > 0 {
            tokio::time::sleep(Duration::from_millis(e.takes)).await;
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
