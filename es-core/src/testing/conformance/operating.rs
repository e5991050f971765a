//! What an operator asks of a processor: from any node, for every node, and over restarts: K4, O5 to O11, P8, P13, P26.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::join;

use super::data::new_id;
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Kind, Ledger, Payments, Poison, Repeatable, Stopping, World, answered, discard, eventually,
    parked, parked_keys, payment, retry, rows, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{
    ParkedFilter, Processor, ProcessorError, ProcessorOptions, ProcessorState, ProcessorStatus,
    RebuildOptions, Reset, RetriedAll, WaitError,
};
use crate::store::{Commit, Position, RowWrite};
use crate::testing::TestClock;
use crate::{App, AppBuilder, ErrorKind};

/// Short, so that every node looks at the others often.
const LEASE: Duration = Duration::from_millis(400);
/// As long as a node takes to do what it should not, were it to do that.
const A_WHILE: Duration = Duration::from_millis(800);

async fn node<S: Subject>(subject: &S, world: &World<S>) -> App {
    let backend = subject.again(&world.store.0).await;
    start(|| World::<S>::wiring(&backend).lease(LEASE)).await
}

/// One that has a view which halts at what fails.
async fn halting_node<S: Subject>(subject: &S, world: &World<S>) -> App {
    let backend = subject.again(&world.store.0).await;
    start(|| World::<S>::wiring(&backend).view::<Stopping>().lease(LEASE)).await
}

/// One that is believed to be alive whatever the store does.
async fn lasting_node<S: Subject>(subject: &S, world: &World<S>) -> App {
    let backend = subject.again(&world.store.0).await;
    start(|| World::<S>::wiring(&backend).lease(20 * LEASE)).await
}

fn stopping(app: &App) -> &Processor {
    app.processor::<Stopping>().expect("it runs")
}

const fn is_paused(status: &ProcessorStatus) -> bool {
    matches!(status.state, ProcessorState::Paused { .. })
}

/// Whoever has a part of a processor, by the rows.
async fn owners<S: Subject>(world: &World<S>, kind: Kind) -> BTreeSet<String> {
    let rows = rows(&world.store, "checkpoints").await.into_iter();
    let own = rows.filter(|(key, _)| key.starts_with(kind.name()));
    own.filter_map(|(_, row)| row["owner"].as_str().map(str::to_owned)).collect()
}

/// Every node shows that it is paused, and none has a part of it.
async fn until_paused<S: Subject>(world: &World<S>, kind: Kind, apps: [&App; 2]) {
    for app in apps {
        until(kind.of(app), is_paused).await;
    }
    eventually(|| async {
        let owners = owners(world, kind).await;
        if owners.is_empty() { Ok(()) } else { Err(format!("{owners:?} still have a part")) }
    })
    .await;
}

/// O5, P13
pub async fn a_pause_holds_on_every_node_and_over_restarts<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (first, second) = (node(&subject, &world).await, node(&subject, &world).await);
    for account in ["a", "b"] {
        world.pay(account, 1..=3).await;
    }
    settle(&first).await;
    for kind in KINDS {
        ask(|| kind.of(&first).pause()).await;
        until_paused(&world, kind, [&first, &second]).await;
    }
    let nothing_is_handled = async |n: i64| {
        for account in ["a", "b"] {
            world.pay(account, n..=n).await;
        }
        tokio::time::sleep(A_WHILE).await;
        for kind in KINDS {
            assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (6, 6), "{kind:?}");
        }
    };
    nothing_is_handled(4).await;
    assert!(first.shutdown(LIMIT).await && second.shutdown(LIMIT).await);
    let (third, fourth) = (node(&subject, &world).await, node(&subject, &world).await);
    for kind in KINDS {
        until_paused(&world, kind, [&third, &fourth]).await;
    }
    nothing_is_handled(5).await;
    let head = Position(world.store.head().await);
    for kind in KINDS {
        let late = kind.of(&third).wait_for(head, A_WHILE).await.expect_err("it is paused");
        let ProcessorState::Paused { since } = kind.of(&third).status().state else { panic!("{late}") };
        let told = matches!(&late, WaitError::TimedOut { why, .. } if why.contains(&since.to_string()));
        assert!(told, "it does not say why: {late}");
        ask(|| kind.of(&fourth).resume()).await;
    }
    settle(&third).await;
    settle(&fourth).await;
    for account in ["a", "b"] {
        world.pay(account, 6..=6).await;
    }
    settle(&third).await;
    for account in ["a", "b"] {
        world.assert_complete(account, 6).await;
    }
}

/// O6
pub async fn a_halt_is_shown_on_every_node_and_resumed_from_any<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let apps = [halting_node(&subject, &world).await, halting_node(&subject, &world).await];
    let halted = |status: &ProcessorStatus| matches!(&status.state, ProcessorState::Halted { error, .. } if error.contains("poisoned"));
    let mut n = 0;
    // One of the two does not work on it.
    for asks in &apps {
        let poison = Poison::new();
        world.put("a", vec![payment(n + 1), poison.payment(n + 2, "fails"), payment(n + 3)]).await;
        n += 3;
        for app in &apps {
            until(stopping(app), halted).await;
        }
        poison.mend();
        ask(|| stopping(asks).resume()).await;
        for app in &apps {
            let head = Position(world.store.head().await);
            stopping(app).wait_for(head, LIMIT).await.expect("it goes on");
            until(stopping(app), |status| !matches!(status.state, ProcessorState::Halted { .. })).await;
        }
        let tally = world.tally_of("stopping/1", "a").await.expect("a row");
        assert_eq!((tally.n, tally.last, tally.disorder), (n.unsigned_abs(), n, 0));
        for kind in KINDS {
            retry(kind.of(asks), &kind.key("a")).await;
        }
    }
}

/// O7, P8
pub async fn a_reset_is_refused_while_others_work_and_works_from_any_node_once_paused<S: Subject>(
    subject: S,
) {
    let world = World::new(&subject).await;
    let (first, second) = (lasting_node(&subject, &world).await, lasting_node(&subject, &world).await);
    world.pay("a", 1..=5).await;
    settle(&first).await;
    eventually(|| async {
        let owners = owners(&world, Kind::View).await;
        if owners.len() == 2 { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .await;
    for app in [&first, &second] {
        let refused = answered(|| Kind::View.of(app).reset(Reset::Start)).await;
        assert!(matches!(refused, Err(ProcessorError::HeldBy { .. })), "{refused:?}");
    }
    assert_eq!(world.tally("a").await.expect("nothing is emptied").replayed, 0);
    for (pauses, resets) in [(&first, &second), (&second, &first)] {
        for kind in KINDS {
            ask(|| kind.of(pauses).pause()).await;
            until_paused(&world, kind, [&first, &second]).await;
            let done = answered(|| kind.of(resets).reset(Reset::Start)).await;
            assert!(done.is_ok(), "{done:?}");
            tokio::time::sleep(A_WHILE).await;
            assert_eq!(world.sum(kind, "a").await, 0, "it is emptied, and still paused");
            until_paused(&world, kind, [&first, &second]).await;
        }
        for kind in KINDS {
            ask(|| kind.of(pauses).resume()).await;
        }
        settle(&first).await;
        settle(&second).await;
        world.assert_complete("a", 5).await;
    }
    world.pay("a", 6..=7).await;
    settle(&first).await;
    world.assert_complete("a", 7).await;
}

/// O7
pub async fn a_reset_right_after_a_pause_waits_for_what_is_handled<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (first, second) = (lasting_node(&subject, &world).await, lasting_node(&subject, &world).await);
    world.pay("a", 1..=5).await;
    settle(&first).await;
    for app in [&first, &second] {
        eventually(|| async {
            let owners = owners(&world, Kind::View).await;
            if owners.len() == 2 { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .await;
        ask(|| Kind::View.of(app).pause()).await;
        let done = answered(|| Kind::View.of(app).reset(Reset::Start)).await;
        assert!(done.is_ok(), "{done:?}");
        ask(|| Kind::View.of(app).resume()).await;
        // The other one may not know yet that it was reset.
        settle(app).await;
        let tally = world.tally("a").await.expect("a row");
        assert_eq!((tally.n, tally.replayed, tally.disorder), (5, 5, 0));
    }
}

const ACCOUNTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// O8, K2, K7
pub async fn what_is_parked_is_asked_for_on_any_node_one_by_one_or_by_what_it_is<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let (first, second) = (node(&subject, &world).await, node(&subject, &world).await);
    for (i, account) in ACCOUNTS.into_iter().enumerate() {
        let how = if i < 4 { "fails" } else { "panics" };
        world.put(account, vec![poison.payment(1, how), payment(2)]).await;
    }
    for kind in KINDS {
        kind.of(&first).reach(Position(16), LIMIT).await.expect("nothing stops it");
        let keys = |accounts: &[&str]| accounts.iter().map(|account| kind.key(account)).collect::<Vec<_>>();
        let left =
            async || parked_keys(kind.of(&first)).await.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(left().await, keys(&ACCOUNTS));
        // None of another type; and what is not mended fails once more.
        let opened = ParkedFilter::all().event("account.opened");
        assert_eq!(ask(|| kind.of(&second).retry_all(&opened, LIMIT)).await, RetriedAll::default());
        let deposited = ParkedFilter::all().event("account.deposited").error("panic");
        let again = ask(|| kind.of(&second).retry_all(&deposited, LIMIT)).await.failed;
        let again: Vec<String> = again.into_iter().map(|sequence| sequence.key).collect();
        assert_eq!(again, keys(&ACCOUNTS[4..]));
        let attempts: BTreeSet<bool> = parked(kind.of(&first)).await.iter().map(|s| s.attempts > 3).collect();
        assert_eq!(attempts, BTreeSet::from([false, true]), "only those were tried again");
        for app in [&first, &second] {
            let none = answered(|| async { kind.of(app).discard("nobody", "why not", LIMIT).await }).await;
            assert!(matches!(none, Err(ProcessorError::NotParked { .. })), "{none:?}");
            let why = answered(|| kind.of(app).discard_all(&deposited, " ", LIMIT)).await;
            assert!(matches!(why, Err(ProcessorError::NoReason)), "{why:?}");
        }
        ask(|| kind.of(&second).discard_all(&deposited, "they panic", LIMIT)).await;
        assert_eq!(left().await, keys(&ACCOUNTS[..4]));
        discard(kind.of(&first), &kind.key("a"), "the first").await;
        discard(kind.of(&second), &kind.key("b"), "the second").await;
        assert_eq!(ask(|| kind.of(&second).skipped()).await.len(), 12);
    }
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&second), &kind.key("c")).await, None);
        let all = ParkedFilter::all();
        assert_eq!(ask(|| kind.of(&first).retry_all(&all, LIMIT)).await.failed, []);
        for app in [&first, &second] {
            assert_eq!(parked_keys(kind.of(app)).await, []);
        }
    }
    for account in ["c", "d"] {
        world.assert_complete(account, 2).await;
    }
    world.pay("a", 3..=3).await;
    settle(&second).await;
    for kind in KINDS {
        assert_eq!(world.sum(kind, "a").await, 3, "{kind:?}: its key goes on");
        let again = refused(kind.of(&second), &kind.key("a")).await;
        assert!(matches!(again, ProcessorError::NotParked { .. }), "{again}");
    }
}

/// What a retry is refused with.
async fn refused(processor: &Processor, key: &str) -> ProcessorError {
    loop {
        match processor.retry(key, LIMIT).await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            outcome => return outcome.expect_err("it is refused"),
        }
    }
}

/// O9, K4
pub async fn a_request_of_a_node_that_died_is_done_after_a_restart<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let first = node(&subject, &world).await;
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    for kind in KINDS {
        kind.of(&first).reach(Position(4), LIMIT).await.expect("nothing stops it");
    }
    assert!(first.shutdown(LIMIT).await);
    let line = Double::new(subject.again(&world.store.0).await);
    let second = start(|| World::<S>::wiring(&line).looks_on()).await;
    for kind in KINDS {
        for account in ["a", "b"] {
            let (processor, key) = (kind.of(&second), kind.key(account));
            // No node works on it.
            loop {
                let late = if account == "a" {
                    processor.retry(&key, Duration::from_millis(50)).await.expect_err("nobody is there")
                } else {
                    let late = processor.discard(&key, "no more", Duration::from_millis(50)).await;
                    late.expect_err("nobody is there")
                };
                match late {
                    ProcessorError::TimedOut { .. } | ProcessorError::Asked { .. } => break,
                    other => assert_eq!(other.kind(), ErrorKind::Transient, "{other}"),
                }
            }
            let asked = refused(processor, &key).await;
            assert!(matches!(asked, ProcessorError::Asked { .. }), "{asked}");
        }
    }
    line.set(Line::Down);
    drop(second);
    poison.mend();
    let third = node(&subject, &world).await;
    for kind in KINDS {
        eventually(|| async {
            let left = parked_keys(kind.of(&third)).await;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        let skipped = ask(|| kind.of(&third).skipped()).await;
        assert_eq!(skipped.iter().map(|skip| &*skip.reason).collect::<Vec<_>>(), ["no more"; 2]);
        assert_eq!(world.sum(kind, "b").await, 0);
    }
    world.assert_complete("a", 2).await;
}

/// O9
pub async fn whoever_asks_in_vain_is_told_what_is_in_the_way<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = node(&subject, &world).await;
    for account in ACCOUNTS {
        world.put(account, vec![poison.payment(1, "fails")]).await;
    }
    settle(&app).await;
    for kind in KINDS {
        let processor = kind.of(&app);
        ask(|| processor.pause()).await;
        until(processor, is_paused).await;
        let mut told = false;
        for account in ACCOUNTS {
            match processor
                .retry(&kind.key(account), Duration::from_millis(50))
                .await
                .expect_err("it is paused")
            {
                // Or that it cannot be seen now: a node that cannot read says that.
                ProcessorError::TimedOut { why, .. } if why.contains("a read could not be done now") => {}
                ProcessorError::TimedOut { why, .. } => {
                    assert!(why.contains("paused"), "{why:?}");
                    told = true;
                }
                other => assert_eq!(other.kind(), ErrorKind::Transient, "{other}"),
            }
        }
        assert!(told, "{kind:?}: the store fails each time");
    }
}

/// K4
pub async fn what_is_asked_of_a_processor_that_is_reset_is_not_said_to_be_done<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = node(&subject, &world).await;
    world.put("a", vec![poison.payment(1, "fails"), payment(2)]).await;
    settle(&app).await;
    let processor = Kind::View.of(&app);
    ask(|| processor.pause()).await;
    until(processor, is_paused).await;
    let discarding = async {
        loop {
            match processor.discard("a", "no more", LIMIT).await {
                // Of a store that fails, it may be asked once more, too late.
                Err(ProcessorError::SetBack { .. } | ProcessorError::NotParked { .. }) => return,
                Err(ProcessorError::Asked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
                Ok(()) => panic!("it is said to be left out"),
            }
        }
    };
    let resetting = async {
        eventually(|| async {
            let stands = world.store.row("ledger/1~1/requests", "a").await.is_some();
            if stands { Ok(()) } else { Err("it is not asked for".to_owned()) }
        })
        .await;
        answered(|| processor.reset(Reset::Start)).await.expect("nobody works on it");
    };
    join!(discarding, resetting);
    ask(|| processor.resume()).await;
    settle(&app).await;
    assert_eq!(parked_keys(processor).await, [("a".to_owned(), 2)]);
    assert_eq!(ask(|| processor.skipped()).await, []);
}

/// K4
pub async fn rows_of_a_processor_that_is_reset_are_not_said_to_be_rebuilt<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = node(&subject, &world).await;
    world.pay("a", 1..=2).await;
    settle(&app).await;
    let processor = Kind::View.of(&app);
    ask(|| processor.pause()).await;
    until(processor, is_paused).await;
    let (is_reset, keys) = (AtomicBool::new(false), ["a".to_owned()]);
    let rebuilding = async {
        loop {
            // Of a store that fails, it may be asked once more, too late.
            let late = is_reset.load(Ordering::SeqCst);
            match processor.rebuild_keys(&keys, A_WHILE).await {
                Err(ProcessorError::SetBack { .. }) => return,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
                Ok(()) => panic!("it is said to be rebuilt"),
            }
            if late {
                return;
            }
        }
    };
    let resetting = async {
        stands(&world, "ledger/1~1/afresh", "a").await;
        answered(|| processor.reset(Reset::Start)).await.expect("nobody works on it");
        is_reset.store(true, Ordering::SeqCst);
    };
    join!(rebuilding, resetting);
    ask(|| processor.resume()).await;
    settle(&app).await;
    answered(|| processor.rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    assert_eq!(world.tally("a").await.expect("a row").n, 2);
}

/// Until something is asked of a key.
async fn stands<S: Subject>(world: &World<S>, table: &str, key: &str) {
    eventually(|| async {
        let stands = world.store.row(table, key).await.is_some();
        if stands { Ok(()) } else { Err("it is not asked for".to_owned()) }
    })
    .await;
}

/// K4
pub async fn what_was_asked_before_a_reset_to_a_place_is_not_done_after_it<S: Subject>(subject: S) {
    let (world, [poison, other]) = (World::<S>::new(&subject).await, [(); 2].map(|()| Poison::new()));
    let short = Duration::from_millis(1);
    let wiring = || App::on(world.store.0.clone()).view::<Repeatable>().processor_retries(1, short, short);
    let app = start(wiring).await;
    let processor = app.processor::<Repeatable>().expect("it runs");
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.put("b", vec![other.payment(1, "fails")]).await;
    world.pay("c", 1..=1).await;
    settle(&app).await;
    ask(|| processor.pause()).await;
    until(processor, is_paused).await;
    let (resets, keys) = (AtomicBool::new(false), ["c".to_owned()]);
    while world.store.row("repeatable/1~1/afresh", "c").await.is_none() {
        drop(processor.rebuild_keys(&keys, short).await);
    }
    let discarding = async {
        while !resets.load(Ordering::SeqCst) {
            match processor.discard("a", "no more", LIMIT).await {
                Err(ProcessorError::SetBack { .. }) => return,
                Err(ProcessorError::Asked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
                Ok(()) => panic!("it is said to be left out"),
            }
        }
    };
    let resetting = async {
        stands(&world, "repeatable/1~1/requests", "a").await;
        resets.store(true, Ordering::SeqCst);
        // What was parked up to there stays.
        answered(|| processor.reset(Reset::Head)).await.expect("nobody works on it");
    };
    join!(discarding, resetting);
    for table in ["repeatable/1~1/requests", "repeatable/1~1/afresh"] {
        assert_eq!(rows(&world.store, table).await, [], "{table}");
    }
    ask(|| processor.resume()).await;
    other.mend();
    assert_eq!(retry(processor, "b").await, None);
    assert_eq!(parked_keys(processor).await, [("a".to_owned(), 1)]);
    assert_eq!(ask(|| processor.skipped()).await, []);
}

/// Discards what another operator may be retrying.
async fn discard_patiently(processor: &Processor, key: &str) {
    loop {
        match processor.discard(key, "no more", LIMIT).await {
            Ok(()) | Err(ProcessorError::NotParked { .. }) => return,
            Err(ProcessorError::Asked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
        }
    }
}

/// O10
pub async fn two_operators_at_once_do_no_harm<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (first, second) = (node(&subject, &world).await, node(&subject, &world).await);
    let mut n = 0;
    for round in 0..4_i64 {
        let poison = Poison::new();
        for account in ACCOUNTS {
            world.put(account, vec![poison.payment(n + 1, "fails"), payment(n + 2)]).await;
        }
        n += 2;
        for kind in KINDS {
            let (one, two) = (kind.of(&first), kind.of(&second));
            join!(ask(|| one.pause()), ask(|| two.resume()));
            ask(|| two.resume()).await;
        }
        let head = Position(world.store.head().await);
        for kind in KINDS {
            let (one, two) = (kind.of(&first), kind.of(&second));
            one.reach(head, LIMIT).await.expect("it was resumed last");
            if round % 2 == 0 {
                poison.mend();
            }
            let all = ParkedFilter::all();
            let discards = async {
                for account in ACCOUNTS {
                    discard_patiently(two, &kind.key(account)).await;
                }
            };
            join!(ask(|| one.retry_all(&all, LIMIT)), discards);
            assert_eq!(parked_keys(one).await, []);
            let skipped = ask(|| one.skipped()).await;
            for account in ACCOUNTS {
                // The n-th payment is over the amount n: what was not handled is among what was discarded, and nothing is
                // both.
                let events = world.store.stream(&format!("account-{account}")).await;
                let own = skipped.iter().filter(|skip| skip.key == kind.key(account));
                let discarded: u64 = own
                    .filter_map(|skip| events.iter().find(|event| event.place() == skip.position))
                    .map(|event| event.version.0)
                    .sum();
                let handled = world.sum(kind, account).await.unsigned_abs();
                assert_eq!(handled + discarded, (n * (n + 1) / 2).unsigned_abs(), "{kind:?} {account}");
            }
        }
        poison.mend();
    }
    ask(|| Kind::View.of(&first).pause()).await;
    until_paused(&world, Kind::View, [&first, &second]).await;
    let reset = async |app: &App| {
        let done = answered(|| Kind::View.of(app).reset(Reset::Start)).await;
        assert!(done.is_ok(), "{done:?}");
    };
    join!(reset(&first), reset(&second));
    ask(|| Kind::View.of(&second).resume()).await;
    let head = Position(world.store.head().await);
    Kind::View.of(&first).reach(head, LIMIT).await.expect("it was resumed");
    for account in ACCOUNTS {
        let tally = world.tally(account).await.expect("a row");
        assert_eq!((tally.n, tally.disorder), (n.unsigned_abs(), 0), "{account}");
    }
}

/// O11, P20
pub async fn a_request_that_comes_too_late_makes_no_rows_run_ahead<S: Subject>(subject: S) {
    const N: i64 = 1_500;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    // Woken by the rows themselves.
    let backend = world.store.0.clone();
    let wiring = || -> AppBuilder<S::Backend> {
        let (first, longest) = (Duration::from_millis(1), Duration::from_millis(5));
        let options = ProcessorOptions::default().retries(2, first, longest).page(10);
        App::on(backend.clone()).view::<Ledger>().projection(Payments::<S>::default()).processors(options)
    };
    // Its rows are made, and nobody is at work while the backlog grows.
    assert!(start(wiring).await.shutdown(LIMIT).await);
    world.pay("ada", 1..=N).await;
    world.put("worse", vec![poison.payment(1, "fails")]).await;
    let (done, app) = (AtomicBool::new(false), start(wiring).await);
    let working = async {
        let head = Position(world.store.head().await);
        Kind::View.of(&app).reach(head, LIMIT).await.expect("it is handled, or parked");
        done.store(true, Ordering::SeqCst);
    };
    let asking = async {
        for _ in 0..100 {
            if done.load(Ordering::SeqCst) {
                return;
            }
            // For a key that another operator's request has emptied by now.
            let row = Some("\"retry\"".into());
            let late =
                RowWrite { table: "ledger/1~1/requests".into(), key: new_id().to_string(), rev: 0, row };
            world.store.commit(Commit { rows: vec![late], ..Commit::default() }).await.expect("a new row");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let looking = async {
        while !done.load(Ordering::SeqCst) {
            // The rows first: the checkpoint that covers them is no older.
            let tally = world.tally("ada").await.unwrap_or_default();
            let ranges = rows(&world.store, "checkpoints").await;
            let (_, range) = ranges.iter().find(|(key, _)| key == "ledger/1~1#0000").expect("its range");
            assert!(
                tally.n <= range["position"].as_u64().expect("a position"),
                "{tally:?} ran ahead of {range}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    join!(working, asking, looking);
    assert_eq!(parked_keys(Kind::View.of(&app)).await, [("worse".to_owned(), 1)]);
    settle(&app).await;
    world.assert_complete("ada", N).await;
    // Those were written without a word to their owner, and a wake-up by rows may be lost: it looks when it is woken next.
    ask(|| Kind::View.of(&app).resume()).await;
    eventually(|| async {
        let left = rows(&world.store, "ledger/1~1/requests").await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} requests stand for nothing")) }
    })
    .await;
}

/// P26
pub async fn a_build_that_has_just_begun_is_not_ill<S: Subject>(subject: S) {
    const MINUTE: Duration = Duration::from_secs(60);
    let (world, clock) = (World::<S>::new(&subject).await, TestClock::default());
    let wiring = || App::on(world.store.0.clone()).view::<Ledger>().clock(clock.clone());
    let app = start(wiring).await;
    world.pay("a", 1..=3).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    // Nobody works on what this one begins.
    let app = start(|| wiring().looks_on()).await;
    let processor = Kind::View.of(&app);
    clock.advance(10 * MINUTE);
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    let begun = || processor.builds().into_iter().find(|status| status.generation == rebuild.generation());
    let shown = || begun().filter(|status| !status.ranges.is_empty());
    eventually(async || shown().map(drop).ok_or_else(|| format!("{:?}", begun()))).await;
    let ill = async || app.health().await.ill(&shown().expect("it was shown"), MINUTE);
    assert_eq!(ill().await, None);
    clock.advance(2 * MINUTE);
    eventually(async || if ill().await.is_some() { Ok(()) } else { Err("it is well".to_owned()) }).await;
}

/// P26
pub async fn what_nobody_works_on_is_ill<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    world.pay("a", 1..=3).await;
    let patience = Duration::from_millis(1);
    let ill = async |app: &App| {
        let health = app.health().await;
        app.processors()
            .iter()
            .filter(|processor| health.ill(&processor.status(), patience).is_some())
            .count()
    };
    let on_looker = start(|| World::<S>::wiring(&world.store.0).looks_on()).await;
    eventually(|| async {
        let n = ill(&on_looker).await;
        if n == 2 { Ok(()) } else { Err(format!("{n} are ill")) }
    })
    .await;
    let app = start(|| World::<S>::wiring(&world.store.0)).await;
    settle(&app).await;
    for app in [&app, &on_looker] {
        eventually(|| async {
            let n = ill(app).await;
            if n == 0 { Ok(()) } else { Err(format!("{n} are ill")) }
        })
        .await;
    }
}

/// P26
pub async fn a_node_that_cannot_say_that_it_is_alive_is_ill<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let app = start(|| World::<S>::wiring(&line).lease(LEASE)).await;
    let on_looker = start(|| World::<S>::wiring(&line).lease(LEASE).looks_on()).await;
    world.pay("a", 1..=3).await;
    settle(&app).await;
    line.set(Line::ReadOnly);
    // What was appended is handled, and nothing more comes: no processor has a reason to write.
    eventually(|| async {
        let health = app.health().await;
        let says_so = health.ill_node(3 * LEASE).is_some_and(|why| why.contains("read-only"));
        let is_told = says_so && health.head.is_ok() && !health.is_healthy();
        if is_told { Ok(()) } else { Err(format!("{health:?}")) }
    })
    .await;
    let well = async |app: &App| {
        eventually(|| async {
            let health = app.health().await;
            if health.is_healthy() { Ok(()) } else { Err(format!("{health:?}")) }
        })
        .await;
    };
    // It only reads.
    well(&on_looker).await;
    line.set(Line::Up);
    well(&app).await;
    assert!(app.shutdown(LIMIT).await);
    assert_eq!(app.health().await.node, None, "nobody waits for it any more");
}
