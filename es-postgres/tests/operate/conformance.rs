//! The contract of es-core about what is stored and read, on a log of small partitions.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use es_core::BoxError;
use es_core::store::{Adopt, Position, StoreError, StreamId, Version};
use es_core::testing::TestClock;
use es_core::testing::conformance::{Damage, Operated, Subject};
use es_postgres::testing::{self, Database};
use es_postgres::{PgBackend, PgOptions, Tx};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// So small that every rule crosses some borders.
const SIZE: u64 = 50;

/// Stores in databases that live as long as the test.
#[derive(Default)]
struct Partitioned(Mutex<Vec<Database>>);

impl Partitioned {
    async fn make(&self, with: impl FnOnce(PgOptions) -> PgOptions) -> PgBackend {
        let database = testing::database().await;
        let options = with(PgOptions::new(database.url()).unwrap());
        self.0.lock().unwrap().push(database);
        let backend = PgBackend::connect_with(options).await.unwrap();
        backend.partition(SIZE).await.unwrap();
        backend
    }
}

impl Subject for Partitioned {
    type Backend = PgBackend;

    async fn open(&self) -> PgBackend {
        self.make(|options| options).await
    }

    async fn open_at(&self, clock: TestClock) -> PgBackend {
        self.make(|options| options.with_clock(clock)).await
    }

    async fn again(&self, _: &PgBackend) -> PgBackend {
        let url = self.0.lock().unwrap().last().unwrap().url().to_owned();
        PgBackend::connect(&url).await.unwrap()
    }

    async fn put_row(&self, tx: &mut Tx, key: &str, row: &str) {
        let table = "create table if not exists rows (key text primary key, row text not null)";
        sqlx::raw_sql(table).execute(&mut **tx).await.unwrap();
        let insert = sqlx::query("insert into rows (key, row) values ($1, $2)").bind(key).bind(row);
        insert.execute(&mut **tx).await.unwrap();
    }

    async fn row(&self, backend: &PgBackend, key: &str) -> Option<String> {
        let there = sqlx::query_scalar::<_, bool>("select to_regclass('rows') is not null");
        if !there.fetch_one(&backend.db()).await.unwrap() {
            return None;
        }
        let row = sqlx::query_scalar("select row from rows where key = $1").bind(key);
        row.fetch_optional(&backend.db()).await.unwrap()
    }

    const PAID: &'static str = "create table paid (key text primary key, amount bigint not null)";

    async fn pay(tx: &mut Tx, key: &str, amount: i64) -> Result<(), BoxError> {
        let sql = "insert into paid (key, amount) values ($1, $2)
                   on conflict (key) do update set amount = paid.amount + excluded.amount";
        sqlx::query(sql).bind(key).bind(amount).execute(&mut **tx).await?;
        Ok(())
    }

    async fn fail(tx: &mut Tx) -> BoxError {
        sqlx::query("select 1 / 0").execute(&mut **tx).await.expect_err("it divides by zero").into()
    }

    async fn paid(backend: &PgBackend) -> Result<BTreeMap<String, i64>, BoxError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select key, amount from paid").fetch_all(&backend.db()).await?;
        Ok(rows.into_iter().collect())
    }

    async fn paid_through(services: &es_core::services::Services) -> Result<BTreeMap<String, i64>, BoxError> {
        let rows = sqlx::query_as::<_, (String, i64)>("select key, amount from paid");
        Ok(rows.fetch_all(services.get::<es_postgres::Db>()?).await?.into_iter().collect())
    }
}

es_core::store_conformance!(Partitioned::default());
es_core::operated_conformance!(Partitioned::default());

impl Operated for Partitioned {
    async fn redact(
        backend: &PgBackend,
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
        backend: &PgBackend,
        stream: &StreamId,
        version: Version,
    ) -> Result<Option<String>, StoreError> {
        backend.redaction_needs(stream, version).await
    }

    async fn verify_after(backend: &PgBackend, after: Position) -> Result<Vec<String>, StoreError> {
        backend.verify_after(after).await
    }

    async fn adopt(&self, _: &PgBackend, how: Adopt) -> Uuid {
        let url = self.0.lock().unwrap().last().unwrap().url().to_owned();
        PgOptions::new(&url).unwrap().adopt(how).await.unwrap()
    }

    async fn generation(backend: &PgBackend) -> Uuid {
        backend.stats().await.unwrap().generation
    }

    async fn damage(backend: &PgBackend, damage: Damage) {
        let past_the_guard = |sql: String| format!("set local es.maintenance = 'on'; {sql}");
        let sql = match damage {
            Damage::Outcomes(at) => format!("update es.outcomes set position = {}", at.0),
            Damage::Snapshots(at) => format!("update es.snapshots set version = {}", at.0),
            Damage::Gone(at) => past_the_guard(format!("delete from es.events where position = {}", at.0)),
            Damage::Renumbered(at, version) => past_the_guard(format!(
                "update es.events set version = {} where position = {}",
                version.0, at.0
            )),
            Damage::Early(at) => past_the_guard(format!(
                "update es.events set recorded_at = 'epoch' where position = {}",
                at.0
            )),
            Damage::Checkpoint(name) => {
                format!("update es.rows set data = '\\x7b' where tbl = 'checkpoints' and key = '{name}'")
            }
        };
        let sql = format!("begin; {sql}; commit");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&backend.db()).await.unwrap();
    }
}
