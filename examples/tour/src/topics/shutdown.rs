//! How a running app is, and how it ends.

use std::time::Duration;

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{AccountId, Deposit, Open};

use super::view::Balance;

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).view::<Balance>().start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 10 }).await?;
    app.settle(Duration::from_secs(5)).await?;

    // For a health endpoint: the store answers, no processor fails, and none is far behind.
    let health = app.health().await;
    let balance = health.processors.first().context("the view has a processor")?;
    assert!(health.is_healthy() && !health.closing);
    assert_eq!((&*balance.name, health.lag(balance)), ("balance/1", 0));

    // Wait for your signal (`tokio::signal::ctrl_c()`), and then: new commands are refused, running ones
    // may finish in time, processors finish their page. Says whether all did. A clone is the same app.
    let other_handle = app.clone();
    assert!(app.shutdown(Duration::from_secs(10)).await);
    let late = other_handle.send(&ada, Deposit { amount: 1 }).await;
    assert!(matches!(late, Err(CommandError::ShuttingDown)));
    assert!(other_handle.health().await.closing);
    // Reading goes on.
    assert_eq!(app.view::<Balance>(&ada).await?.map(|balance| balance.amount), Some(10));

    crate::say(format!("{} was at {}, and has ended", balance.name, balance.position));
    Ok(())
}
