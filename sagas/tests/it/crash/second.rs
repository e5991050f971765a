//! A saga with a step in a second database, which each node is given.

use es_core::BoxError;
use es_core::memory::{MemoryBackend, Tx};
use es_sqlite::{GuardedTx, SqliteGuarded};
use sagas::saga::{Cx, Guarded, OrRetry as _, Outcome, Ran, Saga, SagaInput, StepError, step};
use sagas::testing::{World, crash_matrix};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

#[derive(Serialize, Deserialize)]
struct Order {}
impl SagaInput for Order {}

struct Take;

#[step(name = "take", undo = give_back, place = Guarded<SqliteGuarded>)]
impl Take {
    async fn take(&self, cx: Cx<'_, Order>, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
        let take = sqlx::query("insert into taken (of) values (?1)").bind(cx.key);
        take.execute(&mut **tx).await.or_retry().map(drop)
    }

    async fn give_back(&self, cx: Cx<'_, Order>, _: Ran<()>, tx: &mut GuardedTx) -> Result<(), BoxError> {
        let give_back = sqlx::query("delete from taken where of = ?1").bind(cx.key);
        Ok(give_back.execute(&mut **tx).await.map(drop)?)
    }
}

fn place_order() -> Saga<Order, Tx> {
    Saga::new("place-order", 1).step(Take).build()
}

async fn is_taken_once(stock: &SqlitePool, world: &World<MemoryBackend>) {
    let taken = sqlx::query_scalar("select count(*) from taken where of = ?1").bind(world.key());
    let taken: i64 = taken.fetch_one(stock).await.unwrap();
    assert_eq!(taken, i64::from(world.outcome() == Some(&Outcome::Completed)), "{:?}", world.outcome());
}

#[tokio::test]
async fn a_step_in_a_second_database_has_run_once_or_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        SqliteConnectOptions::new().filename(folder.path().join("stock.db")).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sqlx::raw_sql("create table taken (of text not null)").execute(&pool).await.unwrap();
    let stock = SqliteGuarded::new(pool.clone());
    stock.install().await.unwrap();
    let matrix = crash_matrix(place_order, Order {}).provide(stock).at_once(16);
    let checked = matrix.check(async |world| is_taken_once(&pool, world).await).await;
    assert!(checked.runs > 10 && checked.missed * 10 < checked.runs, "{checked:?}");
}
