//! A TCC of two branches: a row is inserted when it reserves, and changed when it confirms.

use std::convert::Infallible;

use anyhow::ensure;
use es_core::{App, BoxError};
use es_postgres::GuardedTx;
use sagas::saga::{Cx, Guarded, OrRetry as _, Outcome, Ran, StepError};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _};

use super::ground::{Done, Ground, Own, Take, Takes, delete, ended, insert, take};

impl<D: Own> Tcc<Take> for Takes<D> {
    const NAME: &'static str = D::NAME;
    type Held = ();
    type Refusal = Infallible;
    type Place = Guarded<D>;
    async fn reserve(&self, cx: Cx<'_, Take>, tx: &mut GuardedTx) -> Result<(), StepError<Infallible>> {
        insert(tx, cx.key, "held").await.or_retry()
    }
    async fn confirm(&self, cx: Cx<'_, Take>, (): (), tx: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(take(tx, cx.key).await?)
    }
    async fn cancel(&self, cx: Cx<'_, Take>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(delete(tx, cx.key).await?)
    }
}

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let (left, right) = ground.guarded().await?;
    let tcc = TccTransaction::new("work", 1).branch(Takes(left.clone())).branch(Takes(right.clone())).build();
    let app = App::on(ground.store().await?).provide(left).provide(right).tcc(tcc).start().await?;
    let each = |n| {
        let (app, take) = (app.clone(), Take::of(n));
        async move {
            let outcome = app.run_tcc(&take.run.clone(), take).await?;
            ensure!(outcome == Outcome::Completed, "{outcome}");
            Ok(())
        }
    };
    let done = ground.timed(each).await?;
    ended(&app).await;
    ground.took([&ground.left, &ground.right]).await?;
    Ok(done)
}
