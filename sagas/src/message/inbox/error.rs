//! Why a message was not taken.

use es_core::limits::LimitError;
use es_core::store::{CommitError, StoreError};
use es_core::{BoxError, ErrorKind};

use super::lane::Lane;
use crate::message::Sequence;

/// Why a message was not taken: nothing of it is stored, unless the outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// It is no message that can be taken, whenever it comes: the sender has to be fixed.
    #[error("no message: {field} {why}")]
    NoMessage {
        /// Which attribute.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Another message came under its name: the sender has to be fixed.
    #[error("another message came under the same name before: {lane}{}", .sequence.map_or(String::new(), |n| format!(", sequence {n}")))]
    OtherContent {
        /// Which one; of messages in order, their lane.
        lane: Lane,
        /// Of messages in order, under which sequence.
        sequence: Option<Sequence>,
    },
    /// Too much is parked: an operator has to look at it. The message can be taken after that, so its sender sets it aside.
    #[error("{what} are parked, and no more fit: retry or discard some")]
    Full {
        /// How many of what.
        what: String,
    },
    /// The consumer has met an event that only a newer program can read. About ten times it is [`Busy`](Self::Busy), since
    /// that program may run beside this one; then its sender sets it aside, until that program has taken this one's place.
    #[error("the message is for a newer program")]
    Newer(#[source] BoxError),
    /// What the consumer needs does not answer, or others were faster every time: the message can be taken later.
    #[error("the message cannot be taken now")]
    Busy(#[source] BoxError),
    /// The log did not give what is missing before it: the message can be taken later. After about ten times it is a
    /// [gap](super::Outcome::Gap); a search that goes on is none.
    #[error("the messages before it could not be fetched")]
    Log(#[source] BoxError),
    /// The store. If the outcome is unknown, take the message again: it is known if it was taken.
    #[error("the inbox could not be read or written")]
    Store(#[source] StoreError),
}

impl InboxError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoMessage { .. } | Self::OtherContent { .. } => ErrorKind::Misuse,
            Self::Full { .. } | Self::Newer(_) => ErrorKind::Blocked,
            Self::Busy(_) | Self::Log(_) => ErrorKind::Transient,
            Self::Store(error) => error.kind(),
        }
    }

    /// Of a commit that an inbox made for itself.
    pub(super) fn of_commit(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            CommitError::Unknown(attempt) => {
                Self::Store(StoreError::Unknown { what: "taking a message", attempt })
            }
            other => Self::Busy(other.into()),
        }
    }
}

impl From<StoreError> for InboxError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LimitError> for InboxError {
    fn from(error: LimitError) -> Self {
        Self::Store(error.into())
    }
}
