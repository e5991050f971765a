//! Thousands of events that fail, or are handled again: K11.

use std::time::Duration;

use super::double::{Double, Line};
use super::payments::{
    KINDS, Kind, Ledger, Poison, World, discard, eventually, parked, parked_keys, payment, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{
    ParkedFilter, ParkingLimits, Processor, ProcessorError, ProcessorOptions, ProcessorState,
};
use crate::{App, AppBuilder, ErrorKind};

const N: i64 = 3_000;
const EVENTS: &str = "ledger/1~1/parked/events";

fn wiring<S: Subject>(backend: &Double<S::Backend>) -> AppBuilder<Double<S::Backend>> {
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(1, short, short);
    App::on(backend.clone()).view::<Ledger>().processors(options.parking(ParkingLimits::new(1_000, 100_000)))
}

/// So many payments into one account are parked.
async fn parked_world<S: Subject>(subject: &S, poison: &Poison) -> (World<S>, Double<S::Backend>) {
    let world = World::new(subject).await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=N).await;
    let line = Double::new(world.store.0.clone());
    (world, line)
}

/// Asks for a retry, which stands.
pub(super) async fn ask(processor: &Processor, key: &str) {
    loop {
        match processor.retry(key, Duration::from_millis(1)).await {
            Err(ProcessorError::Asked { .. }) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            Ok(left) => panic!("it is held, and cannot be done: {left:?}"),
        }
    }
}

/// Until another call waits for the line.
async fn held<B: crate::store::Backend>(line: &Double<B>, more_than: u64) {
    eventually(async || if line.held() > more_than { Ok(()) } else { Err("nothing is held".to_owned()) })
        .await;
}

/// K11
pub async fn other_keys_go_on_between_the_parts_of_a_retry<S: Subject>(subject: S) {
    let poison = Poison::new();
    let (world, line) = parked_world(&subject, &poison).await;
    let app = start(|| wiring::<S>(&line)).await;
    settle(&app).await;
    poison.mend();
    let processor = Kind::View.of(&app);
    // The first part is on its way, and comes with an event of another key.
    let before = line.commits(EVENTS).len();
    line.set(Line::HoldsCommitsAfter(EVENTS, before));
    ask(processor, "a").await;
    held(&line, 0).await;
    world.pay("b", 1..=1).await;
    let mut parts = 0;
    while world.tally("b").await.is_none() {
        parts += 1;
        let held_before = line.held();
        line.set(Line::HoldsCommitsAfter(EVENTS, before + parts));
        held(&line, held_before).await;
    }
    // Each of them is held, so this is not the end of it.
    let left = parked_keys(processor).await;
    assert!(left.iter().any(|(key, events)| key == "a" && *events > 1_000), "after {parts} parts: {left:?}");
    line.set(Line::Up);
    eventually(async || match parked_keys(processor).await {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.last, tally.disorder), (N.unsigned_abs(), N, 0));
}

/// K11
pub async fn a_retry_that_is_interrupted_goes_on_where_it_was<S: Subject>(subject: S) {
    let lease = Duration::from_millis(400);
    let poison = Poison::new();
    let (world, line) = parked_world(&subject, &poison).await;
    let first = start(|| wiring::<S>(&line).lease(lease)).await;
    settle(&first).await;
    poison.mend();
    let holds_after_two = || line.set(Line::HoldsCommitsAfter(EVENTS, line.commits(EVENTS).len() + 2));
    holds_after_two();
    ask(Kind::View.of(&first), "a").await;
    let mut held_before = 0;
    let left = loop {
        held(&line, held_before).await;
        let left = parked(Kind::View.of(&first)).await.pop().expect("it is not done").events;
        if left < N.unsigned_abs() {
            break left;
        }
        // The store has failed both times.
        held_before = line.held();
        holds_after_two();
    };
    assert!(left > 0, "it was interrupted");
    // It is believed to be dead: another node finds the request, and what is left.
    line.set(Line::HoldsWrites);
    let other = Double::new(subject.again(&world.store.0).await);
    let second = start(|| wiring::<S>(&other).lease(lease)).await;
    eventually(async || match parked_keys(Kind::View.of(&second)).await {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    let right = async || {
        let tally = world.tally("a").await.expect("a row");
        assert_eq!((tally.n, tally.last, tally.disorder), (N.unsigned_abs(), N, 0));
    };
    right().await;
    // What was on its way comes too late.
    line.set(Line::Up);
    world.put("a", vec![payment(N + 1)]).await;
    settle(&second).await;
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.last, tally.disorder), (N.unsigned_abs() + 1, N + 1, 0));
    assert!(second.shutdown(LIMIT).await);
}

/// K11
pub async fn hundreds_of_poisoned_keys_are_parked_in_a_few_commits<S: Subject>(subject: S) {
    const KEYS: usize = 400;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    for i in 0..KEYS {
        world.put(&format!("k{i}"), vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    world.pay("b", 1..=5).await;
    let app = start(|| wiring::<S>(&line)).await;
    settle(&app).await;
    let processor = Kind::View.of(&app);
    let sequences = parked(processor).await;
    assert_eq!((sequences.len(), sequences.iter().all(|sequence| sequence.events == 2)), (KEYS, true));
    assert_eq!(world.sum(Kind::View, "b").await, 15);
    // The first ones are called again, as often as the options say; then it is known that this does not help.
    let retried = sequences.iter().filter(|sequence| sequence.attempts > 1).count();
    assert!((1..=8).contains(&retried), "{retried} were tried again");
    let commits = line.commits("checkpoints").len();
    assert!(commits < KEYS / 2, "{commits} commits");
    let reads = line.reads().len();
    // Where nothing else fails, most go on with the page that they have.
    assert!(reads * 5 < commits * 2, "{reads} reads, {commits} commits");
}

/// K6, K11
pub async fn as_many_poisoned_keys_as_fit_are_parked_in_a_few_commits<S: Subject>(subject: S) {
    const KEYS: usize = 200;
    const FIT: usize = 120;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let all: Vec<String> = (0..KEYS).map(|i| format!("k{i:03}")).collect();
    for key in &all {
        world.put(key, vec![poison.payment(1, "fails")]).await;
    }
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(0, short, short);
    let options = options.parking(ParkingLimits::new(FIT, 1_000));
    let app = start(|| App::on(line.clone()).view::<Ledger>().processors(options).workers(1)).await;
    let processor = Kind::View.of(&app);
    until(processor, |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    let keys = async || parked(processor).await.into_iter().map(|of| of.key).collect::<Vec<_>>();
    assert_eq!(keys().await, all[..FIT]);
    for key in &all[..FIT] {
        discard(processor, key, "a typing error").await;
    }
    // With room again, they are parked together again.
    let before = line.commits("ledger/1~1/parked").len();
    super::patient::ask(|| processor.resume()).await;
    settle(&app).await;
    assert_eq!(keys().await, all[FIT..]);
    let commits = line.commits("ledger/1~1/parked").len() - before;
    assert!(commits < (KEYS - FIT) / 2, "{commits} commits");
}

/// K11
pub async fn keys_that_fail_as_the_store_does_are_found_out_soon<S: Subject>(subject: S) {
    const KEYS: usize = 60;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    for i in 0..KEYS {
        world.put(&format!("k{i}"), vec![poison.payment(1, "store"), payment(2)]).await;
    }
    world.pay("b", 1..=5).await;
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(1, short, short).patience(150 * short);
    let app = start(|| World::<S>::wiring(&world.store.0).processors(options).workers(1)).await;
    settle(&app).await;
    for kind in KINDS {
        let sequences = parked(kind.of(&app)).await;
        assert_eq!((sequences.len(), sequences.iter().all(|sequence| sequence.events == 2)), (KEYS, true));
        assert_eq!(world.sum(kind, "b").await, 15, "{kind:?}");
        // Some are believed for as long as the options say; the others are tried again as any event.
        let believed = sequences.iter().filter(|sequence| sequence.attempts > 2).count();
        assert!(believed < KEYS / 2, "{kind:?}: {believed} are believed");
        let says_so = |error: &str| error.contains("for 150ms in which the store took writes");
        assert!(sequences.iter().all(|sequence| says_so(&sequence.error)), "{kind:?}: {sequences:?}");
    }
}

/// K11
pub async fn sequences_of_a_part_are_looked_up_together<S: Subject>(subject: S) {
    const KEYS: usize = 300;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    for i in 0..KEYS {
        world.put(&format!("k{i}"), vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    // One that is longer than the others.
    world.put("long", vec![poison.payment(1, "fails")]).await;
    world.pay("long", 2..=1_500).await;
    let app = start(|| wiring::<S>(&line)).await;
    let asking = start(|| wiring::<S>(&Double::new(world.store.0.clone())).looks_on()).await;
    settle(&app).await;
    poison.mend();
    let before = line.scans_of(EVENTS);
    let all = ParkedFilter::all();
    let left = super::patient::ask(|| Kind::View.of(&asking).retry_all(&all, LIMIT)).await;
    assert_eq!(left.failed, []);
    let looks = line.scans_of(EVENTS) - before;
    // A store that fails has them repeated.
    assert!(looks < KEYS * 2 / 3, "{looks} look-ups");
    for i in 0..KEYS {
        assert_eq!(world.sum(Kind::View, &format!("k{i}")).await, 3, "account k{i}");
    }
    let tally = world.tally("long").await.expect("a row");
    assert_eq!((tally.n, tally.last, tally.disorder), (1_500, 1_500, 0));
}
