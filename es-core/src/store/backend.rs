//! What a backend crate implements in addition to the stores: its transaction, and its clients.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Builds, Commit, CommitError, Committed, EventStore, Generation, RowStore, SnapshotStore, StoreError,
    Tables,
};
use crate::services::Services;

/// What a backend crate implements once.
#[async_trait]
pub trait Backend: EventStore + SnapshotStore + RowStore + Builds + Sized {
    /// Its transaction.
    type Tx: Transaction;

    /// Opens a transaction. Names of tables of projections mean what [`publish`](Builds::publish) made of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if no transaction can be had now, or the caller's task holds one already where
    /// only one can be open.
    async fn begin(&self) -> Result<Self::Tx, StoreError>;

    /// Opens a transaction in which the names of a projection's tables mean those of one generation. If its owner is
    /// silent for longer than `idle`, the database may end it: it must not be in the way of the next owner.
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

    /// Whether an open transaction keeps every other writer of the store waiting, as in an embedded database: then handlers of
    /// SQL do not hold one for long.
    fn has_one_writer(&self) -> bool {
        false
    }

    /// What queries of an app read through (a pool), received by type. In there the names of tables of projections mean the
    /// current generations of these versions, which are the app's own.
    fn provide(&self, services: &mut Services, own: &[Tables]);
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
