//! Redactions beside archives; the rest is in the suites of `es-core`.

use es_core::ErrorKind;
use es_core::store::{EventStore as _, Position, Snapshot, SnapshotStore as _, Version};

use crate::shop::{open, stream, told, write};

#[tokio::test]
async fn what_was_archived_is_redacted_too() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 30).await;
    backend.archive_unloadable(Position(20)).await.unwrap();
    for version in [5, 20, 25] {
        backend.redact(&stream("a"), Version(version), "null".into()).await.unwrap();
    }
    let everywhere = "select count(*) from (
        select data from es.events_archived_1_20 union all select data from es.archived_streams
        union all select data from es.events) e where data = 'null'";
    let found: i64 = sqlx::query_scalar(everywhere).fetch_one(&backend.db()).await.unwrap();
    assert_eq!(found, 4);
    assert_eq!(backend.stream(&stream("a"), Version(19), 1).await.unwrap()[0].data, "null");
}

#[tokio::test]
async fn a_dry_run_refuses_what_is_not_there() {
    let (_database, backend) = open().await;
    write(&backend, "a", 1).await;
    assert_eq!(backend.redaction_needs(&stream("a"), Version(1)).await.unwrap(), None);
    for (name, version) in [("a", 2), ("b", 1)] {
        let error = backend.redaction_needs(&stream(name), Version(version)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(
            error.to_string().contains(&format!("stream {name} has no event with version {version}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn many_events_are_redacted_as_one_new_history_or_none_of_them_is() {
    let (database, backend) = open().await;
    write(&backend, "a", 50).await;
    write(&backend, "b", 1).await;
    let other = es_postgres::PgBackend::connect(database.url()).await.unwrap();
    other.stream(&stream("a"), Version(0), 1).await.unwrap();
    let before = other.history();
    let event = |name: &str, version| (stream(name), Version(version), "null".into());
    let mut events: Vec<_> = (1..=49).map(|version| event("a", version)).collect();
    events.push(event("b", 1));
    let wrong = [&events[..], &[event("b", 2)]].concat();
    let error = backend.redact_all(&wrong).await.unwrap_err();
    assert!(error.to_string().contains("stream b has no event with version 2"), "{error}");
    backend.redact_all(&events).await.unwrap();
    let read = other.stream(&stream("a"), Version(0), 100).await.unwrap();
    assert_eq!(read.iter().filter(|event| event.data == "null").count(), 49);
    assert_eq!(read[49].data, "49");
    assert_eq!(other.stream(&stream("b"), Version(0), 1).await.unwrap()[0].data, "null");
    assert_eq!(other.history(), before + 1);
}

/// Rows of `rows` that were read one after the other.
const SCANNED: &str = "select coalesce(seq_tup_read, 0)::bigint from pg_stat_user_tables where schemaname = 'es' and relname = 'rows'";

#[tokio::test]
async fn what_needs_an_event_is_found_without_a_look_at_every_row() {
    let (database, backend) = open().await;
    write(&backend, "a", 1).await;
    let many = "insert into es.rows select 'view/1~1', i::text, 1, '{}' from generate_series(1, 20000) i; analyze es.rows";
    sqlx::raw_sql(many).execute(&backend.db()).await.unwrap();
    drop(backend);
    let before = told(&database, SCANNED).await;
    let backend = es_postgres::PgBackend::connect(database.url()).await.unwrap();
    backend.redaction_needs(&stream("a"), Version(1)).await.unwrap();
    drop(backend);
    assert_eq!(told(&database, SCANNED).await - before, 0);
}

#[tokio::test]
async fn the_guard_is_up_again_afterwards() {
    let (_database, backend) = open().await;
    write(&backend, "a", 1).await;
    let both = "begin; select es.redact('a', 1, '2'); update es.events set data = '3'; commit";
    let error = sqlx::raw_sql(both).execute(&backend.db()).await.unwrap_err();
    assert!(error.to_string().contains("append-only"), "{error}");
}

#[tokio::test]
async fn a_stream_that_needs_its_snapshot_is_not_redacted_unless_it_is_meant() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 25).await;
    let event = backend.stream(&stream("a"), Version(24), 1).await.unwrap()[0].id;
    let (version, schema) = (Version(25), 1);
    let snapshot = Snapshot { stream: stream("a"), version, event, schema, data: "25".into() };
    backend.put_snapshot(snapshot).await.unwrap();
    assert_eq!(backend.redaction_needs(&stream("a"), Version(25)).await.unwrap(), None);
    backend.archive_unloadable(Position(20)).await.unwrap();
    let error = backend.redact(&stream("a"), Version(25), "null".into()).await.unwrap_err();
    assert!(error.to_string().contains("without its snapshot it could not be loaded"), "{error}");
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_some());
    backend.redact_needed(&stream("a"), Version(25), "null".into()).await.unwrap();
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_none());
}
