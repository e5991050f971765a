//! By try, confirm, cancel: both banks reserve, and use what is reserved once both have. The money is never nowhere.

use std::time::Duration;

use es_core::AppBuilder;
use es_core::prelude::*;
use es_postgres::{GuardedTx, PgBackend, Tx};
use sagas::saga::{Cx, Guarded, Journal, Ran, StepError};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _};

use super::way::{A, At, B, Side, Way};
use super::{Method, Trouble, ended, failed, open_runs};
use crate::ledger;
use crate::transfer::{Bank, Decline, Order, Outcome, Refusal, Settle, TransferError, TransferId};

/// `file`, `take` and `put`: each at the same time as the others.
fn tcc<F: Side, T: Side>() -> TccTransaction<Way<F, T>, Tx> {
    let tcc = TccTransaction::new(F::FROM, 1).deadline(Duration::from_mins(5));
    tcc.branch(File(Method::Tcc)).branch(Take).branch(Put).build()
}

/// In the journal, which notes what came of it. It reserves the transfer: it is of this method then, or another one has it.
pub(super) struct File(pub(super) Method);

impl<F: Side, T: Side> Tcc<Way<F, T>> for File {
    const NAME: &'static str = super::FILE;
    type Held = ();
    type Refusal = TransferError;
    type Place = Journal<Tx>;

    async fn reserve(&self, cx: Cx<'_, Way<F, T>>, tx: &mut Tx) -> Result<(), StepError<TransferError>> {
        super::file(cx, self.0, tx).await
    }

    async fn confirm(&self, cx: Cx<'_, Way<F, T>>, (): (), tx: &mut Tx) -> Result<(), BoxError> {
        let id = TransferId(cx.key.to_owned());
        let settle = Settle { id: id.clone(), order: cx.input.order, by: self.0 };
        cx.sender.send(&id, settle).within(tx).await?;
        Ok(())
    }

    async fn cancel(&self, cx: Cx<'_, Way<F, T>>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        let id = TransferId(cx.key.to_owned());
        let decline = Decline { id: id.clone(), order: cx.input.order, why: None, by: self.0 };
        match cx.sender.send(&id, decline).within(tx).await {
            // It was never this one's.
            Err(CommandError::Refused(TransferError::OtherMethod | TransferError::Over)) => Ok(()),
            declined => Ok(declined.map(drop)?),
        }
    }
}

/// At the bank that the money comes from: set aside, then spent or released.
struct Take;

impl<F: Side, T: Side> Tcc<Way<F, T>> for Take {
    const NAME: &'static str = "take";
    type Held = ();
    type Refusal = Refusal;
    type Place = Guarded<At<F>>;

    async fn reserve(&self, cx: Cx<'_, Way<F, T>>, tx: &mut GuardedTx) -> Result<(), StepError<Refusal>> {
        ledger::reserve(tx, &cx.input.order).await
    }

    async fn confirm(&self, cx: Cx<'_, Way<F, T>>, (): (), tx: &mut GuardedTx) -> Result<(), BoxError> {
        ledger::spend(tx, cx.key, &cx.input.order).await.map_err(failed)
    }

    async fn cancel(&self, cx: Cx<'_, Way<F, T>>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        ledger::release(tx, &cx.input.order).await.map_err(failed)
    }
}

/// At the other bank: promised, then accepted, also if the bank has closed since then.
struct Put;

impl<F: Side, T: Side> Tcc<Way<F, T>> for Put {
    const NAME: &'static str = "put";
    type Held = ();
    type Refusal = Refusal;
    type Place = Guarded<At<T>>;

    async fn reserve(&self, cx: Cx<'_, Way<F, T>>, tx: &mut GuardedTx) -> Result<(), StepError<Refusal>> {
        ledger::expect(tx, &cx.input.order).await
    }

    async fn confirm(&self, cx: Cx<'_, Way<F, T>>, (): (), tx: &mut GuardedTx) -> Result<(), BoxError> {
        ledger::accept(tx, cx.key, &cx.input.order).await.map_err(failed)
    }

    async fn cancel(&self, cx: Cx<'_, Way<F, T>>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        ledger::expect_no_more(tx, &cx.input.order).await.map_err(failed)
    }
}

pub(super) fn wire(app: AppBuilder<PgBackend>) -> AppBuilder<PgBackend> {
    app.tcc(tcc::<A, B>()).tcc(tcc::<B, A>())
}

pub(super) async fn transfer(app: &App, key: &str, order: Order) -> Result<Outcome, Trouble> {
    let run = match order.from.bank {
        Bank::A => app.run_tcc(key, Way::<A, B>::new(order)).await,
        Bank::B => app.run_tcc(key, Way::<B, A>::new(order)).await,
    };
    ended(app, key, &order, run).await
}

/// How many have not ended.
pub(super) async fn open(app: &App) -> anyhow::Result<usize> {
    let [from_a, from_b] = [app.tcc_runs::<Way<A, B>>()?, app.tcc_runs::<Way<B, A>>()?];
    Ok(open_runs(&from_a).await? + open_runs(&from_b).await?)
}
