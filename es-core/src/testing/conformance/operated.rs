//! What an operator does to a store, for the suites of backends that can do it.

use bytes::Bytes;
use uuid::Uuid;

use super::Subject;
use crate::store::{Adopt, Position, StoreError, StreamId, Version};

/// Something that is stored as no store writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "each subject knows how to do every one")]
pub enum Damage {
    /// The outcome of every key is said to stand at this position.
    Outcomes(Position),
    /// Every snapshot is said to be of this version.
    Snapshots(Version),
    /// The event at this position is gone.
    Gone(Position),
    /// The event at this position has this version.
    Renumbered(Position, Version),
    /// The event at this position was recorded before all others.
    Early(Position),
    /// The checkpoint of this name is no JSON.
    Checkpoint(&'static str),
}

/// A subject whose backend has the verbs of an operator.
pub trait Operated: Subject {
    /// Replaces the payload of an event, also where it is `needed`.
    fn redact(
        backend: &Self::Backend,
        stream: &StreamId,
        version: Version,
        data: Bytes,
        needed: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Why that would be refused.
    fn redaction_needs(
        backend: &Self::Backend,
        stream: &StreamId,
        version: Version,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;

    /// What is not as it was promised, behind a position.
    fn verify_after(
        backend: &Self::Backend,
        after: Position,
    ) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Says that the store was restored or cloned; gives its new generation.
    fn adopt(&self, backend: &Self::Backend, how: Adopt) -> impl Future<Output = Uuid> + Send;

    /// The generation that the store has.
    fn generation(backend: &Self::Backend) -> impl Future<Output = Uuid> + Send;

    /// Stores what no store writes, past whatever guards it.
    fn damage(backend: &Self::Backend, damage: Damage) -> impl Future<Output = ()> + Send;
}
