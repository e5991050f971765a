//! What a processor is made of: a [`Runner`] says what it is, a [`Session`] does the work of one range.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::work::{Failure, Work};
use crate::BoxError;
use crate::projection::OnFailure;
use crate::services::Services;
use crate::store::{
    Commit, CommitError, EventFilter, Generation, RecordedEvent, RowWrite, StoreError, Tables,
};

/// One kind of processing, as the engine sees it.
pub trait Runner: Send + Sync + 'static {
    /// Its stored name: of a projection `name/version`.
    fn name(&self) -> String;
    /// What it wants to see.
    fn filter(&self) -> EventFilter;
    /// What it keeps and a rebuild makes anew; `None` for effects outside, which are never done again.
    fn tables(&self) -> Option<Tables>;
    /// How it is run.
    fn traits(&self) -> Traits {
        Traits::default()
    }
    /// The keys that an event belongs to: order is kept for each of them.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError>;
    /// Begins to work on a range. What belongs to the lease must not outlive `idle` of silence.
    fn open(&self, generation: Generation, services: &Arc<Services>, idle: Duration) -> Box<dyn Session>;
}

/// How a processor is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traits {
    /// Whether ranges of slices may be worked on beside each other.
    pub splits: bool,
    /// What becomes of an event that fails.
    pub on_failure: OnFailure,
    /// How many events are taken in at once, at most.
    pub page: usize,
    /// Whether it may fold page after page before it flushes.
    pub folds: bool,
    /// Whether the same event may come again after a reset to a position.
    pub idempotent: bool,
}

impl Default for Traits {
    fn default() -> Self {
        Self { splits: false, on_failure: OnFailure::Park, page: 1_000, folds: false, idempotent: false }
    }
}

/// The work of one range. Nothing is durable before [`flush`](Self::flush); a session that failed is dropped, and with
/// it everything since the last flush.
#[async_trait]
pub trait Session: Send {
    /// Takes in some events, those that `work` admits.
    ///
    /// # Errors
    ///
    /// The first handler that failed.
    async fn fold(&mut self, events: &[&RecordedEvent], work: &mut Work<'_>) -> Result<(), Failure>;

    /// Makes durable what was taken in, together with these rows.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing was written, unless it is unknown.
    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError>;

    /// The same, with more than rows: how a projection becomes inline. Only what writes nothing but rows can.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing was written, unless it is unknown.
    async fn flush_with(&mut self, _: Commit) -> Result<(), CommitError> {
        Err(StoreError::misuse("this kind of processor cannot become inline: it does not only write rows")
            .into())
    }

    /// Begins the rows of some keys anew, in memory: what is folded next builds them up again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if rows cannot be told apart by key, which is the default.
    async fn forget(&mut self, _: &[String]) -> Result<(), StoreError> {
        Err(StoreError::misuse("only the rows of a keyed view can be built anew one by one"))
    }

    /// About how many rows wait for the flush.
    fn waiting(&self) -> usize {
        0
    }

    /// The key that the last flush failed for, if it is known.
    fn failed(&self) -> Option<&str> {
        None
    }
}
