//! What processors cost: catching up beside a loop by hand, many of them on one log, sharing, how soon a write is seen,
//! and nothing at all.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bench_kit::{Peak, Side as _};
use es_core::prelude::*;
use es_core::projection::{Change, Partition, Project, Projection, View};
use es_core::store::{Append, Commit, EventFilter, ExpectedVersion, NewEvent, StreamId};
use es_core::{App, AppBuilder, Metadata};
use es_postgres::{PgBackend, Tx};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::balances::Balance;
use super::raw::Raw;
use super::server::Server;
use crate::domain::{AccountEvent, Deposited, deposit};
use crate::measure::medians;

const STREAMS: u64 = 2_000;
pub(super) const LIMIT: Duration = Duration::from_secs(600);
/// The share of work of which the handler is the bottleneck: events, and how long the handler waits for each.
const SLOW: (u64, &str) = (8_000, "select pg_sleep(0.001)");

pub fn run(runtime: &Runtime, rounds: usize, long: bool) -> anyhow::Result<()> {
    let server = Server::start()?;
    let events: u64 = if long { 5_000_000 } else { 200_000 };
    fill(runtime, &server, events)?;
    catching_up(runtime, &server, rounds, events)?;
    if !long {
        many(runtime, &server, rounds, events)?;
        visible(runtime, &server)?;
        shared(runtime, &server)?;
        super::effects::measure(runtime, &server)?;
        super::idle::measure(runtime, &server)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
pub(super) fn say(line: &str) {
    println!("{line}");
}

/// One log, scattered over its streams, for both; each round then begins with a copy of it.
fn fill(runtime: &Runtime, server: &Server, events: u64) -> anyhow::Result<()> {
    server.make("filled")?;
    server.make("filled_raw")?;
    let (ours, by_hand) = (server.url("filled")?, server.url("filled_raw")?);
    runtime.block_on(async {
        let backend = PgBackend::connect(&ours).await?;
        let ids = es_core::id::Ids::default();
        let metadata = std::sync::Arc::new(Metadata::default());
        for _ in 0..events / STREAMS {
            let append = |stream: u64| {
                let deposit = deposit();
                let data = AccountEvent::Deposited(Deposited { amount: deposit.amount, note: deposit.note });
                Ok(Append {
                    stream: StreamId::new(format!("account-{stream}"))?,
                    expected: ExpectedVersion::Any,
                    events: vec![NewEvent::new(ids.next(), data.encode()?, metadata.clone())],
                })
            };
            let appends = (0..STREAMS).map(append).collect::<anyhow::Result<_>>()?;
            backend.commit(Commit { appends, ..Commit::default() }).await?;
        }
        Raw::create(&by_hand).await?;
        let raw = Raw::open(&by_hand).await?;
        for _ in 0..events / STREAMS {
            raw.fill(0, STREAMS, 1).await?;
        }
        anyhow::Ok(())
    })?;
    for database in ["filled", "filled_raw"] {
        let vacuum = sqlx::AssertSqlSafe("vacuum analyze".to_owned());
        super::server::ask(&server.url(database)?, async |conn| {
            sqlx::raw_sql(vacuum).execute(conn).await.map(drop)
        })?;
        let idle =
            format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'");
        server.run(&idle)?;
    }
    Ok(())
}

pub(super) fn copy(server: &Server, of: &str) -> anyhow::Result<String> {
    server.run("drop database if exists round with (force)")?;
    server.run(&format!("create database round template {of}"))?;
    server.url("round")
}

/// From the start of the app until everything is taken in.
fn taken_in(
    runtime: &Runtime,
    url: &str,
    wire: impl FnOnce(AppBuilder<PgBackend>) -> AppBuilder<PgBackend>,
) -> anyhow::Result<Duration> {
    runtime.block_on(async {
        let backend = PgBackend::connect(url).await?;
        let started = Instant::now();
        let app = wire(App::on(backend)).start().await?;
        app.settle(LIMIT).await?;
        let took = started.elapsed();
        app.shutdown(LIMIT).await;
        Ok(took)
    })
}

fn catching_up(runtime: &Runtime, server: &Server, rounds: usize, events: u64) -> anyhow::Result<()> {
    let rate = |took: Duration| events as f64 / took.as_secs_f64();
    let before = Peak::now();
    let ours = || Ok(rate(taken_in(runtime, &copy(server, "filled")?, |app| app.view::<Balance>())?));
    let by_hand = || {
        let url = copy(server, "filled_raw")?;
        runtime.block_on(async {
            let raw = Raw::open(&url).await?;
            let started = Instant::now();
            raw.rebuild(LIMIT).await?;
            Ok(rate(started.elapsed()))
        })
    };
    let [ours, by_hand] = medians(rounds, [Box::new(ours), Box::new(by_hand)]);
    let (ours, by_hand) = (ours?, by_hand?);
    say(&format!(
        "{events} events over {STREAMS} streams into a keyed view: {ours:.0} events/s; by hand: {by_hand:.0}; ratio {:.2}; \
         peak memory {} MiB, {} before",
        ours / by_hand,
        Peak::now().mib(),
        before.mib(),
    ));
    Ok(())
}

/// One of ten views that do the same.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Nth<const N: usize>(Balance);

impl<const N: usize> Projection for Nth<N> {
    const NAME: &'static str = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"][N];
    fn filter() -> EventFilter {
        Balance::filter()
    }
}

impl<const N: usize> View for Nth<N> {
    type Key = u64;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let Some(deposited) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let (_, account) = event.stream.as_str().rsplit_once('-').ok_or("a stream without an account")?;
        let credit = move |row: &mut Self| {
            row.0.amount += deposited.amount;
            Ok(())
        };
        Ok(vec![Change::new(account.parse()?, credit)])
    }
}

fn many(runtime: &Runtime, server: &Server, rounds: usize, events: u64) -> anyhow::Result<()> {
    let one = || Ok(taken_in(runtime, &copy(server, "filled")?, |app| app.view::<Nth<0>>())?.as_secs_f64());
    let ten = || {
        let wire = |app: AppBuilder<PgBackend>| {
            let app =
                app.view::<Nth<0>>().view::<Nth<1>>().view::<Nth<2>>().view::<Nth<3>>().view::<Nth<4>>();
            app.view::<Nth<5>>().view::<Nth<6>>().view::<Nth<7>>().view::<Nth<8>>().view::<Nth<9>>()
        };
        Ok(taken_in(runtime, &copy(server, "filled")?, wire)?.as_secs_f64())
    };
    let [one, ten] = medians(rounds, [Box::new(one), Box::new(ten)]);
    let (one, ten) = (one?, ten?);
    say(&format!("{events} events into one view: {one:.2} s; into ten: {ten:.2} s; ratio {:.2}", ten / one));
    Ok(())
}

/// From the send of a command until its view has it, at 30 % of what 32 callers can do.
fn visible(runtime: &Runtime, server: &Server) -> anyhow::Result<()> {
    let url = copy(server, "filled")?;
    let (top, mut latencies) = runtime.block_on(async {
        let app = App::on(PgBackend::connect(&url).await?).view::<Balance>().start().await?;
        app.settle(LIMIT).await?;
        let top = top_rate(&app).await?;
        app.settle(LIMIT).await?;
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / (0.3 * top)));
        let mut sent = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            tick.tick().await;
            let (app, account) = (app.clone(), sent.len() as u64 % 1_024);
            sent.push(tokio::spawn(async move {
                let started = Instant::now();
                let done = app.send(&account, deposit()).await?;
                let acknowledged = started.elapsed();
                app.wait_for::<Balance>(&done, LIMIT).await?;
                anyhow::Ok((started.elapsed(), acknowledged))
            }));
        }
        let mut latencies = Vec::new();
        for one in sent {
            latencies.push(one.await??);
        }
        app.shutdown(LIMIT).await;
        anyhow::Ok((top, latencies))
    })?;
    let at = |all: &[(Duration, Duration)], part: f64, of: fn(&(Duration, Duration)) -> Duration| {
        let i = ((all.len() - 1) as f64 * part) as usize;
        of(&all[i]).as_secs_f64() * 1_000.0
    };
    let figures = |all: &mut Vec<(Duration, Duration)>, of: fn(&(Duration, Duration)) -> Duration| {
        all.sort_by_key(of);
        format!("p50 {:.1} ms, p99 {:.1} ms", at(all, 0.5, of), at(all, 0.99, of))
    };
    let (acknowledged, seen) = (figures(&mut latencies, |l| l.1), figures(&mut latencies, |l| l.0));
    let after = figures(&mut latencies, |l| l.0.saturating_sub(l.1));
    say(&format!(
        "at {:.0} commands/s (30 % of {top:.0}), {} of them: acknowledged {acknowledged}; from the send until a query sees \
         it {seen}; from the acknowledgement {after}",
        0.3 * top,
        latencies.len(),
    ));
    Ok(())
}

async fn top_rate(app: &App) -> anyhow::Result<f64> {
    let started = Instant::now();
    let until = started + Duration::from_secs(3);
    let callers = (0..32_u64).map(|caller| {
        let app = app.clone();
        tokio::spawn(async move {
            let mut n = 0_u64;
            while Instant::now() < until {
                app.send(&(caller * 32 + n % 32), deposit()).await?;
                n += 1;
            }
            anyhow::Ok(n)
        })
    });
    let mut sent = 0;
    for caller in callers.collect::<Vec<_>>() {
        sent += caller.await??;
    }
    Ok(sent as f64 / started.elapsed().as_secs_f64())
}

/// A handler that waits: for the database, as those of SQL projections do.
struct Slow;

impl Projection for Slow {
    const NAME: &'static str = "slow";
    const PARTITION: Partition = Partition::Stream;
    fn filter() -> EventFilter {
        Balance::filter()
    }
}

impl Project<Tx> for Slow {
    async fn project(&self, event: &RecordedEvent, tx: &mut Tx) -> Result<(), BoxError> {
        // The log is long enough for other measurements; of this one only its beginning counts.
        if event.place().0 <= SLOW.0 {
            sqlx::query(SLOW.1).execute(&mut **tx).await?;
        }
        Ok(())
    }
}

fn sharing(backend: PgBackend) -> AppBuilder<PgBackend> {
    App::on(backend).projection(Slow).lease(Duration::from_secs(1))
}

/// The part of a child: takes its share until it is killed.
pub fn share(runtime: &Runtime, url: &str) -> anyhow::Result<()> {
    runtime.block_on(async {
        let _app = sharing(PgBackend::connect(url).await?).start().await?;
        std::future::pending::<()>().await;
        Ok(())
    })
}

fn shared(runtime: &Runtime, server: &Server) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for processes in [1, 2] {
        let url = copy(server, "filled")?;
        let seconds = runtime.block_on(async {
            let app = sharing(PgBackend::connect(&url).await?).looks_on().start().await?;
            let begin = || Command::new(std::env::current_exe()?).args(["share", &url]).spawn();
            let started = Instant::now();
            let mut children: Vec<Child> = (0..processes).map(|_| begin()).collect::<Result<_, _>>()?;
            let slow = app.processor::<Slow>()?;
            slow.wait_for(es_core::Position(SLOW.0), LIMIT).await?;
            let seconds = started.elapsed().as_secs_f64();
            for child in &mut children {
                child.kill()?;
                child.wait()?;
            }
            app.shutdown(LIMIT).await;
            anyhow::Ok(seconds)
        })?;
        took.push(seconds);
    }
    say(&format!(
        "{} events whose handler waits a millisecond: one process {:.1} s, two {:.1} s, ratio {:.2}; finding each other \
         included",
        SLOW.0,
        took[0],
        took[1],
        took[0] / took[1],
    ));
    Ok(())
}
