//! By an undo log: both banks do it at once, and take it back if one of them refuses. Nobody writes how.

use std::marker::PhantomData;
use std::time::Duration;

use es_core::AppBuilder;
use es_core::guard::{GuardedDatabase, UndoLog};
use es_core::prelude::*;
use es_core::store::StoreError;
use es_postgres::{PgBackend, PgUndoLog, Tx, UndoTx};
use sagas::saga::{Cx, Retry, StepError};
use sagas::tcc::{TccApp as _, TccTransaction, Tccs as _, Tracked, Undoable};

use super::tcc::File;
use super::way::{A, B, Side, Way};
use super::{Method, Trouble, open_runs};
use crate::banks::Banks;
use crate::ledger;
use crate::transfer::{Bank, Order, Outcome, Refusal};

const TABLES: [&str; 2] = ["public.accounts", "public.ledger"];

/// The database of a bank, which notes what a call changes.
struct Noted<S>(PgUndoLog, PhantomData<fn() -> S>);

impl<S: Side> Noted<S> {
    fn of(banks: &Banks) -> Self {
        Self(log(banks, S::BANK), PhantomData)
    }
}

impl<S: Side> GuardedDatabase for Noted<S> {
    type Tx = UndoTx;

    async fn begin(&self) -> Result<UndoTx, StoreError> {
        self.0.begin().await
    }
}

impl<S: Side> UndoLog for Noted<S> {
    fn is_taken(error: &(dyn std::error::Error + 'static)) -> bool {
        PgUndoLog::is_taken(error)
    }
}

/// `file`, `take` and `put`: each at the same time as the others.
fn tcc<F: Side, T: Side>() -> TccTransaction<Way<F, T>, Tx> {
    let tcc = TccTransaction::new(&format!("undo-log-{}", F::FROM), 1).deadline(Duration::from_mins(5));
    tcc.branch(File(Method::UndoLog)).branch(Tracked(Take)).branch(Tracked(Put)).build()
}

/// A row that another transfer has changed is free once that is decided: soon.
fn soon() -> Retry {
    Retry::default().pauses(Duration::from_millis(20), Duration::from_secs(1)).tries(12)
}

struct Take;

impl<F: Side, T: Side> Undoable<Way<F, T>> for Take {
    const NAME: &'static str = "take";
    type Output = ();
    type Refusal = Refusal;
    type Database = Noted<F>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut UndoTx) -> Result<(), StepError<Refusal>> {
        ledger::take(tx, cx.key, &cx.input.order).await
    }

    fn retry(&self) -> Retry {
        soon()
    }
}

struct Put;

impl<F: Side, T: Side> Undoable<Way<F, T>> for Put {
    const NAME: &'static str = "put";
    type Output = ();
    type Refusal = Refusal;
    type Database = Noted<T>;

    async fn run(&self, cx: Cx<'_, Way<F, T>>, tx: &mut UndoTx) -> Result<(), StepError<Refusal>> {
        ledger::put(tx, cx.key, &cx.input.order).await
    }

    fn retry(&self) -> Retry {
        soon()
    }
}

fn log(banks: &Banks, bank: Bank) -> PgUndoLog {
    PgUndoLog::new(banks.pool(bank).clone()).with_lock_timeout(super::LOCKS)
}

/// Has both banks note what is changed, if they do not yet. They do so from then on, whoever changes it.
pub(super) async fn ready(banks: &Banks) -> anyhow::Result<()> {
    for bank in Bank::ALL {
        let log = log(banks, bank);
        log.install().await?;
        let tracked = "select count(*) from es_undo.tables where tab = any ($1::text[]::regclass[])";
        let tracked: i64 = sqlx::query_scalar(tracked).bind(TABLES).fetch_one(log.pool()).await?;
        if usize::try_from(tracked)? < TABLES.len() {
            log.track(&TABLES).await?;
        }
    }
    Ok(())
}

pub(super) fn wire(app: AppBuilder<PgBackend>, banks: &Banks) -> AppBuilder<PgBackend> {
    let app = app.provide(Noted::<A>::of(banks)).provide(Noted::<B>::of(banks));
    app.tcc(tcc::<A, B>()).tcc(tcc::<B, A>())
}

pub(super) async fn transfer(app: &App, key: &str, order: Order) -> Result<Outcome, Trouble> {
    super::tcc::transfer(app, key, order).await
}

/// How many have not ended, and how many calls have rows that they keep from others.
pub(super) async fn open(app: &App, banks: &Banks) -> anyhow::Result<usize> {
    let [from_a, from_b] = [app.tcc_runs::<Way<A, B>>()?, app.tcc_runs::<Way<B, A>>()?];
    let mut open = open_runs(&from_a).await? + open_runs(&from_b).await?;
    for bank in Bank::ALL {
        open += log(banks, bank).undecided().await?.len();
    }
    Ok(open)
}
