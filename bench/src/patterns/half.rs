//! A half message: a row is inserted by its local transaction, and the message is an event in the database of the journal.

use std::convert::Infallible;

use anyhow::ensure;
use es_core::store::EventFilter;
use es_core::{App, Backend, Position};
use es_postgres::GuardedTx;
use sagas::half::{HalfApp as _, HalfMessage, HalfMessages, Halves as _, LocalTransaction};
use sagas::message::Published;
use sagas::saga::{Cx, OrRetry as _, Outcome, StepError};

use super::ground::{Done, Ground, Own, Take, Takes, ended, insert};

impl<D: Own> LocalTransaction<Take> for Takes<D> {
    type Database = D;
    type Refusal = Infallible;
    async fn execute(&self, cx: Cx<'_, Take>, tx: &mut GuardedTx) -> Result<(), StepError<Infallible>> {
        insert(tx, cx.key, "taken").await.or_retry()
    }
}

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let (left, _) = ground.guarded().await?;
    let store = ground.store().await?;
    let halves = HalfMessages::of("work", 1, Takes(left.clone()));
    let app = App::on(store.clone()).provide(left).half_messages(halves).start().await?;
    let done = ground.timed(|n| sends(app.clone(), Take::of(n))).await?;
    ended(&app).await;
    ground.has(&ground.left, "select count(*) from work where state = 'taken'").await?;
    let sent = messages(&store).await?;
    ensure!(sent == ground.load.all(), "{sent} messages of {}", ground.load.all());
    Ok(done)
}

async fn sends(app: App, take: Take) -> anyhow::Result<()> {
    let run = take.run.clone();
    let message = HalfMessage::new("taken", &run, &"taken").map_err(anyhow::Error::from_boxed)?;
    let outcome = app.run_in_transaction(&run, message, take).await?;
    ensure!(outcome == Outcome::Completed, "{outcome}");
    Ok(())
}

/// How many stand in the log.
async fn messages<B: Backend>(store: &B) -> anyhow::Result<u64> {
    let (filter, mut after, mut n) = (EventFilter::of::<Published>(), Position(0), 0);
    loop {
        let page = store.read(&filter, after, 1_000).await?;
        (after, n) = (page.through, n + page.events.len() as u64);
        if !page.more {
            return Ok(n);
        }
    }
}
