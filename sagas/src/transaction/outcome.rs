//! Whoever waits for the end of a run, on any node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::processor::Slices;
use es_core::store::{RowStore, StoreError, Table};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::rows::{Head, head_key, slice};

/// Looks that no wake-up has asked for: at first after this long, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How a run has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Every step has run; every branch of a TCC is confirmed; every participant of a three-phase commit has committed; a half
    /// message stands in the log.
    Completed,
    /// What had run is undone; what the branches of a TCC had reserved is cancelled; every participant of a three-phase commit
    /// has aborted; the local transaction of a half message was rolled back.
    Undone(Why),
    /// A person has ended it where it was.
    Abandoned {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
}

/// Why a run is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Why {
    /// A step said no.
    Refused {
        /// Which step.
        step: String,
        /// What it said.
        why: String,
    },
    /// A step failed as often as it is tried.
    Failed {
        /// Which step.
        step: String,
        /// The last error.
        error: String,
    },
    /// It was not decided by then.
    Deadline,
    /// Somebody has asked for it.
    Cancelled {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// The local transaction of a half message was rolled back: the message is never seen.
    RolledBack {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            // There is nothing to undo.
            Self::Undone(why @ Why::RolledBack { .. }) => why.fmt(f),
            Self::Undone(why) => write!(f, "undone: {why}"),
            Self::Abandoned { actor, reason } => write!(f, "abandoned by {actor}: {reason}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { step, why } => write!(f, "{step} was refused: {why}"),
            Self::Failed { step, error } => write!(f, "{step} failed: {error}"),
            Self::Deadline => f.write_str("its deadline passed"),
            Self::Cancelled { actor, reason } => write!(f, "cancelled by {actor}: {reason}"),
            Self::RolledBack { why } => write!(f, "rolled back: {why}"),
        }
    }
}

/// Why a run could not be started, or asked something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No saga with this input is registered.
    #[error("no saga for {input} is registered: add `.saga(..)` to the builder of the app")]
    NotRegistered {
        /// The type of the input.
        input: &'static str,
    },
    /// No TCC with this input is registered.
    #[error("no TCC for {input} is registered: add `.tcc(..)` to the builder of the app")]
    NoTcc {
        /// The type of the input.
        input: &'static str,
    },
    /// No saga of this app takes locks.
    #[error("no saga of this app takes locks: add one with `.lock(..)`, or ask an app that has one")]
    NoLocks,
    /// No three-phase commit with this input is registered.
    #[error(
        "no three-phase commit for {input} is registered: add `.three_phase(..)` to the builder of the app"
    )]
    NoThreePhase {
        /// The type of the input.
        input: &'static str,
    },
    /// No half message with this input is registered, or its local transaction is run by somebody else.
    #[error(
        "no half message for {input} is registered whose local transaction is run by {run_by}: add `.half_messages(..)` to \
         the builder of the app"
    )]
    NoHalf {
        /// The type of the input.
        input: &'static str,
        /// By whom it is run.
        run_by: &'static str,
    },
    /// The key stands for a run with another input.
    #[error(
        "{kind} {key:?} was started with another input, as run {run}: look at that one, or choose another key"
    )]
    OtherInput {
        /// Which saga.
        kind: String,
        /// The key.
        key: String,
        /// The run.
        run: Uuid,
    },
    /// The key cannot be one.
    #[error("this cannot be the key of a saga: {0}")]
    Key(#[from] es_core::limits::LimitError),
    /// The input, or what is sent, cannot be stored.
    #[error("what {kind} is given cannot be stored: {why}")]
    Input {
        /// Which saga.
        kind: String,
        /// Why.
        why: String,
    },
    /// There is no such run: a key stands for none once that was [forgotten](crate::saga::SagaBuilder::remember).
    #[error("there is no {kind} {key:?}: it was never started, or has ended and was forgotten since")]
    Unknown {
        /// Which saga.
        kind: String,
        /// The key.
        key: String,
    },
    /// A run that was started is not there.
    #[error(
        "run {run} of {kind} {key:?} is not there: it has ended and was forgotten since, or the transaction that starts it has \
         not been committed"
    )]
    Gone {
        /// Which saga.
        kind: String,
        /// The key.
        key: String,
        /// The run.
        run: Uuid,
    },
    /// It has ended.
    #[error("{kind} {key:?} has ended: {outcome}")]
    Ended {
        /// Which saga.
        kind: String,
        /// The key.
        key: String,
        /// How.
        outcome: Outcome,
    },
    /// What was sent is not wanted.
    #[error("{kind} {key:?} does not take what was sent: {why}")]
    Declined {
        /// Which saga.
        kind: String,
        /// The key.
        key: String,
        /// Why.
        why: String,
    },
    /// Who asks and why has to be said; what is sent needs an id.
    #[error("{0}")]
    By(String),
    /// The app is not running yet, or not any more.
    #[error("the app is not running: call `.start().await` first; one that was shut down does nothing more")]
    NotStarted,
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl RunError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::OtherInput { .. } | Self::Ended { .. } | Self::Declined { .. } => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
            _ => ErrorKind::Misuse,
        }
    }
}

/// Says how a run has ended, on the node that drives it from its beginning. When it goes before, nobody there knows.
pub(super) type Teller = watch::Sender<Option<Outcome>>;

/// A run that was started.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) run: Uuid,
    pub(super) kind: Arc<str>,
    pub(super) key: String,
    pub(super) repeated: bool,
    pub(super) rows: Arc<dyn RowStore>,
    pub(super) heads: Table<Head>,
    /// While this node drives it.
    pub(super) here: Option<watch::Receiver<Option<Outcome>>>,
}

impl Handle {
    /// The id of the run.
    #[must_use]
    pub const fn run(&self) -> Uuid {
        self.run
    }

    /// The key that it was started under.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it was started before, by a request like this one.
    #[must_use]
    pub const fn was_started_before(&self) -> bool {
        self.repeated
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`]; [`RunError::Gone`] once it was forgotten, or if the transaction that starts it is not committed.
    pub async fn ended(&self) -> Result<Option<Outcome>, RunError> {
        let head = self.heads.get(&*self.rows, &head_key(self.run)?).await?;
        let gone = || RunError::Gone { kind: self.kind.to_string(), key: self.key.clone(), run: self.run };
        Ok(head.ok_or_else(gone)?.value.outcome)
    }

    /// Waits until it has ended, on whichever node it is worked on. A store that does not answer is asked again.
    ///
    /// # Errors
    ///
    /// As [`Self::ended`], but for what may pass by itself.
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for the run.
    pub async fn outcome(&self) -> Result<Outcome, RunError> {
        if let Some(outcome) = self.told_here().await {
            return Ok(outcome);
        }
        let own = slice(self.run);
        let mut changes = self.rows.watch_rows(self.heads.name(), Slices { first: own, last: own });
        let mut pause = POLL.0;
        loop {
            changes.mark_unchanged();
            match self.ended().await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Transient => {}
                Err(error) => return Err(error),
            }
            if tokio::time::timeout(pause, changes.changed()).await.is_err() {
                pause = (pause * 2).min(POLL.1);
            }
        }
    }

    /// How it has ended, from this node alone: its rows need not be read after each step. `None` if it goes on elsewhere, or
    /// takes its time.
    async fn told_here(&self) -> Option<Outcome> {
        let mut here = self.here.clone()?;
        let told = tokio::time::timeout(POLL.1, here.wait_for(Option::is_some)).await.ok()?.ok()?;
        told.clone()
    }
}
