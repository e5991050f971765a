//! Flows of a process: four events and three commands each, 32 at a time, from the first command until the last event can be
//! read. And how long a step of one takes at 30 % of that rate: from an event to the event of the command that the process
//! sends.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench_kit::{AT_ONCE, Flows};
use es_core::App;
use es_core::prelude::*;
use es_core::store::EventFilter;
use es_sqlite::SqliteBackend;
use sagas::{Next, Processes as _, process};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::postgres::Server;

const FLOWS: u64 = 8_000;
const STEPS: u64 = 2_000;
/// Of the rate with 32 at a time.
const LOAD: f64 = 0.3;

macro_rules! kind {
    ($prefix:literal, $aggregate:ident, $event:ident, $does:ident, $command:ident, $done:ident) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        struct $done {
            flow: u64,
        }
        #[derive(Event, Clone, Debug, PartialEq)]
        #[event(prefix = $prefix)]
        enum $event {
            $done($done),
        }
        #[derive(Aggregate, Clone, Debug, Default)]
        #[aggregate(id = u64, event = $event, error = Never)]
        struct $aggregate {}
        impl Apply for $aggregate {
            fn apply(&mut self, _: &$event) {}
        }
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        struct $command {
            flow: u64,
        }
        #[commands]
        impl $aggregate {
            #[create_if_missing]
            fn $does(&self, cmd: $command) -> Result<$done, Never> {
                Ok($done { flow: cmd.flow })
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Never {}

impl std::fmt::Display for Never {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

kind!("order", Order, OrderEvent, place, Place, Placed);
kind!("stock", Stock, StockEvent, reserve, Reserve, Reserved);
kind!("payment", Payment, PaymentEvent, charge, Charge, Charged);
kind!("parcel", Parcel, ParcelEvent, ship, Ship, Shipped);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sale {}

#[process(name = "sale", key = u64, sends(Reserve, Charge, Ship))]
impl Sale {
    #[starts(by = flow)]
    fn placed(&mut self, e: &Placed) -> Next<Self> {
        Next::send(&e.flow, Reserve { flow: e.flow })
    }
    #[on(by = flow)]
    fn reserved(&mut self, e: &Reserved) -> Next<Self> {
        Next::send(&e.flow, Charge { flow: e.flow })
    }
    #[on(by = flow)]
    fn charged(&mut self, e: &Charged) -> Next<Self> {
        Next::send(&e.flow, Ship { flow: e.flow })
    }
    #[on(by = flow)]
    fn shipped(&mut self, _: &Shipped) -> Next<Self> {
        Next::end()
    }
}

/// Who waits for the end of which flow.
type Ends = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

/// And half of the steps took so long at most.
async fn round<B: Backend>(backend: B, flows: u64) -> anyhow::Result<(Flows, Duration)> {
    let app = App::on(backend).aggregate::<Order>().aggregate::<Stock>().aggregate::<Payment>();
    let app = app.aggregate::<Parcel>().process::<Sale>().start().await?;
    let ends = Ends::default();
    let listener = tokio::spawn(listen(app.clone(), ends.clone(), EventFilter::of::<Shipped>()));
    let flow = |flow: u64| {
        let (app, ends) = (app.clone(), ends.clone());
        async move {
            let (sender, ended) = oneshot::channel();
            ends.lock().expect("nobody panics").insert(flow, sender);
            app.send(&flow, Place { flow }).await?;
            Ok(ended.await?)
        }
    };
    let done = bench_kit::flows(flows, flow).await?;
    listener.abort();
    let step = steps(&app, flows, LOAD * done.rate).await?;
    app.shutdown(Duration::from_secs(10)).await;
    Ok((done, step))
}

/// Flows that begin at a rate, whatever became of those before.
async fn steps(app: &App, behind: u64, rate: f64) -> anyhow::Result<Duration> {
    let ends = Ends::default();
    let listener = tokio::spawn(listen(app.clone(), ends.clone(), EventFilter::of::<Reserved>()));
    let (begun, mut steps) = (tokio::time::Instant::now(), Vec::new());
    for n in 0..STEPS {
        tokio::time::sleep_until(begun + Duration::from_secs_f64(n as f64 / rate)).await;
        let (app, ends, flow) = (app.clone(), ends.clone(), behind + 1 + n);
        steps.push(tokio::spawn(async move {
            let (sender, reserved) = oneshot::channel();
            ends.lock().expect("nobody panics").insert(flow, sender);
            app.send(&flow, Place { flow }).await?;
            let placed = Instant::now();
            reserved.await?;
            anyhow::Ok(placed.elapsed())
        }));
    }
    let mut took = Vec::new();
    for step in steps {
        took.push(step.await??);
    }
    listener.abort();
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

/// Reads such events of flows, as soon as they are there.
async fn listen(app: App, ends: Ends, filter: EventFilter) -> anyhow::Result<()> {
    let (mut after, mut head) = (es_core::Position(0), app.store().watch());
    loop {
        head.mark_unchanged();
        let page = app.store().read(&filter, after, 1_000).await?;
        for event in &page.events {
            let flow = event.stream.as_str().rsplit('-').next().and_then(|id| id.parse().ok());
            let waits = flow.and_then(|flow: u64| ends.lock().expect("nobody panics").remove(&flow));
            waits.map(|waits| waits.send(()));
        }
        after = page.through;
        if !page.more {
            head.changed().await?;
        }
    }
}

/// Rounds on both backends, and of a peer on PostgreSQL.
pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    let peers = crate::postgres::peers()?;
    for _ in 0..rounds {
        let folder = crate::sqlite::folder()?;
        let file = Path::new(folder.path()).join("flows.db");
        say_both("SQLite", runtime.block_on(async { round(SqliteBackend::open(file).await?, FLOWS).await })?);
        let url = anew(&server)?;
        let backend = es_postgres::PgBackend::connect(&url);
        say_both("PostgreSQL", runtime.block_on(async { round(backend.await?, FLOWS).await })?);
        let peer = Command::new(&peers).args(["flows", &anew(&server)?, &FLOWS.to_string()]).output()?;
        anyhow::ensure!(peer.status.success(), "mire-sagas: {}", String::from_utf8_lossy(&peer.stderr));
        say("mire-sagas on PostgreSQL", serde_json::from_slice(&peer.stdout)?);
    }
    Ok(())
}

/// An empty database.
fn anew(server: &Server) -> anyhow::Result<String> {
    server.run("drop database if exists flows with (force)")?;
    server.make("flows")?;
    server.url("flows")
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say_both(side: &str, (flows, step): (Flows, Duration)) {
    say(side, flows);
    println!(
        "{side}: from an event to that of the command it leads to, at {:.0} % of that rate: p50 {step:.1?}",
        LOAD * 100.0
    );
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say(side: &str, Flows { rate, p50, p99 }: Flows) {
    println!("{side}: {rate:.0} flows/s, {AT_ONCE} at a time; p50 {p50:.1?}, p99 {p99:.1?}");
}
