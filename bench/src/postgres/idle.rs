//! What many processors cost while nothing happens: statements, and time of the processor.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use es_core::App;
use es_core::BoxError;
use es_core::processor::{Admission, Execution, Failure, Keeps, Opening, Runner, Session};
use es_core::store::{Commit, CommitError, EventFilter, EventStore as _, RecordedEvent, RowWrite, Tables};
use es_postgres::PgBackend;
use tokio::runtime::Runtime;

use super::processors::{LIMIT, copy, say};
use super::server::Server;

const NODES: usize = 3;
const PROCESSORS: usize = 200;
const WATCHED: Duration = Duration::from_secs(20);

/// A processor that takes what comes and keeps nothing.
struct Idle {
    backend: PgBackend,
    tables: Tables,
}

struct Nothing(PgBackend);

impl Runner for Idle {
    fn name(&self) -> String {
        self.tables.stored_name()
    }

    fn filter(&self) -> EventFilter {
        EventFilter::all()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Rows(self.tables)
    }

    fn execution(&self) -> Execution {
        let mut execution = Execution::default();
        execution.splits = true;
        execution
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![event.stream.as_str().to_owned()])
    }

    fn open(&self, _: Opening<'_>) -> Box<dyn Session> {
        Box::new(Nothing(self.backend.clone()))
    }
}

#[async_trait]
impl Session for Nothing {
    async fn fold(&mut self, _: &[&RecordedEvent], _: &mut Admission<'_>) -> Result<(), Failure> {
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.0.commit(Commit { rows, ..Commit::default() }).await.map(drop)
    }
}

/// Three nodes with 200 processors each, at the end of a log to which nothing is appended.
pub fn measure(runtime: &Runtime, server: &Server) -> anyhow::Result<()> {
    server.run("create extension if not exists pg_stat_statements")?;
    let url = copy(server, "filled")?;
    let names: Vec<&'static str> =
        (0..PROCESSORS).map(|i| &*Box::leak(format!("idle{i}").into_boxed_str())).collect();
    let apps = runtime.block_on(async {
        let mut apps = Vec::new();
        for _ in 0..NODES {
            let backend = PgBackend::connect(&url).await?;
            let app = names.iter().fold(App::on(backend.clone()), |app, name| {
                let tables = Tables { name, version: 1, schema: "" };
                app.runner(Idle { backend: backend.clone(), tables })
            });
            apps.push(app.start().await?);
        }
        for app in &apps {
            app.settle(LIMIT).await?;
        }
        // Until the slices are shared out.
        tokio::time::sleep(Duration::from_secs(30)).await;
        anyhow::Ok(apps)
    })?;
    server.run("select pg_stat_statements_reset()")?;
    let (before, started) = (processor_time(), Instant::now());
    std::thread::sleep(WATCHED);
    let (used, took) = (processor_time() - before, started.elapsed().as_secs_f64());
    let statements: Vec<(String, i64)> = server.ask(async |conn| {
        let sql =
            "select left(regexp_replace(s.query, '\\s+', ' ', 'g'), 60), s.calls from pg_stat_statements s
                   join pg_database d on d.oid = s.dbid where d.datname = 'round' order by s.calls desc";
        sqlx::query_as(sql).fetch_all(conn).await
    })?;
    let all: i64 = statements.iter().map(|(_, calls)| calls).sum();
    say(&format!(
        "{PROCESSORS} processors on {NODES} nodes, nothing to do: {:.1} statements/s altogether, {:.1} % of a core",
        all as f64 / took,
        100.0 * used / took,
    ));
    for (query, calls) in statements.iter().take(12) {
        say(&format!("  {:6.1}/s  {query}", *calls as f64 / took));
    }
    runtime.block_on(async {
        for app in apps {
            app.shutdown(LIMIT).await;
        }
    });
    Ok(())
}

/// Seconds that this process has used of its cores, in the program and in the kernel.
fn processor_time() -> f64 {
    // The fields behind the name of the program, which may have spaces: utime and stime are the 12th and 13th of them.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
