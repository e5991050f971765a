//! What appends and conditions cost as a log grows, in 30 partitions, and while another session holds a snapshot.

use std::time::Instant;

use es_core::event::Tag;
use es_core::id::Ids;
use es_core::store::{
    Append, AppendCondition, Commit, EventStore as _, ExpectedVersion, FilterItem, NewEvent, Position,
};
use es_postgres::PgBackend;
use sqlx::{Executor as _, PgConnection};
use tokio::runtime::Runtime;

use super::{EVENTS, fill};
use crate::measure::{median, say};
use crate::postgres::{Server, connect};

const CALLERS: u64 = 32;
/// Appends of each caller in a round, and conditions of one caller.
const APPENDS: u64 = 200;
const CONDITIONS: u64 = 100;
/// Of partitions that begin while this is measured: there are few of them.
const FURTHER: u64 = 1_000_000;

/// A store with so many events.
struct Sized {
    events: u64,
    database: String,
    /// Is filled anew for each round: else what is appended would make it another one.
    small: bool,
}

/// Commits a second, and milliseconds of a condition.
type Figures = (Vec<f64>, Vec<f64>);

pub fn run(runtime: &Runtime, rounds: usize, events: Option<u64>, long: bool) -> anyhow::Result<()> {
    let events = events.unwrap_or(EVENTS);
    let server = Server::start()?;
    let sizes = [Some(events / 100), Some(events), long.then_some(events * 10)];
    let stores: Vec<Sized> = sizes
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(i, events)| Sized { events, database: format!("size{i}"), small: i == 0 })
        .collect();
    for store in &stores {
        store.fill(runtime, &server)?;
    }
    say(&format!(
        "{} commits of {CALLERS} callers, one event each, and {CONDITIONS} conditions; medians of {rounds}:",
        CALLERS * APPENDS
    ));
    say("| events | another session | commits/s | ratio | a condition, ms |");
    say("| ---: | --- | ---: | ---: | ---: |");
    let mut first = None;
    for (held, what) in [(false, ""), (true, "holds a snapshot")] {
        for (store, figures) in stores.iter().zip(measure(runtime, &server, &stores, rounds, held)?) {
            let (rate, condition) = (median(figures.0), median(figures.1));
            let ratio = rate / *first.get_or_insert(rate);
            say(&format!("| {} | {what} | {rate:.0} | {ratio:.2} | {condition:.2} |", store.events));
        }
    }
    Ok(())
}

/// All of them in turn, round by round.
fn measure(
    runtime: &Runtime,
    server: &Server,
    stores: &[Sized],
    rounds: usize,
    held: bool,
) -> anyhow::Result<Vec<Figures>> {
    let mut holders = Vec::new();
    for store in stores.iter().filter(|store| held && !store.small) {
        holders.push(runtime.block_on(hold(&server.url(&store.database)?))?);
    }
    let mut all: Vec<Figures> = stores.iter().map(|_| Figures::default()).collect();
    for _ in 0..rounds {
        for (store, figures) in stores.iter().zip(&mut all) {
            if store.small {
                store.fill(runtime, server)?;
            }
            let (rate, condition) = runtime.block_on(store.round(server, held))?;
            figures.0.push(rate);
            figures.1.push(condition);
        }
    }
    Ok(all)
}

/// A session with a snapshot, until it is dropped.
async fn hold(url: &str) -> anyhow::Result<PgConnection> {
    let mut conn = connect(url).await?;
    conn.execute("begin isolation level repeatable read").await?;
    conn.execute("select 1").await?;
    Ok(conn)
}

impl Sized {
    fn fill(&self, runtime: &Runtime, server: &Server) -> anyhow::Result<()> {
        server.run(&format!("drop database if exists {} with (force)", self.database))?;
        server.make(&self.database)?;
        let url = server.url(&self.database)?;
        runtime.block_on(async {
            let backend = PgBackend::connect(&url).await?;
            fill::log(&backend, self.events).await?;
            backend.partition(FURTHER).await?;
            fill::settle(&mut connect(&url).await?).await
        })
    }

    async fn round(&self, server: &Server, held: bool) -> anyhow::Result<(f64, f64)> {
        let url = server.url(&self.database)?;
        let _holder = if held && self.small { Some(hold(&url).await?) } else { None };
        let backend = PgBackend::connect(&url).await?;
        // Connections are made, and statements prepared.
        appends(&backend, 2).await?;
        let begun = Instant::now();
        appends(&backend, APPENDS).await?;
        let rate = (CALLERS * APPENDS) as f64 / begun.elapsed().as_secs_f64();
        Ok((rate, conditions(&backend).await?))
    }
}

fn one(stream: u64, event: NewEvent, condition: Option<AppendCondition>) -> anyhow::Result<Commit> {
    let stream = fill::stream(stream % fill::STREAMS)?;
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
    Ok(Commit { appends: vec![append], condition, ..Commit::default() })
}

/// To streams of the log, so many of each caller.
async fn appends(backend: &PgBackend, each: u64) -> anyhow::Result<()> {
    let caller = |caller: u64| {
        let backend = backend.clone();
        tokio::spawn(async move {
            let ids = Ids::default();
            for n in 0..each {
                backend.commit(one(caller + n * CALLERS, fill::deposited(&ids)?, None)?).await?;
            }
            anyhow::Ok(())
        })
    };
    for caller in (0..CALLERS).map(caller).collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

/// How long half of them take at most, in milliseconds: no event of the whole log may have both of two tags, of which ten
/// events have one, and all others the other one.
async fn conditions(backend: &PgBackend) -> anyhow::Result<f64> {
    let both = FilterItem::new().with_tag(Tag::parse(fill::COMMON)?).with_tag(Tag::parse(fill::RARE)?);
    let condition = AppendCondition { fail_if_events_match: both.into(), after: Position(0) };
    let (ids, mut took) = (Ids::default(), Vec::new());
    for n in 0..CONDITIONS {
        let commit = one(n, fill::deposited(&ids)?, Some(condition.clone()))?;
        let begun = Instant::now();
        backend.commit(commit).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(took))
}
