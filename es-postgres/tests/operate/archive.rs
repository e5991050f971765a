//! Archives: what leaves, what stays, and what fails clearly.

use es_core::store::{
    Check, Commit, CommitError, EventFilter, EventStore as _, ExpectedVersion, Position, RowWrite, Version,
    read_all,
};
use es_core::{ErrorKind, event::Tag};
use es_postgres::PgBackend;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::shop::{append, event, open, stream, versions, write};

/// Stream `old` up to position 30, `both` before and after position 30, `new` behind it; partitions end at 20, 30, ..
async fn archived() -> (es_postgres::testing::Database, PgBackend) {
    let (database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "old", 25).await;
    write(&backend, "both", 10).await;
    write(&backend, "new", 10).await;
    let names = backend.archive_unloadable(Position(38)).await.unwrap();
    assert_eq!(names, ["events_archived_1_20", "events_archived_21_30"]);
    (database, backend)
}

#[tokio::test]
async fn whole_partitions_leave_and_the_rest_is_sound() {
    let (_database, backend) = archived().await;
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    let all = read_all(&backend, &EventFilter::all(), Position(0)).await.unwrap();
    let places: Vec<u64> = all.events.iter().map(|event| event.place().0).collect();
    assert_eq!(places, (31..=45).collect::<Vec<_>>());
    let stats = backend.stats().await.unwrap();
    assert_eq!((stats.archived, stats.head, stats.events()), (Position(30), Position(45), 15));
    let kept: i64 = sqlx::query_scalar("select count(*) from es.events_archived_1_20")
        .fetch_one(&backend.db())
        .await
        .unwrap();
    assert_eq!(kept, 20);
}

#[tokio::test]
async fn a_stream_that_has_left_goes_on_with_its_versions() {
    let (_database, backend) = archived().await;
    let done = backend.commit(append("old", ExpectedVersion::Exact(Version(25)), 2)).await.unwrap();
    assert_eq!((done.versions, done.position), (vec![Version(27)], Position(47)));
    let done = backend.commit(append("both", ExpectedVersion::Exact(Version(10)), 1)).await.unwrap();
    assert_eq!(done.versions, vec![Version(11)]);
    assert_eq!(versions(&backend, "old", 25).await, [26, 27]);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stream_that_has_left_is_where_it_was() {
    let (_database, backend) = archived().await;
    for (expected, holds) in [
        (ExpectedVersion::NoStream, false),
        (ExpectedVersion::Exists, true),
        (ExpectedVersion::Exact(Version(3)), false),
    ] {
        let check = Check { stream: stream("old"), expected };
        let mut commit = append("new", ExpectedVersion::Any, 1);
        commit.checks.push(check);
        match backend.commit(commit).await {
            Ok(_) => assert!(holds, "{expected}"),
            Err(CommitError::Conflict { actual, .. }) => {
                assert!(!holds, "{expected}");
                assert_eq!(actual, Version(25));
            }
            Err(other) => panic!("{other}"),
        }
        let append = Commit { explain: true, ..append("old", expected, 1) };
        let outcome = backend.commit(append).await;
        assert_eq!(outcome.is_ok(), holds, "{expected}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            continue;
        }
        // Back to where it was: the next round asks again.
        assert_eq!(versions(&backend, "old", 25).await, [26]);
        return;
    }
}

#[tokio::test]
async fn a_read_of_what_has_left_fails_clearly() {
    let (_database, backend) = archived().await;
    for (name, last) in [("old", 25), ("both", 5)] {
        for after in [0, last - 2] {
            let error = backend.stream(&stream(name), Version(after), 100).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misuse);
            assert!(error.to_string().contains(&format!("archived up to v{last}")), "{error}");
        }
        // The last event that left is still there, for a snapshot at it.
        let anchor = backend.stream(&stream(name), Version(last - 1), 1).await.unwrap();
        assert_eq!(anchor.iter().map(|event| event.version.0).collect::<Vec<_>>(), [last]);
    }
    assert_eq!(versions(&backend, "both", 4).await, [5, 6, 7, 8, 9, 10]);
    assert_eq!(versions(&backend, "both", 5).await, [6, 7, 8, 9, 10]);
    assert!(versions(&backend, "old", 25).await.is_empty());
    assert!(backend.stream(&stream("both"), Version(4), 2).await.unwrap().len() == 2);
}

#[tokio::test]
async fn tags_leave_with_their_events() {
    let (_database, backend) = archived().await;
    let filter = EventFilter::all().tagged(&Tag::new("shop", "a").unwrap());
    let found = read_all(&backend, &filter, Position(0)).await.unwrap();
    assert_eq!(found.events.len(), 15);
    let tags: i64 =
        sqlx::query_scalar("select count(*) from es.tags").fetch_one(&backend.db()).await.unwrap();
    assert_eq!(tags, 15);
}

#[tokio::test]
async fn the_last_event_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 20).await;
    assert!(backend.archive_unloadable(Position(1_000)).await.unwrap().is_empty());
    write(&backend, "a", 1).await;
    assert_eq!(backend.archive_unloadable(Position(1_000)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.head().await.unwrap(), Position(21));
}

#[tokio::test]
async fn a_second_archive_goes_on_from_the_first() {
    let (_database, backend) = archived().await;
    write(&backend, "both", 10).await;
    assert_eq!(
        backend.archive_unloadable(Position(50)).await.unwrap(),
        ["events_archived_31_40", "events_archived_41_50"]
    );
    assert_eq!(versions(&backend, "both", 15).await, [16, 17, 18, 19, 20]);
    assert_eq!(versions(&backend, "old", 25).await, Vec::<u64>::new());
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

/// Writes rows as processors do.
async fn put(backend: &PgBackend, rows: &[(&str, &str, &'static str)]) {
    let row = |(table, key, data): &(&str, &str, &'static str)| RowWrite {
        table: (*table).into(),
        key: (*key).to_owned(),
        rev: 0,
        row: Some((*data).into()),
    };
    let rows = rows.iter().map(row).collect();
    backend.commit(Commit { rows, ..Commit::default() }).await.unwrap();
}

/// Nothing is archived, and it is said why.
async fn assert_refused(backend: &PgBackend, why: &[&str]) {
    let error = backend.archive(Position(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    for why in why {
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(versions(backend, "a", 0).await.len(), 50);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn nobody_is_left_behind() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    put(&backend, &[("checkpoints", "totals/1~1#0000", r#"{"position":19,"last":1023}"#)]).await;
    assert_refused(&backend, &["totals/1~1", "`drop_version`", "`forget_processor`"]).await;
}

#[tokio::test]
async fn what_is_parked_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    let (first, behind) = ("00000000000000000005", "00000000000000000030");
    let event = |position: &str| format!("{first}:0123456789abcdef:{position}");
    let sequence = r#"{"first":5,"position":5,"event":"e","events":2,"error":"","attempts":1}"#;
    put(
        &backend,
        &[
            ("checkpoints", "totals/1~1#0000", r#"{"position":50,"last":1023}"#),
            ("totals/1~1/parked", "z", "damaged \u{0}"),
            ("totals/1~1/parked", "key", sequence),
            ("totals/1~1/parked/events", &event(first), "{}"),
            ("totals/1~1/parked/events", &event(behind), "{}"),
            // A row of somebody's view.
            ("view/1~1", &event(first), "{}"),
        ],
    )
    .await;
    assert_refused(&backend, &["event 5 is parked in totals/1~1 for 'key'", "Retry or discard it"]).await;
    // It was handled since, and the one behind it waits for its turn.
    let handled = RowWrite { table: "totals/1~1/parked/events".into(), key: event(first), rev: 1, row: None };
    backend.commit(Commit { rows: vec![handled], ..Commit::default() }).await.unwrap();
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap().len(), 1);
    let error = backend.archive(Position(40)).await.unwrap_err();
    assert!(error.to_string().contains("event 30 is parked in totals/1~1"), "{error}");
}

/// It was taken in late, and waits behind what was parked by then.
#[tokio::test]
async fn what_is_parked_in_a_sequence_that_began_later_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    let first = "00000000000000000030";
    let event = |position: &str| format!("{first}:0123456789abcdef:{position}");
    let sequence = r#"{"first":30,"position":30,"event":"e","events":2,"error":"","attempts":1}"#;
    put(
        &backend,
        &[
            ("totals/1~1/parked", "key", sequence),
            ("totals/1~1/parked/events", &event("00000000000000000005"), "{}"),
            ("totals/1~1/parked/events", &event(first), "{}"),
        ],
    )
    .await;
    assert_refused(&backend, &["event 5 is parked in totals/1~1 for 'key'"]).await;
}

/// Nobody can retry it there.
#[tokio::test]
async fn what_a_rebuild_under_way_has_parked_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    let event = "00000000000000000005:0123456789abcdef:00000000000000000005";
    put(&backend, &[("totals/1~2/parked/events", event, "{}")]).await;
    assert_refused(&backend, &["event 5 is parked in totals/1~2", "switch to it first, or `abort` it"]).await;
}

#[tokio::test]
async fn what_could_not_be_decoded_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    put(
        &backend,
        &[("totals/1~2/undecoded", "00000000000000000020:0000", r#"{"key":"key","first":0,"last":1023}"#)],
    )
    .await;
    assert_refused(&backend, &["event 20 could not be decoded by totals/1~2"]).await;
}

/// Rows of a process: an instance that is parked at its second input, one that has taken in all, and an event that came before
/// its instance.
const OF_A_PROCESS: [(&str, &str, &str); 6] = [
    (
        "process.instances.ship",
        "0007:ada",
        r#"{"key":"ada","id":"019aa0a0-0000-7000-8000-000000000001","noted":3,"taken":1,"state":"\u0000"}"#,
    ),
    (
        "process.instances.ship",
        "0007:eve",
        r#"{"key":"eve","id":"019aa0a0-0000-7000-8000-000000000002","noted":1,"taken":1}"#,
    ),
    (
        "process.inputs.ship",
        "0007:019aa0a0000070008000000000000001:00000000000000000001",
        r#"{"input":{"event":{"position":3,"step":0}}}"#,
    ),
    (
        "process.inputs.ship",
        "0007:019aa0a0000070008000000000000001:00000000000000000002",
        r#"{"input":{"event":{"position":7,"step":0}}}"#,
    ),
    (
        "process.inputs.ship",
        "0007:019aa0a0000070008000000000000002:00000000000000000001",
        r#"{"input":{"event":{"position":4,"step":0}}}"#,
    ),
    (
        "process.early.ship",
        "0011:0123456789abcdef:00000000000000000008:00000000000000000000",
        r#"{"key":"bob","position":8,"step":0}"#,
    ),
];

#[tokio::test]
async fn what_instances_of_processes_wait_for_stays() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    put(&backend, &OF_A_PROCESS).await;
    assert_refused(
        &backend,
        &["event 7 is an input that waits in process ship for 'ada'", "Retry, skip or end"],
    )
    .await;
    let plan = backend.plan_archive(Position(20)).await.unwrap();
    assert_eq!(plan.in_the_way.len(), 2, "{plan:?}");
    assert!(plan.in_the_way[1].contains("event 8 waits for its start in process ship for 'bob'"), "{plan:?}");
    for (version, waits) in [(3, false), (4, false), (7, true), (8, true), (9, false)] {
        let needs = backend.redaction_needs(&stream("a"), Version(version)).await.unwrap();
        assert_eq!(needs.is_some(), waits, "{version}: {needs:?}");
    }
    let error = backend.redact(&stream("a"), Version(8), "null".into()).await.unwrap_err();
    assert!(error.to_string().contains("event 8 waits for its start in process ship"), "{error}");
}

#[tokio::test]
async fn a_plan_lists_all_that_is_set_aside_and_a_place_that_cannot_be_read() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 50).await;
    let event = |position: &str| format!("{position}:0123456789abcdef:{position}");
    let (third, fourth) = ("00000000000000000003", "00000000000000000004");
    put(
        &backend,
        &[
            ("checkpoints", "good/1~1#0000", r#"{"position":50,"last":1023}"#),
            ("checkpoints", "bad/1~1#0000", "not json"),
            ("good/1~1/parked/events", &event(third), "{}"),
            ("good/1~1/parked/events", &event(fourth), "{}"),
            ("other/1~1/parked/events", &event(fourth), "{}"),
        ],
    )
    .await;
    let plan = backend.plan_archive(Position(20)).await.unwrap();
    let named = ["the place of processor bad/1~1#0000", "event 3 is", "good/1~1", "other/1~1"];
    assert_eq!(plan.in_the_way.len(), 4, "{plan:?}");
    for (line, named) in plan.in_the_way.iter().zip(named) {
        assert!(line.contains(named), "{line}");
    }
    let places = "select count(*) from es.checkpoints where position is null or position = 50";
    let shown: i64 = sqlx::query_scalar(places).fetch_one(&backend.db()).await.unwrap();
    assert_eq!(shown, 2);
}

#[tokio::test]
async fn a_log_without_partitions_is_not_archived() {
    let (_database, backend) = open().await;
    let error = backend.archive(Position(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("no partitions"), "{error}");
}

#[tokio::test]
async fn others_append_and_read_while_partitions_leave() {
    let (database, backend) = open().await;
    backend.partition(20).await.unwrap();
    write(&backend, "a", 50).await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..100 {
            let at = Version(versions(&other, "a", 50).await.len() as u64 + 50);
            other.commit(append("a", ExpectedVersion::Exact(at), 1)).await.unwrap();
        }
    });
    backend.archive_unloadable(Position(40)).await.unwrap();
    writer.await.unwrap();
    assert_eq!(versions(&backend, "a", 50).await, (51..=150).collect::<Vec<_>>());
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

/// Nobody is kept waiting behind it for long, and it is not given up for one long transaction.
#[tokio::test]
async fn partitions_leave_when_a_long_read_has_ended() {
    const WAITING: &str = "select pid from pg_stat_activity where datname = current_database()
                           and wait_event_type = 'Lock' and query like 'select archive(%'";
    let (database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 25).await;
    let db = backend.db();
    let mut reader = PgConnection::connect(database.url()).await.unwrap();
    let mut reader = reader.begin().await.unwrap();
    sqlx::query("select count(*) from es.events").fetch_one(&mut *reader).await.unwrap();
    let archive = tokio::spawn({
        let backend = backend.clone();
        async move { backend.archive_unloadable(Position(20)).await }
    });
    let waiting = async || sqlx::query_scalar(WAITING).fetch_all(&db).await.unwrap();
    let mut first: Vec<i32> = waiting().await;
    while first.is_empty() {
        first = waiting().await;
    }
    while waiting().await == first {}
    reader.rollback().await.unwrap();
    assert_eq!(archive.await.unwrap().unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_aggregate_that_has_left_loads_from_its_snapshot_only() {
    use es_core::store::{Snapshot, SnapshotStore as _};
    let (_database, backend) = archived().await;
    let last = backend.stream(&stream("old"), Version(24), 1).await.unwrap().remove(0);
    let snapshot = Snapshot {
        stream: stream("old"),
        version: Version(25),
        event: last.id,
        schema: 1,
        data: "25".into(),
    };
    backend.put_snapshot(snapshot).await.unwrap();
    // As the repository does it: the event of the snapshot, then what came after it.
    assert_eq!(backend.stream(&stream("old"), Version(24), 1).await.unwrap()[0].id, last.id);
    assert!(backend.stream(&stream("old"), Version(25), 100).await.unwrap().is_empty());
    assert_eq!(last.data, event("24").data);
}

/// Streams `a`, with a snapshot at version 10, and `b`, without one; each has ten events, and there are partitions of ten.
async fn half_loadable() -> (es_postgres::testing::Database, PgBackend) {
    use es_core::store::{Snapshot, SnapshotStore as _};
    let (database, backend) = open().await;
    backend.partition(10).await.unwrap();
    for name in ["a", "b", "c", "c"] {
        write(&backend, name, 10).await;
    }
    let event = backend.stream(&stream("a"), Version(9), 1).await.unwrap()[0].id;
    let (version, schema) = (Version(10), 1);
    backend
        .put_snapshot(Snapshot { stream: stream("a"), version, event, schema, data: "10".into() })
        .await
        .unwrap();
    (database, backend)
}

#[tokio::test]
async fn what_could_not_be_loaded_any_more_stays_unless_it_is_meant() {
    let (_database, backend) = half_loadable().await;
    let why = "stream b has no snapshot at version 10 or later";
    put(&backend, &[("checkpoints", "totals/1~1#0000", r#"{"position":3,"last":1023}"#)]).await;
    let plan = backend.plan_archive(Position(20)).await.unwrap();
    assert_eq!((plan.upto, plan.in_the_way.len(), plan.unloadable.len()), (Position(20), 1, 1));
    assert!(plan.in_the_way[0].contains("totals/1~1") && plan.unloadable[0].contains(why), "{plan:?}");
    let (table, key, rev) = ("checkpoints".into(), "totals/1~1#0000".to_owned(), 1);
    let caught_up = RowWrite { table, key, rev, row: Some(r#"{"position":40,"last":1023}"#.into()) };
    backend.commit(Commit { rows: vec![caught_up], ..Commit::default() }).await.unwrap();
    let error = backend.archive(Position(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(versions(&backend, "a", 0).await.len(), 10);
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.plan_archive(Position(20)).await.unwrap(), es_postgres::ArchivePlan::default());
}

#[tokio::test]
async fn a_snapshot_of_an_event_that_is_gone_is_not_counted_on() {
    let (_database, backend) = half_loadable().await;
    let lost = "update es.snapshots set version = 12, event = gen_random_uuid()";
    sqlx::raw_sql(lost).execute(&backend.db()).await.unwrap();
    let plan = backend.plan_archive(Position(20)).await.unwrap();
    assert_eq!(plan.unloadable.len(), 2, "{plan:?}");
    assert!(plan.unloadable[0].contains("stream a has no snapshot at version 10 or later"), "{plan:?}");
    // Archived all the same, the stream has no need of it.
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.redaction_needs(&stream("a"), Version(10)).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_archived_comes_back_the_last_one_first() {
    let (_database, backend) = half_loadable().await;
    let tagged = EventFilter::all().tagged(&Tag::new("shop", "a").unwrap());
    let before = read_all(&backend, &tagged, Position(0)).await.unwrap().events;
    assert_eq!(before.len(), 40);
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.archive_unloadable(Position(30)).await.unwrap(), ["events_archived_21_30"]);
    let error = backend.attach_archive("events_archived_1_20").await.unwrap_err();
    assert!(error.to_string().contains("attach the tables that left later first"), "{error}");
    for (name, left) in [("events_archived_21_30", 20), ("events_archived_1_20", 0)] {
        backend.attach_archive(name).await.unwrap();
        assert_eq!(backend.stats().await.unwrap().archived, Position(left));
        assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
        backend.commit(append("b", ExpectedVersion::Any, 1)).await.unwrap();
    }
    let after = read_all(&backend, &tagged, Position(0)).await.unwrap().events;
    assert_eq!(after[..40], before);
    assert_eq!(versions(&backend, "b", 0).await, (1..=12).collect::<Vec<_>>());
    let kept: i64 = sqlx::query_scalar("select count(*) from es.archived_streams")
        .fetch_one(&backend.db())
        .await
        .unwrap();
    assert_eq!(kept, 0);
    // And leaves again.
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_stream_goes_on_from_has_to_be_there() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 45).await;
    assert_eq!(backend.archive_unloadable(Position(20)).await.unwrap(), ["events_archived_1_20"]);
    assert_eq!(backend.archive_unloadable(Position(30)).await.unwrap(), ["events_archived_21_30"]);
    sqlx::raw_sql("drop table es.events_archived_1_20").execute(&backend.db()).await.unwrap();
    let error = backend.attach_archive("events_archived_21_30").await.unwrap_err();
    assert!(error.to_string().contains("stream a goes on from an event"), "{error}");
    for gone in ["events_archived_1_20", "nothing", "events"] {
        let error = backend.attach_archive(gone).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{gone}: {error}");
    }
    assert_eq!(versions(&backend, "a", 30).await.len(), 15);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}
