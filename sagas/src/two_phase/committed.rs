//! A transaction that is decided, and the branches that are not committed yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::{self, StoreError};
use es_core::{Backend, ErrorKind};
use uuid::Uuid;

use super::error::TwoPhaseError;
use super::manager::Inner;

/// The first and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A transaction that is committed. A branch may not be, for a while.
#[non_exhaustive]
pub struct Committed<B> {
    pub(super) inner: Arc<Inner<B>>,
    /// The transaction.
    pub txn: Uuid,
    /// What the commit of the journal's part said, if it took part and its answer was heard.
    pub journal: Option<store::Committed>,
    /// The participants whose branch was not seen to be committed: others see nothing of it there, and it holds its locks.
    pub pending: Vec<String>,
}

impl<B> fmt::Debug for Committed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner: _, txn, journal, pending } = self;
        f.debug_struct("Committed")
            .field("txn", txn)
            .field("journal", journal)
            .field("pending", pending)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Committed<B> {
    /// Waits until every branch is committed, and sees to it. It waits for as long as a database is away.
    ///
    /// # Errors
    ///
    /// [`TwoPhaseError::Parked`] if an operator has to look at a branch; [`TwoPhaseError::Store`] if the store fails for
    /// another reason than that it is busy or away, or if a participant is not configured.
    pub async fn wait_all(&self) -> Result<(), TwoPhaseError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (mut pause, longest) = PAUSES;
        loop {
            match self.inner.settle(self.txn).await {
                Ok(None) => return Ok(()),
                Ok(Some(open)) => {
                    let is_odd = |(name, waits): (String, super::rows::Waits)| waits.odd.map(|_| name);
                    let names: Vec<_> = open.branches.keys().cloned().collect();
                    let branches: Vec<_> = open.branches.into_iter().filter_map(is_odd).collect();
                    if !branches.is_empty() {
                        return Err(TwoPhaseError::Parked { txn: self.txn, branches });
                    }
                    names.iter().try_for_each(|name| self.inner.named(name).map(drop))?;
                }
                Err(error) if may_pass(&error) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown)
}
