//! A chain of two databases: a row is inserted by each link.

use es_core::App;
use es_postgres::GuardedTx;
use sagas::chain::{Chain, Link, LinkCx};
use sagas::saga::{OrRetry as _, SagaApp as _, StepError};

use super::ground::{Done, Ground, Own, Take, Takes, ended, insert};
use super::saga::completes;

impl<D: Own> Link<Take> for Takes<D> {
    const NAME: &'static str = D::NAME;
    type Database = D;
    fn database(&self) -> &D {
        &self.0
    }
    async fn run(&self, cx: LinkCx<'_, Take>, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
        insert(tx, cx.key, "taken").await.or_retry()
    }
}

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let (left, right) = ground.guarded().await?;
    let chain = Chain::fixed_forward("work", 1).link(Takes(left)).link(Takes(right)).build();
    let app = App::on(ground.store().await?).saga(chain).start().await?;
    let done = ground.timed(|n| completes(app.clone(), Take::of(n))).await?;
    ended(&app).await;
    ground.took([&ground.left, &ground.right]).await?;
    Ok(done)
}
