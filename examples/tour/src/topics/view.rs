//! A keyed view: a row for each key, folded in memory. It runs on every backend.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use serde::{Deserialize, Serialize};
use tour::domain::{AccountId, Deposit, Deposited, Open, Opened, Withdraw, Withdrawn};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    pub amount: i64,
    pub changed: Option<Timestamp>,
}

/// The row is that of the event's aggregate. `Recorded` is the payload and what is stored beside it.
#[view(name = "balance", version = 1, key = AccountId)]
impl Balance {
    fn deposited(&mut self, e: Recorded<'_, Deposited>) {
        self.amount += e.amount;
        self.changed = Some(e.recorded_at());
    }

    fn withdrawn(&mut self, e: Recorded<'_, Withdrawn>) {
        self.amount -= e.amount;
        self.changed = Some(e.recorded_at());
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Owner {
    accounts: u32,
}

#[view(name = "owner", version = 1, key = String)]
impl Owner {
    /// The row is that of a field, or of a method: `by = initial()`. Several rows are a `Vec` of keys.
    #[on(by = owner)]
    fn opened(&mut self, _: &Opened) {
        self.accounts += 1;
    }
}

/// A question over many rows: a query asks for `&Views`.
struct Total;
struct Bank;

#[queries]
impl Bank {
    async fn total(&self, _: Total, views: &Views) -> Result<i64, BoxError> {
        let mut total = 0;
        views.for_each::<Balance>(|_, balance| total += balance.amount).await?;
        Ok(total)
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).view::<Balance>().view::<Owner>().queries(Bank).start().await?;
    for name in ["first", "second"] {
        app.send(&AccountId::from(name), Open { owner: "Ada".to_owned() }).await?;
        app.send(&AccountId::from(name), Deposit { amount: 10 }).await?;
    }
    let first = AccountId::from("first");
    let done = app.send(&first, Withdraw { amount: 3 }).await?;

    // A view follows the log; whoever has just written waits for it.
    app.wait_for::<Balance>(done.position, Duration::from_secs(5)).await?;
    app.wait_for::<Owner>(done.position, Duration::from_secs(5)).await?;
    assert_eq!(app.view::<Balance>(&first).await?.map(|balance| balance.amount), Some(7));
    assert_eq!(app.view::<Owner>(&"Ada".to_owned()).await?, Some(Owner { accounts: 2 }));
    assert_eq!(app.view::<Owner>(&"Bob".to_owned()).await?, None);
    assert_eq!(app.query(Total).await?, 17);

    crate::say("7 in the first account, 17 in all");
    Ok(())
}
