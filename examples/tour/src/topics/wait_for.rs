//! Reading your own write, on a node that leaves the work to others.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{AccountId, Deposit, Open};

use super::view::Balance;

pub async fn run() -> anyhow::Result<()> {
    let backend = MemoryBackend::new();
    // A node that answers requests. Nobody works on the view yet.
    let web = App::on(backend.clone()).view::<Balance>().looks_on().start().await?;
    let ada = AccountId::from("ada");
    web.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    let done = web.send(&ada, Deposit { amount: 10 }).await?;

    // A page that would rather be old than late: `false` says that it is old.
    assert!(!web.wait_or_stale::<Balance>(&done, Duration::from_millis(20)).await?);
    assert_eq!(web.view::<Balance>(&ada).await?, None);

    // A node that does the work.
    let worker = App::on(backend).view::<Balance>().start().await?;

    // What a command gave you says which keys are waited for. A position is waited for by all of them.
    web.wait_for::<Balance>(&done, Duration::from_secs(5)).await?;
    web.wait_for::<Balance>(done.position, Duration::from_secs(5)).await?;
    assert_eq!(web.view::<Balance>(&ada).await?.map(|balance| balance.amount), Some(10));

    assert!(worker.shutdown(Duration::from_secs(5)).await);
    crate::say("nothing at first, then 10");
    Ok(())
}
