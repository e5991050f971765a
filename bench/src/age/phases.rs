//! What an operator does to a store, beside commands that come at a steady rate: two hours' worth of age in ten minutes.

use std::time::Duration;

use es_core::App;
use es_core::store::{EventStore as _, Position, Version};
use es_postgres::{PgBackend, PgOptions};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::runtime::Runtime;

use super::load::{Load, Phase, RATE};
use super::{EVENTS, OUTCOMES, fill};
use crate::measure::{held_mib, say};
use crate::postgres::{Gate, Server, connect};

const REST: Duration = Duration::from_secs(30);
/// Partitions that are archived, and attached again; and how many are made.
const ARCHIVED: i64 = 10;
const MADE: usize = 10;
const REDACTED: u64 = 100;
/// A look at the whole store takes longer than an application lets its statements take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A program that writes, and an operator beside it.
struct Aging {
    url: String,
    operator: PgBackend,
    load: Load,
    events: u64,
}

pub fn run(runtime: &Runtime, events: Option<u64>) -> anyhow::Result<()> {
    let events = events.unwrap_or(EVENTS);
    let server = Server::start()?;
    server.make("age")?;
    let url = server.url("age")?;
    runtime.block_on(async {
        let backend = PgBackend::connect(&url).await?;
        let operator =
            PgBackend::connect_with(PgOptions::new(&url)?.with_statement_timeout(PATIENCE)).await?;
        fill::log(&operator, events).await?;
        let mut conn = connect(&url).await?;
        fill::outcomes(&mut conn, OUTCOMES * events, events).await?;
        fill::settle(&mut conn).await?;
        say(&format!(
            "a log of {events} events in {} partitions and {} outcomes, beside {RATE} commands with a key a second:",
            super::PARTITIONS,
            OUTCOMES * events
        ));
        let app = App::on(backend).start().await?;
        let aging = Aging { url, operator, load: Load::begin(app.clone()), events };
        aging.phases().await?;
        aging.end().await?;
        app.shutdown(Duration::from_secs(10)).await;
        Ok(())
    })
}

impl Aging {
    async fn phases(&self) -> anyhow::Result<()> {
        let rest = async || {
            tokio::time::sleep(REST).await;
            anyhow::Ok(())
        };
        // Caches are filled, and plans made.
        let (_, _) = self.load.during(async { Ok(()) }).await?;
        say("| phase | took, s | commits/s | p50, ms | p99, ms | longest, ms | failed | memory, MiB |");
        say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        self.phase("rest", rest()).await?;
        self.phase(&format!("{} outcomes forgotten", OUTCOMES * self.events), self.forget()).await?;
        let tables = self.phase(&format!("{ARCHIVED} partitions archived"), self.archive()).await?;
        self.phase("and attached again", self.attach(tables)).await?;
        self.phase(&format!("{REDACTED} events redacted"), self.redact()).await?;
        self.phase(&format!("{MADE} partitions made"), self.make_partitions()).await?;
        self.phase("all tables analyzed", self.analyze()).await?;
        self.phase("half of the log verified", self.verify(self.events / 2)).await?;
        self.phase("rest", rest()).await
    }

    async fn phase<T>(&self, what: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let (done, Phase { took, rate, p50, p99, worst, failed }) = self.load.during(work).await?;
        let [p50, p99, worst] = [p50, p99, worst].map(|wait| wait.as_secs_f64() * 1e3);
        say(&format!(
            "| {what} | {:.1} | {rate:.0} | {p50:.1} | {p99:.1} | {worst:.1} | {failed} | {} |",
            took.as_secs_f64(),
            held_mib()
        ));
        Ok(done)
    }

    async fn forget(&self) -> anyhow::Result<()> {
        let before = self.operator.now().await? - fill::ENDS + Duration::from_hours(1);
        let forgotten = self.operator.forget(before).await?;
        anyhow::ensure!(forgotten.keys == OUTCOMES * self.events, "{forgotten:?}");
        Ok(())
    }

    /// Nobody loads what is in there. Gives the tables, the last one first.
    async fn archive(&self) -> anyhow::Result<Vec<String>> {
        let last = "select last from es.partitions order by first offset $1 - 1 limit 1";
        let last: i64 =
            sqlx::query_scalar(last).bind(ARCHIVED).fetch_one(&mut connect(&self.url).await?).await?;
        let mut tables = self.operator.archive_unloadable(Position(last.cast_unsigned())).await?;
        anyhow::ensure!(tables.len() as i64 == ARCHIVED, "{tables:?}");
        let first = |table: &String| table.split('_').nth(2).and_then(|first| first.parse::<u64>().ok());
        tables.sort_by_key(|table| std::cmp::Reverse(first(table)));
        Ok(tables)
    }

    async fn attach(&self, tables: Vec<String>) -> anyhow::Result<()> {
        for table in tables {
            self.operator.attach_archive(&table).await?;
        }
        Ok(())
    }

    async fn redact(&self) -> anyhow::Result<()> {
        for account in 0..REDACTED {
            let data = br#"{"amount":0,"note":""}"#;
            self.operator.redact(&fill::stream(account)?, Version(1), data[..].into()).await?;
        }
        Ok(())
    }

    /// As programs have them made, one at a time.
    async fn make_partitions(&self) -> anyhow::Result<()> {
        let mut conn = connect(&self.url).await?;
        let make = format!(
            "select pg_advisory_xact_lock({} # hashtextextended('partitions', 0));
             select es.make_partition((select max(last) + 1 from es.partitions))",
            Gate::key()?
        );
        for _ in 0..MADE {
            sqlx::raw_sql(AssertSqlSafe(make.clone())).execute(&mut conn).await?;
        }
        Ok(())
    }

    async fn analyze(&self) -> anyhow::Result<()> {
        connect(&self.url).await?.execute("analyze").await?;
        Ok(())
    }

    async fn verify(&self, after: u64) -> anyhow::Result<()> {
        let violations = self.operator.verify_after(Position(after)).await?;
        anyhow::ensure!(violations.is_empty(), "{violations:?}");
        Ok(())
    }

    /// The store is whole, and has the outcomes of what was stored meanwhile, and no others.
    async fn end(self) -> anyhow::Result<()> {
        self.verify(0).await?;
        let (stored, error) = self.load.end().await?;
        if let Some(error) = error {
            say(&format!("the first command that failed: {error}"));
            return Ok(());
        }
        let kept = sqlx::query_scalar("select count(*) from es.outcomes");
        let kept: i64 = kept.fetch_one(&mut connect(&self.url).await?).await?;
        anyhow::ensure!(
            kept.cast_unsigned() == stored,
            "{stored} commands were stored, with {kept} outcomes"
        );
        Ok(())
    }
}
