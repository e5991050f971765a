//! What a node counts of the runs of one definition: for metrics, and for its own alerts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use es_core::Timestamp;
use tokio::time::Instant;

use super::outcome::Outcome;
use super::rows::{Heard, Record, Written};
use crate::alerts::Sample;

/// For how long what a share has found counts once it has left this node.
const PARTING: Duration = Duration::from_secs(30);

/// Counts of one definition on this node, and what its shares have found.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// What its runs are: `saga`, `tcc`, or `three-phase`.
    pattern: &'static str,
    kind: Arc<str>,
    version: Arc<str>,
    completed: AtomicU64,
    undone: AtomicU64,
    abandoned: AtomicU64,
    /// How long those took that have ended, in milliseconds.
    took: AtomicU64,
    fenced: AtomicU64,
    shares: Mutex<BTreeMap<u16, OfShare>>,
    /// What the shares have found that have just left this node, and when they did: others may not have counted them yet.
    parted: Mutex<Vec<(Instant, Tally)>>,
    /// What was known last when all shares had counted.
    known: Mutex<Option<Tally>>,
}

/// What is known of a share of this node.
#[derive(Clone, Debug)]
struct OfShare {
    slices: u16,
    looked: Timestamp,
    failing: Option<String>,
    /// `None`: it has not counted yet.
    tally: Option<Tally>,
    /// Runs that are to be forgotten, and cannot be.
    unforgotten: u64,
}

/// What stands in the rows of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Runs that have not ended.
    pub(crate) open: u64,
    /// Those of them that wait for a person.
    pub(crate) parked: u64,
    /// Those of them that cannot go on as they are stored.
    pub(crate) damaged: u64,
    /// When the oldest of them began.
    pub(crate) oldest: Option<Timestamp>,
    /// Runs of versions that no node has.
    pub(crate) unattended: u64,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            parked: self.parked + other.parked,
            damaged: self.damaged + other.damaged,
            oldest: self.oldest.into_iter().chain(other.oldest).min(),
            unattended: self.unattended + other.unattended,
        }
    }
}

/// How the work on a kind is, on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looks {
    pub(crate) slices: u16,
    /// When the share that is furthest behind was looked at.
    pub(crate) looked: Option<Timestamp>,
    pub(crate) failing: Option<String>,
}

/// Adds to a counter with the labels of a definition.
macro_rules! count {
    ($of:expr, $name:literal, $n:expr $(, $label:literal => $value:expr)*) => {
        metrics::counter!(
            $name, "pattern" => $of.pattern, "kind" => $of.kind.clone(), "version" => $of.version.clone() $(, $label => $value)*
        )
        .increment($n)
    };
}

impl Numbers {
    pub(crate) fn new(pattern: &'static str, kind: Arc<str>, version: u32) -> Self {
        let zero = AtomicU64::default;
        Self {
            pattern,
            kind,
            version: version.to_string().into(),
            completed: zero(),
            undone: zero(),
            abandoned: zero(),
            took: zero(),
            fenced: zero(),
            shares: Mutex::default(),
            parted: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Tells who collects metrics that there are these: what is not there cannot be compared.
    pub(crate) fn announce(&self, deadline: Option<Duration>, stages: &[&'static str]) {
        for stage in stages {
            count!(self, "es_saga_stages_total", 0, "stage" => *stage);
        }
        // Those that have stages are checked.
        for says in Heard::ALL.into_iter().filter(|_| !stages.is_empty()) {
            count!(self, "es_saga_checks_total", 0, "answer" => says.label());
        }
        count!(self, "es_saga_started_total", 0);
        for outcome in ["completed", "undone", "abandoned"] {
            count!(self, "es_saga_ended_total", 0, "outcome" => outcome);
        }
        count!(self, "es_saga_failed_calls_total", 0);
        count!(self, "es_saga_held_total", 0);
        count!(self, "es_saga_fenced_total", 0);
        count!(self, "es_saga_forgotten_total", 0);
        if let Some(deadline) = deadline {
            self.gauge("es_saga_deadline_seconds", deadline.as_secs_f64());
        }
    }

    pub(crate) fn started(&self) {
        count!(self, "es_saga_started_total", 1);
    }

    /// A run stands there now.
    pub(crate) fn came_to(&self, stage: &'static str) {
        count!(self, "es_saga_stages_total", 1, "stage" => stage);
    }

    /// A write that was refused because somebody else had the run.
    pub(crate) fn fenced(&self) {
        self.fenced.fetch_add(1, Ordering::Relaxed);
        count!(self, "es_saga_fenced_total", 1);
    }

    /// What was written of a run that began then. `held`: for how long it has waited for its parent, which is no time of its own.
    pub(crate) fn wrote(&self, begun: Timestamp, held: Duration, written: &[Written]) {
        for Written { at, record } in written {
            match record {
                Record::Ended { outcome } => {
                    let took = Duration::try_from(*at - begun).unwrap_or_default();
                    self.ended(outcome, took.saturating_sub(held));
                }
                Record::Held { .. } => count!(self, "es_saga_held_total", 1),
                Record::Failed { .. } => count!(self, "es_saga_failed_calls_total", 1),
                Record::Heard { says, checked: true, .. } => {
                    count!(self, "es_saga_checks_total", 1, "answer" => says.label());
                }
                _ => {}
            }
        }
    }

    /// Runs that were forgotten.
    pub(crate) fn forgotten(&self, runs: u64) {
        count!(self, "es_saga_forgotten_total", runs);
    }

    fn ended(&self, outcome: &Outcome, took: Duration) {
        let (of, name) = match outcome {
            Outcome::Completed => (&self.completed, "completed"),
            Outcome::Undone(_) => (&self.undone, "undone"),
            Outcome::Abandoned { .. } => (&self.abandoned, "abandoned"),
        };
        of.fetch_add(1, Ordering::Relaxed);
        self.took.fetch_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        count!(self, "es_saga_ended_total", 1, "outcome" => name);
        let (pattern, kind, version) = (self.pattern, self.kind.clone(), self.version.clone());
        metrics::histogram!(
            "es_saga_seconds", "pattern" => pattern, "kind" => kind, "version" => version, "outcome" => name
        )
        .record(took);
    }

    /// A share has seen what is due, or has not.
    pub(crate) fn looked(&self, first: u16, slices: u16, now: Timestamp, failing: Option<String>) {
        let mut shares = self.shares();
        let begun = OfShare { slices, looked: now, failing: None, tally: None, unforgotten: 0 };
        let share = shares.entry(first).or_insert(begun);
        share.slices = slices;
        if failing.is_none() {
            share.looked = now;
        }
        share.failing = failing;
    }

    /// What a share has counted.
    pub(crate) fn counted(&self, first: u16, tally: Tally) {
        if let Some(share) = self.shares().get_mut(&first) {
            share.tally = Some(tally);
        }
    }

    /// So many runs of a share could not be forgotten.
    pub(crate) fn unforgotten(&self, first: u16, n: u64) {
        if let Some(share) = self.shares().get_mut(&first) {
            share.unforgotten = n;
        }
    }

    /// So many of them at least: others were not tried again yet.
    pub(crate) fn unforgotten_yet(&self, first: u16, n: u64) {
        if let Some(share) = self.shares().get_mut(&first) {
            share.unforgotten = share.unforgotten.max(n);
        }
    }

    /// A share is not worked on here any more.
    pub(crate) fn left(&self, first: u16) {
        let tally = self.shares().remove(&first).and_then(|share| share.tally);
        locked(&self.parted).extend(tally.map(|tally| (Instant::now(), tally)));
    }

    pub(crate) fn looks(&self) -> Looks {
        let shares = self.shares();
        Looks {
            slices: shares.values().map(|share| share.slices).sum(),
            looked: shares.values().map(|share| share.looked).min(),
            failing: shares.values().find_map(|share| share.failing.clone()),
        }
    }

    /// What all shares have counted. While one of them has not, what was known before.
    fn known(&self) -> Option<Tally> {
        let all: Option<Vec<Tally>> = self.shares().values().map(|share| share.tally).collect();
        let mut parted = locked(&self.parted);
        parted.retain(|(at, _)| at.elapsed() < PARTING);
        let mut known = locked(&self.known);
        if let Some(all) = all {
            let parted = parted.iter().map(|(_, tally)| *tally);
            *known = Some(all.into_iter().chain(parted).fold(Tally::default(), Tally::and));
        }
        *known
    }

    /// All of it, at one time; and sets the gauges to it.
    pub(crate) fn sample(&self, now: Timestamp, deadline: Option<Duration>) -> Sample {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let known = self.known();
        let tally = known.unwrap_or_default();
        let (since, looked) =
            (|then: Timestamp| (now.as_duration() - then.as_duration()).as_secs_f64(), self.looks().looked);
        let (completed, ended) = (of(&self.completed), of(&self.undone) + of(&self.abandoned));
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let number = |number: u64| number as f64;
        let sample = Sample {
            completed: number(completed),
            ended: number(completed + ended),
            took: number(of(&self.took)) / 1_000.0,
            fenced: number(of(&self.fenced)),
            parked: number(tally.parked),
            damaged: number(tally.damaged),
            unattended: number(tally.unattended),
            unforgotten: number(self.shares().values().map(|share| share.unforgotten).sum()),
            oldest: tally.oldest.map(since),
            deadline: deadline.map(|deadline| deadline.as_secs_f64()),
            silent: looked.map(since),
        };
        if known.is_some() {
            self.gauge("es_saga_open", number(tally.open));
            self.gauge("es_saga_parked", sample.parked);
            self.gauge("es_saga_damaged", sample.damaged);
            self.gauge("es_saga_unattended", sample.unattended);
            self.gauge("es_saga_oldest_seconds", sample.oldest.unwrap_or_default());
        }
        self.gauge("es_saga_unforgotten", sample.unforgotten);
        if let Some(looked) = looked {
            self.gauge("es_saga_looked_timestamp_seconds", looked.as_duration().as_secs_f64());
        }
        sample
    }

    fn gauge(&self, name: &'static str, value: f64) {
        let (pattern, kind, version) = (self.pattern, self.kind.clone(), self.version.clone());
        metrics::gauge!(name, "pattern" => pattern, "kind" => kind, "version" => version).set(value);
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<u16, OfShare>> {
        locked(&self.shares)
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(numbers: &Numbers) -> Option<u64> {
        numbers.known().map(|tally| tally.parked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_share_has_is_not_nothing_before_it_has_counted() {
        let (one, two) = (Numbers::new("saga", "a".into(), 1), Numbers::new("saga", "a".into(), 1));
        let begins = |numbers: &Numbers, first| numbers.looked(first, 512, Timestamp::UNIX_EPOCH, None);
        let of = |parked| Tally { parked, ..Tally::default() };
        begins(&one, 0);
        assert_eq!(parked(&one), None, "nobody has counted");
        one.counted(0, of(2));
        begins(&two, 512);
        two.counted(512, of(1));
        assert_eq!((parked(&one), parked(&two)), (Some(2), Some(1)));
        // One share changes hands: together they never have fewer.
        one.left(0);
        begins(&two, 0);
        assert_eq!((parked(&one), parked(&two)), (Some(2), Some(1)));
        two.counted(0, of(2));
        assert_eq!(parked(&two), Some(3));
        tokio::time::advance(PARTING).await;
        assert_eq!(parked(&one), Some(0));
    }

    #[test]
    fn the_time_for_which_a_child_waits_for_its_parent_is_not_its_own() {
        let (numbers, at) =
            (Numbers::new("saga", "a".into(), 1), |seconds| Timestamp::from_second(seconds).unwrap());
        let ended = Written { at: at(100), record: Record::Ended { outcome: Outcome::Completed } };
        numbers.wrote(at(10), Duration::from_secs(80), std::slice::from_ref(&ended));
        assert_eq!(numbers.took.load(Ordering::Relaxed), 10_000);
    }
}
