//! A file of an older version is brought up to date when it is opened.

use std::path::Path;

use es_core::store::{EventStore as _, Position, StreamId, Version};
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
