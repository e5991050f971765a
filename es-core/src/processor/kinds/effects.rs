//! Side effects of a range: what those came to that no checkpoint covers yet, and whether more of them may begin.
//!
//! No row can fence them, and a session that fails takes none of them back. So what they came to outlives the session: none
//! is repeated because another one failed, or because the checkpoint could not be written.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::admission::Failure;
use crate::BoxError;
use crate::cluster::Lease;
use crate::guarded::caught;
use crate::store::{Position, RecordedEvent};

/// The calls of a worker that have side effects, by the positions of their events.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    outcomes: Mutex<BTreeMap<Position, Result<(), BoxError>>>,
    lease: Arc<Lease>,
    stop: CancellationToken,
}

/// No further call may begin, or one has failed, or what was handled is enough for one commit. What comes before this event is done.
#[derive(Debug, thiserror::Error)]
#[error("its handler was not called yet")]
pub(super) struct Interrupted;

impl Effects {
    /// Of a node with this lease, until `stop`. These were done before.
    pub(crate) fn new(lease: Arc<Lease>, stop: CancellationToken, done: &[Position]) -> Self {
        let outcomes = done.iter().map(|position| (*position, Ok(()))).collect();
        Self { outcomes: Mutex::new(outcomes), lease, stop }
    }

    fn outcomes(&self) -> MutexGuard<'_, BTreeMap<Position, Result<(), BoxError>>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another call may begin: not at the end of the work, nor once the range may be another node's.
    pub(super) fn may_begin(&self) -> bool {
        !self.stop.is_cancelled() && self.lease.holds()
    }

    /// Whether a call succeeded, as far as that is remembered; `None` if it was not made.
    pub(super) fn succeeded(&self, position: Position) -> Option<bool> {
        self.outcomes().get(&position).map(Result::is_ok)
    }

    pub(super) fn remember(&self, position: Position, outcome: Result<(), BoxError>) {
        self.outcomes().insert(position, outcome);
    }

    /// What a call came to. A failure is told once, and then the call may be made again.
    pub(super) fn take(&self, position: Position) -> Option<Result<(), BoxError>> {
        let mut outcomes = self.outcomes();
        match outcomes.get(&position)? {
            Ok(()) => Some(Ok(())),
            Err(_) => outcomes.remove(&position),
        }
    }

    /// What was done and a checkpoint does not tell that moves between two positions: calls ahead of it, and of sequences that
    /// are retried.
    pub(crate) fn untold(&self, after: Position, through: Position) -> Vec<Position> {
        let outcomes = self.outcomes();
        let untold = |position: Position| position <= after || position > through;
        let done = outcomes.iter().filter(|(position, outcome)| outcome.is_ok() && untold(**position));
        done.map(|(position, _)| *position).collect()
    }

    /// A checkpoint has moved over these. What lies before it belongs to sequences that are retried.
    pub(crate) fn covered(&self, after: Position, through: Position) {
        self.outcomes().retain(|position, _| *position <= after || *position > through);
    }

    /// A sequence has gone on without these.
    pub(crate) fn settled(&self, positions: impl IntoIterator<Item = Position>) {
        let mut outcomes = self.outcomes();
        for position in positions {
            outcomes.remove(&position);
        }
    }
}

/// Makes the calls of a session that have side effects: at least once, and none again because another one has failed.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Effects>);

/// The calls of a batch that are to be made: of each key the first, and those behind it.
struct Waiting<'b> {
    ready: BTreeMap<Position, usize>,
    behind: HashMap<&'b str, VecDeque<usize>>,
}

impl Calls {
    pub(super) const fn new(effects: Arc<Effects>) -> Self {
        Self(effects)
    }

    /// Makes the call of each event of a batch, by its place there: those of one key one after the other, in order; those of
    /// several keys at the same time, at most `in_flight`. What a call comes to is remembered until a checkpoint covers its
    /// event, also by the next owner of the range; a call that has succeeded is not made again before that.
    ///
    /// Events are in the order of the log, each once. A call has no limit of time here.
    ///
    /// # Errors
    ///
    /// The first in the log that failed: its error, or a panic. Then no further call begins, and those in flight are waited
    /// for. The same if the worker is stopped or its node may have lost its lease: then it is no failure of the event, and
    /// those before it are done.
    pub async fn make<'b, F>(
        &self,
        batch: &'b [(&'b RecordedEvent, &'b str)],
        in_flight: usize,
        call: impl Fn(usize) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), BoxError>>,
    {
        let Waiting { mut ready, mut behind } = self.waiting(batch);
        let (mut calls, mut failed) = (FuturesUnordered::new(), false);
        loop {
            while !failed && calls.len() < in_flight.max(1) && self.0.may_begin() {
                let Some((_, nth)) = ready.pop_first() else { break };
                let call = caught(call(nth));
                calls.push(async move { (nth, call.await.unwrap_or_else(|panic| Err(panic.boxed()))) });
            }
            let Some((nth, outcome)) = calls.next().await else { break };
            failed |= outcome.is_err();
            let (event, key) = batch[nth];
            self.0.remember(event.place(), outcome);
            let next = behind.get_mut(key).and_then(VecDeque::pop_front);
            ready.extend(next.map(|next| (batch[next].0.place(), next)));
        }
        for (event, key) in batch {
            let outcome = self.0.take(event.place()).unwrap_or_else(|| Err(Interrupted.into()));
            outcome.map_err(|source| Failure::new(event, *key, source))?;
        }
        Ok(())
    }

    /// What has not been made yet, up to the first that has failed.
    fn waiting<'b>(&self, batch: &'b [(&'b RecordedEvent, &'b str)]) -> Waiting<'b> {
        let (mut ready, mut behind) = (BTreeMap::new(), HashMap::<&str, VecDeque<usize>>::new());
        for (nth, (event, key)) in batch.iter().enumerate() {
            match self.0.succeeded(event.place()) {
                Some(true) => continue,
                Some(false) => break,
                None => {}
            }
            match behind.get_mut(key) {
                Some(queue) => queue.push_back(nth),
                None => {
                    behind.insert(key, VecDeque::new());
                    ready.insert(event.place(), nth);
                }
            }
        }
        Waiting { ready, behind }
    }

    /// Until the worker is stopped: a call that may be made again need not be waited for any longer.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_until_a_checkpoint_covers_it_and_a_failure_is_told_once() {
        let effects = Effects::new(Arc::default(), CancellationToken::new(), &[Position(7)]);
        effects.remember(Position(3), Ok(()));
        effects.remember(Position(5), Err("no".into()));
        assert_eq!([3, 5, 6].map(|at| effects.succeeded(Position(at))), [Some(true), Some(false), None]);
        assert_eq!(effects.untold(Position(0), Position(3)), [Position(7)]);
        assert!(effects.take(Position(5)).is_some_and(|outcome| outcome.is_err()));
        assert!(
            effects.take(Position(5)).is_none() && effects.take(Position(3)).is_some_and(|told| told.is_ok())
        );
        effects.covered(Position(0), Position(3));
        effects.remember(Position(2), Ok(()));
        effects.covered(Position(3), Position(6));
        assert_eq!(effects.succeeded(Position(2)), Some(true), "it is retried, behind the checkpoint");
        assert_eq!(effects.untold(Position(6), Position(6)), [Position(2), Position(7)]);
        effects.settled([Position(2)]);
        assert_eq!(effects.untold(Position(6), Position(6)), [Position(7)]);
        assert!(!effects.may_begin(), "its lease has never held");
    }
}
