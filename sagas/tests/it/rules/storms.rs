//! Many transactions across databases at the same time, while calls fail, nodes are gone, and others recover: A25.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use es_core::store::{EventFilter, Position};
use es_core::testing::seed_from_env_or;
use es_core::{Backend as _, EventStore as _};
use futures::future::join_all;
use sagas::two_phase::TwoPhaseError;
use tokio::time::timeout;

use super::Subject;
use super::across::{Across, At, Fault, LIMIT, append, rows, write};

/// How many go on at the same time, and how many come after each other.
const AT_ONCE: u64 = 6;
const EACH: u64 = 20;

/// Numbers that look like chance: xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A transaction, as whoever committed it knows.
struct Known {
    databases: Vec<usize>,
    has_event: bool,
    /// Whether it is committed, as they were told; nothing, if they were gone by then.
    told: Option<bool>,
}

type All = BTreeMap<String, Known>;

/// A25
pub(super) async fn of_many_transactions_under_faults_each_is_whole<S: Subject>(subject: &S) {
    let across = Across::open(subject, 3).await;
    let (all, over) = (Mutex::new(All::new()), AtomicBool::new(false));
    let seed = seed_from_env_or(41);
    let commits = async {
        join_all((0..AT_ONCE).map(|n| one_after_the_other(&across, n, seed, &all))).await;
        over.store(true, Ordering::Relaxed);
    };
    let recoveries = async || {
        let another = across.another_node().await;
        while !over.load(Ordering::Relaxed) {
            // It may lose to others, or meet what they hold.
            drop(another.recover().await);
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, async { futures::join!(commits, recoveries(), recoveries()) })
        .await
        .expect("all come to an end");
    let another = across.another_node().await;
    let rests = async {
        loop {
            let found = another.recover().await.unwrap();
            let waits: u64 = found.in_doubt.values().map(|waiting| waiting.branches).sum();
            if found.failed.is_empty() && waits + found.committed + found.aborted + found.settled == 0 {
                break;
            }
        }
    };
    timeout(LIMIT, rests).await.expect("all of it is ended");
    across.is_at_rest().await;
    audit(&across, all.into_inner().unwrap()).await;
}

async fn one_after_the_other<S: Subject>(across: &Across<'_, S>, n: u64, seed: u64, all: &Mutex<All>) {
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9).wrapping_add(n + 1));
    for i in 0..EACH {
        let what = format!("{n}-{i}");
        let mut tx = across.two_phase.begin();
        // In one database alone, in two, or in three.
        let databases: Vec<_> = (0..3).filter(|_| chance.below(3) > 0).collect();
        for database in &databases {
            write(&mut tx, across.at(*database), &what).await;
        }
        // In a file there is one writer at a time: the others would wait for it.
        let has_event = !across.backend.has_one_writer() && chance.below(2) == 0;
        if has_event {
            append(&mut tx, &what).await;
        }
        if chance.below(3) == 0 {
            let calls = [At::Prepare, At::Alone, At::Commit, At::Abort, At::Outcome];
            let call = calls[usize::try_from(chance.below(5)).unwrap()];
            let fault = if chance.below(2) == 0 { Fault::Lost } else { Fault::Unheard };
            across.at(usize::try_from(chance.below(3)).unwrap()).will(call, fault);
        }
        // Some are gone before they have an answer.
        let patience = if chance.below(3) == 0 { Duration::from_millis(chance.below(12)) } else { LIMIT };
        let told = match timeout(patience, tx.commit()).await {
            Ok(Ok(_)) => Some(true),
            Ok(Err(TwoPhaseError::Aborted { .. })) => Some(false),
            Ok(Err(TwoPhaseError::Unknown(_))) | Err(_) => None,
            Ok(Err(error)) => panic!("{what}: {}", es_core::chain(&error)),
        };
        all.lock().unwrap().insert(what, Known { databases, has_event, told });
    }
}

/// Each is in all of its databases and in the store, or in none; and it is what was told.
async fn audit<S: Subject>(across: &Across<'_, S>, all: All) {
    let mut events: BTreeMap<String, usize> = BTreeMap::new();
    for event in across.backend.read(&EventFilter::all(), Position(0), 1_000).await.unwrap().events {
        *events.entry(event.stream.as_str().to_owned()).or_default() += 1;
    }
    let (mut committed, mut aborted, mut unheard) = (0, 0, 0);
    for (what, Known { databases, has_event, told }) in all {
        let mut have = Vec::new();
        for i in 0..3 {
            have.push(rows(across.pool(i), &what).await);
        }
        let appended = events.get(&format!("thing-{what}")).copied().unwrap_or_default();
        if databases.is_empty() && !has_event {
            continue;
        }
        let is_committed = appended + have.iter().sum::<usize>() > 0;
        let expected: Vec<_> = (0..3).map(|i| usize::from(is_committed && databases.contains(&i))).collect();
        assert_eq!(have, expected, "{what}: {told:?}");
        assert_eq!(appended, usize::from(is_committed && has_event), "{what}: {told:?}");
        assert!(told.is_none_or(|told| told == is_committed), "{what}: {told:?}, {is_committed}");
        committed += usize::from(is_committed);
        aborted += usize::from(!is_committed);
        unheard += usize::from(told.is_none());
    }
    // All of it has happened.
    assert!(committed > 10 && aborted > 3 && unheard > 3, "{committed} {aborted} {unheard}");
}
