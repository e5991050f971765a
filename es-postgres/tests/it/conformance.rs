//! The contract of es-core, on PostgreSQL: a database for each store.

use std::collections::BTreeMap;
use std::sync::Mutex;

use es_core::BoxError;
use es_core::testing::TestClock;
use es_core::testing::conformance::Subject;
use es_postgres::testing::{self, Database};
use es_postgres::{PgBackend, PgOptions, Tx};

/// Stores in databases that live as long as the test.
#[derive(Default)]
struct Postgres(Mutex<Vec<Database>>);

fn postgres() -> Postgres {
    Postgres::default()
}

impl Postgres {
    async fn options(&self) -> PgOptions {
        let database = testing::database().await;
        let options = PgOptions::new(database.url()).unwrap();
        self.0.lock().unwrap().push(database);
        options
    }

    /// The database that was made last.
    fn url(&self) -> String {
        self.0.lock().unwrap().last().unwrap().url().to_owned()
    }
}

impl Subject for Postgres {
    type Backend = PgBackend;

    async fn open(&self) -> PgBackend {
        PgBackend::connect_with(self.options().await).await.unwrap()
    }

    async fn open_at(&self, clock: TestClock) -> PgBackend {
        PgBackend::connect_with(self.options().await.with_clock(clock)).await.unwrap()
    }

    async fn again(&self, _: &PgBackend) -> PgBackend {
        PgBackend::connect(&self.url()).await.unwrap()
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

es_core::conformance!(postgres());
