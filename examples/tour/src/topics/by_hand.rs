//! A command in another crate than its aggregate: two impls beside the command, and no macro.
//!
//! This program and the library `tour` are two crates, so the compiler holds us to it.

use es_core::command::missing_for;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::{Handle, IntoEvents as _, Target};
use serde::{Deserialize, Serialize};
use tour::domain::{Account, AccountError, AccountEvent, AccountId, Deposited, Open};

/// A gift from the bank, at most one percent of what is there.
#[derive(Clone, Serialize, Deserialize)]
struct Reward {
    percent: i64,
}

struct Generosity(i64);

impl Command for Reward {
    const NAME: &'static str = "reward";
    type Aggregate = Account;
}

impl Handle<Reward> for Account {
    /// It must exist; `New` and `Either` are the others.
    const TARGET: Target = Target::Existing;
    /// What it asks for, as a tuple; `()` if it asks for nothing.
    type Env<'e> = (&'e Generosity, &'e Context);

    async fn handle<'a>(
        &'a self,
        cmd: Reward,
        (most, ctx): Self::Env<'a>,
    ) -> Result<Vec<AccountEvent>, Failure<AccountError>> {
        let _since = ctx.now();
        let amount = self.balance * cmd.percent.min(most.0) / 100;
        // Whatever a `#[commands]` method may return becomes events like this.
        Ok((amount > 0).then_some(Deposited { amount }).into_events())
    }
}

pub async fn run() -> anyhow::Result<()> {
    // `.aggregate::<Account>()` knows the block of the macro only: this one is checked by itself.
    let app =
        App::on(MemoryBackend::new()).provide(Generosity(1)).check(missing_for::<Reward>).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    assert!(app.send(&ada, Reward { percent: 1 }).await?.events.is_empty());

    app.send(&ada, tour::domain::Deposit { amount: 300 }).await?;
    let done = app.send(&ada, Reward { percent: 5 }).await?;
    assert_eq!(done.events, [Deposited { amount: 3 }.into()]);
    crate::say(format!("rewarded: {:?}", done.events));
    Ok(())
}
