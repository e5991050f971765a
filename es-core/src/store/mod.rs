//! The storage contract: what becomes durable, and what can be read.
//!
//! A backend implements [`EventStore`], [`SnapshotStore`], [`RowStore`], [`Backend`] and its [`Transaction`]. The
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

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

pub use self::bookmark::Bookmark;
pub use self::commit::{
    Append, Attempt, Check, Commit, Committed, ExpectedVersion, INLINE, NewEvent, Outcome, OutcomeMark,
    RecordedEvent, RowWrite,
};
pub use self::error::{CommitError, Resolution, StoreError};
pub use self::filter::{AppendCondition, EventFilter, FilterItem};
pub use self::names::{EventId, IdempotencyKey, Name, Position, StreamId, Version};
pub(crate) use self::read::wait;
pub use self::read::{Subscription, read_all, subscribe};
use crate::services::Services;

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

/// Rows by table and key: those of keyed views, and the framework's own state. Written by [`Commit::rows`], read here.
///
/// A table with a row in the table [`CURRENT`] is a name for the table that this row names. It is looked up in the
/// snapshot that the rows are read from: so a reader sees a whole old table or a whole new one.
#[async_trait]
pub trait RowStore: std::fmt::Debug + Send + Sync + 'static {
    /// The rows of these keys, in the order of the keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError>;

    /// Rows in key order (bytewise) after a key, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError>;
}

/// The table of [`RowStore`] whose rows say which table a name stands for: key and data are UTF-8.
pub const CURRENT: &str = "current";

/// A row, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct StoredRow {
    /// Its key.
    pub key: String,
    /// Goes up by one with every write.
    pub rev: u64,
    /// What was written.
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
pub trait Backend: EventStore + SnapshotStore + RowStore + Sized {
    /// Its transaction.
    type Tx: Transaction;

    /// Opens a transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if no transaction can be had now, or the caller's task holds one already where
    /// only one can be open.
    async fn begin(&self) -> Result<Self::Tx, StoreError>;

    /// Opens a transaction in which the names of a projection's tables mean those of one generation. If its owner is
    /// silent for longer than `idle`, the database may end it: it must not stand in the way of whoever takes over.
    ///
    /// # Errors
    ///
    /// As [`Self::begin`]; [`StoreError::Misuse`] if the generation is not installed.
    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<Self::Tx, StoreError>;

    /// Whether a handler failed because of the database, not because of the event: it is asked again until the
    /// database answers.
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool;

    /// What queries read through (a pool), received by type.
    fn provide(&self, services: &mut Services);

    /// Makes the tables of one generation of a projection, if they are not there. With the first generation, the
    /// tables and rows of other versions of the projection go.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the DDL does not run, its tables belong to somebody else, or this backend cannot have
    /// a second generation of them.
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError>;

    /// Empties a generation (its tables, its [rows](Tables::rows) and those of tables below that name) and applies
    /// `commit`, which writes none of them, in one transaction.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError>;

    /// The same as [`clear`](Self::clear), but the tables go as well. Harmless if there are none.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done. [`StoreError::Misuse`] for the generation that queries read.
    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError>;

    /// Makes a generation the one that queries read and [`begin`](Self::begin) writes, and applies `commit`, in one
    /// transaction.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; then nothing was done.
    async fn switch(&self, tables: &Tables, to: Generation, commit: Commit)
    -> Result<Committed, CommitError>;

    /// How the tables of two generations differ, in one snapshot; nothing for a projection without tables. Keyed views
    /// are compared by the engine.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn compare(
        &self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError>;
}

/// Counts the builds of one version of a projection, from 1. Several may stand beside each other; queries read one.
pub type Generation = u32;

/// How a table of one generation differs from that of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct Difference {
    /// The table, as the projection names it.
    pub table: String,
    /// Rows of the new one whose key the old one has not.
    pub added: u64,
    /// Rows of the old one whose key the new one has not.
    pub removed: u64,
    /// Rows that both have and that differ. A table without a primary key has none: a change is a removal and an
    /// addition.
    pub changed: u64,
    /// Some of them: for people.
    pub samples: Vec<Sample>,
}

/// A row that differs, as text (JSON, where the backend has it).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "before and after")]
pub struct Sample {
    /// The row of the old generation, if it has it.
    pub old: Option<String>,
    /// The row of the new generation, if it has it.
    pub new: Option<String>,
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
    /// What queries and people call it: `name/version`.
    #[must_use]
    pub fn stored_name(&self) -> String {
        format!("{}/{}", self.name, self.version)
    }

    /// The table of [`RowStore`] that one generation of a keyed view has: `name/version~generation`. What else belongs
    /// to the generation is in tables below it: `name/version~generation/..`.
    #[must_use]
    pub fn rows(&self, generation: Generation) -> String {
        format!("{}/{}~{generation}", self.name, self.version)
    }
}
