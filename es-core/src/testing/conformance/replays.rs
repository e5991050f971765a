//! Processors that are set back, restarted, waited for: P2, P7 to P10, P12 to P14.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::data::{encoded, events};
use super::domain::{Deposited, Opened, opened};
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    Fifth, Fourth, KINDS, Kind, Ledger, Payments, Poison, Repeatable, Second, Skipping, Stopping, Third,
    World, answered, discard, eventually, parked_keys, payment, payment_of_both, retry, rows, until,
};
use super::readside::{Balance, RenamedBalance, Welcome};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{ProcessorError, ProcessorOptions, ProcessorState, Reset};
use crate::projection::{Project, Projection};
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, Position, RecordedEvent};
use crate::{App, BoxError, ErrorKind, Reactor, Recorded};

/// P8, P9
pub async fn a_reset_to_the_start_builds_everything_anew<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0).workers(3)).await;
    world.pay("a", 1..=20).await;
    world.put("b", vec![poison.payment(1, "fails"), payment(2)]).await;
    settle(&app).await;
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("b"), 2)]);
    }
    discard(Kind::View.of(&app), "b", "a test").await;
    poison.mend();
    for kind in KINDS {
        answered(|| kind.of(&app).reset(Reset::Start)).await.expect("nobody else works on it");
        settle(&app).await;
        assert_eq!(parked_keys(kind.of(&app)).await, [], "{kind:?}");
        assert_eq!(ask(|| kind.of(&app).skipped()).await, [], "{kind:?}");
    }
    world.pay("a", 21..=25).await;
    settle(&app).await;
    world.assert_complete("a", 25).await;
    world.assert_complete("b", 2).await;
}

/// P8
pub async fn a_reset_to_a_place_takes_in_what_lies_behind_it_again<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = start(|| App::on(world.store.0.clone()).view::<Repeatable>().workers(2)).await;
    world.pay("a", 1..=10).await;
    settle(&app).await;
    let processor = app.processor::<Repeatable>().expect("it runs");
    let time = world.store.all().await[7].recorded_at;
    let mut n = 10;
    for (to, again) in [
        (Reset::Position(Position(6)), 4),
        (Reset::Head, 0),
        (Reset::Position(Position(1_000)), 0),
        (Reset::Time(time), 10 - world.store.position_at(time).await),
        (Reset::Position(Position(0)), 10),
    ] {
        answered(|| processor.reset(to)).await.expect("nobody else works on it");
        settle(&app).await;
        n += again;
        // A reset whose answer was lost is done once more.
        let tally = world.tally_of("repeatable/1", "a").await.expect("a row");
        assert!(tally.n >= n && (tally.n - n).is_multiple_of(again.max(1)), "{to:?}: {tally:?}, not {n}");
        n = tally.n;
    }
    world.pay("a", 11..=12).await;
    settle(&app).await;
    assert_eq!(world.tally_of("repeatable/1", "a").await.expect("a row").n, n + 2);
}

/// P8, P10
pub async fn what_would_act_twice_is_not_set_to_a_place<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let welcome = Welcome::default();
    let app = start(|| World::<S>::wiring(&world.store.0).reactor(welcome.clone())).await;
    world.pay("a", 1..=5).await;
    world.put("b", vec![encoded(&opened("bob"))]).await;
    settle(&app).await;
    for processor in app.processors() {
        for to in [Reset::Position(Position(2)), Reset::Head] {
            let refused = answered(|| processor.reset(to)).await.expect_err("it would act twice");
            assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
        }
    }
    let reactor = app.processors().iter().find(|p| p.name() == "welcome").expect("it runs");
    let refused = answered(|| reactor.reset(Reset::Start)).await.expect_err("it would act twice");
    assert!(matches!(refused, ProcessorError::NotRebuildable { .. }), "{refused}");
    world.pay("a", 6..=6).await;
    settle(&app).await;
    world.assert_complete("a", 6).await;
    let mut welcomed = welcome.welcomed();
    welcomed.dedup();
    assert_eq!(welcomed, ["bob"]);
}

/// P8
pub async fn a_reset_is_refused_while_another_node_works_and_changes_nothing<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let other = subject.again(&world.store.0).await;
    // Believed to be alive whatever the store does.
    let lease = Duration::from_secs(60);
    let mine = start(|| World::<S>::wiring(&world.store.0).lease(lease)).await;
    world.pay("a", 1..=5).await;
    settle(&mine).await;
    let second = start(|| App::on(other.clone()).view::<Ledger>().lease(Duration::from_secs(8))).await;
    let shared = |status: &crate::processor::ProcessorStatus| {
        status.ranges.iter().any(|range| range.owner.is_some() && range.state == ProcessorState::Running)
    };
    until(second.processor::<Ledger>().expect("it runs"), shared).await;
    let refused = answered(|| mine.rebuild::<Ledger>()).await.expect_err("another node works on a part");
    assert!(matches!(refused, ProcessorError::HeldBy { .. }), "{refused}");
    let tally = world.tally("a").await.expect("nothing is emptied");
    assert_eq!((tally.n, tally.replayed), (5, 0));
    world.pay("a", 6..=7).await;
    settle(&mine).await;
    world.assert_complete("a", 7).await;
    assert!(second.shutdown(LIMIT).await);
    let after = answered(|| mine.rebuild::<Ledger>()).await;
    assert!(after.is_ok(), "{after:?}");
    settle(&mine).await;
    world.assert_complete("a", 7).await;
}

/// P8, K2
pub async fn a_reset_takes_back_what_was_set_aside_behind_its_place<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| {
        let app = App::on(world.store.0.clone()).view::<Repeatable>();
        app.processor_retries(1, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
    world.put("a", vec![poison.payment(1, "fails"), payment(2)]).await;
    world.pay("a", 3..=4).await;
    world.put("b", vec![poison.payment(1, "fails"), payment(2)]).await;
    world.put("c", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    let processor = app.processor::<Repeatable>().expect("it runs");
    discard(processor, "c", "a test").await;
    let sequences = [("a".to_owned(), 4), ("b".to_owned(), 2)];
    assert_eq!(parked_keys(processor).await, sequences);
    // In the middle of the first sequence, before the second, before what was discarded.
    answered(|| processor.reset(Reset::Position(Position(2)))).await.expect("nobody else works on it");
    settle(&app).await;
    let again = [&sequences[..], &[("c".to_owned(), 1)]].concat();
    assert_eq!(parked_keys(processor).await, again);
    assert_eq!(ask(|| processor.skipped()).await, []);
    poison.mend();
    for (key, n) in again {
        assert_eq!(retry(processor, &key).await, None);
        let tally = world.tally_of("repeatable/1", &key).await.expect("a row");
        assert_eq!((tally.n, tally.disorder), (n, 0), "{key}");
    }
}

/// P14
pub async fn a_shutdown_waits_for_no_reset<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| World::<S>::wiring(&line)).await;
    world.pay("a", 1..=3).await;
    settle(&app).await;
    line.set(Line::HoldsCommits("generations"));
    let stops = CancellationToken::new();
    let resetting = async {
        // A store that fails here and there may refuse it before it is held.
        while !stops.is_cancelled() {
            let refused = Kind::View.of(&app).reset(Reset::Start).await.expect_err("it is held");
            assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
        }
    };
    let stopping = async {
        eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
        stops.cancel();
        app.shutdown(LIMIT).await
    };
    let ((), is_down) = futures::join!(resetting, stopping);
    assert!(is_down);
    line.set(Line::Up);
    // The next one resets it.
    let app = world.start().await;
    eventually(async || match Kind::View.of(&app).reset(Reset::Start).await {
        Ok(()) => Ok(()),
        Err(error) => Err(crate::chain(&error)),
    })
    .await;
    settle(&app).await;
    world.assert_complete("a", 3).await;
}

/// P9
pub async fn a_handler_knows_that_it_is_called_in_a_replay<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    world.pay("a", 1..=5).await;
    let table = Payments::<S>::default();
    let app = start(|| App::on(world.store.0.clone()).view::<Ledger>().projection(table.clone())).await;
    world.pay("a", 6..=8).await;
    settle(&app).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.replayed), (8, 5));
    let calls = table.take_calls();
    assert!(calls.iter().all(|(position, replay)| *replay == (position.0 <= 5)), "{calls:?}");
    for kind in KINDS {
        answered(|| kind.of(&app).reset(Reset::Start)).await.expect("nobody else works on it");
    }
    world.pay("a", 9..=9).await;
    settle(&app).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.replayed), (9, 8));
    let calls = table.take_calls();
    assert!(calls.iter().all(|(position, replay)| *replay == (position.0 <= 8)), "{calls:?}");
    world.assert_complete("a", 9).await;
}

/// Asks in its handler, and in a task that the handler starts, whether it is a replay.
#[derive(Debug)]
struct Asking<S> {
    /// The position of the event, and both answers.
    answers: Arc<Mutex<Vec<(Position, bool, bool)>>>,
    subject: PhantomData<fn() -> S>,
}

impl<S: Subject> Projection for Asking<S> {
    const NAME: &'static str = "asking";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject> Project<<S::Backend as Backend>::Tx> for Asking<S> {
    async fn project(
        &self,
        event: &RecordedEvent,
        _: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        let Some(payload) = event.payload::<Deposited>()? else { return Ok(()) };
        let direct = Recorded::new(&payload, event).is_replay();
        let (place, record) = (event.place(), event.clone());
        let in_a_task = tokio::spawn(async move { Recorded::new(&payload, &record).is_replay() }).await?;
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((place, direct, in_a_task));
        Ok(())
    }
}

/// P9
pub async fn is_replay_says_the_same_in_a_task_that_the_handler_starts<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    world.pay("a", 1..=3).await;
    let answers = Arc::new(Mutex::new(Vec::new()));
    let wiring = || {
        let asking = Asking::<S> { answers: answers.clone(), subject: PhantomData };
        // A view at the same place reads the same pages: it is not in a replay any more when the other one is again.
        App::on(world.store.0.clone()).view::<Ledger>().projection(asking)
    };
    let app = start(wiring).await;
    let check = |replayed: u64, all: u64| {
        let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
        let is_right = |(position, direct, in_a_task): &(Position, bool, bool)| {
            *direct == (position.0 <= replayed) && direct == in_a_task
        };
        assert!(answers.iter().all(is_right), "{replayed} of {all}: {answers:?}");
        assert!(answers.iter().any(|(position, ..)| position.0 == all), "{replayed} of {all}: {answers:?}");
    };
    world.pay("a", 4..=5).await;
    settle(&app).await;
    check(3, 5);
    let processor = app.processor::<Asking<S>>().expect("it runs");
    answered(|| processor.reset(Reset::Start)).await.expect("nobody else works on it");
    world.pay("a", 6..=6).await;
    settle(&app).await;
    check(5, 6);
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.replayed), (6, 3));
}

/// P7
pub async fn a_running_processor_stores_that_it_has_passed_what_it_does_not_want<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = start(|| World::<S>::wiring(&world.store.0).workers(2)).await;
    world.pay("a", 1..=1).await;
    world.store.put("noise", events(7)).await;
    eventually(|| async {
        let checkpoints = rows(&world.store, "checkpoints").await;
        let there = |row: &serde_json::Value| row["last"].is_null() || row["position"] == 8;
        if checkpoints.iter().all(|(_, row)| there(row)) { Ok(()) } else { Err(format!("{checkpoints:?}")) }
    })
    .await;
    drop(app);
}

/// P2, P1
pub async fn a_store_that_was_away_is_met_again_and_nothing_is_done_twice<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| World::<S>::wiring(&line).workers(2)).await;
    for round in 0..3 {
        world.pay("a", round * 10 + 1..=round * 10 + 5).await;
        settle(&app).await;
        line.set(Line::Down);
        world.pay("a", round * 10 + 6..=round * 10 + 10).await;
        for kind in KINDS {
            // It fails, or has not begun with what it was to do next.
            until(kind.of(&app), |status| status.state != ProcessorState::Running).await;
        }
        line.set(Line::Up);
        settle(&app).await;
        world.assert_complete("a", (round + 1) * 10).await;
        for kind in KINDS {
            assert_eq!(parked_keys(kind.of(&app)).await, [], "no event is to blame");
        }
    }
}

/// P12
pub async fn any_history_that_is_built_again_gives_the_same_rows<S: Subject>(subject: S) {
    for seed in 0..3 {
        let world = World::new(&subject).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut amounts = [0_i64; 6];
        let wiring = |workers| World::<S>::wiring(&world.store.0).view::<Balance>().workers(workers);
        let mut app = start(|| wiring(3)).await;
        for _ in 0..40 {
            let account = random.random_range(0..amounts.len());
            let payments: Vec<_> = (0..random.random_range(1..8))
                .map(|_| {
                    amounts[account] += 1;
                    // One more key, which nobody counts.
                    if random.random_bool(0.2) {
                        payment_of_both(amounts[account], "all")
                    } else {
                        payment(amounts[account])
                    }
                })
                .collect();
            world.put(&account.to_string(), payments).await;
            match random.random_range(0..12) {
                0 => {
                    assert!(app.shutdown(LIMIT).await);
                    let workers = random.random_range(1..4);
                    app = start(|| wiring(workers)).await;
                }
                1 => settle(&app).await,
                _ => {}
            }
        }
        settle(&app).await;
        let all = async || {
            let mut tables = Vec::new();
            for view in ["ledger/1", "balance/1"] {
                for row in world.store.scan(view, 100).await {
                    let mut json: serde_json::Value = serde_json::from_slice(&row.data).expect("a row");
                    // A handler may tell a replay; these rows do not depend on it otherwise.
                    json.as_object_mut().and_then(|row| row.remove("replayed"));
                    tables.push((view, row.key, json));
                }
            }
            (tables, world.paid().await)
        };
        let before = all().await;
        for (account, n) in amounts.iter().enumerate().filter(|(_, n)| **n > 0) {
            world.assert_complete(&account.to_string(), *n).await;
        }
        for processor in app.processors() {
            answered(|| processor.reset(Reset::Start)).await.expect("nobody else works on it");
        }
        settle(&app).await;
        assert_eq!(all().await, before, "seed {seed}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// P13
pub async fn who_would_rather_have_old_rows_than_wait_is_told_that_they_are_old<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| {
        let app = App::on(world.store.0.clone()).view::<Stopping>();
        app.processor_retries(1, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    let processor = app.processor::<Stopping>().expect("it runs");
    until(processor, |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    let short = Duration::from_millis(50);
    assert!(!app.wait_or_stale::<Stopping>(Position(1), short).await.expect("old rows are no error"));
    let error = app.wait_for::<Stopping>(Position(1), short).await.expect_err("late");
    assert!(error.to_string().contains("it is halted") && error.to_string().contains("poisoned"), "{error}");
    poison.mend();
    ask(|| processor.resume()).await;
    assert!(app.wait_or_stale::<Stopping>(Position(1), LIMIT).await.expect("no error"));
}

/// P13
pub async fn who_waits_does_not_ask_the_store_again_and_again<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| App::on(line.clone()).view::<Ledger>()).await;
    world.pay("a", 1..=3).await;
    settle(&app).await;
    let before = line.calls();
    let waits = (0..50).map(|_| app.wait_or_stale::<Ledger>(Position(4), Duration::from_secs(2)));
    for waited in futures::future::join_all(waits).await {
        assert!(!waited.expect("old rows are no error"));
    }
    let calls = line.calls() - before;
    assert!(calls < 150, "50 that wait for two seconds asked {calls} times");
}

/// P14
pub async fn a_shutdown_can_be_repeated_and_the_next_node_need_not_wait<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    // Whoever had to wait for this lease would wait too long.
    let long = 3 * LIMIT;
    for n in 1..=3 {
        let app = start(|| World::<S>::wiring(&world.store.0).workers(2).lease(long)).await;
        world.pay("a", n..=n).await;
        settle(&app).await;
        let (one, two) = futures::join!(app.shutdown(LIMIT), app.shutdown(LIMIT));
        assert!(one && two && app.shutdown(LIMIT).await);
        for kind in KINDS {
            assert_eq!(kind.of(&app).status().state, ProcessorState::Stopped);
        }
        world.assert_complete("a", n).await;
    }
}

/// Acts only when it may.
#[derive(Clone, Debug)]
struct Slow {
    may: Arc<Semaphore>,
    began: Arc<Semaphore>,
    acted: Arc<Mutex<Vec<Position>>>,
}

impl Reactor for Slow {
    const NAME: &'static str = "slow";
    fn filter() -> EventFilter {
        EventFilter::of::<Opened>()
    }

    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        self.began.add_permits(1);
        self.may.acquire().await?.forget();
        self.acted.lock().unwrap_or_else(PoisonError::into_inner).push(event.place());
        Ok(())
    }

    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// P14
pub async fn a_shutdown_lets_what_runs_finish_and_begins_nothing<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (may, began) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let slow = Slow { may: may.clone(), began: began.clone(), acted: Arc::default() };
    let app = start(|| App::on(world.store.0.clone()).reactor(slow.clone())).await;
    world.put("a", vec![encoded(&opened("ada")), encoded(&opened("ada"))]).await;
    began.acquire().await.expect("open").forget();
    let mut closing = Box::pin(app.shutdown(LIMIT));
    assert!(futures::poll!(&mut closing).is_pending(), "something runs");
    may.add_permits(2);
    assert!(closing.await);
    let acted = || slow.acted.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(acted(), [Position(1)], "the one that ran");
    may.add_permits(1_000);
    let next = start(|| App::on(world.store.0.clone()).reactor(slow.clone())).await;
    settle(&next).await;
    let mut all = acted();
    all.dedup();
    assert_eq!(all, [Position(1), Position(2)]);
}

/// P2
pub async fn many_views_read_each_page_of_the_log_once<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    world.pay("a", 1..=3_000).await;
    let line = Double::new(subject.again(&world.store.0).await);
    let wiring = || {
        let app = App::on(line.clone()).view::<Ledger>().view::<Second>().view::<Third>().view::<Fourth>();
        let app = app.view::<Fifth>().view::<Skipping>().view::<Stopping>().view::<Repeatable>();
        app.view::<Balance>().view::<RenamedBalance>()
    };
    let app = start(wiring).await;
    settle(&app).await;
    for n in 3_001..=3_010 {
        world.pay("a", n..=n).await;
        settle(&app).await;
    }
    for table in ["ledger/1", "fifth/1", "stopping/1"] {
        let tally = world.tally_of(table, "a").await.expect("a row");
        assert_eq!((tally.n, tally.disorder), (3_010, 0), "{table}");
    }
    let reads = line.reads();
    let mut once = reads.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), reads.len(), "a page was read twice: {reads:?}");
    assert!(reads.len() < 30, "ten views made {} reads: {reads:?}", reads.len());
}

/// O12
pub async fn what_is_paused_is_given_back_once_the_store_answers<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(subject.again(&world.store.0).await);
    let lease = Duration::from_secs(2);
    // For so long it is waited for what may still be handled.
    let options = ProcessorOptions::default().handler_limit(Duration::from_millis(100));
    let wiring = |backend: &Double<S::Backend>| {
        App::on(backend.clone()).view::<Ledger>().processors(options).lease(lease)
    };
    let first = start(|| wiring(&line)).await;
    world.pay("a", 1..=5).await;
    settle(&first).await;
    line.set(Line::Refuses("checkpoints"));
    let other = Double::new(world.store.0.clone());
    let second = start(|| wiring(&other)).await;
    let (held, processor) = (Kind::View.of(&first), Kind::View.of(&second));
    ask(|| processor.pause()).await;
    until(held, |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    loop {
        match processor.reset(Reset::Start).await.expect_err("it could not be given back") {
            ProcessorError::Finishing { .. } => break,
            error => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
        }
    }
    line.set(Line::Up);
    eventually(async || {
        let shares = rows(&world.store, "checkpoints").await;
        let owned =
            shares.iter().any(|(key, row)| key.starts_with("ledger/1~1#") && row["owner"].is_string());
        if owned { Err(format!("{shares:?}")) } else { Ok(()) }
    })
    .await;
    answered(|| processor.reset(Reset::Start)).await.expect("nobody works on it");
    ask(|| processor.resume()).await;
    settle(&second).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.sum, tally.disorder), (5, 15, 0));
}
