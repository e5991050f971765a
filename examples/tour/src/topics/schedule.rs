//! A command at a time: planned, called off, and sent at once if its time is over.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::clock::Clock as _;
use es_core::prelude::*;
use es_core::testing::TestClock;
use sagas::{Processes as _, Schedule, Schedules as _};
use tour::domain::{Account, AccountId, Deposit, Open};

pub async fn run() -> anyhow::Result<()> {
    // Times are those of the store, and here a test owns them.
    let clock = TestClock::default();
    let app = App::on(MemoryBackend::with_clock(clock.clone())).clock(clock.clone());
    let app = app.aggregate::<Account>().process::<Schedule>().start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    // A plan is an event, so it is as durable as any. Under the same name another one would take its place.
    let tomorrow = clock.now() + Duration::from_hours(24);
    let planned =
        app.schedule(tomorrow, &ada, Deposit { amount: 100 }).named("bonus").owned_by("ada").await?;
    app.call_off(&planned).await?;

    // Its time is over, so it is sent as soon as the schedule sees it.
    app.schedule(clock.now(), &ada, Deposit { amount: 7 }).owned_by("ada").await?;
    let mut head = app.store().watch();
    let balance = loop {
        head.mark_unchanged();
        match app.load::<Account>(&ada).await? {
            Some(account) if account.balance > 0 => break account.balance,
            _ => head.changed().await?,
        }
    };
    assert_eq!(balance, 7);
    crate::say("one plan called off, one carried out");
    Ok(())
}
