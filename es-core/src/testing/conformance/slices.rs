//! Who works on what, with several nodes that join, leave, and are cut off: P3 to P6, P14, P15.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::cluster::overwrite;
use super::double::{Double, Line};
use super::payments::{Ledger, Payments, World, eventually, payment, rows};
use super::{LIMIT, Subject, settle, start};
use crate::store::{Backend, Position};
use crate::{App, AppBuilder};

/// Short, so that whoever is gone is replaced soon.
const LEASE: Duration = Duration::from_millis(400);
const ACCOUNTS: usize = 12;

type Tx<S> = <<S as Subject>::Backend as Backend>::Tx;

/// A range of slices as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    first: u64,
    last: u64,
    owner: Option<String>,
    pub(super) position: u64,
}

/// The ranges of a build. They are all slices, each once, whenever one looks.
pub(super) async fn ranges<S: Subject>(world: &World<S>, build: &str) -> Vec<Stored> {
    let mut ranges = Vec::new();
    for (key, row) in rows(&world.store, "checkpoints").await {
        let Some((name, first)) = key.rsplit_once('#') else { panic!("{key:?} names no slice") };
        if let (true, Some(last)) = (name == build, row["last"].as_u64()) {
            let first = first.parse().expect("a slice is a number");
            let owner = row["owner"].as_str().map(str::to_owned);
            let position = row["position"].as_u64().expect("a checkpoint has a position");
            ranges.push(Stored { first, last, owner, position });
        }
    }
    ranges.sort_by_key(|range| range.first);
    let mut next = 0;
    for range in &ranges {
        assert!(range.first == next && range.last >= range.first, "a gap or an overlap: {ranges:?}");
        next = range.last + 1;
    }
    assert_eq!(next, 1_024, "{ranges:?}");
    ranges
}

/// How many slices of the view each node has; nobody is an empty name.
async fn shares<S: Subject>(world: &World<S>) -> BTreeMap<String, u64> {
    let mut shares = BTreeMap::new();
    for range in ranges(world, "ledger/1~1").await {
        *shares.entry(range.owner.unwrap_or_default()).or_default() += range.last + 1 - range.first;
    }
    shares
}

async fn until_shares<S: Subject>(world: &World<S>, wanted: impl Fn(&BTreeMap<String, u64>) -> bool) {
    eventually(|| async {
        let shares = shares(world).await;
        if wanted(&shares) { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
}

/// The n-th payment into each account.
async fn round<S: Subject>(world: &World<S>, n: i64) {
    for account in 0..ACCOUNTS {
        world.put(&account.to_string(), vec![payment(n)]).await;
    }
}

async fn assert_complete<S: Subject>(world: &World<S>, n: i64) {
    for account in 0..ACCOUNTS {
        world.assert_complete(&account.to_string(), n).await;
    }
}

fn wiring<S: Subject, B: Backend<Tx = Tx<S>> + Clone>(backend: &B, workers: usize) -> AppBuilder<B> {
    World::<S>::wiring(backend).lease(LEASE).workers(workers)
}

async fn node<S: Subject>(subject: &S, world: &World<S>, workers: usize) -> App {
    let backend = subject.again(&world.store.0).await;
    start(|| wiring::<S, _>(&backend, workers)).await
}

/// P3, P5, P15
pub async fn each_key_is_folded_once_and_in_order_while_nodes_come_and_go<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let first = node(&subject, &world, 1).await;
    round(&world, 1).await;
    let second = node(&subject, &world, 3).await;
    round(&world, 2).await;
    until_shares(&world, |shares| shares.len() > 1 && !shares.contains_key("")).await;
    round(&world, 3).await;
    assert!(first.shutdown(LIMIT).await);
    round(&world, 4).await;
    let third = node(&subject, &world, 2).await;
    round(&world, 5).await;
    drop(second);
    for n in 6..=8 {
        round(&world, n).await;
        ranges(&world, "ledger/1~1").await;
    }
    settle(&third).await;
    assert_complete(&world, 8).await;
    let last = node(&subject, &world, 4).await;
    round(&world, 9).await;
    settle(&last).await;
    settle(&third).await;
    assert_complete(&world, 9).await;
}

/// P6
pub async fn a_newcomer_gets_its_share_and_what_it_had_is_taken_over<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let first = node(&subject, &world, 1).await;
    until_shares(&world, |shares| shares.len() == 1 && !shares.contains_key("")).await;
    let owner = shares(&world).await.into_keys().next().expect("one has all");
    let second = node(&subject, &world, 1).await;
    until_shares(&world, |shares| !shares.contains_key("") && shares.values().eq([512, 512].iter())).await;
    let third = node(&subject, &world, 1).await;
    let fair = |shares: &BTreeMap<String, u64>| shares.len() == 3 && shares.values().all(|n| *n <= 342);
    until_shares(&world, |shares| !shares.contains_key("") && fair(shares)).await;
    round(&world, 1).await;
    assert!(second.shutdown(LIMIT).await && third.shutdown(LIMIT).await);
    until_shares(&world, |shares| shares.keys().eq([&owner])).await;
    settle(&first).await;
    assert_complete(&world, 1).await;
}

/// P5, P6
pub async fn ranges_split_for_more_workers_and_merge_for_fewer<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let mut n = 0;
    for workers in [4, 1, 3, 2] {
        let app = node(&subject, &world, workers).await;
        n += 1;
        round(&world, n).await;
        eventually(|| async {
            let ranges = ranges(&world, "ledger/1~1").await;
            if ranges.len() == workers { Ok(()) } else { Err(format!("{workers} workers: {ranges:?}")) }
        })
        .await;
        n += 1;
        round(&world, n).await;
        settle(&app).await;
        assert_complete(&world, n).await;
        assert!(app.shutdown(LIMIT).await);
    }
}

/// P3, P4
pub async fn a_node_that_is_cut_off_is_replaced_and_what_it_writes_late_is_refused<S: Subject>(subject: S) {
    for line in [Line::HoldsWrites, Line::Down] {
        let world = World::new(&subject).await;
        let cut = Double::new(subject.again(&world.store.0).await);
        let first = start(|| wiring::<S, _>(&cut, 2)).await;
        round(&world, 1).await;
        settle(&first).await;
        cut.set(line);
        round(&world, 2).await;
        if line == Line::HoldsWrites {
            eventually(|| async { if cut.held() > 1 { Ok(()) } else { Err("nothing is held".to_owned()) } })
                .await;
        }
        let second = node(&subject, &world, 2).await;
        settle(&second).await;
        assert_complete(&world, 2).await;
        round(&world, 3).await;
        cut.set(Line::Up);
        round(&world, 4).await;
        settle(&second).await;
        settle(&first).await;
        assert_complete(&world, 4).await;
        assert!(first.shutdown(LIMIT).await);
        round(&world, 5).await;
        settle(&second).await;
        assert_complete(&world, 5).await;
    }
}

/// P3
pub async fn a_node_that_was_replaced_gives_back_nothing_of_its_successors<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let cut = Double::new(subject.again(&world.store.0).await);
    let first = start(|| wiring::<S, _>(&cut, 1)).await;
    round(&world, 1).await;
    settle(&first).await;
    cut.set(Line::HoldsWrites);
    let backend = subject.again(&world.store.0).await;
    // This one is believed to be alive whatever its store does meanwhile.
    let second = start(|| wiring::<S, _>(&backend, 1).lease(Duration::from_secs(60))).await;
    round(&world, 2).await;
    settle(&second).await;
    let closing = first.clone();
    let closing = tokio::spawn(async move { closing.shutdown(LIMIT).await });
    cut.set(Line::Up);
    assert!(closing.await.expect("no panic"));
    round(&world, 3).await;
    settle(&second).await;
    assert_complete(&world, 3).await;
    until_shares(&world, |shares| shares.len() == 1 && !shares.contains_key("")).await;
}

/// P3, P5
pub async fn what_cannot_be_split_has_one_owner_at_a_time<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let mut apps = Vec::new();
    let mut owners = BTreeSet::new();
    for n in 1..=6 {
        apps.push(node(&subject, &world, 3).await);
        round(&world, n).await;
        let whole = ranges(&world, "payments/1~1").await;
        assert_eq!(whole.len(), 1, "{whole:?}");
        settle(apps.last().expect("just started")).await;
        owners.extend(ranges(&world, "payments/1~1").await[0].owner.clone());
        if n % 2 == 0 {
            assert!(apps.remove(0).shutdown(LIMIT).await);
        }
    }
    round(&world, 7).await;
    for app in &apps {
        settle(app).await;
    }
    assert!(owners.len() > 1, "it changed hands");
    assert_complete(&world, 7).await;
}

/// P5, P15
pub async fn a_projection_that_goes_by_streams_is_worked_on_in_parallel<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (one, two) = (world.store.0.clone(), subject.again(&world.store.0).await);
    let wiring = |backend: &S::Backend| {
        let app = App::on(backend.clone()).view::<Ledger>().projection(Payments::<S, true>::default());
        app.lease(LEASE).workers(3)
    };
    let first = start(|| wiring(&one)).await;
    for n in 1..=4 {
        round(&world, n).await;
    }
    let second = start(|| wiring(&two)).await;
    for n in 5..=8 {
        round(&world, n).await;
    }
    eventually(|| async {
        let ranges = ranges(&world, "payments/1~1").await;
        if ranges.len() > 3 { Ok(()) } else { Err(format!("{ranges:?}")) }
    })
    .await;
    round(&world, 9).await;
    settle(&first).await;
    settle(&second).await;
    assert_complete(&world, 9).await;
}

/// P15
pub async fn what_goes_by_streams_no_more_is_handled_in_one_order<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let wiring = || App::on(world.store.0.clone()).lease(LEASE).workers(3);
    let app = start(|| wiring().projection(Payments::<S, true>::default())).await;
    for n in 1..=4 {
        round(&world, n).await;
    }
    let until_ranges = async |n: usize| {
        eventually(|| async {
            let ranges = ranges(&world, "payments/1~1").await;
            if ranges.len() == n { Ok(()) } else { Err(format!("{ranges:?}")) }
        })
        .await;
    };
    until_ranges(3).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    // Two of its parts are behind the third, and not as far as each other.
    let parts = rows(&world.store, "checkpoints").await;
    let parts = parts.into_iter().filter(|(key, row)| key.starts_with("payments/") && row["last"].is_u64());
    for ((key, mut row), position) in parts.zip([20, 5]) {
        row["position"] = position.into();
        overwrite::<S>(&world.store, "checkpoints", &key, row.to_string().as_bytes()).await;
    }
    let payments = Payments::<S>::default();
    let app = start(|| wiring().projection(payments.clone())).await;
    round(&world, 5).await;
    until_ranges(1).await;
    settle(&app).await;
    // A page that fails is handled again.
    let mut known = BTreeSet::new();
    let calls: Vec<Position> =
        payments.take_calls().into_iter().map(|(at, _)| at).filter(|at| known.insert(*at)).collect();
    assert!(calls.len() > ACCOUNTS && calls.is_sorted(), "{calls:?}");
}

/// P15
pub async fn parts_that_are_to_be_one_become_one_whatever_they_were_halted_at<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let wiring = || App::on(world.store.0.clone()).lease(LEASE).workers(3);
    let app = start(|| wiring().projection(Payments::<S, true>::default())).await;
    round(&world, 1).await;
    eventually(|| async {
        let ranges = ranges(&world, "payments/1~1").await;
        if ranges.len() == 3 { Ok(()) } else { Err(format!("{ranges:?}")) }
    })
    .await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let (head, parts) = (world.store.head().await, rows(&world.store, "checkpoints").await);
    let parts = parts.into_iter().filter(|(key, row)| key.starts_with("payments/") && row["last"].is_u64());
    for (n, (key, mut row)) in parts.enumerate() {
        row["position"] = head.into();
        row["halt"] = json!({"since": "2026-01-01T00:00:00Z", "error": format!("at {n}"), "resumes": 0});
        overwrite::<S>(&world.store, "checkpoints", &key, row.to_string().as_bytes()).await;
    }
    let payments = Payments::<S>::default();
    let app = start(|| wiring().projection(payments.clone())).await;
    round(&world, 2).await;
    settle(&app).await;
    assert!(payments.take_calls().len() >= ACCOUNTS);
}

/// P15
pub async fn the_order_of_each_key_holds_under_parallel_work<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = node(&subject, &world, 4).await;
    for chunk in 0..4 {
        for account in 0..ACCOUNTS {
            world.pay(&account.to_string(), chunk * 25 + 1..=chunk * 25 + 25).await;
        }
    }
    settle(&app).await;
    assert_complete(&world, 100).await;
}

/// P5
pub async fn positions_of_ranges_never_pass_what_is_folded<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = node(&subject, &world, 4).await;
    for n in 1..=10 {
        round(&world, n).await;
        let head = world.store.head().await;
        let behind = ranges(&world, "ledger/1~1").await;
        assert!(behind.iter().all(|range| range.position <= head), "{behind:?}");
    }
    app.wait_for::<Ledger>(Position(10 * ACCOUNTS as u64), LIMIT).await.expect("taken in");
    for account in 0..ACCOUNTS {
        let tally = world.tally(&account.to_string()).await.expect("a row");
        assert_eq!((tally.n, tally.last, tally.disorder), (10, 10, 0));
    }
}
