//! What can go wrong at the store, by what the caller does about it.

use std::sync::Arc;

use crate::ErrorKind;
use crate::limits::LimitError;
use crate::store::{
    Attempt, Busy, Committed, ExpectedVersion, IdempotencyKey, Name, Position, RecordedEvent, StreamId,
    Version,
};

/// A read failed, or a write failed before it could have happened, unless it says that nobody knows.
///
/// Cloneable: one failed batch is every caller's failure.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Busy, timed out, disconnected, disk full: try again.
    #[error("{what} could not be done now")]
    Transient {
        /// What was being done.
        what: &'static str,
        /// The backend's words.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It may have been written, and the store could not be asked: look at what is there before you try again.
    #[error("{what}: the outcome is unknown")]
    Unknown {
        /// What was being done.
        what: &'static str,
        /// What to ask the store about.
        attempt: Box<Attempt>,
    },
    /// What is stored cannot be understood: stop and look.
    #[error("the store is damaged: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The call is wrong: fix the code, the configuration or the input.
    #[error("{what}")]
    Misuse {
        /// What is wrong and what to do.
        what: String,
    },
    /// It goes no further by itself: an operator has to do something first, and the words say what.
    #[error("{what}")]
    Blocked {
        /// What is in the way.
        what: String,
    },
    /// Refused before it was sent.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl StoreError {
    /// A [`StoreError::Transient`].
    pub fn transient(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Transient { what, source: Arc::new(source) }
    }

    /// Whether the queue of the store is full: see [`Busy`].
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Transient { source, .. } if source.is::<Busy>())
    }

    /// A [`StoreError::Misuse`].
    pub fn misuse(what: impl Into<String>) -> Self {
        Self::Misuse { what: what.into() }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Transient { .. } => ErrorKind::Transient,
            Self::Unknown { .. } => ErrorKind::Unknown,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Blocked { .. } => ErrorKind::Blocked,
            Self::Misuse { .. } | Self::Limit(_) => ErrorKind::Misuse,
        }
    }
}

/// A commit was not applied, or its outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The stream is not where the caller expected it: load again and decide again.
    #[error("stream {stream:?} is at {actual}, expected {expected}")]
    Conflict {
        /// The first stream that is elsewhere.
        stream: StreamId,
        /// What the caller expected.
        expected: ExpectedVersion,
        /// Where it is.
        actual: Version,
        /// What was appended since `expected`, as far as one page goes, if [`Commit::explain`](crate::store::Commit)
        /// asked for it.
        since: Vec<RecordedEvent>,
    },
    /// An event that the decision did not see breaks its condition: read again and decide again.
    #[error("event {name} at {position} was appended after {after} and breaks the append condition")]
    ConditionFailed {
        /// The first event that breaks it.
        position: Position,
        /// Its type.
        name: String,
        /// What the condition allowed.
        after: Position,
    },
    /// The condition was decided on what the log does not have any more: the store has failed over or was restored. Read
    /// again and decide again.
    #[error(
        "the append condition was decided up to {after}, and the log ends at {head}: it has another history"
    )]
    BehindHead {
        /// Up to where the decision saw the log.
        after: Position,
        /// Where it ends.
        head: Position,
    },
    /// What it was decided on was read before the store failed over or was restored. Read again and decide again.
    #[error("it was decided on another history of the store")]
    OtherHistory,
    /// The idempotency key was used before by the same request: this is the first outcome.
    #[error("idempotency key {key} was used before, by this request")]
    Repeated {
        /// The key.
        key: IdempotencyKey,
        /// What was stored with it.
        outcome: Box<crate::store::Outcome>,
    },
    /// The idempotency key was used before, by another request: take another key.
    #[error("idempotency key {key} was used before, by another request")]
    KeyReused {
        /// The key.
        key: IdempotencyKey,
    },
    /// An event with this id is stored with other content: take a new id.
    #[error("event id {id} is stored in {stream:?} with other content")]
    EventIdReused {
        /// The id.
        id: uuid::Uuid,
        /// Where it is stored.
        stream: StreamId,
    },
    /// Another writer was faster with the row: read it again, or stop if it is not yours.
    #[error("row {key:?} of {table} is at revision {actual}, expected {expected}")]
    Fenced {
        /// Its table.
        table: Arc<str>,
        /// Its key.
        key: String,
        /// The revision that the commit named.
        expected: u64,
        /// The revision that it has; 0 if it is not there.
        actual: u64,
    },
    /// The writer runs another set of inline projections than the store keeps up to date, or an older program than one that
    /// handles more in them: restart it with the wiring and the program that the other writers have.
    #[error(
        "the store keeps inline projections of generation {stored} up to date, and this writer runs {named}: start it \
         again with the same inline projections as the other writers, in a program that is as new"
    )]
    Inline {
        /// The generation that is stored; 0 for none.
        stored: u64,
        /// What the commit named.
        named: u64,
    },
    /// An inline projection cannot handle an event of the commit: fix its handler, or retire it. Nothing was written.
    #[error("inline projection {projection} cannot handle event {event} of {stream:?}")]
    Projection {
        /// The stored name of the projection.
        projection: String,
        /// The type of the event.
        event: Name,
        /// The stream that it was for.
        stream: StreamId,
        /// What the handler said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It may have been applied: ask [`EventStore::resolve`](crate::store::EventStore::resolve).
    #[error("the outcome of the commit is unknown")]
    Unknown(Box<Attempt>),
    /// Versions or positions would pass the largest that can be stored.
    #[error("{what} would pass the largest number that can be stored")]
    Overflow {
        /// Which number.
        what: &'static str,
    },
    /// Not applied, for a reason that has nothing to do with what is stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommitError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. }
            | Self::ConditionFailed { .. }
            | Self::BehindHead { .. }
            | Self::OtherHistory
            | Self::Fenced { .. } => ErrorKind::Conflict,
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Store(e) => e.kind(),
            Self::Repeated { .. }
            | Self::KeyReused { .. }
            | Self::EventIdReused { .. }
            | Self::Inline { .. }
            | Self::Projection { .. }
            | Self::Overflow { .. } => ErrorKind::Misuse,
        }
    }
}

impl From<LimitError> for CommitError {
    fn from(error: LimitError) -> Self {
        Self::Store(error.into())
    }
}

/// What [`EventStore::resolve`](crate::store::EventStore::resolve) found. Final: it never changes its mind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "applied or never: that is its meaning")]
pub enum Resolution {
    /// It was applied.
    Applied(Committed),
    /// It was not, and never will be.
    Never,
}
