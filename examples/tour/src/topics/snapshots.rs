//! A kept state, so that an aggregate with a long history loads fast. It is a cache: delete it, and nothing is lost.
//!
//! `Account` says `snapshot(every = 100)`. Another policy is a function, `snapshots = path::to::policy`, which returns
//! one of the others: `when_load_takes(..)`, `when(|situation| ..)`, `on_request()`.

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{SnapshotStore as _, StreamId};
use tour::domain::{Account, AccountId, Deposit, Open};

pub async fn run() -> anyhow::Result<()> {
    let backend = MemoryBackend::new();
    let app = App::on(backend.clone()).start().await?;
    let (ada, stream) = (AccountId::from("ada"), StreamId::new("account-ada")?);
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    for _ in 0..98 {
        app.send(&ada, Deposit { amount: 1 }).await?;
    }
    assert!(backend.snapshot(&stream).await?.is_none());

    // The hundredth event. The snapshot is written in the background; the end of an app waits for it.
    app.send(&ada, Deposit { amount: 1 }).await?;
    assert!(app.shutdown(std::time::Duration::from_secs(5)).await);
    let kept = backend.snapshot(&stream).await?.context("one every hundred")?;
    assert_eq!(kept.version, Version(100));

    // Loading is the snapshot and what came after it. When the state changes its shape, say
    // `snapshot(every = 100, version = 2)`: older ones are then ignored.
    let app = App::on(backend.clone()).start().await?;
    app.send(&ada, Deposit { amount: 1 }).await?;
    assert_eq!(app.load::<Account>(&ada).await?.context("it is open")?.balance, 100);

    // Now, because you say so: before a busy day, for instance.
    assert!(app.snapshot::<Account>(&ada).await?);
    let kept = backend.snapshot(&stream).await?.context("just taken")?;
    assert_eq!(kept.version, Version(101));
    crate::say(format!("kept at {}: {} bytes", kept.version, kept.data.len()));
    Ok(())
}
