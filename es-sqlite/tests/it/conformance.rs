//! The contract of es-core, on SQLite files.

use std::collections::BTreeMap;

use bytes::Bytes;
use es_core::BoxError;
use es_core::store::{Adopt, Backend as _, Position, StoreError, StreamId, Version};
use es_core::testing::TestClock;
use es_core::testing::conformance::{Damage, Operated, Subject};
use es_sqlite::{SqliteBackend, SqliteOptions, Tx};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;
use uuid::Uuid;

/// Stores in a folder that lives as long as the test.
struct Sqlite(TempDir);

fn sqlite() -> Sqlite {
    Sqlite(tempfile::tempdir().unwrap())
}

impl Sqlite {
    fn options(&self) -> SqliteOptions {
        let name = format!("{}.db", es_core::id::Ids::default().next());
        SqliteOptions::new(self.0.path().join(name))
    }
}

impl Subject for Sqlite {
    type Backend = SqliteBackend;

    async fn open(&self) -> SqliteBackend {
        SqliteBackend::open_with(self.options()).await.unwrap()
    }

    async fn open_at(&self, clock: TestClock) -> SqliteBackend {
        SqliteBackend::open_with(self.options().with_clock(clock)).await.unwrap()
    }

    async fn again(&self, backend: &SqliteBackend) -> SqliteBackend {
        SqliteBackend::open(backend.path()).await.unwrap()
    }

    async fn put_row(&self, tx: &mut Tx, key: &str, row: &str) {
        let table = "create table if not exists rows (key text primary key, row text not null)";
        sqlx::raw_sql(table).execute(&mut **tx).await.unwrap();
        let insert = sqlx::query("insert into rows (key, row) values (?, ?)").bind(key).bind(row);
        insert.execute(&mut **tx).await.unwrap();
    }

    async fn row(&self, backend: &SqliteBackend, key: &str) -> Option<String> {
        let there = sqlx::query_scalar::<_, i64>("select 1 from sqlite_schema where name = 'rows'");
        there.fetch_optional(&backend.db()).await.unwrap()?;
        let row = sqlx::query_scalar("select row from rows where key = ?").bind(key);
        row.fetch_optional(&backend.db()).await.unwrap()
    }

    const PAID: &'static str = "create table paid (key text primary key, amount integer not null) strict;
        create index paid_by_amount on paid (amount);
        create table receipts (key text not null references paid (key), text text not null) strict";

    async fn pay(tx: &mut Tx, key: &str, amount: i64) -> Result<(), BoxError> {
        let sql = "insert into paid (key, amount) values (?, ?)
                   on conflict (key) do update set amount = amount + excluded.amount";
        sqlx::query(sql).bind(key).bind(amount).execute(&mut **tx).await?;
        Ok(())
    }

    async fn fail(tx: &mut Tx) -> BoxError {
        sqlx::query("select nothing from nowhere").execute(&mut **tx).await.unwrap_err().into()
    }

    async fn paid(backend: &SqliteBackend) -> Result<BTreeMap<String, i64>, BoxError> {
        let rows = sqlx::query_as::<_, (String, i64)>("select key, amount from paid");
        Ok(rows.fetch_all(&backend.db()).await?.into_iter().collect())
    }

    async fn paid_through(services: &es_core::services::Services) -> Result<BTreeMap<String, i64>, BoxError> {
        let rows = sqlx::query_as::<_, (String, i64)>("select key, amount from paid");
        Ok(rows.fetch_all(services.get::<es_sqlite::Db>()?).await?.into_iter().collect())
    }
}

es_core::conformance!(sqlite());
es_core::operated_conformance!(sqlite());

impl Operated for Sqlite {
    async fn redact(
        backend: &SqliteBackend,
        stream: &StreamId,
        version: Version,
        data: Bytes,
        needed: bool,
    ) -> Result<(), StoreError> {
        match needed {
            true => backend.redact_needed(stream, version, data).await,
            false => backend.redact(stream, version, data).await,
        }
    }

    async fn redaction_needs(
        backend: &SqliteBackend,
        stream: &StreamId,
        version: Version,
    ) -> Result<Option<String>, StoreError> {
        backend.redaction_needs(stream, version).await
    }

    async fn verify_after(backend: &SqliteBackend, after: Position) -> Result<Vec<String>, StoreError> {
        backend.verify_after(after).await
    }

    async fn adopt(&self, backend: &SqliteBackend, how: Adopt) -> Uuid {
        SqliteOptions::new(backend.path()).adopt(how).await.unwrap()
    }

    async fn generation(backend: &SqliteBackend) -> Uuid {
        backend.stats().await.unwrap().generation
    }

    async fn damage(backend: &SqliteBackend, damage: Damage) {
        let past_the_guard = |sql: String| {
            format!("drop trigger if exists es_events_update; drop trigger if exists es_events_delete; {sql}")
        };
        let sql = match damage {
            Damage::Outcomes(at) => format!("update es_outcomes set position = {}", at.0),
            Damage::Snapshots(at) => format!("update es_snapshots set version = {}", at.0),
            Damage::Gone(at) => past_the_guard(format!(
                "delete from es_tags where position = {0}; delete from es_events where position = {0}",
                at.0
            )),
            Damage::Renumbered(at, version) => past_the_guard(format!(
                "update es_events set version = {} where position = {}",
                version.0, at.0
            )),
            Damage::Early(at) => {
                past_the_guard(format!("update es_events set recorded_at = 0 where position = {}", at.0))
            }
            Damage::Checkpoint(name) => {
                format!("update es_rows set data = x'7b' where tbl = 'checkpoints' and key = '{name}'")
            }
        };
        let mut conn = SqliteConnectOptions::new().filename(backend.path()).connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }
}

/// What `again` promises: nothing is shared but the file.
#[tokio::test]
async fn a_second_handle_is_another_instance() {
    let subject = sqlite();
    let one = subject.open().await;
    let two = subject.again(&one).await;
    let _held = one.begin().await.unwrap();
    // The task holds a `Tx` of `one`: of that instance any write is refused, of another it would wait.
    assert!(one.begin().await.is_err());
    assert!(two.db().pool().acquire().await.is_ok());
}
