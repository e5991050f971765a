//! The storage contract: what becomes durable, and what can be read.
//!
//! A backend implements [`EventStore`], [`SnapshotStore`], [`Backend`] and its [`Transaction`]; beside
//! them stand capabilities that not every backend needs to have, such as [`ViewStore`]. The
//! conformance suites of `es_core::testing` are this contract made executable.

mod bookmark;
mod commit;
pub mod envelope;
mod error;
mod filter;
pub mod kinds;
mod names;
mod read;
pub mod rules;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

pub use self::bookmark::Bookmark;
pub use self::commit::{
    Append, Attempt, Check, CheckpointMove, Commit, Committed, ExpectedVersion, NewEvent, Outcome,
    OutcomeMark, RecordedEvent, ViewWrite,
};
pub use self::error::{CommitError, Resolution, StoreError};
pub use self::filter::{AppendCondition, EventFilter, FilterItem};
pub use self::names::{EventId, IdempotencyKey, Name, Position, StreamId, Version};
pub(crate) use self::read::wait;
pub use self::read::{Subscription, read_all, subscribe};
use crate::command::Services;

/// Where events live. Held as `dyn`; every method is safe to drop at any await point.
///
/// Laws:
/// - versions of a stream count from 1 without holes; positions count from 1 without holes and equal
///   commit order, so a reader that asks for "after p" never misses an event;
/// - a [`Commit`] is applied entirely or not at all, and is visible to every reader right after;
/// - a dropped [`commit`](Self::commit) may still be applied: its outcome is unknown, not failed.
#[async_trait]
pub trait EventStore: std::fmt::Debug + Send + Sync + 'static {
    /// Applies a commit, in the order of [`rules`]. Door one: batched with other callers' commits.
    ///
    /// # Errors
    ///
    /// [`CommitError`]: nothing was applied, except for [`CommitError::Unknown`], which may have been.
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError>;

    /// Says whether an unknown attempt was applied, and makes sure that it never will be if not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be asked now.
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError>;

    /// The events of one stream after a version, in order, at most `limit` of them. A stream that
    /// does not exist is empty.
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

    /// Where a processor is; `None` if it never moved.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn checkpoint(&self, name: &str) -> Result<Option<Position>, StoreError>;

    /// The names of all processors that ever moved, with their positions.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn checkpoints(&self) -> Result<Vec<(String, Position)>, StoreError>;

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

/// Where snapshots live: at most one per stream, the newest.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// The stored snapshot of a stream.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError>;

    /// Stores a snapshot, unless a newer one of the same schema is there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError>;

    /// Removes the snapshot of a stream, if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be written.
    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError>;
}

/// A folded state, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend stores all of it")]
pub struct Snapshot {
    /// Whose state.
    pub stream: StreamId,
    /// How many events are folded in.
    pub version: Version,
    /// The last of them: tells a snapshot of another history.
    pub event: EventId,
    /// The schema version of the state type.
    pub schema: u32,
    /// The state.
    pub data: Bytes,
}

/// Rows of keyed views. A capability: `.view::<V>()` asks for it.
#[diagnostic::on_unimplemented(
    message = "backend `{Self}` stores no keyed views",
    note = "it would implement `ViewStore`"
)]
#[async_trait]
pub trait ViewStore: Send + Sync + 'static {
    /// The rows of these keys, in the order of the keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn rows(&self, view: &str, keys: &[String]) -> Result<Vec<Option<ViewRow>>, StoreError>;

    /// Rows in key order (bytewise) after a key, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn scan(&self, view: &str, after: Option<&str>, limit: usize) -> Result<Vec<ViewRow>, StoreError>;
}

/// A row of a keyed view, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct ViewRow {
    /// Its key.
    pub key: String,
    /// Goes up by one with every write.
    pub rev: u64,
    /// The folded view.
    pub data: Bytes,
}

/// Door two: a live transaction of the backend. Rows go through the backend's own methods, everything
/// of the framework is staged as data and flushed as the last statement before COMMIT.
///
/// Dropping it rolls back.
#[async_trait]
pub trait Transaction: std::fmt::Debug + Send + Sized + 'static {
    /// What will be written with the rows.
    fn staged(&mut self) -> &mut Commit;

    /// The store it belongs to.
    fn identity(&self) -> uuid::Uuid;

    /// Flushes what is staged and commits.
    ///
    /// # Errors
    ///
    /// [`CommitError`], as [`EventStore::commit`]; the user's rows share the outcome.
    async fn commit(self) -> Result<Committed, CommitError>;

    /// Undoes everything.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the rollback could not be sent; the backend then rolls back by itself.
    async fn rollback(self) -> Result<(), StoreError>;
}

/// What a backend crate implements once.
#[async_trait]
pub trait Backend: EventStore + SnapshotStore + Sized {
    /// Its transaction.
    type Tx: Transaction;

    /// Opens a transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if no transaction can be had now, or the caller's task holds one already where
    /// only one can be open.
    async fn begin(&self) -> Result<Self::Tx, StoreError>;

    /// What queries read through (a pool), received by type.
    fn provide(&self, services: &mut Services);

    /// Makes the tables of a projection if this version of it has none yet; those of an older version go.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the DDL does not run, or its tables belong to somebody else.
    async fn install(&self, tables: &Tables) -> Result<(), StoreError>;

    /// Empties a projection in one transaction: its rows, its tables, its checkpoint.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be done; then nothing was.
    async fn reset(&self, tables: &Tables) -> Result<(), StoreError>;
}

/// What a projection keeps in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a projection is a name, a version and a schema")]
pub struct Tables {
    /// The projection's stored name.
    pub name: &'static str,
    /// Its version: another one is another projection.
    pub version: u32,
    /// The DDL of its own tables, in the backend's SQL; empty for none.
    pub schema: &'static str,
}

impl Tables {
    /// The name that checkpoints and rows carry: `name/version`.
    #[must_use]
    pub fn stored_name(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }
}
