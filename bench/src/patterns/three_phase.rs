//! Three-phase commit: a row is inserted when a participant votes, and changed when it commits.

use std::sync::Arc;

use anyhow::ensure;
use async_trait::async_trait;
use es_core::{App, BoxError};
use es_postgres::GuardedTx;
use sagas::saga::{OrRetry as _, Outcome, StepError};
use sagas::three_phase::{
    Decisions, GuardedParticipant, Holds, Peers, Standing, StoredDecisions, ThreePhaseApp as _,
    ThreePhaseTransaction, ThreePhases as _,
};
use uuid::Uuid;

use super::ground::{Done, Ground, Own, Take, Takes, delete, ended, insert, take};

impl<D: Own> Holds<GuardedTx> for Takes<D> {
    type Input = Take;
    type Held = ();
    async fn hold(&self, txn: Uuid, _: &Take, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
        insert(tx, &txn.to_string(), "held").await.or_retry()
    }
    async fn commit(&self, txn: Uuid, (): (), tx: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(take(tx, &txn.to_string()).await?)
    }
    async fn release(&self, txn: Uuid, (): (), tx: &mut GuardedTx) -> Result<(), BoxError> {
        Ok(delete(tx, &txn.to_string()).await?)
    }
    async fn held(&self, tx: &mut GuardedTx) -> Result<Vec<Uuid>, BoxError> {
        let held = sqlx::query_scalar("select run from work where state = 'held'");
        let held: Vec<String> = held.fetch_all(&mut **tx).await?;
        Ok(held.iter().map(|txn| Uuid::try_parse(txn)).collect::<Result<_, _>>()?)
    }
}

/// Nobody waits for so long here that it asks others.
struct Nobody;

#[async_trait]
impl Peers for Nobody {
    async fn standing(&self, participant: &str, _: Uuid) -> Result<Standing, BoxError> {
        Err(format!("nobody reaches {participant} here").into())
    }
}

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let (left, right) = ground.guarded().await?;
    let store = ground.store().await?;
    let decisions: Arc<dyn Decisions> = Arc::new(StoredDecisions::on(store.clone())?);
    let all = ThreePhaseTransaction::new("work", 1)
        .participant(participant(left, &decisions))
        .participant(participant(right, &decisions));
    let app = App::on(store).three_phase(all.build()).start().await?;
    let each = |n| {
        let (app, take) = (app.clone(), Take::of(n));
        async move {
            let outcome = app.run_three_phase(&take.run.clone(), take).await?;
            ensure!(outcome == Outcome::Completed, "{outcome}");
            Ok(())
        }
    };
    let done = ground.timed(each).await?;
    ended(&app).await;
    ground.took([&ground.left, &ground.right]).await?;
    Ok(done)
}

fn participant<D: Own>(own: D, decisions: &Arc<dyn Decisions>) -> GuardedParticipant<D, Takes<D>> {
    GuardedParticipant::new(D::NAME, own.clone(), Takes(own), Arc::new(Nobody), decisions.clone())
}
