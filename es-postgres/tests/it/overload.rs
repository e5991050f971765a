//! More than a store can take, and callers that have gone.

use std::time::Duration;

use es_core::ErrorKind;
use es_core::store::{Commit, CommitError, Committed, EventStore as _, StoreError, Version};
use es_postgres::{PgBackend, testing};
use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{
    Gate, LIMIT, WAITING, append, assert_sound, commit, connect, dropped_after, fresh, stream, until_count,
    with,
};

/// A commit that is on its way.
async fn sent(store: &PgBackend, one: Commit) -> JoinHandle<Result<Committed, CommitError>> {
    let store = store.clone();
    let sent = tokio::spawn(async move { store.commit(one).await });
    tokio::task::yield_now().await;
    sent
}

fn assert_busy(outcome: Option<Result<Committed, CommitError>>) {
    let error = outcome.expect("it is told at once").expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(matches!(&error, CommitError::Store(error) if error.is_busy()), "{}", es_core::chain(&error));
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_queue(3, usize::MAX)).await;
    let held = Gate::hold(database.url()).await;
    let mut waiting = vec![sent(&store, commit("s")).await];
    until_count(database.url(), WAITING, 1).await;
    waiting.extend([sent(&store, commit("s")).await, sent(&store, commit("s")).await]);
    for _ in 0..1_000 {
        assert_busy(store.commit(commit("s")).now_or_never());
    }
    // What the framework keeps of itself has room of its own.
    let rows = vec![crate::support::row("k", 0, Some("1"))];
    timeout(LIMIT, store.commit(Commit { rows, ..Commit::default() }))
        .await
        .expect("it needs no gate")
        .unwrap();
    held.release().await;
    for sent in waiting {
        sent.await.unwrap().unwrap();
    }
    store.commit(commit("s")).await.unwrap();
    assert_eq!(store.stream(&stream("s"), Version(0), 10).await.unwrap().len(), 4);
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn a_queue_that_is_full_of_bytes_says_so_at_once() {
    let large = || {
        let mut large = append("s", es_core::store::ExpectedVersion::Any, 1);
        large.appends[0].events[0].data = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000)).into();
        large
    };
    let database = testing::database().await;
    let store = with(&database, |o| o.with_queue(1_000, 250_000)).await;
    let held = Gate::hold(database.url()).await;
    let mut waiting = vec![sent(&store, large()).await];
    until_count(database.url(), WAITING, 1).await;
    waiting.push(sent(&store, large()).await);
    assert_busy(store.commit(large()).now_or_never());
    waiting.push(sent(&store, commit("s")).await);
    held.release().await;
    for sent in waiting {
        sent.await.unwrap().unwrap();
    }
    store.commit(large()).await.unwrap();
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written() {
    let (database, store) = fresh().await;
    let held = Gate::hold(database.url()).await;
    let first = sent(&store, commit("s")).await;
    until_count(database.url(), WAITING, 1).await;
    assert!(dropped_after(0, store.commit(commit("left"))).await.is_none(), "it waits");
    let last = sent(&store, commit("s")).await;
    held.release().await;
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(store.stream(&stream("left"), Version(0), 10).await.unwrap(), []);
    assert_eq!(store.head().await.unwrap().0, 2);
}

#[tokio::test]
async fn a_read_that_is_dropped_frees_its_connection_of_the_server() {
    const BLOCKED: &str = "select count(*) from pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and pid <> pg_backend_pid()";
    const LONG: Duration = Duration::from_secs(600);
    let database = testing::database().await;
    let store =
        with(&database, |o| o.with_lock_timeout(LONG).with_statement_timeout(LONG).with_notify(false)).await;
    let mut other = connect(database.url()).await;
    sqlx::raw_sql("begin; lock table es.events in access exclusive mode").execute(&mut other).await.unwrap();
    let reading = tokio::spawn(async move {
        let read = store.stream(&stream("s"), Version(0), 10).await;
        read.map_err(|error: StoreError| error.to_string())
    });
    until_count(database.url(), BLOCKED, 1).await;
    reading.abort();
    assert!(reading.await.is_err_and(|error| error.is_cancelled()));
    // It still could not have what it waits for.
    until_count(database.url(), BLOCKED, 0).await;
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
}
