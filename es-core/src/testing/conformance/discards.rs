//! What is left out while a rebuild is under way: K12.

use std::marker::PhantomData;
use std::time::Duration;

use futures::StreamExt as _;
use xxhash_rust::xxh3::xxh3_64;

use super::cluster::overwrite;
use super::damaged::restore;
use super::domain::{Deposited, Opened};
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Kind, Ledger, Poison, Skipping, World, answered, discard, eventually, parked_keys, payment,
    payment_of_both, retry, rows, try_discard, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{
    Backfill, Processor, ProcessorError, ProcessorOptions, ProcessorState, ProcessorStatus, Rebuild,
    RebuildOptions,
};
use crate::projection::{Partition, Project, Projection};
use crate::slices::Slices;
use crate::store::{Backend, EventFilter, RecordedEvent};
use crate::{App, BoxError, ErrorKind};

/// An account whose range is held.
const HELD: &str = "held";
/// The rows of the rebuild of the ledger.
const LEDGER: &str = "ledger/1~2";
const LENIENT: RebuildOptions = RebuildOptions { lenient: true, repeats_skips: false };

/// K12
pub async fn what_is_left_out_while_a_rebuild_is_under_way_stays_left_out_of_it<S: Subject>(subject: S) {
    for (table, rebuilt) in [("ledger/1~2", "ledger/1"), ("skipping/1~2", "skipping/1")] {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let line = Double::new(world.store.0.clone());
        let options = ProcessorOptions::default().page(1);
        let wiring = || App::on(line.clone()).view::<Ledger>().view::<Skipping>().processors(options);
        let app = start(wiring).await;
        world.put("a", vec![payment(1)]).await;
        settle(&app).await;
        // The rebuild is held in the middle of the first event.
        line.set(Line::HoldsLookups(table));
        let processor =
            app.processors().iter().find(|processor| processor.name() == rebuilt).expect("it runs");
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
        world.put("a", vec![poison.payment(2, "fails"), payment(3)]).await;
        settle(&app).await;
        discard(app.processor::<Ledger>().expect("it runs"), "a", "booked twice").await;
        poison.mend();
        line.set(Line::Up);
        ask(|| rebuild.caught_up(LIMIT)).await;
        ask(|| rebuild.switch()).await;
        settle(&app).await;
        let right = if rebuilt == "ledger/1" { 1 } else { 4 };
        assert_eq!(world.tally_of(rebuilt, "a").await.expect("a row").sum, right, "{rebuilt}");
        assert!(app.shutdown(LIMIT).await);
    }
}

fn skipping(app: &App) -> &Processor {
    app.processor::<Skipping>().expect("it runs")
}

/// Until a rebuild has handled everything.
async fn complete(rebuild: &Rebuild) {
    eventually(async || match Box::pin(rebuild.progress()).next().await {
        Some(Ok(progress)) if progress.is_complete() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// K12
pub async fn what_is_discarded_behind_a_rebuild_is_left_out_of_it<S: Subject>(subject: S) {
    for kind in KINDS {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let app = world.start().await;
        world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
        world.pay("b", 1..=3).await;
        settle(&app).await;
        poison.mend();
        let processor = kind.of(&app);
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        complete(&rebuild).await;
        discard(processor, &kind.key("a"), "booked twice").await;
        world.pay("a", 4..=4).await;
        ask(|| rebuild.switch()).await;
        settle(&app).await;
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (5, 6), "{kind:?}");
        // The first of the two was left out as it was discarded, the other one behind it: neither is parked.
        assert_eq!(parked_keys(processor).await, [], "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// K12
pub async fn what_is_discarded_while_queries_are_switched_is_left_out<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| World::<S>::wiring(&line)).await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    settle(&app).await;
    poison.mend();
    let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
    complete(&rebuild).await;
    // It is asked for, and its commit does not come through.
    line.set(Line::HoldsCommits("ledger/1~1/skipped"));
    let switching = async {
        eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
        let early = rebuild.switch().await.expect_err("not before it is discarded");
        assert_eq!(early.kind(), ErrorKind::Transient, "{early}");
        line.set(Line::Up);
        ask(|| rebuild.switch()).await;
    };
    // The switch may be done before whoever discards looks again: then that is the answer.
    let discarding = async {
        let answer = try_discard(ledger, "a", "booked twice").await;
        assert!(matches!(answer, Ok(()) | Err(ProcessorError::Switched { .. })), "{answer:?}");
    };
    futures::join!(discarding, switching);
    world.pay("a", 4..=4).await;
    settle(&app).await;
    assert_eq!(world.sum(Kind::View, "a").await, 5);
    assert_eq!(parked_keys(ledger).await, []);
}

/// K12
pub async fn what_was_discarded_behind_an_event_that_a_rebuild_parks_is_left_out<S: Subject>(subject: S) {
    for kind in KINDS {
        let (world, first, second) = (World::new(&subject).await, Poison::new(), Poison::new());
        let app = world.start().await;
        first.mend();
        world.put("a", vec![first.payment(1, "fails"), second.payment(2, "fails"), payment(3)]).await;
        settle(&app).await;
        let processor = kind.of(&app);
        discard(processor, &kind.key("a"), "booked twice").await;
        world.pay("a", 4..=4).await;
        settle(&app).await;
        first.relapse();
        let rebuild = ask(|| processor.rebuild_online(LENIENT)).await;
        complete(&rebuild).await;
        ask(|| rebuild.switch()).await;
        assert_eq!(parked_keys(processor).await, [(kind.key("a"), 2)], "{kind:?}");
        first.mend();
        assert_eq!(retry(processor, &kind.key("a")).await, None, "{kind:?}");
        assert_eq!(world.sum(kind, "a").await, 5, "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// An event of account `a`, in the build that is read: as it comes to be when the build under way hears of it late, and
/// the events behind it are parked there alone.
async fn is_discarded<S: Subject>(world: &World<S>, kind: Kind, position: u64, undecoded: bool) {
    let (account, skipped) = (kind.key("a"), format!("{}~1/skipped", kind.name()));
    let key = format!("{position:020}:{:016x}", xxh3_64(account.as_bytes()));
    let row = serde_json::json!({
        "position": position, "key": account, "reason": "booked twice", "at": "2026-01-01T00:00:00Z",
        "discarded": true, "undecoded": undecoded,
    });
    overwrite::<S>(&world.store, &skipped, &key, row.to_string().as_bytes()).await;
}

/// K12
pub async fn what_is_discarded_before_an_event_that_a_rebuild_has_parked_is_left_out<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    poison.mend();
    world.put("a", vec![payment(1), payment(2), poison.payment(3, "fails"), payment(4)]).await;
    settle(&app).await;
    poison.relapse();
    let ledger = app.processor::<Ledger>().expect("it runs");
    let rebuild = ask(|| ledger.rebuild_online(LENIENT)).await;
    complete(&rebuild).await;
    is_discarded(&world, Kind::View, 2, false).await;
    ask(|| rebuild.switch()).await;
    assert_eq!(parked_keys(ledger).await, [("a".to_owned(), 2)]);
    assert_eq!(world.sum(Kind::View, "a").await, 1);
    poison.mend();
    assert_eq!(retry(ledger, "a").await, None);
    assert_eq!(world.sum(Kind::View, "a").await, 8);
}

/// K12
pub async fn what_a_rebuild_has_parked_goes_on_once_its_first_event_is_discarded<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    poison.mend();
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    settle(&app).await;
    poison.relapse();
    let ledger = app.processor::<Ledger>().expect("it runs");
    let rebuild = ask(|| ledger.rebuild_online(LENIENT)).await;
    complete(&rebuild).await;
    is_discarded(&world, Kind::View, 2, false).await;
    ask(|| rebuild.switch()).await;
    eventually(async || match parked_keys(ledger).await {
        parked if parked.is_empty() => Ok(()),
        parked => Err(format!("{parked:?}")),
    })
    .await;
    assert_eq!(world.sum(Kind::View, "a").await, 4);
}

/// K12
pub async fn what_a_rebuild_has_handled_of_what_it_had_parked_is_left_out<S: Subject>(subject: S) {
    for kind in KINDS {
        let world = World::new(&subject).await;
        let [first, last, aside] = std::array::from_fn(|_| Poison::new());
        let app = world.start().await;
        [&first, &last].into_iter().for_each(Poison::mend);
        let payments = [payment(1), first.payment(2, "fails"), payment(3), last.payment(4, "fails")];
        world.put("a", payments.into()).await;
        world.put("b", vec![aside.payment(1, "fails")]).await;
        settle(&app).await;
        [&first, &last].into_iter().for_each(Poison::relapse);
        let processor = kind.of(&app);
        let rebuild = ask(|| processor.rebuild_online(LENIENT)).await;
        complete(&rebuild).await;
        is_discarded(&world, kind, 2, false).await;
        // The build looks: without the second event, it goes on with the third one, and stops at the last.
        discard(processor, &kind.key("b"), "booked twice").await;
        let parked = format!("{}~2/parked", kind.name());
        eventually(async || match rows(&world.store, &parked).await.first() {
            Some((_, row)) if row["position"] == 4 => Ok(()),
            row => Err(format!("{row:?}")),
        })
        .await;
        is_discarded(&world, kind, 3, false).await;
        ask(|| rebuild.switch()).await;
        eventually(async || match world.sum(kind, "a").await {
            1 => Ok(()),
            sum => Err(format!("{kind:?}: {sum}")),
        })
        .await;
        assert_eq!(parked_keys(processor).await, [(kind.key("a"), 1)], "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// K12
pub async fn what_is_discarded_undecoded_is_not_parked_in_a_rebuild_under_keys_that_it_has<S: Subject>(
    subject: S,
) {
    let (world, hidden, rows) = (World::<S>::new(&subject).await, Poison::new(), Poison::new());
    let app = world.start().await;
    world.put("a", vec![hidden.hidden_until(&rows, 1, &["b"])]).await;
    world.pay("c", 1..=1).await;
    settle(&app).await;
    hidden.mend();
    let ledger = app.processor::<Ledger>().expect("it runs");
    let rebuild = ask(|| ledger.rebuild_online(LENIENT)).await;
    complete(&rebuild).await;
    // As a program discards it that cannot decode it.
    is_discarded(&world, Kind::View, 1, true).await;
    ask(|| rebuild.switch()).await;
    settle(&app).await;
    assert_eq!(parked_keys(ledger).await, []);
    assert_eq!((world.sum(Kind::View, "b").await, world.sum(Kind::View, "c").await), (0, 1));
}

/// Accounts of two halves of the slices.
fn of_both_halves() -> [String; 2] {
    let (first, second) = Slices::ALL.split(512).expect("it has so many");
    [first, second]
        .map(|half| (0..).map(|n: u32| n.to_string()).find(|key| half.has(key)).expect("one of them"))
}

/// Whether a build has two ranges, of which so many have passed a position.
async fn passed<S: Subject>(
    world: &World<S>,
    build: &str,
    ranges: usize,
    position: u64,
) -> Result<(), String> {
    let found = super::slices::ranges(world, build).await;
    let passed = found.iter().filter(|range| range.position >= position).count();
    if found.len() == 2 && passed == ranges { Ok(()) } else { Err(format!("{passed} of {found:?}")) }
}

/// K12
pub async fn what_is_discarded_undecoded_while_a_rebuild_parks_it_is_left_out<S: Subject>(subject: S) {
    let (world, [guess, other]) = (World::<S>::new(&subject).await, of_both_halves());
    let [hidden, unwritable, aside] = std::array::from_fn(|_| Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| World::<S>::wiring(&line).workers(2)).await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    world.put("z", vec![aside.payment(1, "fails")]).await;
    settle(&app).await;
    [&hidden, &aside].into_iter().for_each(Poison::mend);
    let rebuild = ask(|| ledger.rebuild_online(LENIENT)).await;
    eventually(async || passed(&world, LEDGER, 2, 1).await).await;
    // The range of the key that an event has parks it, which does not come through yet.
    line.set(Line::HoldsCommits("ledger/1~2/parked"));
    world.put(&guess, vec![hidden.hidden_until(&unwritable, 1, &[&other])]).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    eventually(async || passed(&world, LEDGER, 1, 2).await).await;
    // As a program discards it that cannot decode it. The range of the key that it most likely has looks.
    let key = format!("{:020}:{:016x}", 2, xxh3_64(guess.as_bytes()));
    let row = serde_json::json!({
        "position": 2, "key": guess, "reason": "booked twice", "at": "2026-01-01T00:00:00Z",
        "discarded": true, "undecoded": true,
    });
    overwrite::<S>(&world.store, "ledger/1~1/skipped", &key, row.to_string().as_bytes()).await;
    discard(ledger, "z", "booked twice").await;
    eventually(async || {
        match rows(&world.store, "ledger/1~2/skipped").await.iter().any(|(row, _)| *row == key) {
            true => Ok(()),
            false => Err("it has not looked".to_owned()),
        }
    })
    .await;
    line.set(Line::Up);
    ask(|| rebuild.switch()).await;
    settle(&app).await;
    assert_eq!(parked_keys(ledger).await, []);
}

/// P26, K12
pub async fn what_a_rebuild_leaves_out_it_leaves_out_though_its_row_is_damaged<S: Subject>(subject: S) {
    for kind in KINDS {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let app = world.start().await;
        world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
        settle(&app).await;
        let processor = kind.of(&app);
        discard(processor, &kind.key("a"), "booked twice").await;
        poison.mend();
        let [skipped, requests] = ["skipped", "requests"].map(|table| format!("{}~1/{table}", kind.name()));
        let (damaged, _) = rows(&world.store, &skipped).await.remove(0);
        overwrite::<S>(&world.store, &skipped, &damaged, b"not json").await;
        overwrite::<S>(&world.store, &requests, "b", b"not json").await;
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        complete(&rebuild).await;
        ask(|| rebuild.switch()).await;
        assert_eq!(world.sum(kind, "a").await, 1, "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// P26, K12
pub async fn what_a_rebuild_has_passed_it_leaves_out_though_its_row_is_damaged<S: Subject>(subject: S) {
    for kind in KINDS {
        let world = World::new(&subject).await;
        let app = world.start().await;
        world.pay("a", 1..=3).await;
        settle(&app).await;
        let processor = kind.of(&app);
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        complete(&rebuild).await;
        let skipped = format!("{}~1/skipped", kind.name());
        // One that was discarded, and one of which nobody can say what it was left out for.
        let damaged =
            ["nobody", &kind.key("a")].map(|key| format!("{:020}:{:016x}", 2, xxh3_64(key.as_bytes())));
        for row in &damaged {
            overwrite::<S>(&world.store, &skipped, row, b"not json").await;
        }
        eventually(async || match rebuild.switch().await.map_err(|error| crate::chain(&error)) {
            Err(why) if why.contains(&damaged[0]) && why.contains("repeats_skips") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        restore(&world, &skipped, &damaged[0], b"").await;
        complete(&rebuild).await;
        ask(|| rebuild.switch()).await;
        assert_eq!(world.sum(kind, "a").await, 4, "{kind:?}");
        assert!(app.shutdown(LIMIT).await);
    }
}

/// P24
pub async fn a_rebuild_reads_again_only_what_was_discarded_since<S: Subject>(subject: S) {
    const SKIPPED: usize = 1_500;
    const LATER: usize = 30;
    const TABLE: &str = "skipping/1~1/skipped";
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).view::<Skipping>().processor_retries(1, SHORT, SHORT)).await;
    let failing = |n: usize| poison.payment(i64::try_from(n).expect("few"), "fails");
    for from in (1..=SKIPPED).step_by(500) {
        world.put("a", (from..from + 500).map(failing).collect()).await;
    }
    settle(&app).await;
    let skipping = app.processor::<Skipping>().expect("it runs");
    let rebuild = ask(|| skipping.rebuild_online(LENIENT)).await;
    complete(&rebuild).await;
    line.forget_most();
    for n in 1..=LATER {
        world.put("a", vec![failing(SKIPPED + n)]).await;
        settle(&app).await;
    }
    complete(&rebuild).await;
    let (read, _) = line.scanned_of(TABLE);
    assert!(read < SKIPPED * 2, "{read} rows for {LATER} that were skipped");
    ask(|| rebuild.switch()).await;
}

/// K11
pub async fn what_ranges_of_a_rebuild_are_asked_of_many_events_is_found_in_few_reads<S: Subject>(subject: S) {
    const SKIPPED: i64 = 1_200;
    const ROWS: &str = "skipping/1~2";
    let (world, [guess, other]) = (World::<S>::new(&subject).await, of_both_halves());
    let hidden = Poison::new();
    let line = Double::new(world.store.0.clone());
    let wiring = || App::on(line.clone()).view::<Skipping>().workers(2).processor_retries(0, SHORT, SHORT);
    let app = start(wiring).await;
    world.pay("z", 1..=1).await;
    settle(&app).await;
    let rebuild = ask(|| skipping(&app).rebuild_online(RebuildOptions::default())).await;
    eventually(async || passed(&world, ROWS, 2, 1).await).await;
    // Both ranges are held in the middle of an event, while queries read what leaves out the next ones.
    line.set(Line::HoldsLookups(ROWS));
    world.put(&guess, vec![payment_of_both(2, &other)]).await;
    eventually(async || if line.held() > 1 { Ok(()) } else { Err("they are not held".to_owned()) }).await;
    for from in (1..=SKIPPED).step_by(300) {
        world.put(&guess, (from..from + 300).map(|n| hidden.hidden(n, &[&other])).collect()).await;
    }
    settle(&app).await;
    hidden.mend();
    line.forget_most();
    line.set(Line::Up);
    complete(&rebuild).await;
    let scans = i64::try_from(line.scans_of("skipping/1~1/skipped")).expect("few");
    assert!(scans < SKIPPED / 2, "{scans} reads for {SKIPPED} events");
    ask(|| rebuild.switch()).await;
    assert_eq!(world.tally_of("skipping/1", &other).await.map(|tally| tally.n), Some(1));
}

/// O8
pub async fn what_is_asked_of_a_build_that_is_no_longer_read_is_not_said_to_be_done<S: Subject>(subject: S) {
    for (held, discards) in [("ledger/1~1/parked", false), ("ledger/1~1/requests", true)] {
        let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
        let line = Double::new(world.store.0.clone());
        let app = start(|| World::<S>::wiring(&line)).await;
        let ledger = app.processor::<Ledger>().expect("it runs");
        world.put("a", vec![poison.payment(1, "fails")]).await;
        settle(&app).await;
        let rebuild = ask(|| ledger.rebuild_online(LENIENT)).await;
        complete(&rebuild).await;
        line.set(Line::HoldsCommits(held));
        let asking = async {
            loop {
                let asked = match discards {
                    true => answered(|| ledger.discard("a", "booked twice", LIMIT)).await,
                    false => answered(async || ledger.retry("a", LIMIT).await.map(drop)).await,
                };
                // Where it is not known whether it was asked the first time.
                if !matches!(asked, Err(ProcessorError::Asked { .. })) {
                    break asked;
                }
            }
        };
        let switching = async {
            eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) })
                .await;
            ask(|| rebuild.switch()).await;
            poison.mend();
            line.set(Line::Up);
        };
        let (asked, ()) = futures::join!(asking, switching);
        let left = parked_keys(ledger).await;
        match asked {
            Ok(()) | Err(ProcessorError::NotParked { .. }) => assert_eq!(left, []),
            Err(ProcessorError::Switched { .. }) => assert_eq!(left, [("a".to_owned(), 1)]),
            Err(error) => panic!("{error}"),
        }
        assert!(app.shutdown(LIMIT).await);
    }
}

/// K12
pub async fn a_switch_says_what_it_waits_for<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let app = world.start().await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    world.put("a", vec![payment(1), poison.payment(2, "fails")]).await;
    settle(&app).await;
    poison.mend();
    let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
    complete(&rebuild).await;
    ask(|| ledger.pause()).await;
    let is_paused = |status: &ProcessorStatus| matches!(status.state, ProcessorState::Paused { .. });
    until(ledger, |status| is_paused(status) && status.ranges.iter().all(|range| range.owner.is_none()))
        .await;
    let soon = Duration::from_millis(200);
    eventually(async || match ledger.discard("a", "booked twice", soon).await {
        Err(ProcessorError::TimedOut { .. } | ProcessorError::Asked { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    eventually(async || match rebuild.switch().await.map_err(|error| crate::chain(&error)) {
        Err(error) if error.contains("\"a\"") && error.contains("paused") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    ask(|| ledger.resume()).await;
    ask(|| rebuild.switch()).await;
    assert_eq!((world.sum(Kind::View, "a").await, parked_keys(ledger).await), (1, Vec::new()));
}

/// What a rebuild comes to of two accounts: one of whose payments is left out after the range of that account has handled it,
/// and before the range of the key has that it was left out under; and the account of that range.
async fn left_out_behind_one_range_and_before_another<S: Subject>(subject: S, discarded: bool) -> (i64, i64) {
    let (world, [first, second]) = (World::<S>::new(&subject).await, of_both_halves());
    let lower = Slices::ALL.split(512).expect("it has so many").0;
    let (guess, behind) = if lower.has(HELD) { (first, second) } else { (second, first) };
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).view::<Ledger>().workers(2)).await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    world.pay(&behind, 1..=1).await;
    settle(&app).await;
    let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
    eventually(async || passed(&world, LEDGER, 2, 1).await).await;
    // One range is held in the middle of the second event, while the other one handles the third.
    line.set(Line::HoldsRow(LEDGER, HELD));
    world.pay(HELD, 1..=1).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    world.pay(&behind, 2..=2).await;
    eventually(async || passed(&world, LEDGER, 1, 3).await).await;
    // As a program leaves it out that had it under another key.
    let key = format!("{:020}:{:016x}", 3, xxh3_64(guess.as_bytes()));
    let row = serde_json::json!({
        "position": 3, "key": guess, "reason": "booked twice", "at": "2026-01-01T00:00:00Z",
        "discarded": discarded, "undecoded": true,
    });
    overwrite::<S>(&world.store, "ledger/1~1/skipped", &key, row.to_string().as_bytes()).await;
    line.set(Line::Up);
    eventually(async || passed(&world, LEDGER, 2, 3).await).await;
    complete(&rebuild).await;
    ask(|| rebuild.switch()).await;
    (world.sum(Kind::View, &behind).await, world.sum(Kind::View, HELD).await)
}

/// K12
pub async fn what_is_discarded_behind_one_range_of_a_rebuild_and_before_another_is_left_out_of_both<
    S: Subject,
>(
    subject: S,
) {
    assert_eq!(left_out_behind_one_range_and_before_another(subject, true).await, (1, 1));
}

/// K12
pub async fn what_is_skipped_behind_one_range_of_a_rebuild_and_before_another_begins_nothing_again<
    S: Subject,
>(
    subject: S,
) {
    assert_eq!(left_out_behind_one_range_and_before_another(subject, false).await, (3, 1));
}

/// K12
pub async fn what_is_skipped_behind_a_rebuild_that_has_handled_it_stays_in_it<S: Subject>(subject: S) {
    const REBUILT: &str = "skipping/1~2";
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let wiring = || App::on(line.clone()).view::<Skipping>().processor_retries(1, SHORT, SHORT);
    let app = start(wiring).await;
    world.pay("a", 1..=1).await;
    settle(&app).await;
    let rebuild = ask(|| skipping(&app).rebuild_online(RebuildOptions::default())).await;
    complete(&rebuild).await;
    // What queries read is held in the middle of an event that the rebuild handles, and that fails after that.
    line.set(Line::HoldsRow("skipping/1~1", "b"));
    poison.mend();
    world.put("b", vec![poison.payment(1, "fails")]).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    let handled = async |account: &str| match world.tally_of(REBUILT, account).await {
        Some(tally) if tally.n == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually(async || handled("b").await).await;
    poison.relapse();
    line.set(Line::Up);
    settle(&app).await;
    assert_eq!(ask(|| skipping(&app).skipped()).await.len(), 1);
    assert!(app.shutdown(LIMIT).await);
    // Whoever goes on with the rebuild looks at first what was left out meanwhile.
    let app = start(wiring).await;
    world.pay("c", 1..=1).await;
    eventually(async || handled("c").await).await;
    assert_eq!(handled("b").await, Ok(()));
    let rebuild = ask(|| skipping(&app).rebuilding()).await.expect("it goes on");
    complete(&rebuild).await;
    ask(|| rebuild.switch()).await;
    assert_eq!(world.tally_of("skipping/1", "b").await.map(|tally| tally.n), Some(1));
}

const SHORT: Duration = Duration::from_millis(1);

/// A projection that fails, of a program that handles payments; without `PAYMENTS`, one that handles openings.
#[derive(Debug)]
struct Failing<S, const PAYMENTS: bool>(PhantomData<fn() -> S>);

impl<S: Subject, const PAYMENTS: bool> Projection for Failing<S, PAYMENTS> {
    const NAME: &'static str = "failing";
    const SCHEMA: &'static str = S::PAID;
    const PARTITION: Partition = Partition::Stream;
    fn filter() -> EventFilter {
        if PAYMENTS { EventFilter::of::<Deposited>() } else { EventFilter::of::<Opened>() }
    }
}

impl<S: Subject, const PAYMENTS: bool> Project<<S::Backend as Backend>::Tx> for Failing<S, PAYMENTS> {
    async fn project(&self, _: &RecordedEvent, _: &mut <S::Backend as Backend>::Tx) -> Result<(), BoxError> {
        Err("it fails".into())
    }
}

/// K12
pub async fn what_was_discarded_and_is_not_handled_any_more_is_in_the_way_of_no_rebuild<S: Subject>(
    subject: S,
) {
    let world = World::<S>::new(&subject).await;
    let options = ProcessorOptions::default().backfill(Backfill::Skip).retries(0, SHORT, SHORT);
    let wiring = || App::on(world.store.0.clone()).processors(options);
    let old = start(|| wiring().projection(Failing::<S, true>(PhantomData))).await;
    world.pay("a", 1..=1).await;
    settle(&old).await;
    discard(&old.processors()[0], "account-a", "booked twice").await;
    assert!(old.shutdown(LIMIT).await);
    let new = start(|| wiring().projection(Failing::<S, false>(PhantomData))).await;
    settle(&new).await;
    let processor = &new.processors()[0];
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    assert_eq!(ask(|| processor.skipped()).await.len(), 1, "it is known if it is handled again");
}
