//! Redactions beside archives; the rest is in the suites of `es-core`.

use es_core::store::{EventStore as _, Position, Snapshot, SnapshotStore as _, Version};

use crate::shop::{open, stream, write};

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
