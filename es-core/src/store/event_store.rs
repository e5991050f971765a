//! The log: what is appended together, and how it is read.

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Attempt, Commit, CommitError, Committed, EventFilter, IdempotencyKey, Outcome, Position, RecordedEvent,
    Resolution, StoreError, StreamId, Version,
};

/// Where events live. Held as `dyn`; every method is safe to drop at any await point.
///
/// Laws:
/// - versions of a stream count from 1 without holes; positions count from 1 without holes and equal
///   commit order, so a reader that asks for "after p" never misses an event;
/// - a [`Commit`] is applied entirely or not at all, and is visible to every reader right after;
/// - a dropped [`commit`](Self::commit) may still be applied: its outcome is unknown, not failed;
/// - every read is bounded by bytes as well as by a number: it ends with the event by which it reaches
///   [`PAGE_BYTES`](crate::limits::PAGE_BYTES), see [`Filling`](super::Filling), so one event is given however large.
#[async_trait]
pub trait EventStore: std::fmt::Debug + Send + Sync + 'static {
    /// Applies a commit, in the order of [`rules`](super::rules). Door one: batched with other callers' commits.
    ///
    /// # Errors
    ///
    /// [`CommitError`]: nothing was applied, except for [`CommitError::Unknown`], which may have been.
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError>;

    /// Says whether an attempt was applied, and makes sure that it never will be if not. Final: what was once `Never`
    /// stays so, also if the same events are sent again and written; what was applied stays so, whatever was done to its
    /// rows and keys since.
    ///
    /// An attempt without events can be asked for within an hour, and is proven by its name alone. One that wrote no
    /// outcome and no row either has left nothing, and is `Never`: ask it again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be asked now; [`StoreError::Misuse`] if the attempt has neither a name nor
    /// events, or has none and is too old to be known.
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError>;

    /// The events of one stream after a version, in order, at most `limit` of them. A stream that
    /// does not exist is empty. There may be more behind a page that [is full](super::is_full), by its number or its
    /// bytes; any other is the last.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The matching events after a position, in order, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError>;

    /// The events at some positions, in the order of the log; one that is not there is left out. At most
    /// [`MAX_PAGE`](crate::limits::MAX_PAGE) positions. If the bytes of the answer [fill](super::is_full) a page, nothing
    /// is said of the positions behind its last event: ask for them again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read; [`StoreError::Misuse`] for more positions.
    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The position of the last event; 0 for an empty store.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn head(&self) -> Result<Position, StoreError>;

    /// The last position before a time: every event recorded at or after it lies behind this position.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError>;

    /// The time of the store's clock, which `recorded_at` is taken from.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be asked now.
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// What is stored under an idempotency key.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError>;

    /// Wakes when the head has moved. A wake-up may be late or lost; a reader also polls.
    fn watch(&self) -> watch::Receiver<Position>;

    /// Tells this store from any other: a `Tx` of another store is refused.
    fn identity(&self) -> uuid::Uuid;

    /// Counts the histories that this store was seen with. It changes when the store is found to have failed over to an older
    /// state, to have been restored to one, or to have had a payload replaced by an operator: before anything is given that
    /// was read there. What was read before does not count any more, wherever positions, versions and revisions stand. A
    /// store that cannot come to that says 0. Whoever wraps a store says what that one says.
    fn history(&self) -> u64;
}

/// What one read of the log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct Page {
    /// The matching events, in order.
    pub events: Vec<RecordedEvent>,
    /// How far the read looked: nothing up to here that matches is missing, also when no event did.
    pub through: Position,
    /// Whether there may be more to read right now.
    pub more: bool,
}
