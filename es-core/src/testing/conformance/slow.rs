//! A store whose commits are slow: there are as few of them as with a fast one. P30.

use std::time::Duration;

use super::double::{Double, Line};
use super::payments::{Kind, Ledger, Payments, Poison, World, parked_keys, retry};
use super::relay::Relay;
use super::{LIMIT, Subject, settle, start};
use crate::App;
use crate::processor::ProcessorOptions;

const N: i64 = 240;
/// Many fewer than events, though each takes longer than handlers may hold a transaction.
const FEW: usize = 30;

/// P30
pub async fn a_slow_commit_makes_no_transaction_smaller<S: Subject>(subject: S) {
    let (world, relay) = (World::new(&subject).await, Relay::default());
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).runner(relay.on(&line))).await;
    settle(&app).await;
    let before = line.commits("checkpoints").len();
    line.set(Line::Slow(Duration::from_millis(60)));
    world.pay("a", 1..=N).await;
    settle(&app).await;
    let commits = line.commits("checkpoints").len() - before;
    assert!(commits < FEW, "{commits} commits");
}

/// P30
pub async fn a_transaction_that_is_slow_to_open_is_no_smaller<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).projection(Payments::<S>::default())).await;
    settle(&app).await;
    line.set(Line::Slow(Duration::from_millis(300)));
    world.pay("a", 1..=N).await;
    settle(&app).await;
    assert_eq!(world.sum(Kind::Table, "a").await, N * (N + 1) / 2);
    assert!(line.opened() < FEW, "{} transactions", line.opened());
}

/// P30
pub async fn a_slow_commit_makes_no_part_of_a_retry_smaller<S: Subject>(subject: S) {
    const EVENTS: &str = "ledger/1~1/parked/events";
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(1, short, short).patience(LIMIT);
    let app = start(|| App::on(line.clone()).view::<Ledger>().processors(options)).await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=N).await;
    settle(&app).await;
    assert_eq!(parked_keys(Kind::View.of(&app)).await, [("a".to_owned(), N.unsigned_abs())]);
    poison.mend();
    let before = line.commits(EVENTS).len();
    line.set(Line::Slow(Duration::from_millis(60)));
    assert_eq!(retry(Kind::View.of(&app), "a").await, None);
    let parts = line.commits(EVENTS).len() - before;
    assert!(parts < FEW, "{parts} parts");
    assert_eq!(world.sum(Kind::View, "a").await, N * (N + 1) / 2);
}
