//! Imports.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use es_core::clock::Timestamp;
use es_core::store::{EventFilter, EventStore as _, Position, RecordedEvent, Version, read_all};
use es_core::{ErrorKind, chain};
use es_postgres::{Imported, PgBackend};
use futures::{StreamExt as _, stream};

use crate::shop::{event, open, stream as named, write};

/// Events of one chunk.
const CHUNK: u64 = 1_000;

fn past(i: usize) -> Imported {
    Imported {
        stream: named(&format!("s-{}", i % 7)),
        recorded_at: Timestamp::from_microsecond(1_000_000_000_000_000 + i as i64 * 1_000).unwrap(),
        event: event(&i.to_string()),
    }
}

fn history(events: usize) -> Vec<Imported> {
    (0..events).map(past).collect()
}

async fn all(backend: &PgBackend) -> Vec<RecordedEvent> {
    read_all(backend, &EventFilter::all(), Position(0)).await.unwrap().events
}

#[tokio::test]
async fn imported_history_is_what_appended_history_would_be() {
    let (_database, backend) = open().await;
    let history = history(11_000);
    let told = Mutex::new(Vec::new());
    let tell = |summary: es_postgres::ImportSummary| told.lock().unwrap().push(summary.events);
    let summary = backend.import(stream::iter(history.clone()), tell).await.unwrap();
    assert_eq!((summary.events, summary.through), (11_000, Position(11_000)));
    assert_eq!(*told.lock().unwrap(), (1..=11).map(|chunk| chunk * CHUNK).collect::<Vec<_>>());
    let mut versions = HashMap::new();
    let expected: Vec<RecordedEvent> = (1..)
        .zip(history)
        .map(|(position, Imported { stream, recorded_at, event })| {
            let version = versions.entry(stream.clone()).or_insert(0);
            *version += 1;
            event.into_recorded(stream, Version(*version), Some(Position(position)), recorded_at)
        })
        .collect();
    assert!(all(&backend).await == expected);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    let tags: i64 =
        sqlx::query_scalar("select count(*) from es.tags").fetch_one(&backend.db()).await.unwrap();
    assert_eq!(tags, 11_000);
    // Commits go on from there.
    let done = write(&backend, "s-0", 1).await;
    assert_eq!((done.position, done.versions), (Position(11_001), vec![Version(1_573)]));
}

#[tokio::test]
async fn an_import_goes_on_behind_what_is_stored() {
    let (_database, backend) = open().await;
    let done = write(&backend, "s-0", 3).await;
    let now = all(&backend).await[2].recorded_at;
    backend.import(stream::iter(history(20)), |_| {}).await.unwrap();
    let events = all(&backend).await;
    assert_eq!(events.len(), 23);
    // Older times do not go backwards.
    assert!(events[3..].iter().all(|event| event.recorded_at == now));
    assert_eq!(events[3].version, Version(done.versions[0].0 + 1));
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_import_that_is_dropped_leaves_whole_chunks() {
    let (_database, backend) = open().await;
    for after in [1, 3] {
        let before = backend.head().await.unwrap().0;
        let chunks = AtomicUsize::new(0);
        let dropped = {
            let import = backend.import(stream::iter(history(50_000)), |_| {
                chunks.fetch_add(1, Ordering::Relaxed);
            });
            let enough = async {
                while chunks.load(Ordering::Relaxed) < after {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { biased; () = enough => true, _ = import => false }
        };
        assert!(dropped);
        // Behind the gate: whatever the server was at has ended.
        let done = write(&backend, "other", 1).await;
        assert_eq!((done.position.0 - 1 - before) % CHUNK, 0);
        assert!(done.position.0 - 1 - before >= after as u64 * CHUNK);
    }
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_import_whose_connection_is_killed_goes_on_where_it_says() {
    let (_database, backend) = open().await;
    let events = history(30_000);
    let import = backend.import(stream::iter(events.clone()), |_| {});
    let kill = async {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid() and query like '%event_times%'
                     and exists (select from es.events)";
        loop {
            let _killed: i64 = sqlx::query_scalar(sql).fetch_one(&backend.db()).await.unwrap();
        }
    };
    let error = tokio::select! { done = import => done.unwrap_err(), () = kill => unreachable!() };
    assert_eq!(error.source.kind(), ErrorKind::Transient, "{}", chain(&error));
    assert_eq!(error.stored.events % CHUNK, 0);
    assert_eq!(backend.head().await.unwrap(), Position(error.stored.events));
    let stored = usize::try_from(error.stored.events).unwrap();
    backend.import(stream::iter(events).skip(stored), |_| {}).await.unwrap();
    assert_eq!(backend.head().await.unwrap(), Position(30_000));
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_import_that_fails_says_where_to_go_on() {
    let (_database, backend) = open().await;
    let mut events = history(12_000);
    let good = events[7_000].event.id;
    events[7_000].event.id = uuid::Uuid::nil();
    let error = backend.import(stream::iter(events.clone()), |_| {}).await.unwrap_err();
    assert_eq!(error.stored.events, 7 * CHUNK);
    assert_eq!(error.source.kind(), ErrorKind::Misuse);
    assert!(chain(&error).contains("nil"), "{}", chain(&error));
    events[7_000].event.id = good;
    let rest = stream::iter(events).skip(7_000);
    assert_eq!(backend.import(rest, |_| {}).await.unwrap().events, 5_000);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_event_from_the_future_is_refused() {
    let (_database, backend) = open().await;
    let event = Imported { recorded_at: "2200-01-01T00:00:00Z".parse().unwrap(), ..past(0) };
    let error = backend.import(stream::iter([event]), |_| {}).await.unwrap_err();
    assert!(error.source.to_string().contains("future"), "{}", chain(&error));
    assert_eq!(backend.head().await.unwrap(), Position(0));
}

#[tokio::test]
async fn an_import_makes_its_partitions() {
    let (_database, backend) = open().await;
    backend.partition(700).await.unwrap();
    backend.import(stream::iter(history(11_000)), |_| {}).await.unwrap();
    assert_eq!(all(&backend).await.len(), 11_000);
    backend.archive_unloadable(Position(7_000)).await.unwrap();
    backend.import(stream::iter(history(100)), |_| {}).await.unwrap();
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn others_append_between_chunks() {
    let (database, backend) = open().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..30 {
            write(&other, "s-0", 1).await;
        }
    });
    backend.import(stream::iter(history(20_000)), |_| {}).await.unwrap();
    writer.await.unwrap();
    assert_eq!(backend.head().await.unwrap(), Position(20_030));
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_imported_in_no_time() {
    let (_database, backend) = open().await;
    let summary = backend.import(stream::iter([]), |_| {}).await.unwrap();
    assert_eq!(summary.events, 0);
}
