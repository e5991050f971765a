//! A saga of two guarded steps: a row is inserted by each.

use std::convert::Infallible;

use anyhow::ensure;
use es_core::{App, BoxError};
use es_postgres::GuardedTx;
use sagas::saga::{
    Cx, Guarded, OrRetry as _, Outcome, Ran, Saga, SagaApp as _, Sagas as _, Step, StepError, Undo,
};

use super::ground::{Done, Ground, Own, Take, Takes, delete, ended, insert};

impl<D: Own> Step<Take> for Takes<D> {
    const NAME: &'static str = D::NAME;
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Guarded<D>;
    async fn run(&self, cx: Cx<'_, Take>, tx: &mut GuardedTx) -> Result<(), StepError<Infallible>> {
        insert(tx, cx.key, "taken").await.or_retry()
    }
}

impl<D: Own> Undo<Take> for Takes<D> {
    async fn undo(&self, cx: Cx<'_, Take>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(delete(tx, cx.key).await?)
    }
}

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let (left, right) = ground.guarded().await?;
    let saga = Saga::new("work", 1).step(Takes(left.clone())).step(Takes(right.clone())).build();
    let app = App::on(ground.store().await?).provide(left).provide(right).saga(saga).start().await?;
    let done = ground.timed(|n| completes(app.clone(), Take::of(n))).await?;
    ended(&app).await;
    ground.took([&ground.left, &ground.right]).await?;
    Ok(done)
}

/// A saga to its end.
pub async fn completes(app: App, take: Take) -> anyhow::Result<()> {
    let outcome = app.run_saga(&take.run.clone(), take).await?;
    ensure!(outcome == Outcome::Completed, "{outcome}");
    Ok(())
}
