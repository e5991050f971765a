//! Commands that are sent from within, by type and by name, and sessions that keep state and are woken by time: C11, C12,
//! T1, T2.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use super::commands::key;
use super::data::encoded;
use super::domain::{
    Account, AccountError, AccountEvent, Closed, Deposit, Gate, Look, Open, Verify, Withdraw, deposited,
    opened, withdrawn,
};
use super::double::{Double, Line};
use super::patient::Patient;
use super::payments::{eventually, parked_keys, payment, until};
use super::readside::Balance;
use super::relay::{Kept, NAME, Relay, Seen, TABLE};
use super::{LIMIT, Subject, sent, settle, start, store};
use crate::clock::Clock as _;
use crate::command::{NamedCommand, NamedDone, RetryPolicy, SendError, Sender};
use crate::processor::{Processor, ProcessorOptions, ProcessorState};
use crate::store::{Backend, Position, RowStore, Version};
use crate::testing::{Outcome, Recorder, Sent, TestClock};
use crate::{App, AppBuilder, CommandError, ErrorKind};

const HOUR: Duration = Duration::from_secs(3_600);

fn named(name: &str, payload: serde_json::Value) -> NamedCommand {
    NamedCommand::new("account", "a", name, payload)
}

/// Whether the store did not answer: then it is sent again.
fn not_stored(error: &SendError) -> bool {
    let SendError::Failed { source, .. } = error else { return false };
    matches!(source.downcast_ref(), Some(CommandError::<AccountError>::Store(e)) if e.kind() == ErrorKind::Transient)
}

/// Sends a command by name until the answer is not that the store could not be reached.
macro_rules! named_sent {
    ($send:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $send.await {
                Err(error) if tries < 100 && not_stored(&error) => {}
                outcome => break outcome,
            }
        }
    }};
}

async fn registered<B: Backend + RowStore + Clone>(store: &Patient<B>) -> App {
    start(|| App::on(store.0.clone()).aggregate::<Account>().provide(Gate::default()).provide(rival(store)))
        .await
}

/// A service that a command of the account asks for; no rule here sends it.
fn rival<B: Backend + RowStore + Clone>(store: &Patient<B>) -> super::domain::Rival {
    super::domain::Rival { store: std::sync::Arc::new(store.0.clone()), times: std::sync::Arc::default() }
}

/// C11
pub async fn a_command_by_name_does_what_it_does_by_type<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let recorder = Recorder::default();
    let wiring = || App::on(store.0.clone()).command::<Open>().command::<Deposit>().command::<Withdraw>();
    let app = start(|| wiring().command::<Look>().interceptor(recorder.clone())).await;
    let sender = app.sender();
    let open = NamedCommand::of(&key(), &Open { owner: "ada".to_owned() }).expect("it is JSON");
    let done = named_sent!(sender.send_named(open.clone()).idempotency_key("k-1").tenant("t").actor("x"))
        .expect("accepted");
    assert_eq!((done.position.0, done.version, done.events, done.repeated), (1, Version(1), 1, false));
    let again =
        named_sent!(sender.send_named(open.clone()).idempotency_key("k-1")).expect("the first outcome");
    assert_eq!(again, NamedDone { repeated: true, ..done });
    // One request, whichever way it comes.
    let by_type = sent!(sender.send(&key(), Open { owner: "ada".to_owned() }).idempotency_key("k-1"));
    assert!(by_type.expect("the first outcome").repeated);
    let look = named_sent!(sender.send_named(named("look", json!({})))).expect("it decides nothing");
    assert_eq!((look.position.0, look.version, look.events), (1, Version(1), 0));
    let withdraw = || named("withdraw", json!({ "amount": 9 }));
    for _ in 0..2 {
        let refused =
            named_sent!(sender.send_named(withdraw()).idempotency_key("k-2")).expect_err("nothing on it");
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert_eq!(refused.refusal(), Some(&json!({ "Overdrawn": { "balance": 0 } })));
        assert!(crate::chain(&refused).ends_with("the account has only 0"), "{}", crate::chain(&refused));
        named_sent!(sender.send_named(named("deposit", json!({ "amount": 0 })))).expect("accepted");
    }
    let stream = store.stream("account-a").await;
    assert_eq!(stream.len(), 3);
    assert_eq!(
        (stream[0].metadata.tenant.as_deref(), stream[0].metadata.actor.as_deref()),
        (Some("t"), Some("x"))
    );
    let caused = named("deposit", json!({ "amount": 0 }));
    named_sent!(sender.send_named(caused.clone()).caused_by(&stream[0])).expect("accepted");
    let last = store.stream("account-a").await.pop().expect("there");
    assert_eq!(last.metadata.correlation, stream[0].metadata.correlation);
    assert_eq!(last.metadata.causation, Some(stream[0].id));
    let other =
        named_sent!(sender.send_named(caused.clone()).expect_version(Version(1))).expect_err("it is at 4");
    assert_eq!(other.kind(), ErrorKind::Conflict);
    let reused =
        named_sent!(sender.send_named(caused.clone()).idempotency_key("k-2")).expect_err("another request");
    assert_eq!(reused.kind(), ErrorKind::Misuse);
    let seen =
        |sent: &Sent| sent.command == "withdraw" && sent.outcome == Outcome::Failed(ErrorKind::Refused);
    assert!(recorder.sent().iter().any(seen), "interceptors see it as any other");
}

/// C11
pub async fn what_cannot_be_sent_by_name_says_why<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let app = registered(&store).await;
    let sender = app.sender();
    let failed = async |command: NamedCommand| {
        let error = named_sent!(sender.send_named(command.clone())).expect_err("it cannot be sent");
        (error.kind(), crate::chain(&error))
    };
    let cases = [
        (named("depozit", json!({})), ErrorKind::Misuse, "its commands are close, contend, deposit, donate,"),
        (
            NamedCommand::new("acount", "a", "open", json!({})),
            ErrorKind::Misuse,
            "aggregates with commands are account",
        ),
        (
            named("deposit", json!({ "amount": "5" })),
            ErrorKind::Corrupt,
            "invalid type: string \"5\", expected i64",
        ),
        (named("deposit", json!({})), ErrorKind::Corrupt, "missing field `amount`"),
        (named("open", json!({ "owner": "ada" })), ErrorKind::Refused, "exists already"),
        (
            named("verify", json!({})),
            ErrorKind::Transient,
            "verify of account failed: a service failed: the service is down",
        ),
        (named("panic", json!({})), ErrorKind::Misuse, "a handler that panics"),
        (NamedCommand::new("account", "", "donate", json!({ "amount": 1 })), ErrorKind::Misuse, ""),
    ];
    for (command, kind, text) in cases {
        let (actual, chain) = failed(command.clone()).await;
        assert!(actual == kind && chain.contains(text), "{command:?}: {actual:?}, {chain}");
    }
    let none = RetryPolicy::default().with_attempts(1);
    let late =
        sender.send_named(named("wait", json!({}))).timeout(Duration::from_millis(20)).retry(none).await;
    assert_eq!(late.expect_err("the gate is shut").kind(), ErrorKind::Unknown);
    let by_type = sent!(sender.send(&key(), Verify {})).map_err(SendError::of::<Verify>);
    assert_eq!(by_type.expect_err("the service is down").kind(), ErrorKind::Transient);
    assert_eq!(store.head().await, 1, "nothing was written");
}

/// C12
pub async fn a_sender_outlives_its_app_and_does_not_keep_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let ended = async |sender: &Sender| {
        let by_type = sender.send(&key(), Deposit { amount: 1 }).await.expect_err("the app has ended");
        assert!(matches!(by_type, CommandError::ShuttingDown), "{by_type:?}");
        let by_name =
            sender.send_named(named("deposit", json!({ "amount": 1 }))).await.expect_err("the same");
        assert!(matches!(by_name, SendError::ShuttingDown), "{by_name:?}");
        assert_eq!((by_name.kind(), by_name.to_string()), (by_type.kind(), by_type.to_string()));
    };
    ended(&Sender::default()).await;
    let app = registered(&store).await;
    let sender = app.sender();
    assert!(app.shutdown(LIMIT).await);
    ended(&sender).await;
    let app = registered(&store).await;
    let (sender, waiting) = (app.sender(), app.sender().send(&key(), Deposit { amount: 1 }));
    drop(app);
    ended(&sender).await;
    assert!(matches!(waiting.await, Err(CommandError::ShuttingDown)));
    assert_eq!(store.head().await, 0);
}

fn wiring<B: Backend + RowStore + Clone>(backend: &B, relay: &Relay) -> AppBuilder<B> {
    App::on(backend.clone()).command::<super::domain::Donate>().runner(relay.on(backend)).processor_retries(
        2,
        Duration::from_millis(1),
        Duration::from_millis(5),
    )
}

fn processor(app: &App) -> &Processor {
    app.processors().iter().find(|processor| processor.name() == NAME).expect("it runs")
}

/// What a relay keeps of an account.
async fn kept<B: Backend + RowStore + Clone>(store: &Patient<B>, account: &str) -> Kept {
    let row = store.row(TABLE, &format!("account-{account}")).await;
    row.map_or_else(Kept::default, |row| serde_json::from_slice(&row.data).expect("it is a row of the relay"))
}

/// Until something was seen of a relay.
async fn seen(relay: &Relay, what: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    eventually(|| async { if what(&relay.seen()) { Ok(()) } else { Err(format!("{:?}", relay.seen())) } })
        .await;
    relay.seen()
}

/// C12
pub async fn a_session_sends_commands_when_it_handles_and_when_something_is_due<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let relay = Relay { sends: true, ..Relay::default() };
    let app = start(|| wiring(&store.0, &relay)).await;
    let opened = store.put("account-a", vec![encoded(&opened("ada"))]).await;
    for (account, actor) in [
        ("typed-ada", None),
        ("named-ada", None),
        ("typed-due-account-a", Some("clock")),
        ("named-due-account-a", Some("clock")),
    ] {
        let stream = format!("account-{account}");
        eventually(|| async {
            if store.version(&stream).await > 0 {
                Ok(())
            } else {
                Err(format!("nothing was sent to {stream}"))
            }
        })
        .await;
        let event = store.stream(&stream).await.remove(0);
        assert_eq!(event.metadata.actor.as_deref(), actor);
        if actor.is_none() {
            let cause = store.stream("account-a").await.remove(0);
            assert_eq!((event.metadata.causation, cause.place()), (Some(cause.id), opened.position));
        }
    }
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    // What was interrupted is sent again under its key, and acts once.
    let app = start(|| wiring(&store.0, &relay)).await;
    settle(&app).await;
    assert_eq!(store.head().await, 5);
    assert_eq!(parked_keys(processor(&app)).await, []);
}

/// T1
pub async fn a_session_keeps_its_state_with_the_checkpoint_or_not_at_all<S: Subject>(subject: S) {
    for line in [Line::HoldsWrites, Line::Down] {
        let store = store(&subject).await;
        let lease = Duration::from_millis(300);
        let relay = Relay { splits: true, delay: HOUR, ..Relay::default() };
        let pay = async |amounts: std::ops::RangeInclusive<i64>| {
            for account in ["account-a", "account-b", "account-c"] {
                store.put(account, amounts.clone().map(payment).collect()).await;
            }
        };
        let complete = async |n: i64| {
            for account in ["a", "b", "c"] {
                let kept = kept(&store, account).await;
                let expected = Kept { n: n.unsigned_abs(), sum: n * (n + 1) / 2, last: n, ..Kept::default() };
                assert_eq!(kept, expected, "account {account}");
            }
        };
        let app = start(|| wiring(&store.0, &relay)).await;
        pay(1..=5).await;
        settle(&app).await;
        pay(6..=8).await;
        assert!(app.shutdown(LIMIT).await);
        pay(9..=10).await;
        let cut = Double::new(subject.again(&store.0).await);
        let first = start(|| wiring(&cut, &relay).lease(lease).workers(2)).await;
        settle(&first).await;
        complete(10).await;
        // It is cut off with something to write, and replaced. What it writes late is refused as a whole.
        cut.set(line);
        pay(11..=15).await;
        let backend = subject.again(&store.0).await;
        let second = start(|| wiring(&backend, &relay).lease(lease).workers(2)).await;
        settle(&second).await;
        complete(15).await;
        cut.set(Line::Up);
        pay(16..=20).await;
        settle(&second).await;
        settle(&first).await;
        complete(20).await;
        for flushed in relay.seen() {
            if let Seen::Flushed(tables) = flushed {
                assert!(tables.iter().any(|table| &**table == "checkpoints"), "{tables:?}");
            }
        }
        join_all([first, second].map(|app| async move { app.shutdown(LIMIT).await })).await;
    }
}

/// T2
pub async fn a_session_is_woken_at_the_time_it_asked_for<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let relay = Relay { delay: HOUR, ..Relay::default() };
    let app = start(|| wiring(&store.0, &relay).clock(clock.clone())).await;
    store.put("account-a", vec![encoded(&opened("ada")), payment(1)]).await;
    let due = store.stream("account-a").await[0].recorded_at + HOUR;
    let waits = |seen: &[Seen]| {
        let asked = |seen: &Seen| matches!(seen, Seen::Due { head: Position(2), next: Some(next), .. } if *next == due);
        seen.iter().any(asked)
    };
    let before = seen(&relay, waits).await;
    let first = |what: &dyn Fn(&Seen) -> bool| before.iter().position(what).expect("it was seen");
    let (folded, asked) =
        (first(&|seen| *seen == Seen::Folded(Position(2))), first(&|seen| waits(std::slice::from_ref(seen))));
    assert!(folded < asked, "events come first: {before:?}");
    clock.advance(HOUR - Duration::from_secs(1));
    relay.mark("early");
    let early = |seen: &[Seen]| {
        let since = seen.iter().position(|seen| *seen == Seen::Marked("early")).unwrap_or_default();
        seen[since..].iter().any(|seen| matches!(seen, Seen::Due { .. }))
    };
    seen(&relay, early).await;
    assert_eq!(kept(&store, "a").await.reminded, 0);
    clock.advance(Duration::from_secs(1));
    eventually(|| async {
        if kept(&store, "a").await.reminded > 0 { Ok(()) } else { Err(format!("{:?}", relay.seen())) }
    })
    .await;
    assert_eq!(kept(&store, "a").await, Kept { n: 1, sum: 1, last: 1, reminded: 1, ..Kept::default() });
    for seen in relay.seen() {
        match seen {
            Seen::Reminded { now, head, .. } => assert!(now >= due && head == Position(2), "{now} {head}"),
            Seen::Flushed(tables) => assert_eq!(&*tables[0], "checkpoints", "{tables:?}"),
            _ => {}
        }
    }
    assert!(app.shutdown(LIMIT).await);
}

/// T2
pub async fn what_is_due_goes_by_the_time_of_the_log_until_its_end<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let relay = Relay { delay: Duration::from_secs(5), ..Relay::default() };
    let options = ProcessorOptions::default().page(1);
    let wiring = || wiring(&store.0, &relay).clock(clock.clone()).processor_options(NAME, options);
    // From now on, events are its own.
    assert!(start(wiring).await.shutdown(LIMIT).await);
    let begin = clock.now();
    let history = [
        (0, "a", opened("ada")),
        (10, "b", opened("bob")),
        (12, "b", AccountEvent::Closed(Closed {})),
        (20, "c", opened("cyd")),
        (30, "a", deposited(1)),
        (40, "a", deposited(2)),
    ];
    for (second, account, event) in history {
        clock.set(begin + Duration::from_secs(second));
        store.put(&format!("account-{account}"), vec![encoded(&event)]).await;
    }
    clock.set(begin + HOUR);
    let app = start(wiring).await;
    settle(&app).await;
    eventually(|| async {
        let reminded = [kept(&store, "a").await.reminded, kept(&store, "c").await.reminded];
        if reminded == [1, 1] { Ok(()) } else { Err(format!("{:?}", relay.seen())) }
    })
    .await;
    assert_eq!(kept(&store, "b").await.reminded, 0, "called off, long before it is looked at");
    let seen = relay.seen();
    let reminded = |account: &str| {
        let of = |seen: &Seen| match seen {
            Seen::Reminded { key, head, .. } if *key == format!("account-{account}") => Some(*head),
            _ => None,
        };
        seen.iter().find_map(of)
    };
    // Unless a flush failed, which takes a while.
    if !seen.contains(&Seen::FlushFailed) {
        assert_eq!((reminded("a"), reminded("c")), (Some(Position(2)), Some(Position(5))), "{seen:?}");
    }
}

/// T2
pub async fn what_is_due_and_fails_is_tried_again_and_parks_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let relay = Relay::default();
    relay.fail(u32::MAX);
    let app = start(|| wiring(&store.0, &relay)).await;
    store.put("account-a", vec![encoded(&opened("ada"))]).await;
    let processor = processor(&app);
    for text in ["the clock is broken", "what is due panics now and then"] {
        let failing = |state: &ProcessorState| match state {
            ProcessorState::Failing { error, attempts, .. } => error.contains(text) && *attempts > 2,
            _ => false,
        };
        until(processor, |status| failing(&status.state)).await;
    }
    // Events are handled meanwhile.
    store.put("account-a", (1..=20).map(payment).collect()).await;
    store.put("account-b", (1..=20).map(payment).collect()).await;
    settle(&app).await;
    assert_eq!((kept(&store, "a").await.n, kept(&store, "b").await.n), (20, 20));
    assert_eq!(kept(&store, "a").await.reminded, 0);
    assert!(!app.health().await.is_healthy());
    relay.fail(0);
    until(processor, |status| status.state == ProcessorState::Running).await;
    eventually(|| async {
        if kept(&store, "a").await.reminded == 1 { Ok(()) } else { Err(format!("{:?}", relay.seen())) }
    })
    .await;
    assert_eq!(parked_keys(processor).await, []);
}

/// T2
pub async fn nothing_is_due_while_a_processor_is_halted_or_paused<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let relay = Relay { delay: HOUR, stops: true, ..Relay::default() };
    relay.poison(true);
    // Another one, which shows that an event has been heard of.
    let app = start(|| wiring(&store.0, &relay).view::<Balance>().clock(clock.clone())).await;
    let processor = processor(&app);
    store.put("account-a", vec![encoded(&opened("ada")), encoded(&withdrawn(0))]).await;
    until(processor, |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    relay.mark("halted");
    clock.advance(2 * HOUR);
    let done = store.put("account-a", vec![payment(1)]).await;
    app.wait_for::<Balance>(done.position, LIMIT).await.expect("this one is not halted");
    relay.mark("resumed");
    relay.poison(false);
    super::payments::answered(|| processor.resume()).await.expect("it is halted");
    eventually(|| async {
        if kept(&store, "a").await.reminded == 1 { Ok(()) } else { Err(format!("{:?}", relay.seen())) }
    })
    .await;
    until(processor, |status| status.state == ProcessorState::Running).await;
    super::payments::answered(|| processor.pause()).await.expect("it runs");
    until(processor, |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    relay.mark("paused");
    let done = store.put("account-b", vec![encoded(&opened("bob"))]).await;
    clock.advance(2 * HOUR);
    app.wait_for::<Balance>(done.position, LIMIT).await.expect("this one is not paused");
    relay.mark("resumed again");
    super::payments::answered(|| processor.resume()).await.expect("it is paused");
    eventually(|| async {
        if kept(&store, "b").await.reminded == 1 { Ok(()) } else { Err(format!("{:?}", relay.seen())) }
    })
    .await;
    let seen = relay.seen();
    for [from, to] in [["halted", "resumed"], ["paused", "resumed again"]] {
        let at = |mark| seen.iter().position(|seen| *seen == Seen::Marked(mark)).expect("it was marked");
        assert_eq!(seen[at(from) + 1..at(to)], [], "{from}");
    }
}

/// T2
pub async fn a_session_that_is_always_late_is_not_asked_without_a_pause<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let relay = Relay { hasty: true, ..Relay::default() };
    let app = start(|| wiring(&store.0, &relay)).await;
    let asked = |relay: &Relay| {
        let due = |(at, seen)| matches!(seen, Seen::Due { .. }).then_some(at);
        relay.timed().into_iter().filter_map(due).collect::<Vec<_>>()
    };
    eventually(|| async {
        if asked(&relay).len() > 20 { Ok(()) } else { Err("it is not asked".to_owned()) }
    })
    .await;
    let asked = asked(&relay);
    let took = asked[20] - asked[0];
    assert!(took >= Duration::from_millis(150), "20 times in {took:?}, and nothing was due");
    store.put("account-a", vec![payment(1)]).await;
    settle(&app).await;
    assert_eq!(kept(&store, "a").await.n, 1);
}
