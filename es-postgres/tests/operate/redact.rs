//! Redactions.

use es_core::ErrorKind;
use es_core::store::{EventStore as _, Position, Snapshot, SnapshotStore as _, Version};

use crate::shop::{open, stream, write};

#[tokio::test]
async fn a_payload_is_replaced_and_the_snapshot_goes() {
    let (_database, backend) = open().await;
    write(&backend, "a", 3).await;
    let before = backend.stream(&stream("a"), Version(0), 10).await.unwrap();
    let snapshot = Snapshot {
        stream: stream("a"),
        version: Version(3),
        event: before[2].id,
        schema: 1,
        data: "3".into(),
    };
    backend.put_snapshot(snapshot).await.unwrap();

    backend.redact(&stream("a"), Version(2), r#"{"gone":true}"#.into()).await.unwrap();
    let mut after = backend.stream(&stream("a"), Version(0), 10).await.unwrap();
    assert_eq!(after[1].data, r#"{"gone":true}"#);
    after[1].data = before[1].data.clone();
    assert_eq!(after, before);
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_none());
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

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
async fn what_is_not_there_or_no_payload_is_refused() {
    let (_database, backend) = open().await;
    write(&backend, "a", 1).await;
    for (name, version, data) in [("a", 2, "1"), ("b", 1, "1"), ("a", 1, "{")] {
        let error = backend.redact(&stream(name), Version(version), data.into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    }
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    let error = backend.redact(&stream("a"), Version(1), large.into()).await.unwrap_err();
    assert!(error.to_string().contains("1000000 bytes"), "{error}");
    assert_eq!(backend.stream(&stream("a"), Version(0), 1).await.unwrap()[0].data, "0");
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
async fn what_is_needed_as_it_is_is_not_redacted_unless_it_is_meant() {
    use es_core::store::{Commit, RowWrite};
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "parked", 1).await;
    write(&backend, "a", 25).await;
    let event = backend.stream(&stream("a"), Version(24), 1).await.unwrap()[0].id;
    let (version, schema) = (Version(25), 1);
    let snapshot = Snapshot { stream: stream("a"), version, event, schema, data: "25".into() };
    backend.put_snapshot(snapshot).await.unwrap();
    let key = "00000000000000000001:0123456789abcdef:00000000000000000001".to_owned();
    let row = RowWrite { table: "totals/1~1/parked/events".into(), key, rev: 0, row: Some("{}".into()) };
    backend.commit(Commit { rows: vec![row.clone()], ..Commit::default() }).await.unwrap();
    let is_parked = backend.redaction_needs(&stream("parked"), Version(1)).await.unwrap().unwrap();
    assert!(is_parked.contains("event 1 is set aside in totals/1~1"), "{is_parked}");
    assert_eq!(backend.redaction_needs(&stream("a"), Version(25)).await.unwrap(), None);
    backend
        .commit(Commit { rows: vec![RowWrite { rev: 1, row: None, ..row }], ..Commit::default() })
        .await
        .unwrap();
    assert_eq!(backend.redaction_needs(&stream("parked"), Version(1)).await.unwrap(), None);

    backend.archive_unloadable(Position(20)).await.unwrap();
    let error = backend.redact(&stream("a"), Version(25), "null".into()).await.unwrap_err();
    assert!(error.to_string().contains("without its snapshot it could not be loaded"), "{error}");
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_some());
    backend.redact_needed(&stream("a"), Version(25), "null".into()).await.unwrap();
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_redaction_reaches_what_other_programs_keep() {
    let (database, backend) = open().await;
    write(&backend, "a", 1).await;
    let other = es_postgres::PgBackend::connect(database.url()).await.unwrap();
    let read = async || other.stream(&stream("a"), Version(0), 10).await.unwrap()[0].data.clone();
    assert_eq!(read().await, "0");
    let before = other.history();
    assert_eq!(read().await, "0");
    assert_eq!(other.history(), before);
    backend.redact(&stream("a"), Version(1), "null".into()).await.unwrap();
    // With that read, before anything is given: whoever keeps something asks for it.
    assert_eq!(read().await, "null");
    assert_ne!(other.history(), before);
}
