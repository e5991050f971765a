//! A transaction that is decided, and the branches that are not committed yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::{self, StoreError};
use es_core::{Backend, ErrorKind};
use uuid::Uuid;

use super::error::TwoPhaseError;
use super::manager::Inner;
use super::recovery::Failing;
use super::rows::Waits;

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
    /// [`TwoPhaseError::Parked`] if an operator has to look at a branch, or has taken one off the list;
    /// [`TwoPhaseError::Waiting`] if the store fails for another reason than that it is busy or away, or if a participant is
    /// not configured, or says that it cannot end its branch.
    pub async fn wait_all(&self) -> Result<(), TwoPhaseError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (mut pause, longest) = PAUSES;
        loop {
            match self.left().await {
                Ok(Left::Nothing) => return Ok(()),
                Ok(Left::Parked(branches)) => return Err(TwoPhaseError::Parked { txn: self.txn, branches }),
                Ok(Left::Waits) => {}
                Err(error) if may_pass(&error) => {}
                Err(source) => return Err(TwoPhaseError::Waiting { txn: self.txn, source }),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Commits what can be, and says what is left.
    async fn left(&self) -> Result<Left, StoreError> {
        let inner = &self.inner;
        let Some(open) = inner.settle(self.txn, &Failing::default()).await? else {
            // What is gone from the list was committed, or an operator has taken it off.
            let resolved = inner.resolved(self.txn, &self.pending).await?;
            return Ok(if resolved.is_empty() { Left::Nothing } else { Left::Parked(resolved) });
        };
        let odd = |(name, waits): (&String, &Waits)| waits.odd.map(|_| name.clone());
        let parked: Vec<_> = open.branches.iter().filter_map(odd).collect();
        if !parked.is_empty() {
            return Ok(Left::Parked(parked));
        }
        for (name, waits) in open.branches {
            inner.named(&name)?;
            if let Some(why) = waits.why {
                return Err(StoreError::misuse(why));
            }
        }
        Ok(Left::Waits)
    }
}

/// What is left of a transaction that was decided.
enum Left {
    Nothing,
    Waits,
    Parked(Vec<String>),
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown)
}
