//! Door two, the user's own transaction: E12 to E14.

use super::data::{ANY, NO_STREAM, encoded, events, exact, id};
use super::domain::{AccountError, Deposit, Open, Withdraw, opened};
use super::patient::Patient;
use super::{Subject, sent, store};
use crate::store::{Append, Backend, CommitError, StoreError, Transaction};
use crate::{App, CommandError, ErrorKind};

async fn app<B: Backend>(backend: B) -> App {
    App::on(backend).start().await.expect("nothing to prepare")
}

fn key() -> String {
    "a".to_owned()
}

fn append(stream: &str, expected: crate::store::ExpectedVersion, n: usize) -> Append {
    Append { stream: id(stream), expected, events: events(n) }
}

/// E14
pub async fn rows_and_events_commit_together<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let append = append("a", NO_STREAM, 2);
    loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        tx.staged().appends.push(append.clone());
        if store.finish(tx).await.expect("nothing stands against it") {
            break;
        }
        assert_eq!((subject.row(&store.0, "k").await, store.head().await), (None, 0), "all or nothing");
    }
    assert_eq!((subject.row(&store.0, "k").await.as_deref(), store.head().await), (Some("v"), 2));
}

/// E12, E13, E14
pub async fn a_rollback_undoes_rows_and_events_and_leaves_no_hole<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    for dropped in [false, true] {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        tx.staged().appends.push(append("a", ANY, 2));
        if dropped {
            drop(tx);
        } else if let Err(error) = tx.rollback().await {
            assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        }
    }
    store.put("a", events(1)).await;
    assert_eq!((subject.row(&store.0, "k").await, store.head().await), (None, 2));
    store.assert_sound().await;
}

/// E12
pub async fn staged_events_are_invisible_until_the_commit<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let append = append("a", NO_STREAM, 2);
    loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        tx.staged().appends.push(append.clone());
        assert_eq!((other.head().await, other.version("a").await), (0, 0));
        assert_eq!(subject.row(&other.0, "k").await, None);
        if store.finish(tx).await.expect("nothing stands against it") {
            break;
        }
    }
    assert_eq!((other.head().await, other.version("a").await), (2, 2));
    assert_eq!(subject.row(&other.0, "k").await.as_deref(), Some("v"));
}

/// E14
pub async fn a_refused_flush_takes_the_rows_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    let refused = loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        tx.staged().appends.push(append("a", exact(0), 1));
        match store.finish(tx).await {
            Ok(applied) => assert!(!applied, "the version does not hold"),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, CommitError::Conflict { .. }), "{refused:?}");
    assert_eq!((subject.row(&store.0, "k").await, store.head().await), (None, 1));
    store.put("a", events(1)).await;
}

/// E14
pub async fn commands_within_a_transaction_see_each_other_and_commit_with_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(store.0.clone()).await;
    loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        let open =
            sent!(app.send(&key(), Open { owner: "ada".to_owned() }).within(&mut tx)).expect("accepted");
        assert_eq!(open, [opened("ada")]);
        sent!(app.send(&key(), Deposit { amount: 5 }).within(&mut tx)).expect("it exists, in here");
        let refused =
            sent!(app.send(&key(), Withdraw { amount: 6 }).within(&mut tx)).expect_err("only 5 on it");
        assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 5 }));
        if store.finish(tx).await.expect("nothing stands against it") {
            break;
        }
    }
    assert_eq!(
        (store.version("account-a").await, subject.row(&store.0, "k").await.as_deref()),
        (2, Some("v"))
    );
    let done = sent!(app.send(&key(), Withdraw { amount: 5 })).expect("the events count outside too");
    assert_eq!(done.version.0, 3);
}

/// C7, E14
pub async fn a_rolled_back_command_leaves_nothing_in_the_cache<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(store.0.clone()).await;
    let mut tx = store.begin().await;
    sent!(app.send(&key(), Open { owner: "ada".to_owned() }).within(&mut tx)).expect("accepted");
    drop(tx);
    let missing = sent!(app.send(&key(), Deposit { amount: 5 })).expect_err("it was never opened");
    assert!(matches!(missing, CommandError::NotFound { .. }), "{missing:?}");
    sent!(app.send(&key(), Open { owner: "bob".to_owned() })).expect("accepted");
    assert_eq!(store.version("account-a").await, 1);
}

/// E14
pub async fn a_conflict_with_others_shows_when_the_transaction_commits<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = app(store.0.clone()).await;
    // Staged on what was there, before a store with one writer at a time would make others wait.
    let stale = Append { stream: id("account-a"), expected: exact(1), events: events(1) };
    sent!(app.send(&key(), Deposit { amount: 1 })).expect("accepted");
    let refused = loop {
        let mut tx = store.begin().await;
        tx.staged().appends.push(stale.clone());
        match store.finish(tx).await {
            Ok(applied) => assert!(!applied),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

/// E14
pub async fn the_transaction_of_another_store_is_refused<S: Subject>(subject: S) {
    let one = store(&subject).await;
    let two = store(&subject).await;
    assert_ne!(crate::EventStore::identity(&one.0), crate::EventStore::identity(&two.0));
    let app = app(one.0.clone()).await;
    let mut tx = two.begin().await;
    let refused =
        app.send(&key(), Open { owner: "ada".to_owned() }).within(&mut tx).await.expect_err("not its store");
    assert!(matches!(refused, CommandError::Store(StoreError::Misuse { .. })), "{refused:?}");
    assert!(tx.staged().is_empty());
}

/// E10, E14
pub async fn a_key_within_a_transaction_is_remembered_with_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(store.0.clone()).await;
    let open = || app.send(&key(), Open { owner: "ada".to_owned() }).idempotency_key("k-1");
    let deposit = || app.send(&key(), Deposit { amount: 7 }).idempotency_key("k-2");
    let mut tx = store.begin().await;
    sent!(open().within(&mut tx)).expect("accepted");
    drop(tx);
    loop {
        let mut tx = store.begin().await;
        sent!(open().within(&mut tx)).expect("the first one was rolled back, with its key");
        sent!(deposit().within(&mut tx)).expect("accepted");
        if store.finish(tx).await.expect("nothing stands against it") {
            break;
        }
    }
    let first = sent!(open()).expect("the first outcome");
    assert_eq!((first.repeated, first.version.0, first.events.len()), (true, 1, 1));
    assert_eq!(first.events, [opened("ada")], "each key has its own outcome");
    let second = sent!(deposit()).expect("the first outcome");
    assert_eq!((second.repeated, second.version.0, second.position.0), (true, 2, 2));
    assert_eq!(store.version("account-a").await, 2);
}
