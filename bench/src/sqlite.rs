//! Commands and loads on SQLite, durable (`synchronous=FULL`), in a file of its own for each round.

use std::path::Path;
use std::time::Instant;

use es_core::App;
use es_core::store::{Append, Commit, EventStore as _, ExpectedVersion, NewEvent, StreamId, Version};
use es_sqlite::SqliteBackend;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::runtime::Runtime;

use crate::domain::{Account, Deposited, deposit};
use crate::measure::{Line, Round, compare};

pub fn commands(runtime: &Runtime, tasks: u64) -> anyhow::Result<Line> {
    let (name, raw, n) = match tasks {
        1 => ("sqlite, 1 task", "bare inserts, a transaction each", 1_000),
        32 => ("sqlite, 32 tasks", "bare inserts, 32 in a transaction", 16_000),
        _ => ("sqlite, 256 tasks", "bare inserts, 256 in a transaction", 32_000),
    };
    compare(name, "commands/s", raw, || runtime.block_on(ours(tasks, n)), || runtime.block_on(bare(tasks, n)))
}

async fn ours(tasks: u64, n: u64) -> anyhow::Result<Round> {
    let folder = folder()?;
    let app = App::on(SqliteBackend::open(folder.path().join("ours.db")).await?).start().await?;
    let started = Instant::now();
    let task = |task: u64| {
        let app = app.clone();
        tokio::spawn(async move {
            for _ in 0..n / tasks {
                app.send(&task, deposit()).await?;
            }
            anyhow::Ok(())
        })
    };
    for sent in (0..tasks).map(task).collect::<Vec<_>>() {
        sent.await??;
    }
    Ok((n, started.elapsed()))
}

/// What the same driver does with the same bytes and the same care, and no framework.
async fn bare(batch: u64, n: u64) -> anyhow::Result<Round> {
    let folder = folder()?;
    let mut conn = open(&folder.path().join("bare.db")).await?;
    let table = "create table events (position integer primary key, stream integer not null, version integer not null,
                 type integer not null, data blob not null, unique (stream, version)) strict";
    sqlx::raw_sql(table).execute(&mut conn).await?;
    let started = Instant::now();
    for i in 0..n / batch {
        let mut tx = conn.begin().await?;
        for stream in 0..batch {
            let cmd = deposit();
            let data = serde_json::to_vec(&Deposited { amount: cmd.amount, note: cmd.note })?;
            let insert = sqlx::query("insert into events (stream, version, type, data) values (?, ?, 1, ?)");
            insert.bind(i64::try_from(stream)?).bind(i64::try_from(i)?).bind(data).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    Ok((n / batch * batch, started.elapsed()))
}

const EVENTS: u64 = 10_000;

/// Load and fold of a long stream, beside a read of the same rows with the same driver and a decode of each.
pub fn load(runtime: &Runtime) -> anyhow::Result<Line> {
    let folder = folder()?;
    let (backend, db) = runtime.block_on(async {
        let backend = SqliteBackend::open(folder.path().join("load.db")).await?;
        fill(&backend).await?;
        anyhow::Ok((backend.clone(), backend.db()))
    })?;
    let ours = || {
        runtime.block_on(async {
            let app = App::on(backend.clone()).start().await?;
            let started = Instant::now();
            let account = app.load::<Account>(&7).await?;
            let took = started.elapsed();
            anyhow::ensure!(account.is_some_and(|a| a.balance == EVENTS as i64), "every event is folded");
            Ok((EVENTS, took))
        })
    };
    let bare = || {
        runtime.block_on(async {
            let sql = "select version, type, data from es_events
                       where stream = (select id from es_streams where name = 'account-7') order by version";
            let started = Instant::now();
            let rows: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(sql).fetch_all(&db).await?;
            let mut balance = 0;
            for (_, _, data) in &rows {
                balance += serde_json::from_slice::<Deposited>(data)?.amount;
            }
            let took = started.elapsed();
            anyhow::ensure!(balance == EVENTS as i64, "every row is decoded");
            Ok((EVENTS, took))
        })
    };
    compare(
        "sqlite, load of 10,000 events",
        "events/s",
        "bare read of the rows, serde_json decode",
        ours,
        bare,
    )
}

async fn fill(backend: &SqliteBackend) -> anyhow::Result<()> {
    let app = App::on(backend.clone()).start().await?;
    app.send(&7, deposit()).await?;
    let stream = StreamId::new("account-7")?;
    let first = backend.stream(&stream, Version(0), 1).await?.remove(0);
    for version in (1..EVENTS).step_by(1_000) {
        let n = (EVENTS - version).min(1_000);
        let again = || NewEvent {
            id: app.new_id(),
            name: first.name.clone(),
            schema: first.schema,
            codec: first.codec.clone(),
            data: first.data.clone(),
            tags: Vec::new(),
            metadata: first.metadata.clone(),
        };
        let events = (0..n).map(|_| again()).collect();
        let append =
            Append { stream: stream.clone(), expected: ExpectedVersion::Exact(Version(version)), events };
        backend.commit(Commit { appends: vec![append], ..Commit::default() }).await?;
    }
    Ok(())
}

async fn open(file: &Path) -> anyhow::Result<sqlx::SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    Ok(options.disable_statement_logging().connect().await?)
}

/// On the disk that the workspace is on: the temporary folder may be memory.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    Ok(tempfile::tempdir_in(target)?)
}
