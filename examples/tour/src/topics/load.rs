//! An aggregate can be read: as it is now, and as it was.

use anyhow::Context as _;
use es_core::At;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{Account, AccountId, Deposit, Open};

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let ada = AccountId::from("ada");
    assert!(app.load::<Account>(&ada).await?.is_none());

    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    let first = app.send(&ada, Deposit { amount: 10 }).await?;
    app.send(&ada, Deposit { amount: 5 }).await?;

    // The state, and where its stream is. It derefs to the state.
    let account = app.load::<Account>(&ada).await?.context("it was opened")?;
    assert_eq!((account.balance, account.version), (15, Version(3)));

    // Time travel: after a number of its events, after a position of the log, or at a time.
    for at in [At::Version(Version(2)), At::Position(first.position)] {
        let then = app.load_at::<Account>(&ada, at).await?.context("it was there")?;
        assert_eq!(then.balance, 10);
    }
    assert!(app.load_at::<Account>(&ada, At::Time(Timestamp::UNIX_EPOCH)).await?.is_none());

    crate::say(format!("{} now, 10 after its second event", account.balance));
    Ok(())
}
