//! Commands and queries: C1 to C10 and Q1, with B22 and the limits of a command.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::data::{EXISTS, encoded, exact};
use super::domain::{
    Account, AccountError, AccountEvent, Close, Contend, Deposit, Donate, Gate, Look, Open, Panic, Rate,
    Rival, Split, Stamp, Verify, Wait, Withdraw, deposited, opened, withdrawn,
};
use super::patient::Patient;
use super::readside::{Balance, BalanceOf, BalanceOfNobody, Balances};
use super::{LIMIT, Subject, sent, start, store};
use crate::LoadError;
use crate::codec::EncodeError;
use crate::command::{Dispatch, Halted, Interceptor, Next, RetryPolicy};
use crate::limits::LimitError;
use crate::store::{Backend, CommitError, RowStore, Version};
use crate::testing::{Outcome, Recorder, TestClock};
use crate::{App, AppBuilder, CommandError, ErrorKind, Metadata, QueryError};

pub(super) fn key() -> String {
    "a".to_owned()
}

fn wiring<B: Backend + Clone>(store: &Patient<B>) -> AppBuilder<B> {
    App::on(store.0.clone())
}

pub(super) async fn app<B: Backend + Clone>(store: &Patient<B>) -> App {
    wiring(store).start().await.expect("nothing to prepare")
}

/// An app with an account of this balance.
pub(super) async fn with_account<B: Backend + RowStore + Clone>(store: &Patient<B>, balance: i64) -> App {
    store.put("account-a", vec![encoded(&opened("ada")), encoded(&deposited(balance))]).await;
    app(store).await
}

async fn load(app: &App) -> Account {
    loop {
        match app.load::<Account>(&key()).await {
            Ok(found) => return found.expect("there").state,
            Err(error) => assert!(matches!(error, LoadError::Store(_)), "{error}"),
        }
    }
}

/// C1
pub async fn a_command_leads_to_its_events_or_to_its_typed_refusal<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(&store).await;
    let done = sent!(app.send(&key(), Open { owner: "ada".to_owned() })).expect("accepted");
    assert_eq!((done.position.0, done.version, done.repeated), (1, Version(1), false));
    assert_eq!(done.events, [opened("ada")]);
    sent!(app.send(&key(), Split { times: 3 })).expect("accepted");
    let refused = sent!(app.send(&key(), Withdraw { amount: 4 })).expect_err("only 3 on it");
    assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 3 }));
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert_eq!(sent!(app.send(&key(), Withdraw { amount: 3 })).expect("accepted").events, [withdrawn(3)]);
    let stored = store.stream("account-a").await;
    assert_eq!(stored.len(), 5, "the refused one wrote nothing");
}

/// C1
pub async fn a_command_that_decides_nothing_says_where_its_aggregate_is<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 1).await;
    store.put("other", super::data::events(3)).await;
    let done = sent!(app.send(&key(), Look {})).expect("accepted");
    assert_eq!((done.position.0, done.version, done.events.len()), (2, Version(2), 0));
    assert_eq!(store.head().await, 5);
}

/// Notes when it runs.
#[derive(Debug)]
struct Log(&'static str, Arc<std::sync::Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: &str) {
        self.1.lock().expect("nobody panics").push(format!("{} {what}", self.0));
    }
}

#[async_trait]
impl Interceptor for Log {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        self.note("sends");
        next.run(dispatch).await?;
        self.note("sent");
        Ok(())
    }

    async fn handle(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        next.run(dispatch).await?;
        self.note("handled");
        Ok(())
    }
}

/// C3
pub async fn interceptors_run_in_their_order_around_dispatch_and_handling<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (log, recorder) = (Arc::default(), Recorder::new());
    let wiring = wiring(&store).interceptor(recorder.clone());
    let app = wiring.interceptor(Log("outer", Arc::clone(&log))).interceptor(Log("inner", Arc::clone(&log)));
    let app = app.start().await.expect("nothing to prepare");
    sent!(app.send(&key(), Open { owner: "ada".to_owned() })).expect("accepted");
    let mut noted = log.lock().expect("nobody panics").clone();
    // A try that the store made fail is noted as well: the last one is the whole story.
    let last = noted.split_off(noted.iter().rposition(|n| n == "outer sends").expect("it was sent"));
    assert_eq!(last[..2], ["outer sends", "inner sends"]);
    assert_eq!(last[last.len() - 4..], ["inner handled", "outer handled", "inner sent", "outer sent"]);
    let sent = recorder.sent().pop().expect("recorded");
    assert_eq!((sent.command, sent.stream.as_str(), sent.outcome), ("open", "account-a", Outcome::Done));
    assert_eq!(sent.events, ["account.opened"]);
}

/// Changes deposits, refuses large ones before they are handled, and small ones after; fails after one that went through.
#[derive(Debug)]
struct Guard;

#[async_trait]
impl Interceptor for Guard {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if dispatch.payload::<Deposit>().is_some_and(|d| d.amount > 1_000) {
            return Err(Halted::because("too much"));
        }
        dispatch.metadata.user.insert("guarded".to_owned(), "yes".to_owned());
        next.run(dispatch).await?;
        match dispatch.payload::<Deposit>() {
            Some(deposit) if deposit.amount == 778 => Err(Halted::because("too late")),
            _ => Ok(()),
        }
    }

    async fn handle(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if let Some(deposit) = dispatch.payload_mut::<Deposit>() {
            deposit.amount += 1;
        }
        next.run(dispatch).await?;
        match dispatch.payload::<Deposit>() {
            Some(deposit) if deposit.amount < 5 => Err(Halted::because("too little")),
            _ => Ok(()),
        }
    }
}

/// C3
pub async fn an_interceptor_can_change_and_refuse_and_its_failure_is_the_commands<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store)
        .retry(RetryPolicy::never())
        .interceptor(Guard)
        .start()
        .await
        .expect("nothing to prepare");
    for (amount, expected) in [(5_000, "too much"), (1, "too little")] {
        let refused = sent!(app.send(&key(), Deposit { amount })).expect_err("intercepted");
        assert!(matches!(refused, CommandError::Intercepted(_)), "{refused:?}");
        assert!(crate::chain(&refused).contains(expected), "{refused:?}");
    }
    assert_eq!(store.version("account-a").await, 1, "nothing of that was written");
    let done = sent!(app.send(&key(), Deposit { amount: 50 })).expect("accepted");
    assert_eq!(done.events, [deposited(51)]);
    let stored = store.stream("account-a").await.pop().expect("stored");
    assert_eq!(stored.metadata.user.get("guarded").map(String::as_str), Some("yes"));
    let after = sent!(app.send(&key(), Deposit { amount: 777 })).expect_err("intercepted");
    assert!(matches!(after, CommandError::InterceptedAfter(_)), "{after:?}");
    assert_eq!(after.kind(), ErrorKind::Unknown, "it went through");
    assert!(store.version("account-a").await >= 3);
}

/// Adds to what is donated, each time that it is decided.
#[derive(Debug)]
struct Fee;

#[async_trait]
impl Interceptor for Fee {
    async fn handle(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if let Some(donation) = dispatch.payload_mut::<Donate>() {
            donation.amount += 1;
            dispatch.metadata.user.entry("fees".to_owned()).or_default().push('1');
        }
        next.run(dispatch).await
    }
}

/// C3
pub async fn each_decision_begins_with_the_command_as_it_was_dispatched<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let elsewhere = app(&store).await;
    let app = wiring(&store).interceptor(Fee).start().await.expect("nothing to prepare");
    for creates in 0..40 {
        sent!(app.send(&format!("new-{creates}"), Donate { amount: 1 })).expect("made by it");
    }
    // It is decided as if there were none, and then again.
    sent!(elsewhere.send(&key(), Donate { amount: 5 })).expect("made by it");
    let donate = || app.send(&key(), Donate { amount: 50 }).idempotency_key("once");
    assert_eq!(sent!(donate()).expect("accepted").events, [deposited(51)]);
    assert!(sent!(donate()).expect("it is the same request").repeated);
    // And after a conflict.
    sent!(elsewhere.send(&key(), Donate { amount: 5 })).expect("there");
    assert_eq!(sent!(app.send(&key(), Donate { amount: 50 })).expect("accepted").events, [deposited(51)]);
    let stored = store.stream("account-a").await;
    assert!(stored.iter().all(|event| event.metadata.user.get("fees").is_none_or(|fees| fees == "1")));
}

fn rival<B: Backend + Clone>(store: &Patient<B>, times: u32) -> Rival {
    Rival { store: Arc::new(store.0.clone()), times: Arc::new(AtomicU32::new(times)) }
}

/// C4
pub async fn a_conflict_is_retried_on_fresh_state<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store).provide(rival(&store, 3)).start().await.expect("nothing is missing");
    let done = sent!(app.send(&key(), Contend {})).expect("the fourth try goes through");
    assert_eq!((done.version, load(&app).await.balance), (Version(5), 103));
}

/// C4
pub async fn conflict_retries_are_bounded<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let rival = rival(&store, u32::MAX);
    let app = wiring(&store).provide(rival.clone()).retry(RetryPolicy::default().with_attempts(3));
    let app = app.start().await.expect("nothing is missing");
    let before = rival.times.load(Relaxed);
    let error = sent!(app.send(&key(), Contend {})).expect_err("the rival is always first");
    assert!(matches!(error, CommandError::Conflict { attempts: 3, .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(before - rival.times.load(Relaxed) >= 2, "it tried again");
    assert!(
        !store.stream("account-a").await.iter().any(|e| &*e.data == b"{\"amount\":100,\"reference\":null}")
    );
}

/// C4
pub async fn a_refusal_is_not_retried<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let recorder = Recorder::new();
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store).interceptor(recorder.clone()).retry(RetryPolicy::never());
    let app = app.start().await.expect("nothing to prepare");
    let refused = sent!(app.send(&key(), Withdraw { amount: 1 })).expect_err("nothing on it");
    assert!(refused.refusal().is_some());
    let last = recorder.sent().pop().expect("recorded");
    assert_eq!((last.attempts, last.outcome), (1, Outcome::Failed(ErrorKind::Refused)));
}

/// C4
pub async fn an_expected_version_that_does_not_hold_is_not_retried<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    let stale =
        sent!(app.send(&key(), Deposit { amount: 1 }).expect_version(Version(1))).expect_err("it is at 2");
    let CommandError::Conflict { source: CommitError::Conflict { expected, actual, .. }, .. } = stale else {
        panic!("{stale:?}")
    };
    assert_eq!((expected, actual), (exact(1), Version(2)));
    sent!(app.send(&key(), Deposit { amount: 1 }).expect_version(Version(2))).expect("it is at 2");
}

/// C5
pub async fn ten_concurrent_commands_on_one_aggregate_all_take_effect<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let one = with_account(&store, 0).await;
    let other = app(&Patient(subject.again(&store.0).await)).await;
    let policy = RetryPolicy::default().with_attempts(50);
    let deposit = |i: i64| {
        let app = if i % 2 == 0 { &one } else { &other };
        async move { sent!(app.send(&key(), Deposit { amount: 1 << i }).retry(policy)) }
    };
    let outcomes = join_all((0..10).map(deposit)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((load(&one).await.balance, load(&other).await.balance), (1_023, 1_023));
    assert_eq!(store.version("account-a").await, 12);
}

/// C6
pub async fn create_must_exist_create_if_missing_and_ended<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(&store).await;
    let missing = sent!(app.send(&key(), Deposit { amount: 1 })).expect_err("not there");
    assert!(matches!(missing, CommandError::NotFound { .. }), "{missing:?}");
    sent!(app.send(&key(), Open { owner: "ada".to_owned() })).expect("created");
    let exists = sent!(app.send(&key(), Open { owner: "bob".to_owned() })).expect_err("there already");
    assert!(matches!(exists, CommandError::AlreadyExists { .. }), "{exists:?}");
    sent!(app.send(&key(), Donate { amount: 1 })).expect("there");
    sent!(app.send(&"b".to_owned(), Donate { amount: 1 })).expect("made by it");
    sent!(app.send(&key(), Close {})).expect("closed");
    for ended in [
        sent!(app.send(&key(), Deposit { amount: 1 })).map(drop),
        sent!(app.send(&key(), Donate { amount: 1 })).map(drop),
        sent!(app.send(&key(), Close {})).map(drop),
    ] {
        assert!(matches!(ended, Err(CommandError::Ended { .. })), "{ended:?}");
    }
    assert_eq!((store.version("account-a").await, store.version("account-b").await), (3, 1));
}

/// C7
pub async fn the_cache_never_serves_what_the_store_contradicts<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    let other = Patient(subject.again(&store.0).await);
    assert_eq!(load(&app).await.balance, 5);
    other.append("account-a", EXISTS, vec![encoded(&deposited(5))]).await.expect("accepted");
    assert_eq!(load(&app).await.balance, 10, "a read looks first");
    other.append("account-a", EXISTS, vec![encoded(&deposited(5))]).await.expect("accepted");
    sent!(app.send(&key(), Withdraw { amount: 15 })).expect("a refusal from old state would be wrong");
    other.append("account-a", EXISTS, vec![encoded(&deposited(1))]).await.expect("accepted");
    assert_eq!(sent!(app.send(&key(), Look {})).expect("accepted").version, Version(6));
    let closed = encoded(&AccountEvent::Closed(super::domain::Closed {}));
    other.append("account-a", EXISTS, vec![closed]).await.expect("accepted");
    let ended = sent!(app.send(&key(), Deposit { amount: 1 })).expect_err("closed elsewhere");
    assert!(matches!(ended, CommandError::Ended { .. }), "{ended:?}");
}

/// C7
pub async fn a_command_that_usually_creates_is_decided_on_what_is_stored<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let elsewhere = app(&store).await;
    // A conflict with a supposition would be seen.
    let app = wiring(&store).retry(RetryPolicy::never()).start().await.expect("nothing to prepare");
    for creates in 0..40 {
        let (donated, opened) = (format!("donated-{creates}"), format!("opened-{creates}"));
        sent!(app.send(&donated, Donate { amount: 1 })).expect("made by it");
        sent!(app.send(&opened, Open { owner: "ada".to_owned() })).expect("created");
    }
    let closed = encoded(&AccountEvent::Closed(super::domain::Closed {}));
    store.put("account-closed", vec![encoded(&opened("ada")), closed]).await;
    let ended = sent!(app.send(&"closed".to_owned(), Donate { amount: 1 })).expect_err("closed elsewhere");
    assert!(matches!(ended, CommandError::Ended { .. }), "{ended:?}");
    let create = async |of: &str| {
        for n in 0..20 {
            let new = format!("{of}-{n}");
            sent!(app.send(&new, Donate { amount: 1 })).expect("made by it");
            sent!(app.send(&new, Open { owner: "ada".to_owned() })).expect_err("there already");
        }
    };
    for there in ["a", "b", "c"].map(str::to_owned) {
        // Often enough that it is supposed again.
        create(&format!("{there}-before")).await;
        let make = || elsewhere.send(&there, Donate { amount: 5 }).idempotency_key(there.clone());
        sent!(make()).expect("made by it");
        let again = sent!(app.send(&there, Donate { amount: 5 }).idempotency_key(there.clone()));
        assert_eq!(again.expect("the first outcome").version, Version(1));
        // That has said nothing of the account.
        let more = sent!(app.send(&there, Donate { amount: 1 })).expect("nobody was faster");
        assert_eq!(more.version, Version(2));
        create(&format!("{there}-behind")).await;
        let name = format!("{there}-there");
        sent!(elsewhere.send(&name, Donate { amount: 5 })).expect("made by it");
        let done = sent!(app.send(&name, Donate { amount: 1 })).expect("no conflict of the caller's");
        assert_eq!(done.version, Version(2));
        let exists = sent!(app.send(&name, Open { owner: "ada".to_owned() })).expect_err("there already");
        assert!(matches!(exists, CommandError::AlreadyExists { .. }), "{exists:?}");
    }
}

/// C8
pub async fn a_shutdown_refuses_new_commands_and_lets_running_ones_finish<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let gate = Gate::default();
    let app = wiring(&store).provide(gate.clone()).start().await.expect("nothing is missing");
    let running = tokio::spawn({
        let app = app.clone();
        async move { sent!(app.send(&key(), Wait {})) }
    });
    gate.reached().await;
    let shutdown = tokio::spawn({
        let app = app.clone();
        async move { app.shutdown(LIMIT).await }
    });
    while !app.health().await.closing {
        tokio::task::yield_now().await;
    }
    let refused = app.send(&key(), Deposit { amount: 1 }).await.expect_err("closing");
    assert!(matches!(refused, CommandError::ShuttingDown), "{refused:?}");
    // As often as the store makes it try again.
    (0..100).for_each(|_| gate.open());
    running.await.expect("no panic").expect("it was running before");
    assert!(shutdown.await.expect("no panic"), "everything finished in time");
    assert!(app.shutdown(LIMIT).await, "harmless to call twice");
    assert_eq!(store.version("account-a").await, 2);
}

/// C8
pub async fn a_command_that_outlasts_the_grace_is_cancelled_and_writes_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let gate = Gate::default();
    let app = wiring(&store).provide(gate.clone()).start().await.expect("nothing is missing");
    let running = tokio::spawn({
        let app = app.clone();
        async move { app.send(&key(), Wait {}).await }
    });
    gate.reached().await;
    assert!(!app.shutdown(Duration::ZERO).await, "one was still running");
    let cancelled = running.await.expect("no panic").expect_err("cancelled");
    assert_eq!(cancelled.kind(), ErrorKind::Unknown);
    gate.open();
    assert_eq!(store.version("account-a").await, 1);
}

/// C9
pub async fn a_panic_in_a_handler_fails_that_command_only<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    let panicked = sent!(app.send(&key(), Panic {})).expect_err("it panicked");
    let CommandError::Panicked { command, panic } = panicked else { panic!("{panicked:?}") };
    assert_eq!((command, &*panic), ("panic", "a handler that panics"));
    let done = sent!(app.send(&key(), Withdraw { amount: 5 })).expect("the aggregate is as it was");
    assert_eq!(done.version, Version(3));
}

/// C10
pub async fn correlation_and_causation_flow_into_events_and_on<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(&store).await;
    sent!(app.send(&key(), Open { owner: "ada".to_owned() }).actor("ada").tenant("t-1")).expect("accepted");
    let first = store.stream("account-a").await.pop().expect("stored");
    assert!(first.metadata.correlation.is_some());
    assert_eq!(first.metadata.correlation, first.metadata.causation, "a new flow, begun by the command");
    sent!(app.send(&"b".to_owned(), Donate { amount: 1 }).caused_by(&first)).expect("accepted");
    let second = store.stream("account-b").await.pop().expect("stored");
    assert_eq!(second.metadata.correlation, first.metadata.correlation, "the same flow");
    assert_eq!(second.metadata.causation, Some(first.id), "caused by that event");
    assert_eq!(
        (second.metadata.actor.as_deref(), second.metadata.tenant.as_deref()),
        (Some("ada"), Some("t-1"))
    );
    assert_eq!(*second.metadata, Metadata::caused_by(&first));
}

/// C10
pub async fn a_handler_knows_the_time_and_who_asks<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store).clock(TestClock::default()).start().await.expect("nothing to prepare");
    let done = sent!(app.send(&key(), Stamp {}).actor("bob").tenant("t-2")).expect("accepted");
    let [AccountEvent::Deposited(event)] = &done.events[..] else { panic!("{done:?}") };
    assert_eq!(event.reference.as_deref(), Some("2026-01-01T00:00:00Z bob t-2"));
}

/// C1
pub async fn a_service_that_fails_is_no_refusal_and_is_not_remembered<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = with_account(&store, 5).await;
    for _ in 0..2 {
        let failed =
            sent!(app.send(&key(), Verify {}).idempotency_key("k")).expect_err("the service is down");
        assert!(
            matches!(&failed, CommandError::Service(e) if e.to_string() == "the service is down"),
            "{failed:?}"
        );
    }
    sent!(app.send(&key(), Deposit { amount: 1 }).idempotency_key("k")).expect("the key is free");
}

/// B1, B2
pub async fn an_id_that_cannot_be_stored_is_refused_and_nothing_is_written<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = app(&store).await;
    for (id, expected) in [
        (String::new(), "empty"),
        ("a".repeat(300), "over the limit of 255"),
        ("a\nb".to_owned(), "at byte"),
        ("a\0b".to_owned(), "at byte"),
    ] {
        let refused = app.send(&id, Open { owner: "ada".to_owned() }).await.expect_err("not an id");
        assert!(
            matches!(&refused, CommandError::Limit(e) if e.to_string().contains(expected)),
            "{refused:?}"
        );
        assert_eq!(refused.kind(), ErrorKind::Misuse);
    }
    for bad in ["", "a\u{7}", &"k".repeat(256)] {
        let refused = app.send(&key(), Open { owner: "ada".to_owned() }).idempotency_key(bad).await;
        assert!(matches!(refused, Err(CommandError::Limit(_))), "{refused:?}");
    }
    assert_eq!(store.head().await, 0);
}

/// B12
pub async fn more_events_than_the_app_allows_are_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store).max_events(5).start().await.expect("nothing to prepare");
    let refused = sent!(app.send(&key(), Split { times: 6 })).expect_err("one too many");
    assert!(
        matches!(refused, CommandError::Limit(LimitError::TooLarge { actual: 6, limit: 5, .. })),
        "{refused:?}"
    );
    sent!(app.send(&key(), Split { times: 5 })).expect("as many as are allowed");
    assert_eq!(store.version("account-a").await, 6);
}

/// B22
pub async fn what_cannot_be_read_back_is_not_written<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = wiring(&store).verify_payloads(true).start().await.expect("nothing to prepare");
    for rate in ["NaN", "inf", "-inf"] {
        let refused = sent!(app.send(&key(), Rate { rate: rate.to_owned() })).expect_err("no number in JSON");
        assert!(matches!(refused, CommandError::Encode(EncodeError::Payload { .. })), "{refused:?}");
    }
    sent!(app.send(&key(), Rate { rate: "0.5".to_owned() })).expect("a number");
    assert_eq!(store.version("account-a").await, 2);
}

/// C2: what the compiler cannot see, a service that is asked for, is found at start.
pub async fn what_nobody_provides_is_reported_all_at_once<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let error = wiring(&store).aggregate::<Account>().start().await.expect_err("nothing was provided");
    assert_eq!(error.0.len(), 2, "{error}");
    assert!(
        error.0[0].starts_with("command wait of account: no `") && error.0[0].contains("Gate"),
        "{error}"
    );
    assert!(
        error.0[1].starts_with("command contend of account: no `") && error.0[1].contains("Rival"),
        "{error}"
    );
    let app = app(&store).await;
    let missing = sent!(app.send(&key(), Wait {})).expect_err("there is no account");
    assert!(matches!(missing, CommandError::NotFound { .. }), "{missing:?}");
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let missing = sent!(app.send(&key(), Wait {})).expect_err("nobody provided a gate");
    assert!(matches!(missing, CommandError::Missing(_)), "{missing:?}");
}

/// Q1
pub async fn a_query_reaches_its_handler_and_none_is_a_clear_error<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| wiring(&store).view::<Balance>().queries(Balances)).await;
    let done = sent!(app.send(&key(), Donate { amount: 7 })).expect("accepted");
    app.wait_for::<Balance>(done.position, LIMIT).await.expect("taken in");
    let balance = loop {
        match app.query(BalanceOf(key())).await {
            Ok(balance) => break balance,
            Err(error) => assert!(crate::chain(&error).contains("could not be done now"), "{error:?}"),
        }
    };
    assert_eq!(balance, Some(Balance { amount: 7, n_payments: 1 }));
    let failed = app.query(BalanceOfNobody).await.expect_err("it fails");
    assert!(matches!(&failed, QueryError::Handler { .. }), "{failed:?}");
    assert!(crate::chain(&failed).ends_with("nobody has no balance"), "{failed:?}");
    let bare = super::commands::app(&store).await;
    let missing = bare.query(BalanceOf(key())).await.expect_err("no handler");
    assert!(matches!(&missing, QueryError::Missing { .. }), "{missing:?}");
    assert!(crate::chain(&missing).contains("Balances"), "{missing:?}");
}
