//! As much as the limits allow, at once.

use std::sync::Arc;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Timestamp;
use es_core::event::Tag;
use es_core::limits::{HARD_MAX_EVENTS, MAX_FILTER_ITEMS, MAX_PAYLOAD};
use es_core::store::{
    AppendCondition, Backend as _, Commit, EventFilter, EventStore as _, ExpectedVersion, FilterItem,
    Position, RowWrite, Transaction as _, Version, read_all,
};
use es_core::testing::TestClock;
use es_postgres::testing;

use crate::support::{append, commit, count, fresh, new_id, refused, stream, with};

fn tag(n: usize) -> Tag {
    Tag::new("t", n).unwrap()
}

#[tokio::test]
async fn a_commit_may_have_as_many_events_as_the_limits_allow_by_either_door() {
    let (_database, store) = fresh().await;
    let large = || {
        let mut one = append("s", ExpectedVersion::Any, HARD_MAX_EVENTS);
        for (i, event) in one.appends[0].events.iter_mut().enumerate() {
            event.tags = vec![tag(i), tag(i % 7 + HARD_MAX_EVENTS)];
        }
        one
    };
    let n = HARD_MAX_EVENTS as u64;
    assert_eq!(store.commit(large()).await.unwrap().position, Position(n));
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = large();
    assert_eq!(tx.commit().await.unwrap().versions, [Version(2 * n)]);
    let page = store.read(&FilterItem::new().with_tag(tag(77)).into(), Position(0), 10).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.version.0).collect::<Vec<_>>(), [78, n + 78]);
    // As many streams.
    let streams =
        (0..HARD_MAX_EVENTS / 2).flat_map(|i| append(&format!("s{i}"), ExpectedVersion::NoStream, 1).appends);
    store.commit(Commit { appends: streams.collect(), ..Commit::default() }).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn payloads_at_their_limit_pass_by_either_door() {
    let (_database, store) = fresh().await;
    let large = |n: usize| {
        let mut one = append("s", ExpectedVersion::Any, n);
        one.appends[0].events.iter_mut().for_each(|event| {
            event.codec = "raw".into();
            event.data = vec![0xa7; MAX_PAYLOAD].into();
        });
        one
    };
    store.commit(large(20)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = large(10);
    tx.commit().await.unwrap();
    let mut found = Vec::new();
    loop {
        let after = Version(found.len() as u64);
        let page = store.stream(&stream("s"), after, 100).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found.len(), 30);
    assert!(found.iter().all(|e| e.data.len() == MAX_PAYLOAD && e.data[MAX_PAYLOAD - 1] == 0xa7));
}

#[tokio::test]
async fn a_filter_may_be_as_large_as_the_limits_allow() {
    let (_database, store) = fresh().await;
    for n in 0..20 {
        let mut one = commit("s");
        one.appends[0].events[0].tags = (0..=n).map(tag).collect();
        store.commit(one).await.unwrap();
    }
    let of = |tags: std::ops::Range<usize>| tags.fold(FilterItem::new(), |item, n| item.with_tag(tag(n)));
    let many = |each: usize| {
        let item = |n: usize| of(n..n + each).with_types(["thing.done"]);
        let first: EventFilter = item(0).into();
        (1..MAX_FILTER_ITEMS).fold(first, |filter, n| filter.or(item(n)))
    };
    let cases: [(EventFilter, usize); 5] = [
        (many(1), 20),
        (many(19), 2),
        (of(0..12).into(), 9),
        (of(0..200).into(), 0),
        (of(0..9_000).into(), 0),
    ];
    for (filter, expected) in cases {
        let found = read_all(&store, &filter, Position(0)).await.unwrap();
        assert_eq!((found.events.len(), found.through), (expected, Position(20)));
        let condition = AppendCondition { fail_if_events_match: filter, after: Position(0) };
        let outcome =
            store.commit(Commit { condition: Some(condition), ..append("s", ExpectedVersion::Any, 0) }).await;
        assert_eq!(outcome.is_err(), expected > 0);
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_callers_at_once_are_all_answered() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_readers(2)).await;
    let all = (0..2_000_usize).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let mine = match n % 3 {
                0 => append(&format!("s{n}"), ExpectedVersion::NoStream, 1),
                1 => append("shared", ExpectedVersion::Any, 1),
                _ => append("contended", ExpectedVersion::NoStream, 1),
            };
            store.commit(mine).await
        })
    });
    let outcomes = futures::future::try_join_all(all).await.unwrap();
    let refused = outcomes.iter().filter(|o| o.is_err()).count();
    assert_eq!(refused, 2_000 / 3 - 1);
    assert_eq!(store.head().await.unwrap(), Position(2_000 - refused as u64));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// A hundred callers with ten megabytes each would make a message that the server does not take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_of_many_callers_do_not_go_into_one_message() {
    let (database, store) = fresh().await;
    let large: bytes::Bytes = vec![b'x'; 1_000_000].into();
    let all = (0..40).map(|n| {
        let view = RowWrite { table: "v/1".into(), key: format!("k{n}"), rev: 0, row: Some(large.clone()) };
        store.commit(Commit { rows: vec![view], ..Commit::default() })
    });
    futures::future::try_join_all(all).await.unwrap();
    let batches = count(database.url(), "select count(distinct xmin::text) from es.rows").await;
    assert!(batches >= 8, "40 rows in {batches} batches");
}

/// The server takes no message of a gigabyte: what cannot be sent is refused, and is nobody else's trouble.
#[tokio::test]
async fn a_commit_that_is_too_large_for_the_server_is_refused_and_not_unknown() {
    let (_database, store) = fresh().await;
    let data: bytes::Bytes = vec![b'x'; MAX_PAYLOAD].into();
    let large = || {
        let mut one = append("s", ExpectedVersion::Any, 1_200);
        one.appends[0].events.iter_mut().for_each(|event| {
            event.codec = "raw".into();
            event.data = data.clone();
        });
        one
    };
    let error = refused(store.commit(large()).await);
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = large();
    let error = refused(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    assert_eq!(store.commit(commit("s")).await.unwrap().position, Position(1));
}

#[tokio::test]
async fn clocks_may_be_old_and_go_backwards() {
    let database = testing::database().await;
    let clock = TestClock::at("-004000-01-01T00:00:00Z".parse().unwrap());
    let store = with(&database, |o| o.with_clock(clock.clone())).await;
    let times = [
        "-004000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "1500-01-01T00:00:00Z",
        "9999-01-01T00:00:00Z",
        "2020-01-01T00:00:00Z",
    ];
    for time in times {
        clock.set(time.parse().unwrap());
        store.commit(commit("s")).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        *tx.staged() = commit("s");
        tx.commit().await.unwrap();
    }
    let found = store.stream(&stream("s"), Version(0), 100).await.unwrap();
    let recorded: Vec<String> = found.iter().step_by(2).map(|e| e.recorded_at.to_string()).collect();
    assert_eq!(recorded, [times[0], times[1], times[1], times[3], times[3]]);
    let between: Timestamp = "1000-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(store.position_at(between).await.unwrap(), Position(2));
    // A time that the server cannot hold is an error of that commit, and of nothing else.
    clock.set(Timestamp::MIN);
    let kind = refused(store.commit(commit("s")).await).kind();
    assert_eq!(kind, ErrorKind::Misuse);
    clock.set("2020-01-01T00:00:00Z".parse().unwrap());
    store.commit(commit("s")).await.unwrap();
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// Nobody asks again and again for what he cannot have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_transactions_than_connections_wait_for_their_turn() {
    let database = testing::database().await;
    let store = Arc::new(with(&database, |o| o.with_connections(2)).await);
    let all = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut tx = store.begin().await.unwrap();
            *tx.staged() = append(&new_id().to_string(), ExpectedVersion::NoStream, 1);
            tx.commit().await.unwrap();
        })
    });
    let all = futures::future::try_join_all(all);
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap().unwrap();
    assert_eq!(store.head().await.unwrap(), Position(50));
}
