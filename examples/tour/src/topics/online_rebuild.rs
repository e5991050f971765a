//! A projection that is built anew beside the tables that queries read, compared, and switched to.

use std::pin::pin;
use std::time::Duration;

use es_core::prelude::*;
use es_core::processor::RebuildOptions;
use es_sqlite::SqliteBackend;
use futures::TryStreamExt as _;
use tour::domain::{AccountId, Deposit, Open};

use super::sql_projection::{Balances, Fortune};

pub async fn run() -> anyhow::Result<()> {
    let limit = Duration::from_secs(30);
    let backend = SqliteBackend::open(":memory:").await?;
    let app = App::on(backend.clone()).projection(Balances).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    let done = app.send(&ada, Deposit { amount: 10 }).await?;
    app.wait_for::<Balances>(&done, limit).await?;

    // A row that is wrong, by a mistake in a handler, say.
    let mut tx = backend.begin().await?;
    sqlx::query("update balances set amount = 1000000").execute(&mut *tx).await?;
    tx.commit().await?;

    // It is built beside the tables that are read; any node helps, and it goes on after a restart.
    let rebuild = app.rebuild_online::<Balances>(RebuildOptions::default()).await?;
    let mut progress = pin!(rebuild.progress());
    while let Some(at) = progress.try_next().await? {
        crate::say(format!("generation {}: {} of {}", at.generation, at.done, at.total));
    }
    assert_eq!(app.query(Fortune("Ada")).await?, 1_000_000);

    // How many rows differ, with some of them.
    let report = rebuild.report(3).await?;
    let changed: u64 = report.differences.iter().map(|table| table.changed).sum();
    assert_eq!((report.is_empty(), changed), (false, 1));

    // One transaction: a query sees the old tables or the new ones, whole.
    rebuild.switch().await?;
    assert_eq!(app.query(Fortune("Ada")).await?, 10);

    // The old ones go on being filled, so there is a way back, and the way forth again.
    let processor = app.processor::<Balances>()?;
    let done = app.send(&ada, Deposit { amount: 5 }).await?;
    app.wait_for::<Balances>(&done, limit).await?;
    processor.roll_back().await?;
    app.wait_for::<Balances>(&done, limit).await?;
    assert_eq!(app.query(Fortune("Ada")).await?, 1_000_005);
    processor.roll_back().await?;
    app.wait_for::<Balances>(&done, limit).await?;
    assert_eq!(app.query(Fortune("Ada")).await?, 15);

    // Each event is taken in twice until then.
    assert!(processor.drop_previous().await?);
    crate::say("15, and the old tables are gone");
    Ok(())
}
