//! What is random: delays and faults, drawn from the seed and counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How often things go wrong, as probabilities, and how long they take.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// A commit fails before it is applied.
    pub commit_fails: f64,
    /// A commit is applied, and its answer lost.
    pub answer_lost: f64,
    /// A commit is not applied, and nobody says so.
    pub request_lost: f64,
    /// A commit is applied some time after its caller gave up waiting.
    pub applied_late: f64,
    /// A read fails.
    pub read_fails: f64,
    /// A wake-up never comes.
    pub wake_lost: f64,
    /// A wake-up comes late.
    pub wake_late: f64,
    /// The longest a call takes.
    pub delay: Duration,
    /// The longest until a late commit or a late wake-up.
    pub late: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            commit_fails: 0.04,
            answer_lost: 0.05,
            request_lost: 0.03,
            applied_late: 0.04,
            read_fails: 0.03,
            wake_lost: 0.10,
            wake_late: 0.20,
            delay: Duration::from_millis(20),
            late: Duration::from_millis(100),
        }
    }
}

impl Faults {
    /// Nothing goes wrong; calls take their time.
    #[must_use]
    pub fn none() -> Self {
        let (delay, late) = (Duration::from_millis(20), Duration::from_millis(100));
        Self {
            commit_fails: 0.0,
            answer_lost: 0.0,
            request_lost: 0.0,
            applied_late: 0.0,
            read_fails: 0.0,
            wake_lost: 0.0,
            wake_late: 0.0,
            delay,
            late,
        }
    }

    /// Every commit is worse off than usual.
    #[must_use]
    pub fn heavy() -> Self {
        Self {
            commit_fails: 0.10,
            answer_lost: 0.12,
            request_lost: 0.10,
            applied_late: 0.12,
            ..Self::default()
        }
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Commits that were applied, however late.
    pub applied: u64,
    /// Commits that the rules refused.
    pub refused: u64,
    /// Commits that failed before they were applied.
    pub failed: u64,
    /// Commits with an unknown outcome.
    pub unknown: u64,
    /// Late commits that were applied.
    pub applied_late: u64,
    /// Late commits that found their attempt fenced.
    pub fenced: u64,
    /// Unknown attempts that were found applied.
    pub resolved_applied: u64,
    /// Unknown attempts that were found not applied, and fenced.
    pub resolved_never: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Wake-ups that never came.
    pub lost_wakes: u64,
    /// Wake-ups that came late.
    pub late_wakes: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.refused += other.refused;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.applied_late += other.applied_late;
        self.fenced += other.fenced;
        self.resolved_applied += other.resolved_applied;
        self.resolved_never += other.resolved_never;
        self.failed_reads += other.failed_reads;
        self.lost_wakes += other.lost_wakes;
        self.late_wakes += other.late_wakes;
    }
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Luck {
    Fine,
    Fails,
    AnswerLost,
    RequestLost,
    AppliedLate,
}

/// What becomes of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Now,
    Late,
    Lost,
}

#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    faults: Faults,
    counts: Counts,
}

impl Dice {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { seed, inner: Mutex::new(Inner { rng, faults, counts: Counts::default() }) }
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn load(&self, faults: Faults) {
        self.with(|inner| inner.faults = faults);
    }

    pub(super) fn counts(&self) -> Counts {
        self.with(|inner| inner.counts)
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Counts)) {
        self.with(|inner| what(&mut inner.counts));
    }

    pub(super) fn delay(&self) -> Duration {
        self.with(|Inner { rng, faults, .. }| faults.delay.mul_f64(rng.random()))
    }

    pub(super) fn late(&self) -> Duration {
        self.with(|Inner { rng, faults, .. }| faults.late.mul_f64(rng.random()))
    }

    pub(super) fn heads(&self) -> bool {
        self.with(|inner| inner.rng.random())
    }

    pub(super) fn read_fails(&self) -> bool {
        self.with(|inner| {
            let fails = inner.rng.random_bool(inner.faults.read_fails);
            inner.counts.failed_reads += u64::from(fails);
            fails
        })
    }

    pub(super) fn commit(&self) -> Luck {
        self.with(|Inner { rng, faults, .. }| {
            let mut roll: f64 = rng.random();
            for (chance, luck) in [
                (faults.commit_fails, Luck::Fails),
                (faults.answer_lost, Luck::AnswerLost),
                (faults.request_lost, Luck::RequestLost),
                (faults.applied_late, Luck::AppliedLate),
            ] {
                if roll < chance {
                    return luck;
                }
                roll -= chance;
            }
            Luck::Fine
        })
    }

    pub(super) fn wake(&self) -> Wake {
        self.with(|Inner { rng, faults, counts }| {
            let roll: f64 = rng.random();
            if roll < faults.wake_lost {
                counts.lost_wakes += 1;
                Wake::Lost
            } else if roll < faults.wake_lost + faults.wake_late {
                counts.late_wakes += 1;
                Wake::Late
            } else {
                Wake::Now
            }
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
