//! Events that cannot be decoded, and can be later: K1, K10, K12, P13, P21.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::overwrite;
use super::data::encoded;
use super::domain::{AccountEvent, Deposited, Opened, opened};
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    Kind, Ledger, Poison, Repeatable, Skipping, Tally, World, answered, discard, eventually, parked,
    parked_keys, payment, retry, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::cluster::{SLICES, slice_of};
use crate::processor::{
    ParkingLimits, Processor, ProcessorError, ProcessorOptions, ProcessorState, ProcessorStatus,
    RebuildOptions, Receipt, Reset, WaitError,
};
use crate::projection::{Change, Code, Projection, View};
use crate::store::{EventFilter, Position, RecordedEvent, RowStore as _};
use crate::{App, BoxError, ErrorKind};

/// As long as a range takes to do what it should not, were it to do that.
const A_WHILE: Duration = Duration::from_secs(2);
/// Accounts of many slices.
const ACCOUNTS: [&str; 6] = ["b", "c", "d", "e", "f", "g"];

fn view(app: &App) -> &Processor {
    app.processor::<Ledger>().expect("it runs")
}

async fn started<S: Subject>(world: &World<S>, workers: usize) -> App {
    start(|| World::<S>::wiring(&world.store.0).workers(workers)).await
}

/// How many payments, over what, and how many of them in disorder.
fn told(tally: Option<&Tally>) -> (u64, i64, u64) {
    tally.map_or((0, 0, 0), |tally| (tally.n, tally.sum, tally.disorder))
}

async fn assert_told<S: Subject>(world: &World<S>, account: &str, right: (u64, i64, u64)) {
    assert_eq!(told(world.tally(account).await.as_ref()), right, "account {account}");
}

/// K10
pub async fn what_can_be_decoded_later_is_handled_under_every_key_it_has<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let (hidden, failing) = (Poison::new(), Poison::new());
    let app = started(&world, 4).await;
    world.pay("b", 1..=1).await;
    world.put("c", vec![failing.payment(1, "fails")]).await;
    world.put("a", vec![payment(1), hidden.hidden(2, &ACCOUNTS), payment(3)]).await;
    world.put("c", vec![payment(3)]).await;
    world.put("b", vec![payment(3)]).await;
    settle(&app).await;
    assert_eq!(parked_keys(view(&app)).await, [("a".to_owned(), 2), ("c".to_owned(), 2)]);
    let left = retry(view(&app), "a").await.expect("it cannot be decoded yet");
    assert_eq!((left.position, left.events), (Position(4), 2));
    hidden.mend();
    // Whoever is told that it went through finds it everywhere.
    assert_eq!(retry(view(&app), "a").await, None);
    for account in &ACCOUNTS[2..] {
        assert_told(&world, account, (1, 2, 1)).await;
    }
    assert_told(&world, "a", (2, 4, 1)).await;
    // After what was handled before it could be decoded, and in its place among what was not.
    assert_told(&world, "b", (3, 6, 2)).await;
    assert_eq!(parked_keys(view(&app)).await, [("c".to_owned(), 3)]);
    failing.mend();
    assert_eq!(retry(view(&app), "c").await, None);
    assert_told(&world, "c", (3, 6, 0)).await;
    // Once more from the log: now everything is in its order.
    let keys = ["b".to_owned(), "d".to_owned()];
    answered(|| view(&app).rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    assert_told(&world, "b", (3, 6, 0)).await;
    let rebuild = ask(|| view(&app).rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    for account in &ACCOUNTS[2..] {
        assert_told(&world, account, (1, 2, 1)).await;
    }
    assert_told(&world, "c", (3, 6, 0)).await;
}

/// K10
pub async fn what_can_be_decoded_later_reaches_slices_that_have_changed_hands<S: Subject>(subject: S) {
    let (world, first, second) = (World::new(&subject).await, Poison::new(), Poison::new());
    let app = started(&world, 1).await;
    world.put("a", vec![first.hidden(1, &ACCOUNTS)]).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    // In four parts, and then in other ones, on two nodes.
    let app = started(&world, 4).await;
    world.put("a2", vec![second.hidden(2, &ACCOUNTS)]).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    let lease = Duration::from_millis(400);
    let backends = [world.store.0.clone(), subject.again(&world.store.0).await];
    let node = async |backend| start(|| World::<S>::wiring(backend).workers(2).lease(lease)).await;
    let apps = [node(&backends[0]).await, node(&backends[1]).await];
    world.pay("z", 1..=1).await;
    for app in &apps {
        settle(app).await;
    }
    eventually(|| async {
        let owners = super::payments::rows(&world.store, "checkpoints").await.into_iter();
        let owners: std::collections::BTreeSet<String> = owners
            .filter(|(key, _)| key.starts_with(Kind::View.name()))
            .filter_map(|(_, row)| row["owner"].as_str().map(str::to_owned))
            .collect();
        if owners.len() == 2 { Ok(()) } else { Err(format!("{owners:?} have a part")) }
    })
    .await;
    first.mend();
    assert_eq!(retry(view(&apps[1]), "a").await, None);
    second.mend();
    assert_eq!(retry(view(&apps[0]), "a2").await, None);
    for account in ACCOUNTS {
        assert_told(&world, account, (2, 3, 0)).await;
    }
    assert_eq!(super::payments::rows(&world.store, "ledger/1~1/undecoded").await, []);
    assert_eq!(parked_keys(view(&apps[0])).await, []);
}

/// P12, K10
pub async fn a_rebuilt_row_keeps_what_other_slices_have_not_taken_in<S: Subject>(subject: S) {
    let (world, hidden, failing) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let short = Duration::from_millis(1);
    let wiring = || {
        let app = App::on(world.store.0.clone()).view::<Ledger>().workers(2);
        app.processor_retries(1, short, short).parking(ParkingLimits::new(1, 1_000))
    };
    let app = start(wiring).await;
    until(view(&app), |status| status.ranges.len() == 2).await;
    let lower = |account: &&&str| slice_of(account) < SLICES / 2;
    let one = ACCOUNTS.iter().find(lower).expect("they are spread");
    let other = ACCOUNTS.iter().find(|account| !lower(account)).expect("they are spread");
    world.put("a", vec![hidden.hidden(1, &ACCOUNTS)]).await;
    settle(&app).await;
    // No more fit: this one stops its range before that takes anything in.
    world.put(other, vec![failing.payment(1, "fails")]).await;
    until(view(&app), |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    hidden.mend();
    let keys = [(*one).to_owned()];
    answered(|| view(&app).rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    // It is taken in by itself, and later than that where a store fails.
    eventually(|| async {
        let told = told(world.tally(one).await.as_ref());
        if told == (1, 1, 0) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    answered(|| view(&app).rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    assert_told(&world, one, (1, 1, 0)).await;
    assert_eq!(
        super::payments::rows(&world.store, "ledger/1~1/undecoded").await.len(),
        1,
        "of the other range"
    );
}

/// P12, K10
pub async fn a_row_is_not_rebuilt_without_what_cannot_be_decoded_any_more<S: Subject>(subject: S) {
    let (world, hidden) = (World::<S>::new(&subject).await, Poison::new());
    let app = started(&world, 2).await;
    hidden.mend();
    world.pay("b", 1..=1).await;
    world.put("a", vec![hidden.hidden(2, &["b", "d"])]).await;
    settle(&app).await;
    assert_told(&world, "b", (2, 3, 0)).await;
    hidden.relapse();
    for account in ["b", "d"] {
        let keys = [account.to_owned()];
        let refused = answered(|| view(&app).rebuild_keys(&keys, LIMIT)).await;
        assert!(matches!(refused, Err(ProcessorError::RowFailed { .. })), "{refused:?}");
    }
    assert_told(&world, "b", (2, 3, 0)).await;
    assert_told(&world, "d", (1, 2, 1)).await;
}

/// K10
pub async fn a_late_event_whose_row_cannot_be_written_is_parked_and_stops_nothing<S: Subject>(subject: S) {
    let (world, hidden, rows) = (World::new(&subject).await, Poison::new(), Poison::new());
    let app = started(&world, 1).await;
    world.put("a", vec![hidden.hidden_until(&rows, 1, &["b", "c"])]).await;
    settle(&app).await;
    hidden.mend();
    assert_eq!(retry(view(&app), "a").await, None);
    assert_eq!(parked_keys(view(&app)).await, [("b".to_owned(), 1), ("c".to_owned(), 1)]);
    world.pay("d", 1..=3).await;
    world.put("b", vec![payment(2)]).await;
    settle(&app).await;
    assert_told(&world, "d", (3, 6, 0)).await;
    rows.mend();
    for (account, right) in [("b", (2, 3, 0)), ("c", (1, 1, 0))] {
        assert_eq!(retry(view(&app), account).await, None);
        assert_told(&world, account, right).await;
    }
}

/// K6, K10
pub async fn what_can_be_decoded_later_parks_no_more_than_fits<S: Subject>(subject: S) {
    let (world, hidden, rows) = (World::new(&subject).await, Poison::new(), Poison::new());
    let wiring = || World::<S>::wiring(&world.store.0).workers(1).parking(ParkingLimits::new(2, 1_000));
    let app = start(wiring).await;
    world.put("a", vec![hidden.hidden_until(&rows, 1, &["b", "c", "d"])]).await;
    settle(&app).await;
    hidden.mend();
    let full = |status: &ProcessorStatus| match &status.state {
        ProcessorState::Halted { error, .. } => error.contains("2 sequences are parked, and no more fit"),
        _ => false,
    };
    tokio::select! {
        left = retry(view(&app), "a") => panic!("it cannot be taken in: {left:?}"),
        _ = until(view(&app), full) => {}
    }
    assert_eq!(parked_keys(view(&app)).await, [("a".to_owned(), 1)]);
    rows.mend();
    ask(|| view(&app).resume()).await;
    world.pay("e", 1..=1).await;
    settle(&app).await;
    for account in ["b", "c", "d", "e"] {
        eventually(|| async {
            let told = told(world.tally(account).await.as_ref());
            if told == (1, 1, 0) { Ok(()) } else { Err(format!("{account}: {told:?}")) }
        })
        .await;
    }
    eventually(async || match &*parked_keys(view(&app)).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
}

/// K11
pub async fn a_retry_that_waits_for_what_does_not_fit_holds_up_no_other<S: Subject>(subject: S) {
    let (world, hidden, rows) = (World::new(&subject).await, Poison::new(), Poison::new());
    let failing = Poison::new();
    let wiring = || World::<S>::wiring(&world.store.0).workers(1).parking(ParkingLimits::new(2, 1_000));
    let app = start(wiring).await;
    world.put("a", vec![hidden.hidden_until(&rows, 1, &["b"])]).await;
    world.put("z", vec![failing.payment(1, "fails")]).await;
    settle(&app).await;
    hidden.mend();
    let halted = |status: &ProcessorStatus| matches!(status.state, ProcessorState::Halted { .. });
    tokio::select! {
        left = retry(view(&app), "a") => panic!("it cannot be taken in: {left:?}"),
        _ = until(view(&app), halted) => {}
    }
    // That makes room for what the first one waits for, which is still asked for.
    failing.mend();
    assert_eq!(retry(view(&app), "z").await, None);
    assert_told(&world, "z", (1, 1, 0)).await;
    rows.mend();
    ask(|| view(&app).resume()).await;
    eventually(async || match &*parked_keys(view(&app)).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert_told(&world, "b", (1, 1, 0)).await;
}

/// K11
pub async fn a_late_event_whose_partner_is_away_holds_up_no_other<S: Subject>(subject: S) {
    let (world, hidden, away) = (World::new(&subject).await, Poison::new(), Poison::new());
    let failing = Poison::new();
    let app = started(&world, 1).await;
    world.put("a", vec![hidden.hidden_while(&away, 1, &["b"])]).await;
    for account in ["y", "z"] {
        world.put(account, vec![failing.payment(1, "fails")]).await;
    }
    settle(&app).await;
    hidden.mend();
    super::poisoned::ask(view(&app), "a").await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, .. } if error.contains("away"));
    until(view(&app), |status| fails(&status.state)).await;
    failing.mend();
    assert_eq!(retry(view(&app), "y").await, None);
    discard(view(&app), "z", "booked twice").await;
    assert_told(&world, "y", (1, 1, 0)).await;
    assert_eq!(parked_keys(view(&app)).await, [("a".to_owned(), 1)], "it waits");
    away.mend();
    eventually(async || match &*parked_keys(view(&app)).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert_told(&world, "b", (1, 1, 0)).await;
}

/// K11
pub async fn a_halted_range_does_not_look_at_a_late_event_again_and_again<S: Subject>(subject: S) {
    const TABLE: &str = "ledger/1~1/undecoded";
    let (world, hidden, away) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let failing = Poison::new();
    let line = Double::new(world.store.0.clone());
    let short = Duration::from_millis(1);
    let wiring = || {
        let app = App::on(line.clone()).view::<Ledger>().workers(1);
        app.processor_retries(1, short, short).parking(ParkingLimits::new(1, 1_000))
    };
    let app = start(wiring).await;
    world.put("a", vec![hidden.hidden_while(&away, 1, &["b"])]).await;
    settle(&app).await;
    hidden.mend();
    super::poisoned::ask(view(&app), "a").await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, .. } if error.contains("away"));
    until(view(&app), |status| fails(&status.state)).await;
    // No more fit: the range stops there, while the late event is to be tried again very soon.
    world.put("c", vec![failing.payment(1, "fails")]).await;
    until(view(&app), |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    let (calls, looks) = (line.calls(), line.scans_of(TABLE));
    tokio::time::sleep(A_WHILE).await;
    let (calls, looks) = (line.calls() - calls, line.scans_of(TABLE) - looks);
    assert!(looks < 40, "{looks} looks in {A_WHILE:?}");
    // Some fifty, and more where answers are lost: those are asked for again.
    assert!(calls < 150, "{calls} calls in {A_WHILE:?}");
}

/// K11
pub async fn a_late_event_that_was_taken_in_unheard_is_waited_for_no_longer<S: Subject>(subject: S) {
    const TABLE: &str = "ledger/1~1/undecoded";
    let (world, hidden) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let short = Duration::from_millis(1);
    let wiring = || App::on(line.clone()).view::<Ledger>().workers(1).processor_retries(1, short, short);
    let app = start(wiring).await;
    world.put("a", vec![hidden.hidden(1, &["b"])]).await;
    settle(&app).await;
    hidden.mend();
    line.set(Line::HoldsScans(TABLE));
    super::poisoned::ask(view(&app), "a").await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    line.set(Line::LosesAnswers(ErrorKind::Transient));
    eventually(async || match &*super::payments::rows(&world.store, TABLE).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    line.set(Line::Up);
    until(view(&app), |status| status.state == ProcessorState::Running).await;
    eventually(async || match &*parked_keys(view(&app)).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert_told(&world, "b", (1, 1, 0)).await;
    let before = line.calls();
    tokio::time::sleep(A_WHILE).await;
    let calls = line.calls() - before;
    assert!(calls < 60, "{calls} calls in {A_WHILE:?}");
}

/// K11
pub async fn rows_whose_partner_is_away_are_rebuilt_later_and_hold_up_no_other<S: Subject>(subject: S) {
    let (world, failing, away) = (World::new(&subject).await, Poison::new(), Poison::new());
    let app = started(&world, 1).await;
    failing.mend();
    away.mend();
    world.put("a", vec![failing.payment_while(&away, 1)]).await;
    settle(&app).await;
    away.relapse();
    let keys = ["a".to_owned()];
    let rebuilding = answered(|| view(&app).rebuild_keys(&keys, LIMIT));
    let meanwhile = async {
        let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, .. } if error.contains("away"));
        until(view(&app), |status| fails(&status.state)).await;
        world.pay("b", 1..=2).await;
        settle(&app).await;
        assert_told(&world, "b", (2, 3, 0)).await;
        let other = ["b".to_owned()];
        answered(|| view(&app).rebuild_keys(&other, LIMIT)).await.expect("it waits for nobody");
        away.mend();
    };
    let (rebuilt, ()) = futures::join!(rebuilding, meanwhile);
    rebuilt.expect("its partner is there");
    assert_told(&world, "a", (1, 1, 0)).await;
}

/// K12
pub async fn what_was_left_out_undecoded_stays_left_out_for_every_key<S: Subject>(subject: S) {
    let (world, hidden) = (World::new(&subject).await, Poison::new());
    let app = started(&world, 3).await;
    world.put("a", vec![payment(1), hidden.hidden(2, &ACCOUNTS)]).await;
    world.pay("b", 1..=1).await;
    settle(&app).await;
    discard(view(&app), "a", "nobody can read it").await;
    hidden.mend();
    let keys = ACCOUNTS.map(str::to_owned);
    answered(|| view(&app).rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    assert!(app.shutdown(LIMIT).await);
    let app = started(&world, 1).await;
    let right = async |b, others| {
        assert_told(&world, "a", (1, 1, 0)).await;
        assert_told(&world, "b", b).await;
        for account in &ACCOUNTS[1..] {
            assert_told(&world, account, others).await;
        }
    };
    settle(&app).await;
    right((1, 1, 0), (0, 0, 0)).await;
    let once_more = RebuildOptions::default();
    for (options, b, others) in
        [(once_more, (1, 1, 0), (0, 0, 0)), (once_more.repeat_skips(), (2, 3, 2), (1, 2, 1))]
    {
        let rebuild = ask(|| view(&app).rebuild_online(options)).await;
        ask(|| rebuild.caught_up(LIMIT)).await;
        ask(|| rebuild.switch()).await;
        settle(&app).await;
        right(b, others).await;
        ask(|| view(&app).drop_previous()).await;
    }
}

/// P26, K12
pub async fn what_was_left_out_undecoded_stays_left_out_though_its_row_is_damaged<S: Subject>(subject: S) {
    let (world, hidden) = (World::new(&subject).await, Poison::new());
    let app = started(&world, 1).await;
    world.put("a", vec![payment(1), hidden.hidden(2, &["b"])]).await;
    settle(&app).await;
    discard(view(&app), "a", "nobody can read it").await;
    assert!(app.shutdown(LIMIT).await);
    let (damaged, _) = super::payments::rows(&world.store, "ledger/1~1/skipped").await.remove(0);
    overwrite::<S>(&world.store, "ledger/1~1/skipped", &damaged, b"not json").await;
    hidden.mend();
    let app = started(&world, 1).await;
    world.pay("c", 1..=1).await;
    settle(&app).await;
    for (account, right) in [("a", (1, 1, 0)), ("b", (0, 0, 0)), ("c", (1, 1, 0))] {
        assert_told(&world, account, right).await;
    }
}

/// K12
pub async fn what_was_skipped_undecoded_stays_skipped_for_every_key<S: Subject>(subject: S) {
    let (world, hidden) = (World::new(&subject).await, Poison::new());
    let wiring = || {
        let retries = (Duration::from_millis(1), Duration::from_millis(5));
        App::on(world.store.0.clone())
            .view::<Skipping>()
            .workers(4)
            .processor_retries(1, retries.0, retries.1)
    };
    let app = start(wiring).await;
    world.put("a", vec![payment(1), hidden.hidden(2, &ACCOUNTS), payment(3)]).await;
    settle(&app).await;
    hidden.mend();
    assert!(app.shutdown(LIMIT).await);
    let app = start(wiring).await;
    world.pay("z", 1..=1).await;
    settle(&app).await;
    let keys = ACCOUNTS.map(str::to_owned);
    let processor = app.processor::<Skipping>().expect("it runs");
    answered(|| processor.rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    for account in ACCOUNTS {
        assert_eq!(world.tally_of("skipping/1", account).await, None, "account {account}");
    }
    let a = world.tally_of("skipping/1", "a").await.expect("a row");
    assert_eq!((a.n, a.sum), (2, 4));
    let skipped = ask(|| processor.skipped()).await;
    assert_eq!(skipped.iter().map(|skip| (skip.position.0, skip.undecoded)).collect::<Vec<_>>(), [(2, true)]);
}

/// K12
pub async fn what_is_not_in_the_log_any_more_is_left_out_with_a_record<S: Subject>(subject: S) {
    let (world, hidden) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let short = Duration::from_millis(1);
    let wiring = || App::on(line.clone()).view::<Ledger>().workers(2).processor_retries(1, short, short);
    let app = start(wiring).await;
    until(view(&app), |status| status.ranges.len() == 2).await;
    world.put("a", vec![hidden.hidden(1, &ACCOUNTS)]).await;
    settle(&app).await;
    // As if its part of the log had been taken away by hand.
    line.set(Line::Lacks(1));
    hidden.mend();
    let left = retry(view(&app), "a").await.expect("there is nothing to be handled");
    assert!(left.error.contains("there is no event at #1 any more"), "{}", left.error);
    eventually(async || match &*super::payments::rows(&world.store, "ledger/1~1/undecoded").await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    let skipped = async || {
        let skipped = ask(|| view(&app).skipped()).await.into_iter();
        skipped.map(|skip| (skip.position.0, skip.key, skip.reason)).collect::<Vec<_>>()
    };
    let gone = (1, String::new(), "is not in the log any more".to_owned());
    assert_eq!(skipped().await, std::slice::from_ref(&gone));
    discard(view(&app), "a", "it was archived").await;
    let mut both = [gone, (1, "a".to_owned(), "it was archived".to_owned())];
    let mut found = skipped().await;
    both.sort();
    found.sort();
    assert_eq!(found, both);
    assert_eq!(parked_keys(view(&app)).await, []);
    world.pay("b", 1..=1).await;
    settle(&app).await;
    assert_told(&world, "b", (1, 1, 0)).await;
}

/// K10
pub async fn a_retry_reads_some_of_what_cannot_be_decoded_at_a_time<S: Subject>(subject: S) {
    const HIDDEN: i64 = 450;
    const FAILING: i64 = 2_000;
    const TABLE: &str = "ledger/1~1/undecoded";
    let (world, hidden, failing) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).view::<Ledger>().workers(2)).await;
    until(view(&app), |status| status.ranges.len() == 2).await;
    // The range of one key parks them, and both pass them: they may have other keys.
    for from in (1..=HIDDEN).step_by(150) {
        world.put("a", (from..from + 150).map(|n| hidden.hidden(n, &ACCOUNTS)).collect()).await;
    }
    world.put("b", vec![failing.payment(1, "fails")]).await;
    world.pay("b", 2..=FAILING).await;
    settle(&app).await;
    failing.mend();
    line.forget_most();
    let asked = async || world.store.row("asked", "ledger/1~1").await.map_or(0, |row| row.rev);
    let before = asked().await;
    assert_eq!(retry(view(&app), "b").await, None);
    settle(&app).await;
    let (rows, most) = line.scanned_of(TABLE);
    assert!(most <= 200, "{most} at once");
    // Each of two ranges looks once for each thing that is asked, not for each part of the retry.
    let looks = 2 * usize::try_from(asked().await - before).expect("few");
    let all = ask(|| world.store.0.scan(TABLE, None, 2_000)).await.len();
    assert!(i64::try_from(all).expect("few") >= HIDDEN, "{all}");
    // A store that fails reads has them repeated.
    assert!(rows > 0 && rows <= 2 * (looks * all + all), "{rows} rows in {looks} looks at {all}");
    assert_told(&world, "b", (2_000, 2_001_000, 0)).await;
}

/// Counts accounts that are opened, and what is paid to whom: by its payer's name, which the stream does not tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Paid<const PROGRAM: u8>(u64);

/// A program that knows no payments.
const BEFORE: u8 = 0;
/// One that fails to read them.
const BROKEN: u8 = 1;
const MENDED: u8 = 2;
const PAYER: &str = "ada";
const LEASE: Duration = Duration::from_millis(400);

impl<const PROGRAM: u8> Projection for Paid<PROGRAM> {
    const NAME: &'static str = "paid";
    fn filter() -> EventFilter {
        let openings = EventFilter::of::<Opened>();
        if PROGRAM == BEFORE { openings } else { openings.or(EventFilter::of::<Deposited>()) }
    }
    fn code() -> Code {
        Code::of(&Self::filter())
    }
}

impl<const PROGRAM: u8> View for Paid<PROGRAM> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        let opening = event.payload::<Opened>()?.map(|_| event.stream.to_string());
        // As a generated one, it does not look at what it does not handle.
        let payment = if PROGRAM == BEFORE { None } else { event.payload::<Deposited>()? };
        if payment.is_some() && PROGRAM == BROKEN {
            return Err("it cannot be read".into());
        }
        let payer = payment.and_then(|payment| payment.reference);
        Ok(opening.or(payer).map(|key| Change::new(key, count)).into_iter().collect())
    }
}

/// K10, P17
pub async fn what_cannot_be_decoded_is_left_by_a_program_that_does_not_handle_it<S: Subject>(subject: S) {
    async fn run<const PROGRAM: u8, S: Subject>(store: &S::Backend) -> App {
        start(|| App::on(store.clone()).view::<Paid<PROGRAM>>().lease(LEASE)).await
    }
    let store = super::store(&subject).await;
    let broken = run::<BROKEN, S>(&store.0).await;
    let paid = Deposited { amount: 1, reference: Some(PAYER.to_owned()) };
    store.put("payment-7", vec![encoded(&AccountEvent::Deposited(paid))]).await;
    settle(&broken).await;
    let untaken = async || super::payments::rows(&store, "paid/1~1/undecoded").await;
    assert_eq!(untaken().await.len(), 1);
    assert!(broken.shutdown(LIMIT).await);
    // Rolled back, and at work: it has handled what came since.
    let before = run::<BEFORE, S>(&store.0).await;
    for account in ["account-a", "account-b"] {
        store.put(account, vec![encoded(&opened(account))]).await;
        eventually(|| async {
            store.row("paid/1", account).await.map(drop).ok_or_else(|| account.to_owned())
        })
        .await;
    }
    assert_eq!(untaken().await.len(), 1);
    assert!(before.shutdown(LIMIT).await);
    let mended = run::<MENDED, S>(&store.0).await;
    let view = mended.processor::<Paid<MENDED>>().expect("it runs");
    assert_eq!(parked_keys(view).await, [("7".to_owned(), 1)]);
    assert_eq!(retry(view, "7").await, None);
    let row = store.row("paid/1", PAYER).await.expect("it is handled under its own key");
    assert_eq!(serde_json::from_slice::<Paid<MENDED>>(&row.data).expect("JSON").0, 1);
}

/// K12
pub async fn what_a_program_discards_that_does_not_handle_it_is_left_out_for_every_key<S: Subject>(
    subject: S,
) {
    async fn run<const PROGRAM: u8, S: Subject>(store: &S::Backend) -> App {
        start(|| App::on(store.clone()).view::<Paid<PROGRAM>>().lease(LEASE)).await
    }
    let store = super::store(&subject).await;
    let broken = run::<BROKEN, S>(&store.0).await;
    let paid = Deposited { amount: 1, reference: Some(PAYER.to_owned()) };
    store.put("payment-7", vec![encoded(&AccountEvent::Deposited(paid))]).await;
    settle(&broken).await;
    assert!(broken.shutdown(LIMIT).await);
    let before = run::<BEFORE, S>(&store.0).await;
    discard(before.processor::<Paid<BEFORE>>().expect("it runs"), "7", "paid twice").await;
    eventually(async || match &*super::payments::rows(&store, "paid/1~1/undecoded").await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert!(before.shutdown(LIMIT).await);
    let mended = run::<MENDED, S>(&store.0).await;
    store.put("account-a", vec![encoded(&opened("a"))]).await;
    settle(&mended).await;
    assert!(store.row("paid/1", "account-a").await.is_some(), "it is at work");
    assert_eq!(store.row("paid/1", PAYER).await, None, "it was discarded");
}

/// P21
pub async fn a_late_event_that_is_blamed_for_want_of_anything_else_says_so<S: Subject>(subject: S) {
    let (world, hidden, partner) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(0, short, short).patience(Duration::ZERO);
    let app = start(|| App::on(world.store.0.clone()).view::<Ledger>().processors(options).workers(1)).await;
    world.put("a", vec![hidden.hidden_while_refused(&partner, 1, &["b"])]).await;
    settle(&app).await;
    hidden.mend();
    assert_eq!(retry(view(&app), "a").await, None);
    let left = parked(view(&app)).await;
    let [only] = &*left else { panic!("{left:?}") };
    assert!(only.key == "b" && only.error.contains("in which the store took writes"), "{only:?}");
    partner.mend();
    assert_eq!(retry(view(&app), "b").await, None);
    assert_told(&world, "b", (1, 1, 0)).await;
}

/// P13, K10
pub async fn a_position_is_not_reached_while_an_event_of_before_waits_behind_others<S: Subject>(subject: S) {
    let (world, hidden, failing) = (World::new(&subject).await, Poison::new(), Poison::new());
    let app = started(&world, 2).await;
    world.put("a", vec![hidden.hidden(1, &["b"])]).await;
    world.pay("c", 1..=1).await;
    world.put("b", vec![failing.payment(2, "fails")]).await;
    settle(&app).await;
    hidden.mend();
    assert_eq!(retry(view(&app), "a").await, None);
    assert_eq!(parked_keys(view(&app)).await, [("b".to_owned(), 2)]);
    let alone = |position| Receipt { position: Position(position), events: Some(1) };
    for receipt in [Position(1).into(), Position(2).into(), alone(1)] {
        let waited = view(&app).wait_for(receipt, LIMIT).await;
        assert!(
            matches!(&waited, Err(WaitError::Parked { key, .. }) if key == "b"),
            "{receipt:?}: {waited:?}"
        );
    }
    view(&app).wait_for(alone(2), LIMIT).await.expect("it is of another key");
    failing.mend();
    assert_eq!(retry(view(&app), "b").await, None);
    view(&app).wait_for(Position(3), LIMIT).await.expect("nothing is parked any more");
    assert_told(&world, "b", (2, 3, 0)).await;
}

/// K1, P8
pub async fn what_waits_behind_others_stays_before_what_a_reset_brings_again<S: Subject>(subject: S) {
    let (world, hidden, failing) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let short = Duration::from_millis(1);
    let wiring = || App::on(world.store.0.clone()).view::<Repeatable>().processor_retries(1, short, short);
    let app = start(wiring).await;
    let processor = app.processor::<Repeatable>().expect("it runs");
    world.put("a", vec![hidden.hidden(1, &["b"])]).await;
    world.pay("b", 2..=2).await;
    world.put("b", vec![failing.payment(3, "fails")]).await;
    settle(&app).await;
    hidden.mend();
    assert_eq!(retry(processor, "a").await, None);
    assert_eq!(parked_keys(processor).await, [("b".to_owned(), 2)]);
    answered(|| processor.reset(Reset::Position(Position(1)))).await.expect("nobody else works on it");
    settle(&app).await;
    assert_eq!(parked_keys(processor).await, [("b".to_owned(), 3)], "the second one waits behind the first");
    failing.mend();
    assert_eq!(retry(processor, "b").await, None);
    let b = world.tally_of("repeatable/1", "b").await.expect("a row");
    // The second one was handled before the reset, too.
    assert_eq!((b.n, b.sum, b.last), (4, 2 + 1 + 2 + 3, 3));
}
