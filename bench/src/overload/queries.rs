//! Queries at a steady rate: with nothing beside them, and beside ten SQL projections whose handlers are slow.

use std::time::{Duration, Instant};

use es_core::prelude::*;
use es_core::projection::{Project, Projection};
use es_core::store::EventFilter;
use es_core::{App, AppBuilder};
use es_postgres::{Db, PgBackend, Tx};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::domain::{Deposited, deposit};
use crate::measure::say;

const WATCHED: Duration = Duration::from_secs(20);
/// Queries a second.
const RATE: u32 = 200;
/// Rows that they find one of.
const ROWS: i64 = 10_000;
/// Each takes 50 ms of each projection: none of them comes to the end meanwhile.
const EVENTS: u64 = 2_000;
const TABLE: &str = "create table owners (account bigint primary key, name text not null)";
const FILL: &str = "insert into owners select n, md5(n::text) from generate_series(1, $1) n";
const LIMIT: Duration = Duration::from_secs(30);

macro_rules! texts {
    ($before:literal, $after:literal) => {
        [
            concat!($before, "0", $after),
            concat!($before, "1", $after),
            concat!($before, "2", $after),
            concat!($before, "3", $after),
            concat!($before, "4", $after),
            concat!($before, "5", $after),
            concat!($before, "6", $after),
            concat!($before, "7", $after),
            concat!($before, "8", $after),
            concat!($before, "9", $after),
        ]
    };
}

/// One of ten that do the same.
struct Slow<const N: usize>;

impl<const N: usize> Projection for Slow<N> {
    const NAME: &'static str = texts!("slow", "")[N];
    const SCHEMA: &'static str = texts!("create table slow", " (position bigint primary key)")[N];
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<const N: usize> Project<Tx> for Slow<N> {
    async fn project(&self, event: &RecordedEvent, tx: &mut Tx) -> Result<(), BoxError> {
        let sql = texts!("insert into slow", " select $1 from pg_sleep(0.05)")[N];
        sqlx::query(sql).bind(event.place().0.cast_signed()).execute(&mut **tx).await?;
        Ok(())
    }
}

struct Owners;

struct Name {
    account: i64,
}

#[queries]
impl Owners {
    async fn name(&self, q: Name, db: &Db) -> Result<String, sqlx::Error> {
        let sql = "select name from owners where account = $1";
        sqlx::query_scalar(sql).bind(q.account).fetch_one(db).await
    }
}

pub async fn measure(url: &str) -> anyhow::Result<()> {
    let backend = PgBackend::connect(url).await?;
    sqlx::raw_sql(TABLE).execute(&backend.db()).await?;
    sqlx::query(FILL).bind(ROWS).execute(&backend.db()).await?;
    let app = queried(&backend).start().await?;
    let sent = futures::stream::iter(0..EVENTS).map(|n| app.send(&n, deposit()).into_future());
    let sent: Vec<_> = sent.buffer_unordered(32).collect().await;
    sent.into_iter().collect::<Result<Vec<_>, _>>()?;
    say(&format!("{RATE} queries a second, each of a row by its key:"));
    ask(&app, "with nothing beside them").await?;
    app.shutdown(LIMIT).await;

    let app = queried(&backend);
    let app = app.projection(Slow::<0>).projection(Slow::<1>).projection(Slow::<2>).projection(Slow::<3>);
    let app = app.projection(Slow::<4>).projection(Slow::<5>).projection(Slow::<6>).projection(Slow::<7>);
    let app = app.projection(Slow::<8>).projection(Slow::<9>).start().await?;
    ask(&app, "beside ten SQL projections of which each takes 50 ms for an event").await?;
    let head = app.store().head().await?;
    let caught_up = app.processor::<Slow<0>>()?.wait_for(head, Duration::ZERO).await;
    anyhow::ensure!(caught_up.is_err(), "the projections were done before the queries");
    app.shutdown(LIMIT).await;
    Ok(())
}

fn queried(backend: &PgBackend) -> AppBuilder<PgBackend> {
    App::on(backend.clone()).queries(Owners)
}

/// How long answers take, from when each query was due.
async fn ask(app: &App, beside: &str) -> anyhow::Result<()> {
    // Connections are made.
    for account in 1..=100 {
        app.query(Name { account }).await?;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let (mut asked, begun) = (JoinSet::new(), Instant::now());
    while begun.elapsed() < WATCHED {
        // What was missed comes at once: it was due then.
        let due = tick.tick().await;
        let (app, account) = (app.clone(), asked.len() as i64 * 37 % ROWS + 1);
        asked.spawn(async move {
            let answer = app.query(Name { account }).await;
            (due.elapsed(), answer.err().map(|error| es_core::chain(&error).to_string()))
        });
    }
    let (mut took, errors): (Vec<_>, Vec<_>) = asked.join_all().await.into_iter().unzip();
    took.sort_unstable();
    let failed: Vec<String> = errors.into_iter().flatten().collect();
    let share = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e3;
    say(&format!(
        "  {beside}: {} answers, p50 {:.2} ms, p99 {:.2} ms, the longest {:.2} ms; {} failed{}",
        took.len() - failed.len(),
        share(50),
        share(99),
        took.last().map_or(0.0, |took| took.as_secs_f64() * 1e3),
        failed.len(),
        failed.first().map(|error| format!(", the first: {error}")).unwrap_or_default(),
    ));
    Ok(())
}
