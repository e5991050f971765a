//! Folded states, to load an aggregate faster.

use async_trait::async_trait;
use bytes::Bytes;

use super::{EventId, StoreError, StreamId, Version};

/// Where snapshots live: at most one per stream, the newest.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// The stored snapshot of a stream.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError>;

    /// Stores a snapshot, unless a newer one of the same schema is there. A store that can come to another history also leaves
    /// out one whose event does not stand in the stream.
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
