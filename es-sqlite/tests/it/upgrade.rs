//! A file of an older version is brought up to date when it is opened.

use std::path::Path;

use es_core::store::{EventStore as _, Position, StreamId, Tables, Version};
use es_sqlite::{SqliteBackend, migrations};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::files::commit;

/// A store as the first step of the schema makes it.
async fn first_schema(file: &Path) {
    let mut conn =
        SqliteConnectOptions::new().filename(file).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(migrations()[0].sql).execute(&mut conn).await.unwrap();
    let identity = uuid::Uuid::from_u128(1).into_bytes();
    let insert = sqlx::query("insert into es_store (one, identity, schema) values (1, ?, 1)");
    insert.bind(&identity[..]).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// A projection that such files have.
pub(crate) const PAIRS: Tables = Tables {
    name: "pairs",
    version: 1,
    schema: "create table lefts (generation integer); create table rights (generation integer);
             create index lefts_by_generation on lefts (generation)",
};

/// A store as the second step of the schema makes it, with two generations of a projection, the second one the current one.
pub(crate) async fn second_schema(file: &Path) {
    first_schema(file).await;
    let mut conn = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::raw_sql(migrations()[1].sql).execute(&mut conn).await.unwrap();
    let made = "update es_store set schema = 2;
        create table \"lefts~1\" (generation integer); create table \"rights~1\" (generation integer);
        create index lefts_by_generation on \"lefts~1\" (generation);
        create table lefts (generation integer); create table rights (generation integer);
        create index \"lefts_by_generation~2\" on lefts (generation);
        insert into \"lefts~1\" values (1); insert into lefts values (2)";
    sqlx::raw_sql(made).execute(&mut conn).await.unwrap();
    for generation in [1, 2] {
        let sql = "insert into es_projections (name, version, generation, current, schema, objects)
                   values (?, 1, ?, ?, ?, '[[\"table\",\"lefts\"],[\"table\",\"rights\"]]')";
        let insert = sqlx::query(sql).bind(PAIRS.name).bind(generation).bind(generation == 2);
        insert.bind(PAIRS.schema).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_store_of_the_first_schema_is_upgraded_by_one_of_its_openers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    first_schema(&file).await;
    let all = futures::future::join_all((0..4).map(|_| SqliteBackend::open(&file))).await;
    for store in all {
        let store = store.unwrap();
        assert_eq!(store.identity(), uuid::Uuid::from_u128(1));
        store.commit(commit("a")).await.unwrap();
        let schema: i64 =
            sqlx::query_scalar("select schema from es_store").fetch_one(&store.db()).await.unwrap();
        assert_eq!(schema, i64::try_from(migrations().len()).unwrap());
    }
    let store = SqliteBackend::open(&file).await.unwrap();
    let events = store.stream(&StreamId::new("a").unwrap(), Version(0), 10).await.unwrap();
    assert_eq!((events.len(), store.head().await.unwrap()), (4, Position(4)));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}
