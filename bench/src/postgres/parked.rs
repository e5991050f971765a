//! What events that fail cost: a retry of one long sequence while other keys of its range go on, and thousands of keys
//! whose first event fails. Rule K11.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use es_core::prelude::*;
use es_core::processor::{ParkingLimits, ProcessorOptions};
use es_core::projection::{Change, Projection, View};
use es_core::store::{Append, Commit, EventFilter, ExpectedVersion, NewEvent, StreamId};
use es_core::{App, Metadata};
use es_postgres::PgBackend;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::balances::Balance;
use super::processors::{LIMIT, say};
use super::server::Server;
use crate::domain::{AccountEvent, Deposited, deposit};

/// Events of the sequence that is retried, and keys of which each fails.
const EVENTS: u64 = 100_000;
const KEYS: u64 = 10_000;
/// The note of a deposit that fails while it is broken.
const POISON: &str = "poison";
static BROKEN: AtomicBool = AtomicBool::new(true);
/// How often another key of the range gets an event meanwhile.
const EVERY: Duration = Duration::from_millis(20);

/// Fails at what is poisoned.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Fragile {
    amount: i64,
}

impl Projection for Fragile {
    const NAME: &'static str = "fragile";
    fn filter() -> EventFilter {
        Balance::filter()
    }
}

impl View for Fragile {
    type Key = u64;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let Some(deposited) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let (_, account) = event.stream.as_str().rsplit_once('-').ok_or("a stream without an account")?;
        let credit = move |row: &mut Self| {
            if deposited.note == POISON && BROKEN.load(Ordering::Relaxed) {
                return Err("poisoned".into());
            }
            row.amount += deposited.amount;
            Ok(())
        };
        Ok(vec![Change::new(account.parse()?, credit)])
    }
}

pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    for _ in 0..rounds {
        let url = fresh(&server)?;
        runtime.block_on(async { retry(&PgBackend::connect(&url).await?).await })?;
        let url = fresh(&server)?;
        runtime.block_on(async { poisoned(&PgBackend::connect(&url).await?).await })?;
    }
    Ok(())
}

fn fresh(server: &Server) -> anyhow::Result<String> {
    server.run("drop database if exists parked with (force)")?;
    server.make("parked")?;
    server.url("parked")
}

fn poison() -> anyhow::Result<NewEvent> {
    event(POISON)
}

fn event(note: &str) -> anyhow::Result<NewEvent> {
    let data = AccountEvent::Deposited(Deposited { amount: 1, note: note.into() });
    Ok(NewEvent::new(
        es_core::id::Ids::default().next(),
        data.encode()?,
        std::sync::Arc::new(Metadata::default()),
    ))
}

async fn put(backend: &PgBackend, account: u64, events: Vec<NewEvent>) -> anyhow::Result<()> {
    let stream = StreamId::new(format!("account-{account}"))?;
    let append = Append { stream, expected: ExpectedVersion::Any, events };
    backend.commit(Commit { appends: vec![append], ..Commit::default() }).await?;
    Ok(())
}

async fn start(backend: &PgBackend) -> anyhow::Result<App> {
    let options = ProcessorOptions::default().parking(ParkingLimits::new(2 * KEYS as usize, EVENTS));
    Ok(App::on(backend.clone()).view::<Fragile>().processors(options).start().await?)
}

/// A long sequence is handled again. Other keys of the range get events all the while.
async fn retry(backend: &PgBackend) -> anyhow::Result<()> {
    BROKEN.store(true, Ordering::Relaxed);
    for thousand in 0..EVENTS / 1_000 {
        let first = |i: u64| thousand == 0 && i == 0;
        let events = (0..1_000).map(|i| if first(i) { poison() } else { event("") });
        put(backend, 0, events.collect::<anyhow::Result<_>>()?).await?;
    }
    let app = start(backend).await?;
    app.settle(LIMIT).await?;
    let parked = app.processor::<Fragile>()?.parked(None, 2).await?;
    anyhow::ensure!(parked.len() == 1, "one key is parked");
    BROKEN.store(false, Ordering::Relaxed);
    let done = AtomicBool::new(false);
    let retried = async {
        let started = Instant::now();
        let left = app.processor::<Fragile>()?.retry("0", LIMIT).await;
        done.store(true, Ordering::Relaxed);
        anyhow::ensure!(left?.is_none(), "it went through");
        anyhow::Ok(started.elapsed())
    };
    let others = async {
        let (mut tick, mut waits) = (tokio::time::interval(EVERY), Vec::new());
        while !done.load(Ordering::Relaxed) {
            tick.tick().await;
            let receipt = app.send(&(1 + waits.len() as u64 % 100), deposit()).await?;
            let acknowledged = Instant::now();
            app.wait_for::<Fragile>(&receipt, LIMIT).await?;
            waits.push(acknowledged.elapsed());
        }
        anyhow::Ok(waits)
    };
    let (took, waits) = tokio::join!(retried, others);
    let (took, mut waits) = (took?, waits?);
    waits.sort_unstable();
    let millis = |wait: Option<&Duration>| wait.map_or(0.0, |wait| wait.as_secs_f64() * 1_000.0);
    say(&format!(
        "a retry of {} parked events: {:.1} s; meanwhile {} events of other keys of the range were visible after {:.1} ms \
         (median), {:.1} ms (worst)",
        parked[0].events,
        took.as_secs_f64(),
        waits.len(),
        millis(waits.get(waits.len() / 2)),
        millis(waits.last()),
    ));
    app.shutdown(LIMIT).await;
    Ok(())
}

/// Each of many keys is parked.
async fn poisoned(backend: &PgBackend) -> anyhow::Result<()> {
    BROKEN.store(true, Ordering::Relaxed);
    let accounts: Vec<u64> = (0..KEYS).collect();
    for some in accounts.chunks(1_000) {
        let append = |account: &u64| {
            let (stream, expected) = (StreamId::new(format!("account-{account}"))?, ExpectedVersion::Any);
            Ok(Append { stream, expected, events: vec![poison()?] })
        };
        let appends = some.iter().map(append).collect::<anyhow::Result<_>>()?;
        backend.commit(Commit { appends, ..Commit::default() }).await?;
    }
    let started = Instant::now();
    let app = start(backend).await?;
    app.settle(LIMIT).await?;
    let took = started.elapsed();
    let parked = app.processor::<Fragile>()?.status().parked;
    anyhow::ensure!(parked as u64 == KEYS, "{parked} keys are parked");
    say(&format!("{KEYS} poisoned keys of one range: parked in {:.1} s", took.as_secs_f64()));
    app.shutdown(LIMIT).await;
    Ok(())
}
