//! The raw limit: the same driver, the same bytes, the same care, and no framework.
//!
//! It knows what no library may assume: that nobody else writes to its streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench_kit::{Deposited, Side, Work, deposit};
use futures::TryStreamExt as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::Semaphore;

use super::CONNECTIONS;

const TABLES: &str = "
    create table if not exists events (
        position bigint generated always as identity primary key,
        stream bigint not null, version bigint not null, type int not null, data bytea not null,
        unique (stream, version));
    create table if not exists balances (stream bigint primary key, balance bigint not null);
    create table if not exists checkpoint (position bigint not null)";

#[derive(Clone)]
pub struct Raw {
    url: Arc<str>,
    turns: Arc<Semaphore>,
    /// The one used last is used next, so that a single caller stays on one.
    idle: Arc<Mutex<Vec<PgConnection>>>,
    versions: Arc<Mutex<HashMap<u64, i64>>>,
}

impl Raw {
    async fn with<T>(&self, f: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> anyhow::Result<T> {
        let _turn = self.turns.acquire().await?;
        let idle = self.idle.lock().expect("nobody panics with it").pop();
        let mut conn = match idle {
            Some(conn) => conn,
            None => connect(&self.url).await?,
        };
        let done = f(&mut conn).await?;
        self.idle.lock().expect("nobody panics with it").push(conn);
        Ok(done)
    }

    /// The versions that follow, known without asking: nobody else writes here.
    fn next(&self, stream: u64, events: usize) -> i64 {
        let mut versions = self.versions.lock().expect("nobody panics with it");
        let version = versions.entry(stream).or_default();
        *version += events as i64;
        *version - events as i64 + 1
    }
}

impl Side for Raw {
    const CAN: &'static [Work] =
        &[Work::Command, Work::Batch, Work::Condition, Work::Load, Work::Rebuild, Work::Fill, Work::Scatter];

    async fn open(url: &str) -> anyhow::Result<Self> {
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        Ok(Self { url: url.into(), turns, idle: Arc::default(), versions: Arc::default() })
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        sqlx::raw_sql(TABLES).execute(&mut connect(url).await?).await?;
        Ok(())
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        if events > 1 {
            return self.fill_rows(&[aggregate], events).await;
        }
        let version = self.next(aggregate, 1);
        let data = serde_json::to_vec(&deposit())?;
        let insert = sqlx::query("insert into events (stream, version, type, data) values ($1, $2, 1, $3)");
        let insert = insert.bind(i64::try_from(aggregate)?).bind(version).bind(data);
        self.with(async |conn| insert.execute(conn).await).await.map(drop)
    }

    /// A plain insert: what the condition costs is then in the ratio.
    async fn condition(&self, aggregate: u64) -> anyhow::Result<()> {
        self.command(aggregate, 1).await
    }

    async fn load(&self, aggregate: u64) -> anyhow::Result<i64> {
        let sql = "select version, type, data from events where stream = $1 order by version";
        let rows = sqlx::query_as::<_, (i64, i32, Vec<u8>)>(sql).bind(i64::try_from(aggregate)?);
        let fold = async |conn: &mut PgConnection| {
            let mut rows = rows.fetch(conn);
            let mut balance = 0;
            while let Some((_, _, data)) = rows.try_next().await? {
                balance += amount(&data)?;
            }
            Ok(balance)
        };
        self.with(fold).await
    }

    async fn rebuild(&self, _limit: Duration) -> anyhow::Result<u64> {
        let mut conn = connect(&self.url).await?;
        super::fold::rebuild(&mut conn).await
    }

    async fn fill(&self, first: u64, streams: u64, events: usize) -> anyhow::Result<()> {
        self.fill_rows(&(first..first + streams).collect::<Vec<_>>(), events).await
    }
}

impl Raw {
    /// Many rows with one statement.
    async fn fill_rows(&self, streams: &[u64], events: usize) -> anyhow::Result<()> {
        let data = serde_json::to_vec(&deposit())?;
        let (mut of, mut versions, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
        for &stream in streams {
            let first = self.next(stream, events);
            for version in first..first + events as i64 {
                of.push(i64::try_from(stream)?);
                versions.push(version);
                payloads.push(data.clone());
            }
        }
        let insert = "insert into events (stream, version, type, data)
                      select stream, version, 1, data
                      from unnest($1::bigint[], $2::bigint[], $3::bytea[]) as e (stream, version, data)";
        let insert = sqlx::query(insert).bind(of).bind(versions).bind(payloads);
        self.with(async |conn| insert.execute(conn).await).await.map(drop)
    }
}

pub async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await
}

pub fn amount(data: &[u8]) -> sqlx::Result<i64> {
    let event: Deposited = serde_json::from_slice(data).map_err(|e| sqlx::Error::Decode(e.into()))?;
    Ok(event.amount)
}
