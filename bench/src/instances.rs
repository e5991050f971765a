//! What age costs a process: the same events and timers where few instances are, and where a hundred thousand are open and a
//! million have ended.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_kit::Peak;
use es_core::App;
use es_core::prelude::*;
use es_core::store::{Append, Commit, EventFilter, ExpectedVersion, NewEvent, Position, StreamId};
use es_sqlite::SqliteBackend;
use sagas::{Next, Processes as _, Timer, process};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::measure::median;
use crate::postgres::Server;

/// Instances that events and timers come to, each once a round.
const PROBES: u64 = 10_000;
const OPEN: u64 = 100_000;
const ENDED: u64 = 1_000_000;
/// Of each figure, where few are and where many are; their median counts.
const ROUNDS: u64 = 3;
const APPENDED: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    card: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Passed {
    card: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    card: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wound {
    card: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rung {
    card: u64,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "card")]
enum CardEvent {
    Opened(Opened),
    Passed(Passed),
    Seen(Seen),
    Wound(Wound),
    Rung(Rung),
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = u64, event = CardEvent, error = Torn)]
struct Card {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("it is torn")]
struct Torn;

impl Apply for Card {
    fn apply(&mut self, _: &CardEvent) {}
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ring {
    card: u64,
}

#[commands]
impl Card {
    #[create_if_missing]
    fn ring(&self, cmd: Ring) -> Result<Rung, Torn> {
        Ok(Rung { card: cmd.card })
    }
}

/// What an instance is for: events find it by the card that it is associated with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Watch {
    card: u64,
    seen: u64,
}

/// Is due at once.
#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Alarm {}

/// Waits in the queue of timers, as long as this is measured.
#[derive(Timer, Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Expired {}

#[process(name = "watch", key = u64, sends(Ring))]
impl Watch {
    #[starts(by = card)]
    fn opened(&mut self, e: &Opened) -> Next<Self> {
        self.card = e.card;
        Next::wait().associate("card", e.card).timer(Duration::from_hours(1_000), Expired {})
    }

    #[starts(by = card)]
    fn passed(&mut self, _: &Passed) -> Next<Self> {
        Next::end()
    }

    #[on(by = card, via = "card")]
    fn seen(&mut self, _: &Seen) -> Next<Self> {
        self.seen += 1;
        Next::wait()
    }

    #[on(by = card, via = "card")]
    fn wound(&mut self, _: &Wound) -> Next<Self> {
        Next::wait().timer(Duration::ZERO, Alarm {})
    }

    #[timer]
    fn rings(&mut self, _: Alarm) -> Next<Self> {
        Next::send(&self.card, Ring { card: self.card })
    }

    #[timer]
    fn expired(&mut self, _: Expired) -> Next<Self> {
        Next::end()
    }
}

/// What one store did: with few instances, and with many.
#[derive(Debug)]
struct Aged {
    /// Of events that find their instance, in a second.
    seen: [f64; 2],
    /// Of timers that fire and send a command that acts, in a second.
    rung: [f64; 2],
    /// Until they were many, and from then on.
    peaks: [Peak; 2],
}

async fn age<B: Backend + Clone>(backend: B) -> anyhow::Result<Aged> {
    let start = || App::on(backend.clone()).aggregate::<Card>().process::<Watch>().start();
    // It works from its first start on.
    start().await?.shutdown(Duration::from_secs(10)).await;
    Peak::begin();
    fill(&backend, start().await?, (0..PROBES).map(opened)).await?;
    let mut young = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        young.0.push(see(&backend, start().await?, 1).await?);
        young.1.push(wind(&backend, start().await?, 1).await?);
    }
    let passed = (OPEN..OPEN + ENDED).map(|card| event(card, CardEvent::Passed(Passed { card })));
    fill(&backend, start().await?, (PROBES..OPEN).map(opened).chain(passed)).await?;
    let filled = Peak::now();
    Peak::begin();
    let mut old = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        old.0.push(see(&backend, start().await?, OPEN / PROBES).await?);
        old.1.push(wind(&backend, start().await?, OPEN / PROBES).await?);
    }
    let [seen, rung] = [[young.0, old.0], [young.1, old.1]].map(|rates| rates.map(median));
    Ok(Aged { seen, rung, peaks: [filled, Peak::now()] })
}

fn opened(card: u64) -> anyhow::Result<Append> {
    event(card, CardEvent::Opened(Opened { card }))
}

fn event(card: u64, event: CardEvent) -> anyhow::Result<Append> {
    let events = vec![NewEvent::new(Uuid::new_v4(), event.encode()?, Arc::default())];
    Ok(Append { stream: StreamId::new(format!("card-{card}"))?, expected: ExpectedVersion::Any, events })
}

/// Appends events, a thousand in a commit. Gives the last position.
async fn append<B: Backend>(
    backend: &B,
    mut events: impl Iterator<Item = anyhow::Result<Append>>,
) -> anyhow::Result<Position> {
    loop {
        let appends = events.by_ref().take(APPENDED).collect::<anyhow::Result<Vec<_>>>()?;
        if appends.is_empty() {
            return Ok(backend.head().await?);
        }
        backend.commit(Commit { appends, ..Commit::default() }).await?;
    }
}

/// Appends events, until the process has taken them in.
async fn fill<B: Backend>(
    backend: &B,
    app: App,
    events: impl Iterator<Item = anyhow::Result<Append>>,
) -> anyhow::Result<()> {
    let last = append(backend, events).await?;
    app.processors()[0].reach(last, LIMIT).await?;
    app.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// Every so manyth instance is found by an event.
async fn see<B: Backend>(backend: &B, app: App, step: u64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let cards = (0..PROBES).map(|n| n * step);
    fill(backend, app, cards.map(|card| event(card, CardEvent::Seen(Seen { card })))).await?;
    Ok(PROBES as f64 / begun.elapsed().as_secs_f64())
}

/// Every so manyth instance sets a timer that is due, which sends a command.
async fn wind<B: Backend>(backend: &B, app: App, step: u64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let cards = (0..PROBES).map(|n| n * step);
    let (filter, mut after, mut rung, mut head) =
        (EventFilter::of::<Rung>(), backend.head().await?, 0, app.store().watch());
    append(backend, cards.map(|card| event(card, CardEvent::Wound(Wound { card })))).await?;
    while rung < PROBES {
        head.mark_unchanged();
        let page = backend.read(&filter, after, 1_000).await?;
        (after, rung) = (page.through, rung + page.events.len() as u64);
        if !page.more && rung < PROBES {
            head.changed().await?;
        }
    }
    let rate = PROBES as f64 / begun.elapsed().as_secs_f64();
    app.shutdown(Duration::from_secs(10)).await;
    Ok(rate)
}

/// On both backends. The memory of a process is that of its embedded store, too: each has its own.
pub fn run(runtime: &Runtime) -> anyhow::Result<()> {
    let folder = crate::sqlite::folder()?;
    let file = Path::new(folder.path()).join("instances.db");
    say("SQLite", &runtime.block_on(async { age(SqliteBackend::open(file).await?).await })?);
    let server = Server::start()?;
    server.make("instances")?;
    let url = server.url("instances")?;
    say("PostgreSQL", &runtime.block_on(async { age(es_postgres::PgBackend::connect(&url).await?).await })?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say(store: &str, Aged { seen, rung, peaks }: &Aged) {
    let line = |what: &str, [young, old]: [f64; 2]| {
        println!(
            "{store}: {what}: {young:.0}/s with {PROBES} instances, {old:.0}/s with {OPEN} and {ENDED} that have ended; ratio {:.2}",
            old / young
        );
    };
    line("events that find their instance", *seen);
    line("timers that send a command", *rung);
    let [filled, old] = peaks.map(Peak::mib);
    println!("{store}: peak memory of the process {filled} MiB until they were many, {old} MiB then");
}
