//! The rest of the kit: clock, randomness, recorder, and the simulated store itself.

use std::sync::Arc;
use std::time::Duration;

use es_core::clock::Clock;
use es_core::entropy::Entropy;
use es_core::memory::MemoryBackend;
use es_core::store::{
    Append, Attempt, Commit, CommitError, EventStore, ExpectedVersion, NewEvent, Resolution, StreamId,
};
use es_core::testing::conformance::domain::{Account, Deposit, Open, Withdraw, opened};
use es_core::testing::{Counts, Faults, Outcome, Recorder, SeededEntropy, SimStore, TestClock, epoch};
use es_core::{App, ErrorKind, Event};

#[test]
fn a_test_clock_stands_still_until_it_is_told() {
    let clock = TestClock::default();
    let same = clock.clone();
    assert_eq!(clock.now(), epoch());
    clock.advance(Duration::from_micros(1_500));
    assert_eq!(same.now().duration_since(epoch()).as_micros(), 1_500);
    same.set(epoch());
    assert_eq!(clock.now(), epoch());
    same.set("2030-01-01T00:00:00.123456789Z".parse().unwrap());
    assert_eq!(clock.now().to_string(), "2030-01-01T00:00:00.123456Z", "whole microseconds");
}

#[test]
fn seeded_entropy_repeats_itself() {
    let (one, same, other) = (SeededEntropy::new(7), SeededEntropy::new(7), SeededEntropy::new(8));
    let bits: Vec<_> = (0..10).map(|_| one.bits()).collect();
    assert_eq!(bits, (0..10).map(|_| same.bits()).collect::<Vec<_>>());
    assert_ne!(bits[0], other.bits());
}

#[tokio::test]
async fn a_recorder_keeps_every_command_with_its_outcome() {
    let recorder = Recorder::new();
    let app = App::on(MemoryBackend::new()).interceptor(recorder.clone()).start().await.unwrap();
    let id = "a".to_owned();
    app.send(&id, Open { owner: "ada".to_owned() }).await.unwrap();
    app.send(&id, Withdraw { amount: 1 }).await.unwrap_err();
    app.send(&"b".to_owned(), Deposit { amount: 1 }).await.unwrap_err();
    let sent = recorder.take();
    let seen: Vec<_> =
        sent.iter().map(|s| (s.command, s.stream.as_str(), s.outcome, &s.events[..])).collect();
    assert_eq!(
        seen,
        [
            ("open", "account-a", Outcome::Done, &["account.opened"][..]),
            ("withdraw", "account-a", Outcome::Failed(ErrorKind::Refused), &[]),
            ("deposit", "account-b", Outcome::Failed(ErrorKind::Refused), &[]),
        ]
    );
    assert!(recorder.sent().is_empty());
}

fn open(stream: &str) -> Commit {
    let data = opened("ada").encode().unwrap();
    let event = NewEvent::new(es_core::id::Ids::default().next(), data, Arc::default());
    let append = Append {
        stream: StreamId::new(stream).unwrap(),
        expected: ExpectedVersion::NoStream,
        events: vec![event],
    };
    Commit { appends: vec![append], ..Commit::default() }
}

/// A store whose every commit has this fate.
fn always(change: impl FnOnce(&mut Faults)) -> SimStore {
    let mut faults = Faults::none();
    change(&mut faults);
    SimStore::new(1).with_faults(faults)
}

async fn unknown(sim: &SimStore, commit: Commit) -> Attempt {
    match sim.commit(commit).await {
        Err(CommitError::Unknown(attempt)) => *attempt,
        other => panic!("{other:?}"),
    }
}

/// E16
#[tokio::test(start_paused = true)]
async fn an_attempt_whose_answer_was_lost_is_found_applied() {
    let sim = always(|f| f.answer_lost = 1.0);
    let attempt = unknown(&sim, open("a")).await;
    for _ in 0..3 {
        assert!(matches!(sim.resolve(&attempt).await.unwrap(), Resolution::Applied(c) if c.position.0 == 1));
    }
    assert_eq!(sim.head().await.unwrap().0, 1);
}

/// E16
#[tokio::test(start_paused = true)]
async fn an_attempt_whose_request_was_lost_is_never_applied() {
    let sim = always(|f| f.request_lost = 1.0);
    let attempt = unknown(&sim, open("a")).await;
    for _ in 0..3 {
        assert_eq!(sim.resolve(&attempt).await.unwrap(), Resolution::Never);
    }
    assert_eq!(sim.head().await.unwrap().0, 0);
}

/// E16
#[tokio::test(start_paused = true)]
async fn a_late_attempt_that_was_resolved_stays_never() {
    let sim = always(|f| {
        f.applied_late = 1.0;
        f.late = Duration::from_secs(60);
    });
    let attempt = unknown(&sim, open("a")).await;
    assert_eq!(sim.resolve(&attempt).await.unwrap(), Resolution::Never);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(sim.resolve(&attempt).await.unwrap(), Resolution::Never);
    assert_eq!((sim.head().await.unwrap().0, sim.counts().fenced), (0, 1), "it came, and found the fence");
}

/// E16
#[tokio::test(start_paused = true)]
async fn a_late_attempt_that_nobody_resolved_is_applied_and_found() {
    let sim = always(|f| f.applied_late = 1.0);
    let attempt = unknown(&sim, open("a")).await;
    assert_eq!(sim.head().await.unwrap().0, 0);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(sim.head().await.unwrap().0, 1);
    assert!(matches!(sim.resolve(&attempt).await.unwrap(), Resolution::Applied(_)));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_failed_or_was_refused_left_nothing() {
    let sim = always(|f| f.commit_fails = 1.0);
    assert_eq!(sim.commit(open("a")).await.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(sim.head().await.unwrap().0, 0);
    let sim = always(|f| f.answer_lost = 1.0);
    unknown(&sim, open("a")).await;
    let refused = unknown(&sim, open("a")).await;
    assert_eq!(
        sim.resolve(&refused).await.unwrap(),
        Resolution::Never,
        "the rules refused it, and nobody heard"
    );
}

/// E12: a dropped commit is unknown, not failed.
#[tokio::test(start_paused = true)]
async fn a_dropped_commit_may_still_be_applied() {
    let mut outcomes = [0, 0];
    for seed in 0..20 {
        let sim = SimStore::new(seed).with_faults(Faults::none());
        let dropped = tokio::time::timeout(Duration::ZERO, sim.commit(open("a"))).await;
        assert!(dropped.is_err(), "every call takes its time");
        tokio::time::sleep(Duration::from_secs(1)).await;
        outcomes[usize::try_from(sim.head().await.unwrap().0).unwrap()] += 1;
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_healed_store_fails_no_more() {
    let sim = SimStore::new(3).with_faults(Faults::heavy());
    sim.heal();
    for i in 0..100 {
        sim.commit(open(&format!("s-{i}"))).await.unwrap();
        sim.head().await.unwrap();
    }
    assert_eq!((sim.counts().applied, sim.counts().unknown, sim.counts().failed_reads), (100, 0, 0));
}

/// C10, X5: whatever the store does to one command, its effect is there once.
#[tokio::test(start_paused = true)]
async fn a_command_survives_each_fault_alone() {
    let faults: [fn(&mut Faults); 5] = [
        |f| f.commit_fails = 0.5,
        |f| f.answer_lost = 0.5,
        |f| f.request_lost = 0.5,
        |f| f.applied_late = 0.5,
        |f| f.read_fails = 0.3,
    ];
    let mut counts = Counts::default();
    for (i, fault) in faults.into_iter().enumerate() {
        for seed in 0..10 {
            let mut faults = Faults::none();
            fault(&mut faults);
            let sim = SimStore::new(seed).with_faults(faults);
            let policy = es_core::command::RetryPolicy::default().with_attempts(100);
            let app = App::on(sim.clone()).retry(policy).start().await.unwrap();
            let id = "a".to_owned();
            app.send(&id, Open { owner: "ada".to_owned() }).await.unwrap();
            for _ in 0..5 {
                app.send(&id, Deposit { amount: 1 }).await.unwrap();
            }
            sim.heal();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let account = app.load::<Account>(&id).await.unwrap().unwrap();
            assert_eq!((account.balance, account.n_events), (5, 6), "fault {i}, seed {seed}");
            counts += sim.counts();
        }
    }
    assert!(counts.fenced > 0 && counts.resolved_applied > 0 && counts.resolved_never > 0, "{counts:?}");
}

/// E10: an outcome that cannot be read now is no reason to tell something else.
#[tokio::test(start_paused = true)]
async fn a_repeated_request_has_its_first_outcome_also_if_reads_fail() {
    for seed in 0..20 {
        let mut faults = Faults::none();
        faults.read_fails = 0.4;
        let sim = SimStore::new(seed).with_faults(faults);
        let policy = es_core::command::RetryPolicy::default().with_attempts(100);
        let app = App::on(sim).retry(policy).start().await.unwrap();
        let (id, open) = ("a".to_owned(), Open { owner: "ada".to_owned() });
        let first = app.send(&id, open.clone()).idempotency_key("k").await.unwrap();
        let again = app.send(&id, open).idempotency_key("k").await.unwrap();
        assert_eq!((again.repeated, again.position), (true, first.position), "seed {seed}");
    }
}
