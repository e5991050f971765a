//! More than a store can take, and callers that have gone.

use es_core::ErrorKind;
use es_core::prelude::*;
use es_core::store::{CommitError, Version};
use es_sqlite::{SqliteBackend, SqliteOptions};
use futures::FutureExt as _;

use crate::files::commit;

async fn with_room(commits: usize) -> SqliteBackend {
    SqliteBackend::open_with(SqliteOptions::new(":memory:").with_queue(commits, usize::MAX)).await.unwrap()
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let store = with_room(2).await;
    let held = store.begin().await.unwrap();
    let sent: Vec<_> = (0..2)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(commit("a")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..1_000 {
        let told = store.commit(commit("a")).now_or_never().expect("at once");
        let error = told.expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(matches!(&error, CommitError::Store(error) if error.is_busy()), "{error}");
    }
    held.rollback().await.unwrap();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    store.commit(commit("a")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(3));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written() {
    let store = with_room(10).await;
    let held = store.begin().await.unwrap();
    let left = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("left")).await }
    });
    tokio::task::yield_now().await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    let last = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("a")).await }
    });
    held.rollback().await.unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(store.stream(&StreamId::new("left").unwrap(), Version(0), 10).await.unwrap(), []);
    assert_eq!(store.head().await.unwrap(), Position(1));
}
