//! What an operator can have done to a transaction, in the same words for all patterns.

use std::fmt;

use es_core::ErrorKind;
use es_core::store::StoreError;
use serde::Serialize;

use super::listed::{Pattern, Which};
use crate::ask::AskError;
use crate::data::Data;
use crate::transaction::RunError;
use crate::two_phase::Decision;

/// What an operator can have done to a transaction. What each pattern makes of it is said there: the verbs of
/// [runs](crate::saga::Verb) and [instances](crate::Verb), and [`TwoPhase`](crate::two_phase::TwoPhase).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act {
    /// Try again what failed, or waits for its next try.
    Retry {
        /// One step or branch; `None`: all.
        part: Option<String>,
    },
    /// Leave a part out: of a run, take a step or branch for undone; of an instance, the number of the input that failed; of a
    /// transaction across databases, a branch that a person has seen to.
    Skip {
        /// Which step, branch or input.
        part: String,
    },
    /// Take a part for done, with this output.
    Resolve {
        /// Which step or branch.
        part: String,
        /// Its output.
        output: Data,
    },
    /// End it, and undo what it did, if it is not too late for that. An instance of a process ends; it undoes what its
    /// handlers undo.
    Cancel,
    /// Go forward, if that is still open.
    GoForward,
    /// End it where it is: nothing is called for it any more.
    Abandon,
    /// Say what becomes of one that is [torn](super::Status::Torn).
    Decide(Decision),
}

/// What an [`Act`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is an act of that name")]
pub enum ActName {
    Retry,
    Skip,
    Resolve,
    Cancel,
    GoForward,
    Abandon,
    Decide,
}

impl Act {
    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> ActName {
        match self {
            Self::Retry { .. } => ActName::Retry,
            Self::Skip { .. } => ActName::Skip,
            Self::Resolve { .. } => ActName::Resolve,
            Self::Cancel => ActName::Cancel,
            Self::GoForward => ActName::GoForward,
            Self::Abandon => ActName::Abandon,
            Self::Decide(_) => ActName::Decide,
        }
    }
}

impl fmt::Display for ActName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Resolve => "resolve",
            Self::Cancel => "cancel",
            Self::GoForward => "go forward",
            Self::Abandon => "abandon",
            Self::Decide => "decide",
        })
    }
}

/// Why something was not done to a transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActError {
    /// Its pattern does not know that.
    #[error("a {pattern} knows no {act}: it knows {}", names(.knows))]
    NotKnown {
        /// The pattern.
        pattern: Pattern,
        /// What was asked for.
        act: ActName,
        /// What can be asked for.
        knows: Vec<ActName>,
    },
    /// There is no such transaction, or this app has nothing of its kind.
    #[error(
        "there is no {0}: it never was, has ended and was forgotten since, or is of a kind that this app has not"
    )]
    Missing(Which),
    /// It cannot be done to it as it is.
    #[error("that cannot be done: {why}")]
    Declined {
        /// Why, and what to do.
        why: String,
    },
    /// It is not said who asks for it, and why.
    #[error("{0}")]
    By(String),
    /// The store. It may yet be done: look at the transaction.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ActError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotKnown { .. } | Self::By(_) => ErrorKind::Misuse,
            Self::Missing(_) | Self::Declined { .. } => ErrorKind::Refused,
            Self::Store(error) => error.kind(),
        }
    }

    pub(crate) fn declined(why: impl Into<String>) -> Self {
        Self::Declined { why: why.into() }
    }

    pub(super) fn of_run(which: &Which, error: RunError) -> Self {
        match error {
            RunError::Unknown { .. } | RunError::Gone { .. } => Self::Missing(which.clone()),
            RunError::By(why) => Self::By(why),
            RunError::Store(error) => Self::Store(error),
            other => Self::declined(other.to_string()),
        }
    }

    /// One of two-phase commit: what is wrong with the request is no fault of the store.
    pub(crate) fn of_store(error: StoreError) -> Self {
        match error.kind() {
            ErrorKind::Misuse => Self::declined(error.to_string()),
            _ => Self::Store(error),
        }
    }
}

impl From<AskError> for ActError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused { why, .. } => Self::Declined { why },
            AskError::Store(error) => Self::Store(error),
        }
    }
}

fn names(knows: &[ActName]) -> String {
    knows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What came of one of many requests.
#[derive(Debug)]
#[non_exhaustive]
pub struct Acted {
    /// The transaction.
    pub which: Which,
    /// As of a request for this one alone.
    pub answer: Result<(), ActError>,
}
