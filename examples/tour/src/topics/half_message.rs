//! A payment in the database of a shop, and a message about it in a log that is elsewhere: both, or neither, whenever the
//! program dies in between.

use std::time::Duration;

use anyhow::ensure;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::testing::TestClock;
use es_sqlite::SqliteGuarded;
use sagas::half::{Begun, ByCaller, Half, HalfApp as _, HalfMessage, HalfMessages, Halves as _};
use sagas::message::Envelope;
use sagas::relay::{Relays as _, TopicMessages};
use sagas::saga::{Outcome, SagaInput};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::mpsc;

/// Longer than a half message is left alone.
const IMMUNE: Duration = Duration::from_secs(11);

#[derive(Serialize, Deserialize)]
struct Pay {
    cents: i64,
}

impl SagaInput for Pay {}

impl ByCaller for Pay {
    type Database = SqliteGuarded;
}

/// Nobody sees the message yet.
async fn prepare(app: &App, order: &str) -> anyhow::Result<Half<SqliteGuarded>> {
    let message = HalfMessage::new("paid", order, &order).map_err(anyhow::Error::from_boxed)?;
    Ok(app.send_half(order, message, Pay { cents: 500 }).await?)
}

/// The local transaction: its first statement was the guard row, by which a check finds out.
async fn pay(half: &Half<SqliteGuarded>, order: &str) -> anyhow::Result<()> {
    let Begun::Open(mut tx) = half.begin().await? else { anyhow::bail!("it was begun before") };
    let book = sqlx::query("insert into payments (order_id, cents) values (?, ?)").bind(order).bind(500);
    book.execute(&mut **tx).await?;
    Ok(tx.commit().await?)
}

pub async fn run() -> anyhow::Result<()> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let shop = SqliteGuarded::new(pool);
    shop.install().await?;
    let payments = "create table payments (order_id text primary key, cents integer not null)";
    sqlx::query(payments).execute(shop.pool()).await?;
    let (sender, mut arrives) = mpsc::channel::<Envelope>(16);
    let clock = TestClock::default();
    let app = App::on(MemoryBackend::with_clock(clock.clone()))
        .clock(clock.clone())
        .provide(shop.clone())
        .half_messages(HalfMessages::<Pay>::by_caller("pay", 1))
        .relay(TopicMessages::of("paid"), sender)
        .start()
        .await?;

    let half = prepare(&app, "o-1").await?;
    pay(&half, "o-1").await?;
    half.commit().await?; // only saves time
    assert_eq!(half.outcome().await?, Outcome::Completed);

    // Whoever pays dies before that, and so does the payment: the check bars what may still come.
    let half = prepare(&app, "o-2").await?;
    clock.advance(IMMUNE);
    let why = half.outcome().await?.to_string();
    assert_eq!(why, "rolled back: it has not committed, and never will");
    ensure!(matches!(half.begin().await?, Begun::RolledBack(_)), "it comes too late");

    // And this one dies behind its commit, before it could say so.
    let half = prepare(&app, "o-3").await?;
    pay(&half, "o-3").await?;
    clock.advance(IMMUNE);
    assert_eq!(half.handle().outcome().await?, Outcome::Completed);

    for order in ["o-1", "o-3"] {
        let message = arrives.recv().await.map(|message| message.data);
        assert_eq!(message, Some(order.into()));
    }
    let paid: i64 = sqlx::query_scalar("select count(*) from payments").fetch_one(shop.pool()).await?;
    crate::say(format!("{paid} payments, {paid} messages, and one of neither"));
    Ok(())
}
