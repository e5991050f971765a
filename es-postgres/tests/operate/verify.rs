//! What a store is found not to keep.

use es_core::store::{
    Commit, EventStore as _, ExpectedVersion, IdempotencyKey, Outcome, OutcomeMark, Position, Snapshot,
    SnapshotStore as _, Version,
};

use crate::shop::{append, open, stream, write};

#[tokio::test]
async fn each_thing_that_is_wrong_is_named() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    let (version, position) = (Version(1), Position(0));
    let outcome =
        Outcome { fingerprint: 7, stream: stream("a"), version, position, events: 1, refusal: None };
    let mark = OutcomeMark { key: IdempotencyKey::new("k").unwrap(), outcome };
    backend.commit(Commit { outcomes: vec![mark], ..append("a", ExpectedVersion::Any, 1) }).await.unwrap();
    write(&backend, "a", 24).await;
    let event = backend.stream(&stream("a"), Version(9), 1).await.unwrap()[0].id;
    let snapshot =
        Snapshot { stream: stream("a"), version: Version(10), event, schema: 1, data: "10".into() };
    backend.put_snapshot(snapshot).await.unwrap();
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    for (wrong, right, named) in [
        ("update es.outcomes set position = 999", "update es.outcomes set position = 1", "outcomes of keys"),
        ("update es.outcomes set position = 2", "update es.outcomes set position = 1", "outcomes of keys"),
        (
            "update es.snapshots set version = 11",
            "update es.snapshots set version = 10",
            "snapshots were taken at events",
        ),
        (
            "alter sequence es.streams_stream_id_seq restart; select nextval('es.event_types_type_id_seq')",
            "select nextval('es.streams_stream_id_seq')",
            "numbers nothing twice",
        ),
        (
            "update es.partitions set first = 12 where first = 21",
            "update es.partitions set first = 21 where first = 12",
            "partitions are what is noted of them",
        ),
    ] {
        sqlx::raw_sql(wrong).execute(&backend.db()).await.unwrap();
        let found = backend.verify().await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|line| line.contains(named)), "{wrong}: {found:#?}");
        sqlx::raw_sql(right).execute(&backend.db()).await.unwrap();
        assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_was_verified_before_is_left_out() {
    let (_database, backend) = open().await;
    write(&backend, "a", 5).await;
    write(&backend, "b", 5).await;
    write(&backend, "a", 5).await;
    let hole = "begin; set local es.maintenance = 'on'; delete from es.events where position = 3; commit";
    sqlx::raw_sql(hole).execute(&backend.db()).await.unwrap();
    // The event behind it goes on from the one that is gone.
    for (after, wrong) in [(0, true), (2, true), (3, true), (4, false), (7, false), (15, false), (100, false)]
    {
        let found = backend.verify_after(Position(after)).await.unwrap();
        assert_eq!(!found.is_empty(), wrong, "{after}: {found:#?}");
    }
    // The last event of a stream before the position is what it goes on from.
    let hole = "begin; set local es.maintenance = 'on'; update es.events set version = 20 where position = 12; commit";
    sqlx::raw_sql(hole).execute(&backend.db()).await.unwrap();
    assert!(!backend.verify_after(Position(11)).await.unwrap().is_empty());
}
