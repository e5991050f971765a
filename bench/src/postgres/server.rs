//! The server: a private one with the defaults of its release, which sync every commit to the disk.

use anyhow::Context as _;
use es_postgres::testing::{Server as Private, ServerOptions};
use sqlx::{AssertSqlSafe, PgConnection};

use super::raw::connect;

/// Stops with this value. `BENCH_POSTGRES` names another server instead, by URL and as a superuser.
pub struct Server {
    url: String,
    _private: Option<Private>,
}

impl Server {
    pub fn start() -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var("BENCH_POSTGRES") {
            return Ok(Self { url, _private: None });
        }
        let options = ServerOptions::new().durable(true);
        let private = options.setting("shared_preload_libraries", "pg_stat_statements").start()?;
        Ok(Self { url: private.url("postgres"), _private: Some(private) })
    }

    /// An empty database, whatever had its name before.
    pub fn make(&self, database: &str) -> anyhow::Result<()> {
        self.run(&format!("drop database if exists {database}"))?;
        self.run(&format!("create database {database}"))
    }

    pub fn run(&self, statement: &str) -> anyhow::Result<()> {
        let statement = AssertSqlSafe(statement.to_owned());
        self.ask(async |conn| sqlx::raw_sql(statement).execute(conn).await.map(drop))
    }

    /// As a superuser, in the database that the server's own URL names.
    pub fn ask<T>(&self, f: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> anyhow::Result<T> {
        ask(&self.url, f)
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> anyhow::Result<String> {
        let (path, options) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let (server, _) = path.rsplit_once('/').context("the URL names a database")?;
        Ok(format!("{server}/{database}?{options}"))
    }
}

/// On a connection of its own.
pub fn ask<T>(url: &str, f: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { f(&mut connect(url).await?).await })?)
}
