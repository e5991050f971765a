//! A process: the first deposit within thirty days brings a gift. It remembers, sends a command, and waits for a time.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use sagas::testing::process;
use sagas::{Next, Processes as _, Timer};
use serde::{Deserialize, Serialize};
use tour::domain::{Account, AccountId, Deposit, Deposited, Open, Opened, opened};

const MONTH: Duration = Duration::from_hours(30 * 24);

/// The state of one instance: each account has one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Welcome {
    account: String,
}

/// Nobody has deposited anything.
#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Over {}

#[sagas::process(name = "welcome", key = AccountId, sends(Deposit))]
impl Welcome {
    /// Without `by`, the account that recorded the event names the instance.
    #[starts]
    fn opened(&mut self, e: &Opened) -> Next<Self> {
        self.account.clone_from(&e.owner);
        Next::wait().timer(MONTH, Over {})
    }

    /// The gift is a deposit, too: by then the process has ended.
    #[on]
    fn deposited(&mut self, _: &Deposited) -> Next<Self> {
        Next::send(&AccountId::from(&*self.account), Deposit { amount: 5 }).clear::<Over>().and_end()
    }

    #[refused]
    fn refused(&mut self, _: sagas::Refused<Deposit>) -> Next<Self> {
        Next::wait()
    }

    #[timer]
    fn over(&mut self, _: Over) -> Next<Self> {
        Next::end()
    }
}

pub async fn run() -> anyhow::Result<()> {
    // Tried without a store, and without waiting for a month.
    let ada = AccountId::from("ada");
    let begun = || process::<Welcome>().given_to::<Account>(&ada, opened("ada"));
    begun().when_to::<Account>(&ada, Deposited { amount: 10 }).then_sends(&ada, Deposit { amount: 5 }).then_ended();
    begun().when_elapsed(MONTH).then_ended();

    // In an app. What it sends is stored with what it has taken in, and goes out after that.
    let app = App::on(MemoryBackend::new()).process::<Welcome>().start().await?;
    app.send(&ada, Open { owner: "ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 10 }).await?;
    let mut head = app.store().watch();
    let balance = loop {
        head.mark_unchanged();
        match app.load::<Account>(&ada).await? {
            Some(account) if account.balance > 10 => break account.balance,
            _ => head.changed().await?,
        }
    };
    assert_eq!(balance, 15);
    crate::say("ten deposited, five given");
    Ok(())
}
