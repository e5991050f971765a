//! Where a processor is, as a value that can be watched.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::slices::Slices;
use crate::state::Build;
use crate::store::{Generation, Position};

/// Where a processor is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProcessorStatus {
    /// Its stored name: for a projection `name/version`.
    pub name: Arc<str>,
    /// Which build of it.
    pub generation: Generation,
    /// Everything up to here is handled: the least of its ranges.
    pub position: Position,
    /// What it is doing; of several ranges, the worst.
    pub state: ProcessorState,
    /// Its ranges of slices, in order. Those of other nodes are as this node saw them last.
    pub ranges: Vec<RangeStatus>,
    /// Sequences that wait for an operator, in the ranges of this node; all of them while it is paused.
    pub parked: usize,
    /// Events that this node has handled since it started.
    pub handled: u64,
    /// Events per second, of late: those that this node handled, or if it has none of them, positions.
    pub per_second: f64,
    /// When one of its ranges last made progress or had nothing to do; before that, when this node first saw this build. What
    /// stands still beside others that go on is seen in its [ranges](Self::ranges).
    pub progress: Timestamp,
    /// The time of the last event that this node handled, by the store's clock.
    pub recorded_at: Option<Timestamp>,
    /// Why it cannot be found out what to work on, whatever its ranges do meanwhile.
    pub(crate) unsettled: Option<String>,
}

impl ProcessorStatus {
    /// Why nothing is done now, in words; `None` if it is at work.
    pub(crate) fn why_not(&self) -> Option<String> {
        let at = self.stands_at();
        match &self.state {
            ProcessorState::Failing { error, .. } => Some(format!("it fails at {at}: {error}")),
            ProcessorState::Halted { error, .. } => Some(format!("it is halted at {at}: {error}")),
            ProcessorState::Stopped => Some(format!("it is stopped at {at}")),
            ProcessorState::Paused { since } => {
                Some(format!("it is paused at {at} since {since}: resume it"))
            }
            ProcessorState::Unsettled { error } => Some(format!("it is not worked on, at {at}: {error}")),
            _ => None,
        }
    }

    /// The place of the range that its state is of; of a state that is none of a range's, its own.
    fn stands_at(&self) -> String {
        match self.ranges.iter().find(|range| range.state == self.state) {
            Some(range) if self.ranges.len() > 1 => {
                format!("{} of slices {}", range.position, range.slices)
            }
            _ => self.position.to_string(),
        }
    }

    /// Why nothing is done now, in words: also that no node works on it. `None` if it is at work.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let unowned = self.ranges.iter().all(|range| range.owner.is_none());
        let nobody = || unowned.then(|| "no node works on it: start one that does".to_owned());
        self.why_not().or_else(nobody)
    }

    /// The same in parentheses; empty if it is at work.
    pub(crate) fn in_the_way(&self) -> String {
        self.obstacle().map(|why| format!(" ({why})")).unwrap_or_default()
    }
}

/// Where a range of slices is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeStatus {
    /// The slices.
    pub slices: Slices,
    /// The node that works on it.
    pub owner: Option<Uuid>,
    /// Everything up to here is handled.
    pub position: Position,
    /// What it is doing.
    pub state: ProcessorState,
    /// When it last made progress, on whichever node, or had nothing to do, as far as this node knows.
    pub progress: Timestamp,
    /// The furthest that it has been: what is handled once more, since the store failed, is no progress.
    reached: Position,
    /// How many sequences wait; `None` before the one that works on it has read that.
    pub(crate) parked: Option<usize>,
    /// The revision of its share: another one says that something was written.
    pub(crate) rev: u64,
    /// The history of the store that its own worker is at; `None` of one that works elsewhere.
    pub(crate) history: Option<u64>,
}

impl RangeStatus {
    /// One of which it is not known yet when it made progress.
    pub(crate) const fn new(
        slices: Slices,
        owner: Option<Uuid>,
        position: Position,
        state: ProcessorState,
        rev: u64,
    ) -> Self {
        let (progress, reached) = (Timestamp::UNIX_EPOCH, position);
        Self { slices, owner, position, state, progress, reached, parked: None, rev, history: None }
    }
}

/// What a processor is doing, from best to worst.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProcessorState {
    /// It handles events, or waits for them.
    Running,
    /// It works on another node.
    Elsewhere,
    /// Nodes with a newer code work on it; this one takes part again when the last of them has gone.
    StandingBy,
    /// It has not looked at the log yet.
    Starting,
    /// An operator paused it, on every node.
    Paused {
        /// Since when.
        since: Timestamp,
    },
    /// The app was shut down.
    Stopped,
    /// What to work on cannot be found out: the store does not answer, or a row of its state cannot be read; or something is
    /// in the way, such as events that the program has missed.
    Unsettled {
        /// Why.
        error: String,
    },
    /// An event or the store fails, and is tried again.
    Failing {
        /// Since when.
        since: Timestamp,
        /// How often it failed in a row.
        attempts: u32,
        /// The last error, with its sources.
        error: String,
    },
    /// It is halted until an operator resumes it.
    Halted {
        /// Since when.
        since: Timestamp,
        /// Why.
        error: String,
    },
}

/// The status of one build, kept by whoever works on it.
#[derive(Debug)]
pub(crate) struct Board {
    status: watch::Sender<ProcessorStatus>,
    clock: Arc<dyn Clock>,
}

impl Board {
    /// One that this node has seen since then.
    pub(crate) fn new(build: &Build, since: Timestamp, clock: Arc<dyn Clock>) -> Self {
        let status = ProcessorStatus {
            name: build.processor.clone(),
            generation: build.generation,
            position: Position(0),
            state: ProcessorState::Starting,
            ranges: Vec::new(),
            parked: 0,
            handled: 0,
            per_second: 0.0,
            progress: since,
            recorded_at: None,
            unsettled: None,
        };
        Self { status: watch::Sender::new(status), clock }
    }

    pub(crate) fn now(&self) -> ProcessorStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ProcessorStatus> {
        self.status.subscribe()
    }

    /// The ranges that there are from now on.
    pub(crate) fn reshape(&self, ranges: Vec<RangeStatus>) {
        self.reshape_unsettled(ranges, None);
    }

    /// The same, and why nothing can be done with them, if that is so. Whether that is news.
    pub(crate) fn reshape_unsettled(&self, mut ranges: Vec<RangeStatus>, why: Option<&str>) -> bool {
        let (mut is_news, now) = (false, self.clock.now());
        self.status.send_if_modified(|status| {
            for range in &mut ranges {
                range.progress = stood_since(range, status).unwrap_or(now);
            }
            is_news = status.unsettled.as_deref() != why;
            let changed = is_news || status.ranges != ranges;
            (status.ranges, status.unsettled) = (ranges, why.map(str::to_owned));
            changed && summarize(status)
        });
        is_news
    }

    /// What has become of one range.
    pub(crate) fn update(&self, first: u16, change: impl FnOnce(&mut RangeStatus)) {
        self.status.send_if_modified(|status| {
            let Some(range) = status.ranges.iter_mut().find(|range| range.slices.first == first) else {
                return false;
            };
            let before = range.clone();
            change(range);
            if range.position > range.reached {
                (range.reached, range.progress) = (range.position, self.clock.now());
            }
            *range != before && summarize(status)
        });
    }

    /// This node has handled so many events.
    pub(crate) fn handled(&self, events: u64, recorded_at: Option<Timestamp>) {
        self.status.send_if_modified(|status| {
            status.handled += events;
            status.recorded_at = recorded_at.max(status.recorded_at);
            false
        });
    }

    /// The log ended here: what has come so far has nothing to do.
    pub(crate) fn at_head(&self, head: Position) {
        let now = self.clock.now();
        self.status.send_if_modified(|status| {
            for range in status.ranges.iter_mut().filter(|range| range.position >= head) {
                (range.progress, status.progress) = (now, now);
            }
            false
        });
    }

    /// What it is to do cannot be found out.
    pub(crate) fn unsettled(&self, error: &str) {
        self.status.send_if_modified(|status| {
            let known = status.unsettled.replace(error.to_owned());
            known.as_deref() != Some(error) && summarize(status)
        });
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        self.status.borrow().unsettled.is_some()
    }

    pub(crate) fn stopped(&self) {
        self.status.send_modify(|status| status.state = ProcessorState::Stopped);
    }
}

/// Since when what a range has to do has stood where it is, under whichever ranges; `None` if it has moved.
fn stood_since(range: &RangeStatus, before: &ProcessorStatus) -> Option<Timestamp> {
    if before.ranges.is_empty() {
        return Some(before.progress);
    }
    let parts = before.ranges.iter().filter(|known| known.slices.and(range.slices).is_some());
    parts.filter(|known| known.position == range.position).map(|known| known.progress).min()
}

/// The whole from the parts. Always true: something changed.
fn summarize(status: &mut ProcessorStatus) -> bool {
    status.parked = status.ranges.iter().filter_map(|range| range.parked).sum();
    // Between two shapes there may be none: what was true before is true still.
    if let Some(least) = status.ranges.iter().map(|range| range.position).min() {
        status.position = least;
    }
    status.progress = status.ranges.iter().map(|range| range.progress).max().unwrap_or(status.progress);
    if let Some(worst) = status.ranges.iter().map(|range| &range.state).max() {
        status.state = worst.clone();
    }
    // What its ranges showed last may be what they were before.
    if let Some(error) = status.unsettled.clone()
        && !matches!(status.state, ProcessorState::Halted { .. })
    {
        status.state = ProcessorState::Unsettled { error };
    }
    true
}

/// Measures how many events per second a counter stands for.
#[derive(Debug)]
pub(crate) struct Rate {
    since: Instant,
    handled: u64,
    position: Position,
}

impl Rate {
    /// How long a rate is measured for, at least.
    const WINDOW: Duration = Duration::from_millis(500);

    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), handled: 0, position: Position(u64::MAX) }
    }

    pub(crate) fn measure(&mut self, board: &Board) {
        let elapsed = self.since.elapsed();
        if elapsed < Self::WINDOW {
            return;
        }
        let (handled, position) = {
            let status = board.status.borrow();
            (status.handled, status.position)
        };
        // What other nodes work on is not counted here: then its position says how fast it goes.
        let moved =
            if handled > 0 { handled - self.handled } else { position.0.saturating_sub(self.position.0) };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = moved as f64 / elapsed.as_secs_f64();
        (self.since, self.handled, self.position) = (Instant::now(), handled, position);
        board.status.send_if_modified(|status| {
            status.per_second = per_second;
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn second(n: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(n)
    }

    fn range(first: u16, last: u16, position: u64) -> RangeStatus {
        RangeStatus::new(Slices { first, last }, None, Position(position), ProcessorState::Running, 0)
    }

    #[test]
    fn what_stands_is_known_to_stand_whatever_its_ranges_are() {
        let board = Board::new(&Build::first("a"), second(1), Arc::new(SystemClock));
        let mut before = board.now();
        let whole = range(0, 1_023, 5);
        assert_eq!(stood_since(&whole, &before), Some(second(1)), "since this node began");
        before.ranges = vec![
            RangeStatus { progress: second(2), ..range(0, 511, 5) },
            RangeStatus { progress: second(3), ..range(512, 1_023, 7) },
        ];
        for (range, since) in [
            (range(0, 511, 5), Some(2)),
            (range(0, 511, 6), None),
            (range(0, 255, 5), Some(2)),
            (range(512, 767, 7), Some(3)),
            (range(512, 767, 0), None),
            (whole, Some(2)),
        ] {
            assert_eq!(stood_since(&range, &before), since.map(second), "{range:?}");
        }
    }

    #[test]
    fn what_fails_names_its_own_place() {
        let board = Board::new(&Build::first("a"), second(1), Arc::new(SystemClock));
        board.reshape(vec![range(0, 511, 5), range(512, 1_023, 9)]);
        let error = "no".to_owned();
        let state = ProcessorState::Failing { since: second(1), attempts: 1, error };
        board.update(512, |range| range.state = state.clone());
        assert_eq!(board.now().why_not().as_deref(), Some("it fails at #9 of slices 512-1023: no"));
        board.reshape(vec![RangeStatus { state, ..range(0, 1_023, 5) }]);
        assert_eq!(board.now().why_not().as_deref(), Some("it fails at #5: no"));
        board.unsettled("why");
        assert_eq!(board.now().why_not().as_deref(), Some("it is not worked on, at #5: why"));
    }

    #[test]
    fn each_range_makes_progress_of_its_own() {
        let board = Board::new(&Build::first("a"), second(1), Arc::new(SystemClock));
        board.reshape(vec![range(0, 511, 5), range(512, 1_023, 5)]);
        board.update(512, |range| range.position = Position(6));
        let [low, high] = &board.now().ranges[..] else { panic!("there are two") };
        assert_eq!(low.progress, second(1));
        assert!(high.progress > second(1) && board.now().progress == high.progress);
        for again in [5, 6] {
            board.update(512, |range| range.position = Position(again));
            assert_eq!(board.now().ranges[1].progress, high.progress, "it has been there before");
        }
        board.at_head(Position(6));
        assert_eq!(board.now().ranges[0].progress, second(1), "it is behind");
        board.at_head(Position(5));
        assert!(board.now().ranges[0].progress > second(1), "it has nothing to do");
    }
}
