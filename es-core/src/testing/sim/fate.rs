//! What became of each attempt: decided once, by whoever comes first, and final.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::store::{CommitError, Committed, Resolution, StoreError};

/// The fence. Applying an attempt and resolving it take the same lock, so that one of them is first.
#[derive(Debug, Default)]
pub(super) struct Fates {
    known: Mutex<HashMap<Uuid, Resolution>>,
    n_attempts: AtomicU64,
}

impl Fates {
    /// Names another attempt. Counted, not random: the same run gives the same names.
    pub(super) fn next_attempt(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.n_attempts.fetch_add(1, Ordering::Relaxed)) + 1)
    }

    /// Applies an attempt, unless it is fenced: then `None`. One that leaves nothing is not remembered.
    pub(super) fn apply(
        &self,
        attempt: Uuid,
        leaves: bool,
        work: impl FnOnce() -> Result<Committed, CommitError>,
    ) -> Option<Result<Committed, CommitError>> {
        let mut fates = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Vacant(fate) = fates.entry(attempt) else { return None };
        let outcome = work();
        if let Ok(committed) = &outcome
            && leaves
        {
            fate.insert(Resolution::Applied(committed.clone()));
        }
        Some(outcome)
    }

    /// The fate of an attempt: what is known of it, else what the store says. One that was not applied is fenced from now
    /// on.
    pub(super) fn resolve(
        &self,
        attempt: Uuid,
        ask: impl FnOnce() -> Result<Resolution, StoreError>,
    ) -> Result<Resolution, StoreError> {
        let mut fates = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match fates.entry(attempt) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => unknown.insert(ask()?).clone(),
        })
    }
}
