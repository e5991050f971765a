//! Events and streams for the tests of this folder.

use std::sync::Arc;

use es_core::event::Tag;
use es_core::id::Ids;
use es_core::store::{
    Append, Commit, Committed, EventStore as _, ExpectedVersion, NewEvent, StreamId, Version,
};
use es_postgres::testing::Database;
use es_postgres::{PgBackend, PgOptions};

/// A store in a database of its own.
pub(crate) async fn open() -> (Database, PgBackend) {
    let database = es_postgres::testing::database().await;
    let backend = PgBackend::connect(database.url()).await.unwrap();
    (database, backend)
}

/// As another role than the superuser of the test's server.
pub(crate) fn as_role(database: &Database, role: &str) -> PgOptions {
    let url = format!("{}&options=-c%20role={role}", database.url());
    PgOptions::new(&url).unwrap().with_migrate(false)
}

pub(crate) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub(crate) fn event(data: &str) -> NewEvent {
    NewEvent {
        id: Ids::default().next(),
        name: "Sold".into(),
        schema: 1,
        codec: "json".into(),
        data: data.to_owned().into(),
        tags: vec![Tag::new("shop", "a").unwrap()],
        metadata: Arc::default(),
    }
}

pub(crate) fn append(name: &str, expected: ExpectedVersion, events: usize) -> Commit {
    let events = (0..events).map(|i| event(&i.to_string())).collect();
    Commit { appends: vec![Append { stream: stream(name), expected, events }], ..Commit::default() }
}

pub(crate) async fn write(backend: &PgBackend, name: &str, events: usize) -> Committed {
    backend.commit(append(name, ExpectedVersion::Any, events)).await.unwrap()
}

pub(crate) async fn versions(backend: &PgBackend, name: &str, after: u64) -> Vec<u64> {
    let events = backend.stream(&stream(name), Version(after), 10_000).await.unwrap();
    events.iter().map(|event| event.version.0).collect()
}

/// One number, once all connections of others have ended: by then each has told what it read.
pub(crate) async fn told(database: &Database, sql: &str) -> i64 {
    use sqlx::Connection as _;
    const OTHERS: &str = "select count(*) from pg_stat_activity where datname = current_database()
        and backend_type = 'client backend' and pid <> pg_backend_pid()";
    let mut conn = sqlx::PgConnection::connect(database.url()).await.unwrap();
    while sqlx::query_scalar::<_, i64>(OTHERS).fetch_one(&mut conn).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    let told = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    told
}
