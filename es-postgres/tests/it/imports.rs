//! Imports behind a connection that is lost.

use es_core::ErrorKind;
use es_core::clock::Timestamp;
use es_core::store::{EventStore as _, Position, Resolution, StoreError};
use es_postgres::testing::{Database, Server, ServerOptions};
use es_postgres::{ImportError, ImportSummary, Imported, PgBackend};
use tokio::task::JoinHandle;

use crate::support::{Gate, LIMIT, WAITING, Wire, count, event, stream, until_count};

/// Events of one chunk.
const CHUNK: usize = 1_000;

type Importing = JoinHandle<Result<ImportSummary, ImportError>>;

/// An import whose first chunk has been sent, and waits behind a connection that is gone.
async fn cut_off() -> (Server, Database, Wire, PgBackend, Gate, Importing) {
    let server = tokio::task::spawn_blocking(|| ServerOptions::new().start().unwrap()).await.unwrap();
    let database = server.database().await.unwrap();
    let wire = Wire::to(&server);
    let options = wire.options(&server, &database).with_lock_timeout(2 * LIMIT);
    let store = PgBackend::connect_with(options).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let past =
        |_| Imported { stream: stream("s"), recorded_at: Timestamp::UNIX_EPOCH, event: event("thing.done") };
    let events: Vec<Imported> = (0..CHUNK + 1).map(past).collect();
    let importing = tokio::spawn({
        let store = store.clone();
        async move { store.import(futures::stream::iter(events), |_| {}).await }
    });
    until_count(database.url(), WAITING, 1).await;
    wire.refuse(true);
    wire.cut();
    (server, database, wire, store, held, importing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_still_runs_behind_a_broken_connection_is_waited_for() {
    let (_server, database, wire, store, held, importing) = cut_off().await;
    // It is asked, nobody answers, and it is asked again.
    let before = wire.made();
    let asked = async {
        while wire.made() < before + 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("it is asked again");
    wire.refuse(false);
    held.release().await;
    let summary = importing.await.unwrap().unwrap();
    assert_eq!((summary.events, summary.through), (CHUNK as u64 + 1, Position(CHUNK as u64 + 1)));
    assert_eq!(store.head().await.unwrap(), Position(CHUNK as u64 + 1));
    assert_eq!(count(database.url(), "select count(*) from es.events").await, CHUNK as i64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_chunk_is_unknown_where_nobody_says() {
    let (_server, database, wire, store, held, importing) = cut_off().await;
    let error = importing.await.unwrap().unwrap_err();
    assert_eq!(
        (error.source.kind(), error.stored.events),
        (ErrorKind::Unknown, 0),
        "{}",
        es_core::chain(&error)
    );
    let StoreError::Unknown { attempt, .. } = error.source else { panic!("{error:?}") };
    wire.refuse(false);
    held.release().await;
    until_count(database.url(), "select count(*) from es.events", CHUNK as i64).await;
    assert!(matches!(store.resolve(&attempt).await.unwrap(), Resolution::Applied(_)));
    assert_eq!(count(database.url(), "select count(*) from es.events").await, CHUNK as i64);
}
