//! An inline view: its row is in the commit of the events. And a live one: it is stored nowhere.

use std::collections::BTreeSet;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use serde::{Deserialize, Serialize};
use tour::domain::{AccountId, Deposit, Deposited, Open, Opened};

use super::view::Balance;

/// Who has which name. An owner may have one account: a second one is refused, in whichever process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Owners {
    accounts: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} has an account already")]
struct Taken(String);

#[view(name = "owners", key = String)]
impl Owners {
    #[on(by = owner)]
    fn opened(&mut self, e: Recorded<'_, Opened>) -> Result<(), Taken> {
        self.accounts.insert(e.stream().as_str().to_owned());
        if self.accounts.len() > 1 { Err(Taken(e.owner.clone())) } else { Ok(()) }
    }
}

/// The largest deposit of each account, for a question that is seldom asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Largest(i64);

#[view(name = "largest", key = AccountId)]
impl Largest {
    fn deposited(&mut self, e: &Deposited) {
        self.0 = self.0.max(e.amount);
    }
}

pub async fn run() -> anyhow::Result<()> {
    let backend = MemoryBackend::new();
    let wiring = || App::on(backend.clone()).inline_view::<Balance>().inline_view::<Owners>();
    let app = wiring().live_view::<Largest>().start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 10 }).await?;

    // No waiting: the row was written with the event, and the live one is folded from the log.
    assert_eq!(app.view::<Balance>(&ada).await?.map(|row| row.amount), Some(10));
    assert_eq!(app.view::<Largest>(&ada).await?, Some(Largest(10)));

    // A handler that fails fails the command, and nothing is stored.
    let second = app.send(&AccountId::from("second"), Open { owner: "Ada".to_owned() }).await;
    let refused = second.expect_err("Ada has an account");
    assert!(es_core::chain(&refused).contains("Ada has an account already"));
    assert!(app.load::<tour::domain::Account>(&AccountId::from("second")).await?.is_none());

    // Every app that writes this store has to be wired so: another one does not start.
    assert!(App::on(backend.clone()).start().await.is_err());

    // The way back: from now on a processor goes on where the commits were.
    let app = App::on(backend.clone())
        .view::<Balance>()
        .retire_inline("balance/1")
        .inline_view::<Owners>()
        .start()
        .await?;
    let done = app.send(&ada, Deposit { amount: 5 }).await?;
    app.wait_for::<Balance>(&done, std::time::Duration::from_secs(5)).await?;
    assert_eq!(app.view::<Balance>(&ada).await?.map(|row| row.amount), Some(15));

    crate::say(format!("10 at once, 15 after a moment; {refused}"));
    Ok(())
}
