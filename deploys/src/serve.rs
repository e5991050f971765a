//! A program: its wiring, and how it follows orders.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use es_core::AppBuilder;
use es_core::prelude::*;
use es_core::processor::{ProcessorOptions, ProcessorState, ProcessorStatus};
use es_postgres::PgBackend;
use es_sqlite::SqliteBackend;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;

use crate::{Check, Effects, Order, Report};

/// Short, so that the work of a process which was killed is soon taken over.
const LEASE: Duration = Duration::from_millis(800);
/// It only ends a run that fails.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two commands: how much load a process makes.
const PACE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(20);
/// Accounts that all processes use, and those of each process.
const ACCOUNTS: u32 = 20;

/// A program of the service.
#[expect(async_fn_in_trait, reason = "only called here, and not from several threads")]
pub trait Program {
    /// Its projections and reactors, on a server.
    fn on_postgres(app: AppBuilder<PgBackend>) -> AppBuilder<PgBackend>;

    /// The same, in a file.
    fn on_sqlite(app: AppBuilder<SqliteBackend>) -> AppBuilder<SqliteBackend>;

    /// Sends one command to an account; a number up to 100 says which. Some write what the program before cannot read.
    async fn act(app: &App, account: &str, percent: u32, unreadable_before: bool) -> anyhow::Result<Sent>;

    /// Compares each projection with a plain fold.
    ///
    /// # Errors
    ///
    /// How they differ, or why they could not be compared.
    async fn check(check: &mut Check<'_>) -> anyhow::Result<()>;
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "that is all")]
pub enum Sent {
    /// It is stored.
    Done,
    /// The domain or another writer said no; or, of a server that is busy, it may have happened.
    Refused,
    /// The program cannot read its aggregate.
    Unreadable,
}

/// What became of a command.
///
/// # Errors
///
/// What is no answer that a deploy explains.
pub fn sent<D, E: std::error::Error + Send + Sync + 'static>(
    outcome: Result<D, CommandError<E>>,
) -> anyhow::Result<Sent> {
    match outcome {
        Ok(_) => Ok(Sent::Done),
        Err(error) => match error.kind() {
            ErrorKind::Refused | ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Unknown => {
                Ok(Sent::Refused)
            }
            _ if matches!(error, CommandError::Decode(_)) => Ok(Sent::Unreadable),
            _ => Err(error.into()),
        },
    }
}

/// Runs a program: `STORE NAME EFFECTS KEEP_VERSIONS_MS works|looks-on`, the first a URL or a path; then orders from
/// standard input.
///
/// # Errors
///
/// It does not start.
pub fn main<P: Program>() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [store, name, effects, keep, role] = <[String; 5]>::try_from(args).ok().context("five arguments")?;
    let (effects, kept) = (Path::new(&effects), Duration::from_millis(keep.parse()?));
    let run = async {
        let (app, began) = start::<P>(&store, effects, kept, role == "looks-on").await?;
        say(&Report::Started);
        let followed = {
            let mut ready = pin!(ready::<P>(&app, began));
            let mut follow = pin!(follow::<P>(&app, &name));
            tokio::select! {
                followed = &mut follow => followed,
                is_ready = &mut ready => match is_ready {
                    Ok(()) => follow.await,
                    Err(error) => Err(error.context("when it was ready")),
                },
            }
        };
        anyhow::ensure!(app.shutdown(LIMIT).await, "it did not end in time");
        followed
    };
    let outcome = tokio::runtime::Runtime::new()?.block_on(run);
    if let Err(error) = &outcome {
        say(&Report::Failed(format!("{error:#}")));
    }
    outcome
}

/// The app, and where the log was before.
async fn start<P: Program>(
    store: &str,
    effects: &Path,
    kept: Duration,
    looks_on: bool,
) -> anyhow::Result<(App, Position)> {
    let effects = Effects::open(effects)?;
    Ok(if store.starts_with("postgres") {
        let backend = PgBackend::connect(store).await?;
        let began = backend.head().await?;
        (P::on_postgres(wired(backend, effects, kept, looks_on)).start().await?, began)
    } else {
        let backend = SqliteBackend::open(store).await?;
        let began = backend.head().await?;
        (P::on_sqlite(wired(backend, effects, kept, looks_on)).start().await?, began)
    })
}

fn wired<B: Backend>(backend: B, effects: Effects, kept: Duration, looks_on: bool) -> AppBuilder<B> {
    let options = ProcessorOptions::default().retries(4, RETRY, RETRY * 10).keep_versions(kept);
    let app = App::on(backend).provide(effects).lease(LEASE).processors(options);
    if looks_on { app.looks_on() } else { app }
}

/// Once it is ready, what it answers has every event from before it began: that is not waited for.
async fn ready<P: Program>(app: &App, began: Position) -> anyhow::Result<()> {
    // An older program may never be: it cannot read what a newer one writes.
    while let Err(late) = app.until_ready(LIMIT / 8).await {
        let late_ones = app.processors().iter().filter(|processor| !processor.is_ready());
        let builds: Vec<_> = late_ones.map(es_core::processor::Processor::builds).collect();
        say(&Report::NotReady(format!("{late}; {builds:?}")));
    }
    anyhow::ensure!(app.ready(), "it was ready, and is not any more");
    P::check(&mut Check::up_to(app, began).await?).await?;
    say(&Report::Ready);
    Ok(())
}

async fn follow<P: Program>(app: &App, name: &str) -> anyhow::Result<()> {
    let mut orders = orders();
    let mut rng = StdRng::seed_from_u64(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Send { commands, unreadable_before } => {
                say(&load::<P>(app, name, &mut rng, commands, unreadable_before).await?);
            }
            Order::Check => {
                let mut check = Check::of_all(app, LIMIT).await?;
                P::check(&mut check).await?;
                say(&check.report());
            }
            Order::Parked => say(&parked(app).await?),
            Order::TakeBack => {
                for processor in app.processors() {
                    let works = |now: &ProcessorStatus| now.state < ProcessorState::StandingBy;
                    tokio::time::timeout(LIMIT, processor.watch().wait_for(works)).await??;
                }
                say(&Report::TookBack);
            }
            Order::Stop => break,
        }
    }
    Ok(())
}

/// The orders of the test; they end with it.
fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (give, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).unwrap_or(Order::Stop);
            if give.send(order).is_err() {
                break;
            }
        }
    });
    orders
}

async fn load<P: Program>(
    app: &App,
    name: &str,
    rng: &mut StdRng,
    commands: usize,
    unreadable_before: bool,
) -> anyhow::Result<Report> {
    let (mut done, mut refused, mut unreadable) = (0, 0, 0);
    for _ in 0..commands {
        let whose = if rng.random_bool(0.4) { "all" } else { name };
        let account = format!("{whose}-{}", rng.random_range(0..ACCOUNTS));
        match P::act(app, &account, rng.random_range(0..100), unreadable_before).await? {
            Sent::Done => done += 1,
            Sent::Refused => refused += 1,
            Sent::Unreadable => unreadable += 1,
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(Report::Sent { done, refused, unreadable })
}

async fn parked(app: &App) -> anyhow::Result<Report> {
    let mut all = BTreeMap::new();
    for processor in app.processors() {
        let parked = processor.parked(None, 100).await?;
        let skipped = processor.skipped().await?;
        let said: Vec<String> = parked.iter().map(said).chain(skipped.iter().map(said)).collect();
        if !said.is_empty() {
            all.insert(processor.name().to_owned(), said);
        }
    }
    Ok(Report::Parked(all))
}

fn said(what: &impl fmt::Debug) -> String {
    format!("{what:?}")
}

/// One line; whoever does not listen any more has ended.
fn say(report: &Report) {
    let line = serde_json::to_string(report).expect("a report is JSON");
    drop(writeln!(io::stdout().lock(), "{line}"));
}
