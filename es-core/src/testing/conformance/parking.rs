//! Events that fail: parked, retried, discarded, skipped, stopped at. K1 to K10, K13, K14, P2, P13.

use std::time::Duration;

use super::cluster::overwrite;
use super::domain::{Account, Donate};
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    KINDS, Kind, Ledger, Payments, Poison, Skipping, Stopping, World, answered, discard, eventually, garbage,
    parked, parked_keys, payment, payment_of_both, retry, until,
};
use super::readside::Welcome;
use super::{LIMIT, Subject, sent, settle, start};
use crate::App;
use crate::ErrorKind;
use crate::processor::{
    ParkedFilter, ParkingLimits, Processor, ProcessorError, ProcessorOptions, ProcessorState, RebuildOptions,
    WaitError,
};
use crate::store::{Commit, Position, RowWrite};

/// K1
pub async fn a_failing_key_is_parked_with_what_comes_after_and_others_go_on<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.pay("a", 1..=2).await;
    world.put("a", vec![poison.payment(3, "fails"), payment(4)]).await;
    world.pay("b", 1..=5).await;
    world.pay("a", 5..=6).await;
    settle(&app).await;
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("a"), 4)], "{kind:?}");
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (3, 15), "{kind:?}");
        until(kind.of(&app), |status| status.state == ProcessorState::Running && status.parked == 1).await;
    }
}

/// K2
pub async fn a_retry_handles_the_sequence_in_order_and_empties_it<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3), payment(4)]).await;
    settle(&app).await;
    for kind in KINDS {
        let left = retry(kind.of(&app), &kind.key("a")).await.expect("it is not mended");
        assert_eq!((left.events, left.position), (3, Position(2)));
        assert_eq!(world.sum(kind, "a").await, 1);
    }
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
        assert_eq!(parked_keys(kind.of(&app)).await, []);
    }
    world.pay("a", 5..=6).await;
    settle(&app).await;
    world.assert_complete("a", 6).await;
    for kind in KINDS {
        until(kind.of(&app), |status| status.parked == 0).await;
    }
}

/// K2
pub async fn a_failure_in_the_middle_of_a_retry_keeps_the_rest_in_order<S: Subject>(subject: S) {
    let (world, first, second) = (World::new(&subject).await, Poison::new(), Poison::new());
    let app = world.start().await;
    let events = vec![first.payment(1, "fails"), payment(2), second.payment(3, "fails"), payment(4)];
    world.put("a", events).await;
    settle(&app).await;
    first.mend();
    for kind in KINDS {
        let left = retry(kind.of(&app), &kind.key("a")).await.expect("the second one fails");
        assert_eq!((left.events, left.position), (2, Position(3)), "{kind:?}");
        let events = ask(|| kind.of(&app).parked_events(&left.key, Position(0), 10)).await;
        assert_eq!(super::data::places(&events), [3, 4]);
        assert_eq!(world.sum(kind, "a").await, 3);
    }
    world.pay("a", 5..=5).await;
    settle(&app).await;
    second.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
    }
    world.assert_complete("a", 5).await;
}

/// K3
pub async fn events_that_arrive_during_a_retry_are_handled_once_and_after_it<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=30).await;
    settle(&app).await;
    poison.mend();
    let more = async {
        for n in 31..=60 {
            world.put("a", vec![payment(n)]).await;
        }
    };
    let (view, table) = (Kind::View.of(&app), Kind::Table.of(&app));
    let (keys, retries) = ((Kind::View.key("a"), Kind::Table.key("a")), async |processor, key: String| {
        assert_eq!(retry(processor, &key).await, None);
    });
    futures::join!(more, retries(view, keys.0), retries(table, keys.1));
    settle(&app).await;
    world.assert_complete("a", 60).await;
}

/// K4
pub async fn of_two_retries_at_once_one_works_and_the_other_says_so<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=20).await;
    settle(&app).await;
    poison.mend();
    for kind in KINDS {
        let (processor, key) = (kind.of(&app), kind.key("a"));
        let outcomes = futures::future::join_all((0..3).map(|_| processor.retry(&key, LIMIT))).await;
        for outcome in outcomes {
            match outcome {
                Ok(left) => assert_eq!(left, None),
                Err(ProcessorError::Asked { .. } | ProcessorError::NotParked { .. }) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            }
        }
        drop(retry(processor, &key).await);
        assert_eq!(parked_keys(processor).await, []);
    }
    world.assert_complete("a", 20).await;
    let error = Kind::View.of(&app).retry("a", LIMIT).await.expect_err("there is nothing to retry");
    let gone = matches!(error, ProcessorError::NotParked { .. });
    assert!(gone || error.kind() == ErrorKind::Transient, "{error}");
}

/// K5
pub async fn what_is_parked_can_be_read_and_long_errors_are_cut<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![payment(1), poison.payment(2, "long")]).await;
    world.put("b", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    for kind in KINDS {
        let sequences = parked(kind.of(&app)).await;
        let keys: Vec<_> = sequences.iter().map(|sequence| sequence.key.clone()).collect();
        assert_eq!(keys, [kind.key("a"), kind.key("b")]);
        let long = &sequences[0];
        assert_eq!((long.position, &*long.event, long.events), (Position(2), "account.deposited", 1));
        assert!(
            long.error.starts_with("poisoned\0 ää") && long.error.chars().count() < 2_100,
            "{}",
            long.error
        );
        assert!(long.attempts >= 3 && long.first_at <= long.last_at, "{long:?}");
        assert_eq!(sequences[1].error, "poisoned");
        let page = ask(|| kind.of(&app).parked(Some(&long.key), 1)).await;
        assert_eq!(page, sequences[1..]);
        let left = retry(kind.of(&app), &long.key).await.expect("it fails again");
        assert!(left.attempts > long.attempts && left.last_at >= long.last_at, "{left:?}");
        assert_eq!(left.first_at, long.first_at);
    }
}

/// K6
pub async fn a_processor_stops_when_no_more_sequences_fit_and_drops_nothing<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0).parking(ParkingLimits::new(2, 1_000))).await;
    for account in ["a", "b", "c"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    world.pay("d", 1..=3).await;
    for kind in KINDS {
        let full = |state: &ProcessorState| matches!(state, ProcessorState::Halted { error, .. } if error.contains("2 sequences are parked"));
        let processor = kind.of(&app);
        until(processor, |status| full(&status.state)).await;
        assert!(!app.health().await.is_healthy());
        assert_eq!(parked_keys(processor).await, [(kind.key("a"), 2), (kind.key("b"), 2)]);
        assert_eq!(world.sum(kind, "d").await, 0, "it stands still");
        // What fits no more is not made to fit: but a sequence can be emptied while it stands still.
        discard(processor, &kind.key("a"), "it was a test").await;
        assert!(full(&processor.status().state), "until somebody says so");
        ask(|| processor.resume()).await;
        processor.reach(Position(9), LIMIT).await.expect("it goes on");
        assert_eq!(parked_keys(processor).await, [(kind.key("b"), 2), (kind.key("c"), 2)]);
        assert_eq!(world.sum(kind, "d").await, 6);
    }
    poison.mend();
    for kind in KINDS {
        for account in ["b", "c"] {
            assert_eq!(retry(kind.of(&app), &kind.key(account)).await, None);
            assert_eq!(world.sum(kind, account).await, 3);
        }
    }
}

/// K6
pub async fn what_fits_is_parked_also_where_other_events_lie_between<S: Subject>(subject: S) {
    let short = Duration::from_millis(1);
    // What fails is certain at once; or after some that were tried again in vain.
    for (retries, before) in [(0, 0), (1, 10)] {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        let options = ProcessorOptions::default().retries(retries, short, short);
        let options = options.parking(ParkingLimits::new(before + 2, 1_000));
        let mut right = Vec::new();
        for i in 0..before {
            world.put(&format!("0{i}"), vec![poison.payment(1, "fails")]).await;
            right.push((format!("0{i}"), 1));
        }
        for account in ["a", "b", "c"] {
            let opened = super::data::encoded(&super::domain::opened("ada"));
            world.put(account, vec![opened, poison.payment(1, "fails"), payment(2)]).await;
        }
        right.extend([("a".to_owned(), 2), ("b".to_owned(), 2)]);
        let app =
            start(|| App::on(world.store.0.clone()).view::<Ledger>().processors(options).workers(1)).await;
        let processor = Kind::View.of(&app);
        let full = |state: &ProcessorState| matches!(state, ProcessorState::Halted { error, .. } if error.contains("sequences are parked, and no more fit"));
        // What was decided and is not stored is not counted.
        until(processor, |status| full(&status.state) && status.parked == right.len()).await;
        assert_eq!(parked_keys(processor).await, right);
        poison.mend();
        assert_eq!(retry(processor, "a").await, None);
        ask(|| processor.resume()).await;
        settle(&app).await;
        for account in ["a", "c"] {
            assert_eq!(world.sum(Kind::View, account).await, 3);
        }
    }
}

/// K6
pub async fn a_processor_stops_when_a_sequence_is_full_and_drops_nothing<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0).parking(ParkingLimits::new(10, 3))).await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=7).await;
    world.pay("b", 1..=3).await;
    let full = |state: &ProcessorState| matches!(state, ProcessorState::Halted { error, .. } if error.contains(r#"are parked, and no more fit"#));
    for kind in KINDS {
        until(kind.of(&app), |status| full(&status.state)).await;
        assert!(parked_keys(kind.of(&app)).await.iter().all(|(_, n)| *n <= 3));
    }
    poison.mend();
    for kind in KINDS {
        let processor = kind.of(&app);
        // Whatever was parked before it was full goes first.
        drop(retry(processor, &kind.key("a")).await);
        ask(|| processor.resume()).await;
        processor.reach(Position(10), LIMIT).await.expect("it goes on");
    }
    world.assert_complete("a", 7).await;
    world.assert_complete("b", 3).await;
}

/// K7
pub async fn a_discarded_sequence_needs_a_reason_and_is_recorded<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    settle(&app).await;
    for kind in KINDS {
        let (processor, key) = (kind.of(&app), kind.key("a"));
        for reason in ["", " \t"] {
            let error = processor.discard(&key, reason, LIMIT).await.expect_err("without a reason");
            assert_eq!(error.kind(), ErrorKind::Misuse);
        }
        assert_eq!(parked_keys(processor).await, [(key.clone(), 2)]);
        discard(processor, &key, "a typing error").await;
        assert_eq!(parked_keys(processor).await, []);
        let skipped = ask(|| processor.skipped()).await;
        let told: Vec<_> = skipped.iter().map(|skip| (skip.position.0, &*skip.key, &*skip.reason)).collect();
        assert_eq!(told, [(2, &*key, "a typing error"), (3, &*key, "a typing error")]);
    }
    world.pay("a", 4..=4).await;
    settle(&app).await;
    for kind in KINDS {
        assert_eq!(world.sum(kind, "a").await, 5, "its key goes on");
    }
}

/// K12
pub async fn what_was_discarded_stays_left_out_of_rebuilds<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    settle(&app).await;
    for kind in KINDS {
        discard(kind.of(&app), &kind.key("a"), "booked twice").await;
    }
    poison.mend();
    let keys = ["a".to_owned()];
    answered(|| Kind::View.of(&app).rebuild_keys(&keys, LIMIT)).await.expect("it is a view");
    assert_eq!(world.sum(Kind::View, "a").await, 1);
    let once_more = RebuildOptions::default();
    for (options, right) in [(once_more, 1), (once_more.repeat_skips(), 6)] {
        for kind in KINDS {
            let rebuild = ask(|| kind.of(&app).rebuild_online(options)).await;
            ask(|| rebuild.caught_up(LIMIT)).await;
            ask(|| rebuild.switch()).await;
            settle(&app).await;
            assert_eq!(world.sum(kind, "a").await, right, "{kind:?}");
            ask(|| kind.of(&app).drop_previous()).await;
        }
    }
}

/// K8
pub async fn a_sequence_of_thousands_of_events_is_kept_and_retried_whole<S: Subject>(subject: S) {
    const N: i64 = 3_000;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=N).await;
    world.put("b", vec![poison.payment(1, "fails")]).await;
    world.pay("b", 2..=N).await;
    let app = world.start().await;
    settle(&app).await;
    for kind in KINDS {
        let n = N.unsigned_abs();
        assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("a"), n), (kind.key("b"), n)]);
        discard(kind.of(&app), &kind.key("b"), "too many").await;
        assert_eq!(ask(|| kind.of(&app).skipped()).await.len() as u64, n);
        let key = kind.key("a");
        let page = ask(|| kind.of(&app).parked_events(&key, Position(2_990), 100)).await;
        assert_eq!(super::data::places(&page), (2_991..=3_000).collect::<Vec<_>>());
    }
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
    }
    world.assert_complete("a", N).await;
}

/// K8
pub async fn a_retry_of_thousands_of_events_is_asked_for_in_few_reads<S: Subject>(subject: S) {
    const N: i64 = 6_000;
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=N).await;
    let brief = Duration::from_millis(1);
    let app = start(|| App::on(line.clone()).view::<Ledger>().processor_retries(0, brief, brief)).await;
    settle(&app).await;
    let read = || line.scanned_of("ledger/1~1/parked/events").0;
    let before = read();
    assert!(retry(&app.processors()[0], "a").await.is_some(), "it fails again");
    let read = read() - before;
    // A question that the store did not answer is asked again.
    assert!(read < 4_000, "{read} rows");
}

/// K8
pub async fn thousands_of_parked_events_are_listed_in_a_few_reads<S: Subject>(subject: S) {
    const N: i64 = 2_000;
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    world.put("a", vec![poison.payment(1, "fails")]).await;
    world.pay("a", 2..=N).await;
    world.pay("b", 1..=1).await;
    world.pay("a", N + 1..=N + 1).await;
    let app = world.start().await;
    settle(&app).await;
    let line = Double::new(world.store.0.clone());
    let looking = start(|| App::on(line.clone()).view::<Ledger>().looks_on()).await;
    let before = line.calls();
    let events = ask(|| Kind::View.of(&looking).parked_events("a", Position(1), 3_000)).await;
    let calls = line.calls() - before;
    let right: Vec<u64> = (2..=N.unsigned_abs()).chain([N.unsigned_abs() + 2]).collect();
    assert_eq!(super::data::places(&events), right);
    assert!(calls < 500, "{calls} calls");
}

/// K9
pub async fn a_statement_that_fails_in_a_handler_is_a_failure_like_any_other<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| {
        let retries = (Duration::from_millis(1), Duration::from_millis(5));
        let app = App::on(world.store.0.clone()).projection(Payments::<S>::default());
        app.processor_retries(2, retries.0, retries.1)
    })
    .await;
    world.put("a", vec![payment(1), poison.payment(2, "statement"), payment(3)]).await;
    world.pay("b", 1..=3).await;
    settle(&app).await;
    let processor = Kind::Table.of(&app);
    assert_eq!(parked_keys(processor).await, [("account-a".to_owned(), 2)]);
    assert_eq!((world.sum(Kind::Table, "a").await, world.sum(Kind::Table, "b").await), (1, 6));
    assert!(retry(processor, "account-a").await.is_some());
    poison.mend();
    assert_eq!(retry(processor, "account-a").await, None);
    assert_eq!(world.sum(Kind::Table, "a").await, 6);
}

/// K10
pub async fn payloads_that_cannot_be_decoded_are_parked_with_their_bytes<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = world.start().await;
    world.put("a", vec![payment(1), garbage(), payment(2)]).await;
    world.pay("b", 1..=2).await;
    settle(&app).await;
    for kind in KINDS {
        let (processor, key) = (kind.of(&app), kind.key("a"));
        assert_eq!(parked_keys(processor).await, [(key.clone(), 2)], "{kind:?}");
        let events = ask(|| processor.parked_events(&key, Position(0), 1)).await;
        assert_eq!(&*events[0].data, br#"{"amount":"?"}"#);
        assert!(ask(|| processor.parked_events("nobody", Position(0), 1)).await.is_empty());
        assert!(retry(processor, &key).await.is_some_and(|left| left.events == 2));
        discard(processor, &key, "it cannot be read").await;
        assert_eq!((world.sum(kind, "a").await, world.sum(kind, "b").await), (1, 3));
    }
}

/// K1, K10
pub async fn what_cannot_be_decoded_is_parked_behind_what_fails_before_it<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    world.put("a", vec![poison.payment(1, "fails"), garbage()]).await;
    world.pay("b", 1..=2).await;
    let short = Duration::from_millis(1);
    let app = start(|| World::<S>::wiring(&world.store.0).processor_retries(0, short, short)).await;
    settle(&app).await;
    for kind in KINDS {
        let parked = parked(kind.of(&app)).await;
        let [only] = &*parked else { panic!("{kind:?}: {parked:?}") };
        assert_eq!((&*only.key, only.events, only.position), (&*kind.key("a"), 2, Position(1)), "{kind:?}");
        assert_eq!(world.sum(kind, "b").await, 3, "{kind:?}");
    }
    poison.mend();
    for kind in KINDS {
        let left = retry(kind.of(&app), &kind.key("a")).await.expect("it cannot be read");
        assert_eq!((left.events, left.position), (1, Position(2)), "{kind:?}");
        assert_eq!(world.sum(kind, "a").await, 1, "{kind:?}");
    }
}

/// K1
pub async fn an_event_of_two_keys_is_taken_in_once_by_the_one_that_does_not_fail<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0).workers(4)).await;
    world.put("a", vec![poison.payment(1, "half b"), payment(2)]).await;
    world.put("b", vec![payment(2)]).await;
    settle(&app).await;
    let processor = Kind::View.of(&app);
    assert_eq!(parked_keys(processor).await, [("b".to_owned(), 2)]);
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.sum, tally.disorder), (2, 3, 0));
    assert_eq!(world.tally("b").await, None);
    poison.mend();
    assert_eq!(retry(processor, "b").await, None);
    for account in ["a", "b"] {
        let tally = world.tally(account).await.expect("a row");
        assert_eq!((tally.n, tally.sum, tally.disorder), (2, 3, 0), "{account}");
    }
}

/// K1
pub async fn an_event_that_has_a_parked_key_twice_waits_once<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0)).await;
    world.put("a", vec![poison.payment(1, "fails"), payment_of_both(2, "a"), payment(3)]).await;
    settle(&app).await;
    assert_eq!(parked_keys(Kind::View.of(&app)).await, [("a".to_owned(), 3)]);
    poison.mend();
    assert_eq!(retry(Kind::View.of(&app), "a").await, None);
    let tally = world.tally("a").await.expect("a row");
    assert_eq!((tally.n, tally.sum, tally.last), (4, 8, 3));
}

/// K1, K10
pub async fn a_key_that_cannot_be_stored_parks_its_event_and_no_more<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let app = start(|| World::<S>::wiring(&world.store.0).workers(3)).await;
    world.put("a", vec![payment(1), payment_of_both(2, &"x".repeat(300))]).await;
    world.pay("b", 1..=3).await;
    settle(&app).await;
    let sequences = parked(Kind::View.of(&app)).await;
    assert_eq!((sequences.len(), &*sequences[0].key, sequences[0].events), (1, "a", 1));
    assert_eq!(world.sum(Kind::View, "b").await, 6);
}

/// K1
pub async fn a_poisoned_event_in_the_middle_of_a_long_page_takes_nothing_with_it<S: Subject>(subject: S) {
    for how in ["fails", "panics", "row"] {
        let (world, poison) = (World::new(&subject).await, Poison::new());
        world.pay("a", 1..=1_500).await;
        world.put("b", vec![payment(1), poison.payment(2, how), payment(3)]).await;
        world.pay("a", 1_501..=3_000).await;
        let app = world.start().await;
        settle(&app).await;
        world.assert_complete("a", 3_000).await;
        for kind in KINDS {
            assert_eq!(parked_keys(kind.of(&app)).await, [(kind.key("b"), 2)], "{how}, {kind:?}");
            assert_eq!(world.sum(kind, "b").await, 1, "{how}, {kind:?}");
            assert!(retry(kind.of(&app), &kind.key("b")).await.is_some_and(|left| left.events == 2), "{how}");
        }
        poison.mend();
        for kind in KINDS {
            assert_eq!(retry(kind.of(&app), &kind.key("b")).await, None, "{how}");
        }
        world.assert_complete("b", 3).await;
    }
}

/// K1
pub async fn a_row_that_cannot_be_written_parks_its_own_key<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0)).await;
    world.pay("b", 1..=1).await;
    world.put("a", vec![poison.payment(1, "row"), payment(2)]).await;
    world.pay("b", 2..=3).await;
    settle(&app).await;
    assert_eq!(parked_keys(Kind::View.of(&app)).await, [("a".to_owned(), 2)]);
    assert_eq!(world.sum(Kind::View, "b").await, 6);
    assert!(retry(Kind::View.of(&app), "a").await.is_some());
    poison.mend();
    assert_eq!(retry(Kind::View.of(&app), "a").await, None);
    assert_eq!(world.sum(Kind::View, "a").await, 3);
}

/// P2
pub async fn a_projection_can_skip_what_fails_for_good<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| {
        let app = App::on(world.store.0.clone()).view::<Skipping>().workers(2);
        app.processor_retries(1, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3), garbage()]).await;
    settle(&app).await;
    let processor = app.processor::<Skipping>().expect("it runs");
    let skipped = ask(|| processor.skipped()).await;
    let told: Vec<_> = skipped.iter().map(|skip| (skip.position.0, &*skip.key)).collect();
    assert_eq!(told, [(2, "a"), (4, "a")]);
    assert_eq!(skipped[0].reason, "poisoned");
    assert_eq!(parked_keys(processor).await, []);
    assert_eq!(world.tally_of("skipping/1", "a").await.expect("a row").sum, 4);
}

/// P2
pub async fn a_projection_can_stop_at_what_fails_until_it_is_resumed<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = start(|| World::<S>::wiring(&world.store.0).view::<Stopping>()).await;
    world.put("a", vec![payment(1), poison.payment(2, "fails"), payment(3)]).await;
    let processor = app.processor::<Stopping>().expect("it runs");
    let halted = |status: &crate::processor::ProcessorStatus| matches!(&status.state, ProcessorState::Halted { error, .. } if error.contains("poisoned"));
    until(processor, halted).await;
    assert_eq!(world.tally_of("stopping/1", "a").await.expect("a row").sum, 1, "what came before is kept");
    Kind::View.of(&app).reach(Position(3), LIMIT).await.expect("others go on");
    let status = processor.status();
    ask(|| processor.resume()).await;
    // It is tried again, and fails again: it shows a later stop.
    until(processor, |now| halted(now) && now.state != status.state).await;
    poison.mend();
    ask(|| processor.resume()).await;
    processor.reach(Position(3), LIMIT).await.expect("it goes on");
    let tally = world.tally_of("stopping/1", "a").await.expect("a row");
    assert_eq!((tally.sum, tally.n, tally.disorder), (6, 3, 0));
    assert_eq!(ask(|| processor.skipped()).await, []);
}

/// K1, P14
pub async fn what_is_parked_survives_a_restart_and_a_takeover<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let first = world.start().await;
    world.put("a", vec![payment(1), poison.payment(2, "fails")]).await;
    settle(&first).await;
    assert!(first.shutdown(LIMIT).await);
    world.pay("a", 3..=3).await;
    let cut = Double::new(subject.again(&world.store.0).await);
    let lease = Duration::from_millis(400);
    let second = start(|| World::<S>::wiring(&cut).lease(lease)).await;
    settle(&second).await;
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&second)).await, [(kind.key("a"), 2)]);
    }
    cut.set(Line::Down);
    world.pay("a", 4..=4).await;
    let third = start(|| World::<S>::wiring(&world.store.0).lease(lease).workers(2)).await;
    settle(&third).await;
    for kind in KINDS {
        assert_eq!(parked_keys(kind.of(&third)).await, [(kind.key("a"), 3)], "{kind:?}");
    }
    poison.mend();
    cut.set(Line::Up);
    for kind in KINDS {
        assert_eq!(retry(kind.of(&third), &kind.key("a")).await, None);
    }
    settle(&third).await;
    world.assert_complete("a", 4).await;
}

/// K2
pub async fn a_node_that_does_not_work_on_a_key_can_ask_for_its_retry<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let other = subject.again(&world.store.0).await;
    let first = world.start().await;
    let second = start(|| World::<S>::wiring(&other)).await;
    for account in ["a", "b", "c", "d"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    settle(&first).await;
    poison.mend();
    for (app, accounts) in [(&first, ["a", "b"]), (&second, ["c", "d"])] {
        for kind in KINDS {
            for account in accounts {
                assert_eq!(retry(kind.of(app), &kind.key(account)).await, None);
            }
        }
    }
    for account in ["a", "b", "c", "d"] {
        world.assert_complete(account, 2).await;
    }
}

/// P13
pub async fn waiting_for_a_parked_key_says_so_and_for_others_returns<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    let donate = |account: &'static str, amount| {
        let app = app.clone();
        async move { sent!(app.send(&account.to_owned(), Donate { amount })).expect("accepted") }
    };
    let (to_b, to_a) = (donate("b", 1).await, donate("a", 2).await);
    app.wait_for::<Ledger>(&to_b, LIMIT).await.expect("b is not parked");
    app.wait_for::<Payments<S>>(&to_b, LIMIT).await.expect("b is not parked");
    for error in [
        app.wait_for::<Ledger>(&to_a, LIMIT).await.expect_err("a is parked"),
        app.wait_for::<Payments<S>>(&to_a, LIMIT).await.expect_err("a is parked"),
    ] {
        let parked = matches!(&error, WaitError::Parked { error, .. } if error == "poisoned");
        assert!(parked, "{error}");
    }
    Kind::View.of(&app).reach(to_a.position, LIMIT).await.expect("a position is passed");
    assert_eq!(ask(|| app.store().head()).await, to_a.position);
    let loaded = sent_load(&app).await;
    assert_eq!(loaded, 3, "commands know nothing of it");
}

async fn sent_load(app: &App) -> i64 {
    loop {
        if let Ok(found) = app.load::<Account>(&"a".to_owned()).await {
            return found.expect("there").balance;
        }
    }
}

/// P13
pub async fn what_was_taken_in_before_its_key_was_parked_is_there<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    let before = sent!(app.send(&"a".to_owned(), Donate { amount: 1 })).expect("accepted");
    world.put("a", vec![poison.payment(2, "fails")]).await;
    settle(&app).await;
    app.wait_for::<Ledger>(&before, LIMIT).await.expect("it was taken in");
    app.wait_for::<Payments<S>>(&before, LIMIT).await.expect("it was taken in");
}

/// K1, K2
pub async fn a_reactor_parks_what_fails_and_acts_on_it_when_retried<S: Subject>(subject: S) {
    let world = World::new(&subject).await;
    let welcome = Welcome::default();
    let app = start(|| {
        let app = App::on(world.store.0.clone()).reactor(welcome.clone());
        app.processor_retries(2, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
    welcome.fail(u32::MAX);
    let open = |owner: &str| vec![super::data::encoded(&super::domain::opened(owner))];
    world.put("a", open("ada")).await;
    settle(&app).await;
    let processor = &app.processors()[0];
    assert_eq!(parked_keys(processor).await, [("account-a".to_owned(), 1)]);
    welcome.fail(0);
    world.put("b", open("bob")).await;
    settle(&app).await;
    assert_eq!(retry(processor, "account-a").await, None);
    let mut welcomed = welcome.welcomed();
    welcomed.dedup();
    assert_eq!(welcomed, ["bob", "ada"]);
}

/// P2
pub async fn a_resume_that_comes_while_a_halted_worker_looks_is_not_lost<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let app = start(|| {
        let app = App::on(line.clone()).view::<Stopping>().lease(Duration::from_millis(400));
        app.processor_retries(1, Duration::from_millis(1), Duration::from_millis(5))
    })
    .await;
    world.put("a", vec![poison.payment(1, "fails")]).await;
    let processor = app.processor::<Stopping>().expect("it runs");
    until(processor, |status| matches!(status.state, ProcessorState::Halted { .. })).await;
    // It looks again at what is stored, to do what operators ask for while it stands still.
    line.set(Line::HoldsLookups("checkpoints"));
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("it does not look".to_owned()) }).await;
    poison.mend();
    ask(|| processor.resume()).await;
    // The node has heard of it before the worker goes on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    line.set(Line::Up);
    processor.reach(Position(1), LIMIT).await.expect("it goes on");
    assert_eq!(world.tally_of("stopping/1", "a").await.expect("a row").n, 1);
}

/// K13
pub async fn a_request_is_found_by_an_owner_that_hears_nothing<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let owner = Double::deaf(world.store.0.clone());
    let asker = Double::new(subject.again(&world.store.0).await);
    let lease = Duration::from_secs(2);
    let first = start(|| World::<S>::wiring(&owner).lease(lease)).await;
    let second = start(|| World::<S>::wiring(&asker).lease(lease).looks_on()).await;
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    settle(&first).await;
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&second), &kind.key("a")).await, None);
        let requests = asker.commits(&format!("{}~1/requests", kind.name()));
        assert!(!requests.is_empty());
        assert!(
            requests.iter().all(|tables| tables.contains("asked")),
            "counted in its commit: {requests:?}"
        );
    }
    // It stands while nobody can do it, and is done without being asked for again.
    owner.set(Line::Down);
    for kind in KINDS {
        stands(kind.of(&second), &kind.key("b")).await;
    }
    owner.set(Line::Up);
    for kind in KINDS {
        eventually(async || match parked_keys(kind.of(&second)).await {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        })
        .await;
    }
    for account in ["a", "b"] {
        world.assert_complete(account, 2).await;
    }
}

/// Asks for a retry that nobody can do now, until it stands.
async fn stands(processor: &Processor, key: &str) {
    loop {
        match processor.retry(key, Duration::from_millis(50)).await {
            Err(ProcessorError::Asked { .. }) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            Ok(left) => panic!("nobody can have done it: {left:?}"),
        }
    }
}

/// K13
pub async fn a_request_that_cannot_be_read_stops_nothing_but_itself<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    settle(&app).await;
    poison.mend();
    overwrite::<S>(&world.store, "ledger/1~1/requests", "a", b"\"of a newer version\"").await;
    overwrite::<S>(&world.store, "ledger/1~1/afresh", "c", b"\"of a newer version\"").await;
    let processor = Kind::View.of(&app);
    stands(processor, "a").await;
    assert_eq!(retry(processor, "b").await, None);
    world.pay("d", 1..=2).await;
    settle(&app).await;
    let keys = ["d".to_owned()];
    ask(|| processor.rebuild_keys(&keys, LIMIT)).await;
    assert_eq!(retry(Kind::Table.of(&app), "account-a").await, None);
    assert_eq!(retry(Kind::Table.of(&app), "account-b").await, None);
    for account in ["b", "d"] {
        world.assert_complete(account, 2).await;
    }
    assert_eq!(parked_keys(processor).await, [("a".to_owned(), 2)]);
    // Whoever takes it away can ask anew.
    let unreadable = world.store.row("ledger/1~1/requests", "a").await.expect("nobody has touched it");
    let table = "ledger/1~1/requests".into();
    let gone = RowWrite { table, key: unreadable.key, rev: unreadable.rev, row: None };
    world
        .store
        .commit(super::patient::marked(Commit { rows: vec![gone], ..Commit::default() }))
        .await
        .expect("at its revision");
    assert_eq!(retry(processor, "a").await, None);
    world.assert_complete("a", 2).await;
}

/// K13
pub async fn a_parked_sequence_that_cannot_be_read_hides_no_other<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    settle(&app).await;
    let processor = Kind::View.of(&app);
    let readable = overwrite::<S>(&world.store, "ledger/1~1/parked", "a", b"\"of a newer version\"").await;
    // Of one that is damaged there is its key, and that.
    assert_eq!(parked_keys(processor).await, [("a".to_owned(), 0), ("b".to_owned(), 2)]);
    let damaged = ask(|| processor.parked(None, 1)).await;
    assert!(damaged[0].error.contains("its row cannot be read"), "{damaged:?}");
    poison.mend();
    // Its owner may have to read all of them anew: so it is damaged only until the others are asked for.
    let all = ParkedFilter::all();
    let mend = async {
        eventually(|| async {
            let asked = world.store.row("ledger/1~1/requests", "b").await.is_some();
            let done = world.store.row("ledger/1~1/parked", "b").await.is_none();
            if asked || done { Ok(()) } else { Err("it is not asked for".to_owned()) }
        })
        .await;
        overwrite::<S>(&world.store, "ledger/1~1/parked", "a", &readable).await;
    };
    let (left, ()) = futures::join!(ask(|| processor.retry_all(&all, LIMIT)), mend);
    assert!(left.failed.iter().all(|sequence| sequence.key == "a"), "{left:?}");
    assert_eq!(world.sum(Kind::View, "b").await, 3);
    assert_eq!(ask(|| processor.retry_all(&all, LIMIT)).await.failed, []);
    assert_eq!(ask(|| Kind::Table.of(&app).retry_all(&all, LIMIT)).await.failed, []);
    for account in ["a", "b"] {
        world.assert_complete(account, 2).await;
    }
}

/// K13
pub async fn a_parked_sequence_that_cannot_be_read_can_be_discarded<S: Subject>(subject: S) {
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let app = world.start().await;
    for account in ["a", "b"] {
        world.put(account, vec![poison.payment(1, "fails"), payment(2)]).await;
    }
    settle(&app).await;
    let processor = Kind::View.of(&app);
    overwrite::<S>(&world.store, "ledger/1~1/parked", "a", b"\"damaged\"").await;
    ask(|| processor.discard("a", "nobody can read it", LIMIT)).await;
    assert_eq!(parked_keys(processor).await, [("b".to_owned(), 2)]);
    let skipped = ask(|| processor.skipped()).await;
    assert_eq!(skipped.iter().map(|one| &*one.key).collect::<Vec<_>>(), ["a", "a"]);
    assert_eq!(world.store.row("ledger/1~1/requests", "a").await, None);
    // Its range goes on.
    poison.mend();
    assert_eq!(retry(processor, "b").await, None);
    assert_eq!(world.sum(Kind::View, "b").await, 3);
}

/// K14
pub async fn a_thousand_requests_are_written_in_a_few_commits<S: Subject>(subject: S) {
    const N: usize = 1_200;
    let (world, poison) = (World::new(&subject).await, Poison::new());
    let asker = Double::new(subject.again(&world.store.0).await);
    let options = ProcessorOptions::default().retries(0, Duration::from_millis(1), Duration::from_millis(1));
    let options = options.parking(ParkingLimits::new(N, 10));
    let wiring = || App::on(world.store.0.clone()).view::<Ledger>().processors(options);
    let (failing, others): (Vec<String>, Vec<String>) =
        (0..N).map(|i| format!("{i:04}")).partition(|account| account.ends_with("00"));
    for account in &failing {
        world.put(account, vec![poison.payment(1, "fails")]).await;
    }
    let app = start(wiring).await;
    settle(&app).await;
    assert!(app.shutdown(LIMIT).await);
    // All the others like the first one. None of their events is there, so that they can be emptied.
    let like = world.store.row("ledger/1~1/parked", &failing[0]).await.expect("it is parked");
    let copy =
        |key| RowWrite { table: "ledger/1~1/parked".into(), key, rev: 0, row: Some(like.data.clone()) };
    let rows = others.into_iter().map(copy).collect();
    let copies = super::patient::marked(Commit { rows, ..Commit::default() });
    world.store.commit(copies).await.expect("nobody else writes them");
    let _app = start(wiring).await;
    let looking = start(|| App::on(asker.clone()).view::<Ledger>().processors(options).looks_on()).await;
    let processor = looking.processor::<Ledger>().expect("it looks on");
    assert_eq!(parked(processor).await.len(), N);
    let mut tries = 0;
    let left = loop {
        tries += 1;
        match processor.retry_all(&ParkedFilter::all(), LIMIT).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            Ok(retried) => break retried.failed,
        }
    };
    let commits = asker.commits("ledger/1~1/requests").len();
    assert!(commits <= 4 * tries, "{commits} commits in {tries} tries");
    let left: Vec<String> = left.into_iter().map(|sequence| sequence.key).collect();
    assert_eq!(left, failing);
    assert_eq!(parked(processor).await.len(), failing.len());
}
