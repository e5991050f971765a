//! Tests own time: a clock that stands still until it is told. Ids come from it too.

use std::time::Duration;

use anyhow::Context as _;
use es_core::At;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::testing::{SeededEntropy, TestClock, epoch};
use tour::domain::{Account, AccountEvent, AccountId, Close, Deposit, Open};

pub async fn run() -> anyhow::Result<()> {
    // Two places tell time: the app for handlers and ids, the backend for `recorded_at`. Clones show the same.
    let clock = TestClock::default();
    let backend = MemoryBackend::with_clock(clock.clone());
    let app = App::on(backend).clock(clock.clone()).entropy(SeededEntropy::new(1)).start().await?;

    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 10 }).await?;
    clock.advance(Duration::from_secs(3_600));
    app.send(&ada, Deposit { amount: 5 }).await?;
    let done = app.send(&ada, Close).actor("Ada").await?;

    // The time of the handler.
    let AccountEvent::Closed(closed) = &done.events[0] else { anyhow::bail!("it was closed") };
    assert_eq!(closed.at.duration_since(epoch()).as_secs(), 3_600);

    // The time of the store: the account as it was an hour ago.
    let then = app.load_at::<Account>(&ada, At::Time(epoch())).await?.context("it was open")?;
    assert_eq!(then.balance, 10);

    // The same seed and the same clock make the same ids.
    let again = App::on(MemoryBackend::new()).clock(TestClock::default()).entropy(SeededEntropy::new(1));
    let other = App::on(MemoryBackend::new()).clock(TestClock::default()).entropy(SeededEntropy::new(1));
    assert_eq!(again.start().await?.new_id(), other.start().await?.new_id());

    crate::say(format!("closed at {}, with {} an hour before", closed.at, then.balance));
    Ok(())
}
