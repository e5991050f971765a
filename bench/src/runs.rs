//! Orchestrated sagas of four steps, beside bare commits of the same row on the same server, and beside TCCs of as many
//! writes; and in memory.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bench_kit::AT_ONCE;
use es_core::memory::MemoryBackend;
use es_core::store::{Table, Transaction};
use es_core::{App, Backend, BoxError};
use es_postgres::{PgBackend, Tx};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sagas::saga::{
    Cx, Journal, OrRetry as _, Outcome, Place, PlaceOn, Ran, Saga, SagaApp as _, SagaInput, Sagas as _,
    Staged, Staging, Step, StepError, Undo,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::runtime::Runtime;

use crate::measure::median;
use crate::postgres::Server;
use crate::tccs::tccs;

const RUNS: u64 = 6_000;
const ONE_AT_A_TIME: u64 = 500;
const IN_MEMORY: u64 = 100_000;
const TABLE: &str = "create table work (id bigint generated always as identity primary key, run text not null, what text not null)";
const INSERT: &str = "insert into work (run, what) values ($1, $2)";

/// What is done, and whether the last step says no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) refuses: bool,
}
impl SagaInput for Work {}

/// What is handed to a step.
pub(crate) type Handed<E, T> = <<E as Effect<T>>::Place as Place>::At;

/// What a step does in the database, and how.
pub(crate) trait Effect<T: Transaction>: Send + Sync + 'static {
    type Place: PlaceOn<T>;

    fn act(
        at: &mut Handed<Self, T>,
        run: &str,
        what: &'static str,
    ) -> impl Future<Output = Result<(), BoxError>> + Send
    where
        Self: Sized;
}

/// A row, by a statement in its transaction.
struct Writes;
impl Effect<Tx> for Writes {
    type Place = Journal<Tx>;
    async fn act(tx: &mut Tx, run: &str, what: &'static str) -> Result<(), BoxError> {
        Ok(sqlx::query(INSERT).bind(run).bind(what).execute(&mut **tx).await.map(drop)?)
    }
}

/// Nothing, in a transaction: only the journal is written.
struct Nothing;
impl<T: Transaction> Effect<T> for Nothing {
    type Place = Journal<T>;
    async fn act(_: &mut T, _: &str, _: &'static str) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A row of the row store, which is staged.
struct Stages;
impl<T: Transaction> Effect<T> for Stages {
    type Place = Staged;
    async fn act(at: &mut Staging, run: &str, what: &'static str) -> Result<(), BoxError> {
        let table = Table::<String>::new("work")?;
        Ok(at.write(table.insert(format!("{run}/{what}"), what.to_owned())?)?)
    }
}

/// Nothing is staged: only the journal is written.
struct StagesNothing;
impl<T: Transaction> Effect<T> for StagesNothing {
    type Place = Staged;
    async fn act(_: &mut Staging, _: &str, _: &'static str) -> Result<(), BoxError> {
        Ok(())
    }
}

macro_rules! steps { ($($step:ident $name:literal)+) => { $(
    struct $step<T, E>(PhantomData<fn() -> (T, E)>);
    impl<T: Transaction, E: Effect<T>> Step<Work> for $step<T, E> {
        const NAME: &'static str = $name;
        type Needs = ();
        type Output = u64;
        type Refusal = Infallible;
        type Place = E::Place;
        async fn run(&self, cx: Cx<'_, Work, ()>, tx: &mut Handed<E, T>) -> Result<u64, StepError<Infallible>> {
            E::act(tx, cx.key, $name).await.or_retry()?;
            Ok(7)
        }
    }
    impl<T: Transaction, E: Effect<T>> Undo<Work> for $step<T, E> {
        async fn undo(&self, cx: Cx<'_, Work, ()>, _: Ran<u64>, tx: &mut Handed<E, T>) -> Result<(), BoxError> {
            E::act(tx, cx.key, concat!("undo ", $name)).await
        }
    }
)+ } }
steps! { Order "order" Stock "stock" Courier "courier" }

struct Pay<T, E>(PhantomData<fn() -> (T, E)>);
impl<T: Transaction, E: Effect<T>> Step<Work> for Pay<T, E> {
    const NAME: &'static str = "pay";
    type Needs = ();
    type Output = u64;
    type Refusal = &'static str;
    type Place = E::Place;
    async fn run(&self, cx: Cx<'_, Work, ()>, tx: &mut Handed<E, T>) -> Result<u64, StepError<&'static str>> {
        if cx.input.refuses {
            return Err(StepError::Refused("declined"));
        }
        E::act(tx, cx.key, "pay").await.or_retry()?;
        Ok(7)
    }
}

fn saga<T: Transaction, E: Effect<T>>() -> Saga<Work, T> {
    Saga::new("work", 1)
        .step(Order::<T, E>(PhantomData))
        .step(Stock::<T, E>(PhantomData))
        .step(Courier::<T, E>(PhantomData))
        .pivot(Pay::<T, E>(PhantomData))
        .build()
}

/// Sagas to their ends, so many at once: how many a second.
async fn sagas<B: Backend, E: Effect<B::Tx>>(
    backend: B,
    n: u64,
    at_once: u64,
    refuses: bool,
) -> anyhow::Result<f64> {
    let app = App::on(backend).saga(saga::<B::Tx, E>()).start().await?;
    // What is looked up at first is known then.
    app.run_saga("first", Work { refuses }).await?;
    let begun = Instant::now();
    let each = |n: u64| {
        let app = app.clone();
        async move {
            let outcome = app.run_saga(&format!("run-{n}"), Work { refuses }).await?;
            ensure!((outcome == Outcome::Completed) != refuses, "{outcome}");
            Ok(())
        }
    };
    at_once_each(n, at_once, each).await?;
    let rate = n as f64 / begun.elapsed().as_secs_f64();
    app.shutdown(Duration::from_secs(10)).await;
    Ok(rate)
}

/// Calls it with each number, so many at once.
pub(crate) async fn at_once_each<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    n: u64,
    at_once: u64,
    each: impl Fn(u64) -> F,
) -> anyhow::Result<()> {
    let mut running = stream::iter(0..n).map(|n| tokio::spawn(each(n))).buffer_unordered(at_once as usize);
    while let Some(done) = running.try_next().await? {
        done?;
    }
    Ok(())
}

/// Commits of a row each, over as many connections: how many a second.
async fn commits(pool: PgPool, n: u64, at_once: u64) -> anyhow::Result<f64> {
    let (begun, next) = (Instant::now(), AtomicU64::new(0));
    let caller = async || {
        while next.fetch_add(1, Ordering::Relaxed) < n {
            sqlx::query(INSERT).bind("run-17").bind("order").execute(&pool).await?;
        }
        anyhow::Ok(())
    };
    futures::future::try_join_all((0..at_once).map(|_| caller())).await?;
    Ok(n as f64 / begun.elapsed().as_secs_f64())
}

/// An empty database with the table that is written.
async fn made(url: &str) -> anyhow::Result<PgPool> {
    let pool =
        PgPoolOptions::new().max_connections(AT_ONCE as u32).test_before_acquire(false).connect(url).await?;
    sqlx::raw_sql(TABLE).execute(&pool).await?;
    Ok(pool)
}

/// Rounds in turn.
#[expect(clippy::print_stdout, reason = "this is the program's answer")]
pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    for (at_once, n) in [(1, ONE_AT_A_TIME), (AT_ONCE, RUNS)] {
        let mut all = Rates::default();
        for _ in 0..rounds {
            all.add(runtime, &server, n, at_once)?;
        }
        all.print(at_once);
    }
    let (mut memory, mut staged) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let backend = MemoryBackend::new;
        memory.push(runtime.block_on(sagas::<_, Nothing>(backend(), IN_MEMORY, AT_ONCE, false))?);
        staged.push(runtime.block_on(sagas::<_, StagesNothing>(backend(), IN_MEMORY, AT_ONCE, false))?);
    }
    println!("in memory, {AT_ONCE} at a time: {:.0} sagas/s", median(memory));
    println!("  of four staged steps: {:.0} sagas/s", median(staged));
    Ok(())
}

/// Rates of the rounds.
#[derive(Default)]
struct Rates {
    raw: Vec<f64>,
    rows: Vec<f64>,
    undone: Vec<f64>,
    journal: Vec<f64>,
    staged: Vec<f64>,
    staged_undone: Vec<f64>,
    staged_journal: Vec<f64>,
    held: Vec<f64>,
    released: Vec<f64>,
}

impl Rates {
    /// A round of each.
    fn add(&mut self, runtime: &Runtime, server: &Server, n: u64, at_once: u64) -> anyhow::Result<()> {
        let url = anew(server)?;
        self.raw.push(runtime.block_on(async { commits(made(&url).await?, 5 * n, at_once).await })?);
        let one = |refuses| Round { runtime, server, n, at_once, refuses };
        self.rows.push(one(false).sagas::<Writes>()?);
        self.undone.push(one(true).sagas::<Writes>()?);
        self.staged.push(one(false).sagas::<Stages>()?);
        self.staged_undone.push(one(true).sagas::<Stages>()?);
        self.held.push(one(false).tccs()?);
        self.released.push(one(true).tccs()?);
        self.journal.push(one(false).sagas::<Nothing>()?);
        self.staged_journal.push(one(false).sagas::<StagesNothing>()?);
        Ok(())
    }

    /// Medians, and their ratios to bare commits: a saga of four steps in transactions makes five.
    #[expect(clippy::print_stdout, reason = "this is the program's answer")]
    fn print(self, at_once: u64) {
        let Self { raw, rows, undone, journal, staged, staged_undone, staged_journal, held, released } = self;
        let [raw, rows, undone, journal, held, released] =
            [raw, rows, undone, journal, held, released].map(median);
        let [staged, staged_undone, staged_journal] = [staged, staged_undone, staged_journal].map(median);
        let fifth = raw / 5.0;
        println!("PostgreSQL, {at_once} at a time: {raw:.0} bare commits/s");
        println!(
            "  four steps that write a row: {rows:.0} sagas/s, {:.2} of a fifth of the commits",
            rows / fifth
        );
        // The third of the steps is the last that runs; three undos and an end.
        println!(
            "  the last refuses, three are undone: {undone:.0} sagas/s, {:.2} of the former",
            undone / rows
        );
        println!("  four steps that write nothing themselves: {journal:.0} sagas/s");
        println!(
            "  four staged steps that write a row: {staged:.0} sagas/s, {:.2} of a fifth of the commits",
            staged / fifth
        );
        println!(
            "  the last refuses, three are undone: {staged_undone:.0} sagas/s, {:.2} of the former",
            staged_undone / staged
        );
        println!("  four staged steps that write nothing themselves: {staged_journal:.0} sagas/s");
        println!(
            "  two branches that write the same four rows: {held:.0} TCCs/s, {:.2} of the sagas",
            held / rows
        );
        println!("  one of them refuses: {released:.0} TCCs/s");
    }
}

/// What is measured in a round, on an empty database.
struct Round<'m> {
    runtime: &'m Runtime,
    server: &'m Server,
    n: u64,
    at_once: u64,
    refuses: bool,
}

impl Round<'_> {
    fn sagas<E: Effect<Tx>>(&self) -> anyhow::Result<f64> {
        let Self { n, at_once, refuses, .. } = *self;
        let url = anew(self.server)?;
        self.runtime.block_on(async {
            made(&url).await?;
            sagas::<_, E>(PgBackend::connect(&url).await?, n, at_once, refuses).await
        })
    }

    fn tccs(&self) -> anyhow::Result<f64> {
        let Self { n, at_once, refuses, .. } = *self;
        let url = anew(self.server)?;
        self.runtime.block_on(async {
            made(&url).await?;
            tccs::<_, Writes>(PgBackend::connect(&url).await?, n, at_once, refuses).await
        })
    }
}

/// An empty database.
fn anew(server: &Server) -> anyhow::Result<String> {
    server.run("drop database if exists runs with (force)")?;
    server.make("runs")?;
    server.url("runs")
}
