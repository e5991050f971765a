//! What leaves by a relay, and what is sent at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use es_core::App;
use es_core::prelude::*;
use es_core::store::{Append, Commit, EventFilter, ExpectedVersion, NewEvent, StreamId};
use es_sqlite::SqliteBackend;
use futures::StreamExt as _;
use sagas::relay::{Message, Relays as _, in_process};
use sagas::{Processes as _, Schedule, Schedules as _, publishes};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::postgres::Server;

const MESSAGES: u64 = 200_000;
const KEYS: u64 = 2_000;
const TIMERS: u64 = 10_000;
/// Until they are due: all are planned by then.
const LATER: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rung {
    n: u64,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "bell")]
enum BellEvent {
    Rung(Rung),
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = u64, event = BellEvent, error = Cracked)]
struct Bell {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("it is cracked")]
struct Cracked;

impl Apply for Bell {
    fn apply(&mut self, _: &BellEvent) {}
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ring {
    n: u64,
}

#[commands]
impl Bell {
    #[create_if_missing]
    fn ring(&self, cmd: Ring) -> Result<Rung, Cracked> {
        Ok(Rung { n: cmd.n })
    }
}

struct Bells;

#[publishes(name = "bells")]
impl Bells {
    fn rung(&self, e: &Rung) -> Message {
        Message::of(&e.n)
    }
}

/// Messages a second, of events that are stored.
async fn relay<B: Backend + Clone>(backend: B) -> anyhow::Result<f64> {
    let came = Arc::new(AtomicU64::new(0));
    let start = || {
        let came = came.clone();
        let receiver = in_process(move |_| {
            came.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        App::on(backend.clone()).relay(Bells, receiver).start()
    };
    // It sends from its first start on.
    start().await?.shutdown(Duration::from_secs(10)).await;
    for first in (0..MESSAGES).step_by(1_000) {
        let append = |n: u64| {
            let event = BellEvent::Rung(Rung { n }).encode()?;
            let (stream, id) = (StreamId::new(format!("bell-{}", n % KEYS))?, uuid::Uuid::new_v4());
            let events = vec![NewEvent::new(id, event, Arc::default())];
            anyhow::Ok(Append { stream, expected: ExpectedVersion::Any, events })
        };
        let appends = (first..first + 1_000).map(append).collect::<Result<_, _>>()?;
        backend.commit(Commit { appends, ..Commit::default() }).await?;
    }
    let started = Instant::now();
    let app = start().await?;
    while came.load(Ordering::Relaxed) < MESSAGES {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = MESSAGES as f64 / started.elapsed().as_secs_f64();
    app.shutdown(Duration::from_secs(10)).await;
    Ok(rate)
}

/// How long it takes from when all are due until the last command of them has acted.
async fn timers<B: Backend + Clone>(backend: B) -> anyhow::Result<Duration> {
    let app = App::on(backend.clone()).aggregate::<Bell>().process::<Schedule>().start().await?;
    let due = backend.now().await? + LATER;
    let plan = |n: u64| app.schedule(due, &n, Ring { n }).into_future();
    let planned = futures::stream::iter(0..TIMERS).map(plan).buffer_unordered(256);
    planned.for_each(|planned| async { drop(planned.expect("it is planned")) }).await;
    anyhow::ensure!(backend.now().await? < due, "planning them took too long");
    let (filter, mut after, mut rung, mut head) =
        (EventFilter::of::<Rung>(), es_core::Position(0), 0, app.store().watch());
    while rung < TIMERS {
        head.mark_unchanged();
        let page = app.store().read(&filter, after, 1_000).await?;
        (after, rung) = (page.through, rung + page.events.len() as u64);
        if !page.more && rung < TIMERS {
            head.changed().await?;
        }
    }
    let late = Duration::try_from(backend.now().await? - due)?;
    app.shutdown(Duration::from_secs(10)).await;
    Ok(late)
}

/// Rounds on both backends.
pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    for _ in 0..rounds {
        let folder = crate::sqlite::folder()?;
        let file = |name: &str| Path::new(folder.path()).join(name);
        runtime.block_on(async {
            say_rate("SQLite", relay(SqliteBackend::open(file("relay.db")).await?).await?);
            say_late("SQLite", timers(SqliteBackend::open(file("timers.db")).await?).await?);
            anyhow::Ok(())
        })?;
        server.make("relay")?;
        server.make("timers")?;
        let urls = [server.url("relay")?, server.url("timers")?];
        runtime.block_on(async {
            say_rate("PostgreSQL", relay(es_postgres::PgBackend::connect(&urls[0]).await?).await?);
            say_late("PostgreSQL", timers(es_postgres::PgBackend::connect(&urls[1]).await?).await?);
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say_rate(store: &str, rate: f64) {
    println!("{store}: {rate:.0} messages/s to a receiver in the process, {MESSAGES} of {KEYS} keys");
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say_late(store: &str, late: Duration) {
    println!("{store}: {TIMERS} commands that were due at once had acted {late:.2?} later");
}
