//! Side effects of a range: what those came to that no checkpoint covers yet, and whether more of them may begin.
//!
//! No row can fence them, and a session that fails takes none of them back. So what they came to outlives the session: none
//! is repeated because another one failed, or because the checkpoint could not be written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::BoxError;
use crate::cluster::Lease;
use crate::store::Position;

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
