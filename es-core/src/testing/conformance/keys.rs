//! Idempotency keys: E10.

use futures::future::join_all;

use super::commands::{app, key, with_account};
use super::domain::{AccountError, Close, Deposit, Donate, Look, Open, Withdraw, deposited};
use super::patient::Patient;
use super::{Subject, sent, store};
use crate::CommandError;
use crate::command::RetryPolicy;
use crate::store::Version;

/// E10
pub async fn the_same_key_gives_the_first_outcome_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    let other = self::app(&Patient(subject.again(&store.0).await)).await;
    let first = sent!(app.send(&key(), Deposit { amount: 1 }).idempotency_key("k-1")).expect("accepted");
    sent!(app.send(&key(), Deposit { amount: 2 })).expect("accepted");
    for app in [&app, &other] {
        let again =
            sent!(app.send(&key(), Deposit { amount: 1 }).idempotency_key("k-1")).expect("the first outcome");
        assert!(again.repeated);
        assert_eq!(
            (again.position, again.version, &again.events),
            (first.position, first.version, &first.events)
        );
    }
    assert_eq!(store.version("account-a").await, 4);
}

/// E10: the aggregate is there by now, but that is not what this request was told.
pub async fn a_repeated_creation_is_answered_like_the_first_one<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(&store).await;
    let open = || app.send(&key(), Open { owner: "ada".to_owned() }).idempotency_key("k");
    let first = sent!(open()).expect("accepted");
    sent!(app.send(&key(), Close {})).expect("accepted");
    let again = sent!(open()).expect("the first outcome");
    assert_eq!((again.repeated, again.version, again.events), (true, first.version, first.events));
    let other = sent!(app.send(&key(), Open { owner: "ada".to_owned() })).expect_err("another request");
    assert!(matches!(other, CommandError::AlreadyExists { .. }), "{other:?}");
}

/// E10
pub async fn the_same_key_gives_the_first_refusal_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    let withdraw = || app.send(&key(), Withdraw { amount: 9 }).idempotency_key("k-1");
    let refused = sent!(withdraw()).expect_err("only 5 on it");
    sent!(app.send(&key(), Deposit { amount: 100 })).expect("accepted");
    let again = sent!(withdraw()).expect_err("the first outcome, although there would be enough now");
    assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 5 }));
    assert_eq!(again.refusal(), refused.refusal());
    assert_eq!(store.version("account-a").await, 3);
}

/// E10
pub async fn the_same_key_with_another_request_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    sent!(app.send(&key(), Deposit { amount: 1 }).idempotency_key("k-1")).expect("accepted");
    for reused in [
        sent!(app.send(&key(), Deposit { amount: 2 }).idempotency_key("k-1")).map(drop),
        sent!(app.send(&key(), Donate { amount: 1 }).idempotency_key("k-1")).map(drop),
        sent!(app.send(&"b".to_owned(), Donate { amount: 1 }).idempotency_key("k-1")).map(drop),
    ] {
        assert!(matches!(reused, Err(CommandError::KeyReused { .. })), "{reused:?}");
    }
    assert_eq!(store.head().await, 3);
}

/// E10
pub async fn of_ten_requests_under_one_key_one_takes_effect<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let one = with_account(&store, 0).await;
    let other = app(&Patient(subject.again(&store.0).await)).await;
    let policy = RetryPolicy::default().with_attempts(50);
    let deposit = |i: usize| {
        let app = if i.is_multiple_of(2) { &one } else { &other };
        async move { sent!(app.send(&key(), Deposit { amount: 1 }).idempotency_key("k").retry(policy)) }
    };
    let outcomes = join_all((0..10).map(deposit)).await;
    let done: Vec<_> = outcomes.into_iter().map(|o| o.expect("the first outcome")).collect();
    assert_eq!(done.iter().filter(|d| !d.repeated).count(), 1);
    assert!(done.iter().all(|d| d.version == Version(3) && d.events == [deposited(1)]));
    assert_eq!(store.version("account-a").await, 3);
}

/// E10
pub async fn a_key_of_a_command_that_decided_nothing_is_remembered_too<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 0).await;
    let look = || app.send(&key(), Look {}).idempotency_key("k");
    let first = sent!(look()).expect("accepted");
    sent!(app.send(&key(), Deposit { amount: 1 })).expect("accepted");
    let again = sent!(look()).expect("the first outcome");
    assert_eq!((again.repeated, again.version, again.position), (true, first.version, first.position));
}
