//! A projection that was wrong is filled again from the log, which is the truth.

use std::time::Duration;

use es_core::prelude::*;
use es_sqlite::SqliteBackend;
use tour::domain::{AccountId, Deposit, Open};

use super::sql_projection::{Balances, Fortune};

pub async fn run() -> anyhow::Result<()> {
    let backend = SqliteBackend::open(":memory:").await?;
    let app = App::on(backend.clone()).projection(Balances).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 10 }).await?;
    app.settle(Duration::from_secs(5)).await?;

    // A mistake in a handler, say, or a hand in the table.
    let mut tx = backend.begin().await?;
    sqlx::query("update balances set amount = 1000000").execute(&mut *tx).await?;
    tx.commit().await?;
    assert_eq!(app.query(Fortune("Ada")).await?, 1_000_000);

    // Empties the tables and returns; readers see them fill. Events, and reactors, are not touched.
    app.rebuild::<Balances>().await?;
    app.settle(Duration::from_secs(5)).await?;
    assert_eq!(app.query(Fortune("Ada")).await?, 10);

    // When the handlers or the tables change, `version = 2` does the same at the next start.
    crate::say("10, after a rebuild");
    Ok(())
}
