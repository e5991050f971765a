//! What can go wrong, by what the caller does about it.

use es_core::ErrorKind;
use es_core::store::{CommitError, StoreError};
use uuid::Uuid;

/// A transaction across databases was not committed, or nobody knows yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TwoPhaseError {
    /// None of it is committed, and none will be.
    #[error("transaction {txn} was rolled back")]
    Aborted {
        /// The transaction.
        txn: Uuid,
        /// Why.
        #[source]
        why: AbortedBy,
    },
    /// Nobody knows yet whether it is committed: [`TwoPhase::resolve`](super::TwoPhase::resolve) finds out, for good.
    #[error("it is not known yet whether transaction {} is committed", .0.txn)]
    Unknown(InDoubt),
    /// It is committed, and a branch is not: an operator has to look. See [`TwoPhase::pending`](super::TwoPhase::pending).
    #[error("transaction {txn} is committed, and its branches {branches:?} wait for an operator")]
    Parked {
        /// The transaction.
        txn: Uuid,
        /// The branches.
        branches: Vec<String>,
    },
    /// An operator has [adopted](super::TwoPhase::adopt) it to be committed, while what the store itself had of it was rolled
    /// back: that is to be done again, by itself. Branches that had been taken back by then are named, and wait for an operator
    /// as well.
    #[error(
        "an operator has committed transaction {txn}, but for what the store had of it, and for {branches:?}"
    )]
    WithoutJournal {
        /// The transaction.
        txn: Uuid,
        /// The branches.
        branches: Vec<String>,
    },
    /// It is committed, and whether all of its branches are could not be seen to:
    /// [`Committed::wait_all`](super::Committed::wait_all) can be called again, and recovery goes on.
    #[error("transaction {txn} is committed, and its branches could not be waited for")]
    Waiting {
        /// The transaction.
        txn: Uuid,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// What became of it could not be found out: a database could not be asked, or the call is wrong. It may be committed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a transaction was rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AbortedBy {
    /// A branch could not be prepared, or had failed before.
    #[error("branch {branch:?} could not be committed")]
    Branch {
        /// Its participant.
        branch: String,
        /// What it said.
        #[source]
        source: StoreError,
    },
    /// The journal's database refused what it had of it: a conflict, say.
    #[error("the store refused its part")]
    Journal(#[source] CommitError),
    /// Recovery decided so while the coordinator was slow, or had lost the store: begin it again.
    #[error("it took too long to decide, and another node decided to roll it back")]
    Overtaken,
    /// It was not heard whether the store has the decision to commit, and then it was decided to roll it back.
    #[error("the decision to commit did not reach the store")]
    Unheard(#[source] CommitError),
}

impl TwoPhaseError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Aborted { why, .. } => match why.kind() {
                // Of a part. Of the whole it is known.
                ErrorKind::Unknown => ErrorKind::Transient,
                kind => kind,
            },
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Parked { .. } | Self::WithoutJournal { .. } => ErrorKind::Blocked,
            Self::Waiting { source, .. } | Self::Store(source) => source.kind(),
        }
    }
}

impl AbortedBy {
    const fn kind(&self) -> ErrorKind {
        match self {
            Self::Branch { source, .. } => source.kind(),
            Self::Journal(error) => error.kind(),
            Self::Overtaken | Self::Unheard(_) => ErrorKind::Transient,
        }
    }
}

/// A transaction of which nobody knows yet whether it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InDoubt {
    /// The transaction.
    pub txn: Uuid,
    pub(super) known_by: KnownBy,
    /// Whether the store itself has a part in it.
    pub(super) journal: bool,
}

/// Who knows whether a transaction is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownBy {
    /// The store, by the decision.
    Store,
    /// The participant of the only branch that had written.
    Participant(String),
    /// One of them.
    Any,
}
