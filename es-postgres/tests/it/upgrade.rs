//! A store of the version before: it is upgraded and read, and programs that are still open go on.

use es_core::store::envelope;
use es_core::store::{
    Commit, EventFilter, EventStore as _, IdempotencyKey, Position, RowStore as _, Version, is_hot,
};
use es_postgres::testing::{self, Database};
use es_postgres::{PgBackend, PgOptions, migrations};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use crate::support::{commit, connect, count, data, event, ids, row, stream};

const IDENTITY: &str = "01890000-0000-7000-8000-000000000001";

/// What schema 4 had.
async fn old() -> (Database, PgConnection) {
    let database = testing::database().await;
    let mut conn = connect(database.url()).await;
    conn.execute("create schema es").await.unwrap();
    for step in &migrations("es").unwrap()[..4] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(step.sql.clone())).execute(&mut conn).await.unwrap();
    }
    let note = format!("insert into es.store (identity, schema) values ('{IDENTITY}', 4)");
    conn.execute(sqlx::AssertSqlSafe(note)).await.unwrap();
    (database, conn)
}

/// As a program of that version appends: an event and three rows, by the function that it knows.
async fn append_as_before(conn: &mut PgConnection, key: &str) -> bool {
    let mut packed = Vec::new();
    envelope::pack(&event("thing.done"), &mut packed);
    conn.execute("select es.type_ids(array['thing.done'], array[1], array['json'])").await.unwrap();
    let marks = format!(
        r#"[{{"request": 1, "key": "{key}", "fingerprint": "{:032x}", "stream": "s", "version": 1, "events": 1, "refusal": null}}]"#,
        7
    );
    let sql = "select written from es.append(gen_random_uuid(), null, 0, 1, array['s'], array[0::bigint],
        array[9223372036854775807], null, null, null, null, array[1], array[1], array[1], array[$1::bytea],
        array['{}'::bytea], array['tag:a'], array[1], null, $2::jsonb, array[1, 1, 1],
        array['checkpoints', 'hot.jobs', 'v/1'], array[$3, $3, $3], array[0, 0, 0]::bigint[],
        array['{\"position\":1,\"epoch\":1,\"last\":1023}', '1', '2']::bytea[])";
    sqlx::query_scalar(sql).bind(packed).bind(marks).bind(key).fetch_one(conn).await.unwrap()
}

#[tokio::test]
async fn a_store_of_the_version_before_is_upgraded_and_read() {
    let (database, mut old) = old().await;
    assert!(append_as_before(&mut old, "k").await);
    let held = PgBackend::connect_with(PgOptions::new(database.url()).unwrap().with_migrate(false)).await;
    assert!(held.unwrap_err().to_string().contains("is at migration 4"));
    let store = PgBackend::connect(database.url()).await.unwrap();
    assert_eq!(store.identity().to_string(), IDENTITY);
    let page = store.read(&EventFilter::all(), Position(0), 10).await.unwrap();
    assert_eq!((page.events.len(), page.events[0].version), (1, Version(1)));
    assert_eq!(data(&store, "v/1", "k").await.as_deref(), Some("2"));
    let outcome = store.outcome(&IdempotencyKey::new("k").unwrap()).await.unwrap().unwrap();
    assert_eq!((outcome.fingerprint, outcome.position), (7, Position(1)));
    assert_eq!(store.stats().await.unwrap().checkpoints, [("k".to_owned(), Position(1))]);
    // A row that is hot by now has been moved.
    assert!(is_hot("hot.jobs"));
    let jobs = store.scan("hot.jobs", None, 10).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].rev, &*jobs[0].data), (1, 1, &b"1"[..]));
    assert_eq!(count(database.url(), "select count(*) from es.rows where tbl = 'hot.jobs'").await, 0);
    let next = Commit { rows: vec![row("k", 1, None)], ..commit("s") };
    store.commit(next).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// It is open while another one migrates.
#[tokio::test]
async fn a_program_of_the_version_before_goes_on() {
    let (database, mut old) = old().await;
    assert!(append_as_before(&mut old, "a").await);
    let store = PgBackend::connect(database.url()).await.unwrap();
    assert!(append_as_before(&mut old, "b").await);
    assert_eq!(store.stream(&stream("s"), Version(0), 10).await.unwrap().len(), 2);
    assert_eq!(store.scan("hot.jobs", None, 10).await.unwrap().len(), 2, "wherever it is kept");
    let mut mine = commit("s");
    let (name, id) = (mine.appends[0].stream.as_str().to_owned(), ids(&mine)[0]);
    mine.attempt = crate::support::new_id();
    let applied = "select applied from es.resolve($1, array[$2], array[$3]::uuid[], '{}', '{}', '{}', '{}')";
    let asks = sqlx::query_scalar::<_, bool>(applied).bind(uuid::Uuid::from_u128(5)).bind(name).bind(id);
    store.commit(mine).await.unwrap();
    assert!(asks.fetch_one(&mut old).await.unwrap(), "by what it asks with");
}
