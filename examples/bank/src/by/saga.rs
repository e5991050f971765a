//! By a saga: taken at one bank, put to the other, and given back if that refuses. In between the money is nowhere.

use std::convert::Infallible;
use std::time::Duration;

use es_core::AppBuilder;
use es_core::prelude::*;
use es_postgres::{GuardedTx, PgBackend, Tx};
use sagas::saga::{
    Cx, Guarded, Journal, OrRetry as _, Ran, Saga, SagaApp as _, Sagas as _, Step, StepError, Undo,
};

use super::way::{A, At, B, Side, Way};
use super::{Method, Trouble, ended, failed, open_runs};
use crate::ledger;
use crate::transfer::{Bank, Decline, Order, Outcome, Refusal, Settle, TransferError, TransferId};

/// `file` · `take` · `put` · `settle`
fn saga<F: Side, T: Side>() -> Saga<Way<F, T>, Tx> {
    Saga::new(F::FROM, 1)
        .deadline(Duration::from_mins(5))
        .step(File)
        .step(Take)
        .pivot(Put)
        .then(Close)
        .build()
}

/// In the journal: the transfer is a saga's from now on, or another method has it. Should the saga be undone, it is declined.
struct File;

impl<F: Side, T: Side> Step<Way<F, T>> for File {
    const NAME: &'static str = super::FILE;
    type Needs = ();
    type Output = ();
    type Refusal = TransferError;
    type Place = Journal<Tx>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut Tx) -> Result<(), StepError<TransferError>> {
        super::file(cx, Method::Saga, tx).await
    }
}

impl<F: Side, T: Side> Undo<Way<F, T>> for File {
    async fn undo(&self, cx: Cx<'_, Way<F, T>>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        let id = TransferId(cx.key.to_owned());
        let decline = Decline { id: id.clone(), order: cx.input.order, why: None, by: Method::Saga };
        cx.sender.send(&id, decline).within(tx).await?;
        Ok(())
    }
}

/// At the bank that the money comes from, behind a guard row: once, and not after its undo.
struct Take;

impl<F: Side, T: Side> Step<Way<F, T>> for Take {
    const NAME: &'static str = "take";
    type Needs = ();
    type Output = ();
    type Refusal = Refusal;
    type Place = Guarded<At<F>>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut GuardedTx) -> Result<(), StepError<Refusal>> {
        ledger::take(tx, cx.key, &cx.input.order).await
    }
}

impl<F: Side, T: Side> Undo<Way<F, T>> for Take {
    async fn undo(&self, cx: Cx<'_, Way<F, T>>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        ledger::give_back(tx, cx.key, &cx.input.order).await.map_err(failed)
    }
}

/// At the other bank, and the last that may refuse.
struct Put;

impl<F: Side, T: Side> Step<Way<F, T>> for Put {
    const NAME: &'static str = "put";
    type Needs = ();
    type Output = ();
    type Refusal = Refusal;
    type Place = Guarded<At<T>>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut GuardedTx) -> Result<(), StepError<Refusal>> {
        ledger::put(tx, cx.key, &cx.input.order).await
    }
}

/// In the journal.
struct Close;

impl<F: Side, T: Side> Step<Way<F, T>> for Close {
    const NAME: &'static str = "settle";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Journal<Tx>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut Tx) -> Result<(), StepError<Infallible>> {
        let id = TransferId(cx.key.to_owned());
        let settle = Settle { id: id.clone(), order: cx.input.order, by: Method::Saga };
        cx.sender.send(&id, settle).within(tx).await.or_retry().map(drop)
    }
}

pub(super) fn wire(app: AppBuilder<PgBackend>) -> AppBuilder<PgBackend> {
    app.saga(saga::<A, B>()).saga(saga::<B, A>())
}

pub(super) async fn transfer(app: &App, key: &str, order: Order) -> Result<Outcome, Trouble> {
    let run = match order.from.bank {
        Bank::A => app.run_saga(key, Way::<A, B>::new(order)).await,
        Bank::B => app.run_saga(key, Way::<B, A>::new(order)).await,
    };
    ended(app, key, &order, run).await
}

/// How many have not ended.
pub(super) async fn open(app: &App) -> anyhow::Result<usize> {
    let [from_a, from_b] = [app.saga_runs::<Way<A, B>>()?, app.saga_runs::<Way<B, A>>()?];
    Ok(open_runs(&from_a).await? + open_runs(&from_b).await?)
}
