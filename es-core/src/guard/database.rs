//! What a database has to bring.

use uuid::Uuid;

use super::{GuardKey, GuardRow, Standing};
use crate::store::StoreError;

/// A database with guard rows: calls to it act once.
///
/// `es-postgres` and `es-sqlite` bring one over a pool of sqlx. A program that has two of a kind gives each a type of its
/// own, which begins the transactions of the one in it:
///
/// ```
/// use es_core::guard::{GuardRows, GuardedDatabase};
/// use es_core::store::StoreError;
///
/// struct Stock<D>(D);
///
/// impl<D: GuardedDatabase> GuardedDatabase for Stock<D> {
///     type Tx = D::Tx;
///     async fn begin(&self) -> Result<D::Tx, StoreError> {
///         self.0.begin().await
///     }
/// }
/// ```
pub trait GuardedDatabase: Send + Sync + 'static {
    /// A transaction, which the effect is written through.
    type Tx: GuardRows;

    /// Begins a transaction. Each of its statements sees what was committed before that statement, or nobody else writes
    /// while it is open.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, StoreError>> + Send;
}

/// A database that undoes by itself what a call has written there.
///
/// What is written in the transaction of a call that [runs](super::Guarded::Run) is noted in its commit. The
/// [change](GuardRows::change) of its row to undone takes all of that back, in the same commit, or fails with nothing of it
/// taken back: [`StoreError::Blocked`] if an operator has to do something first. The change to confirmed forgets it. Until
/// one of the two, no other run changes what was written.
///
/// `es-postgres` brings one, `PgUndoLog`. A type around it is one too:
///
/// ```
/// use es_core::guard::{GuardedDatabase, UndoLog};
/// use es_core::store::StoreError;
///
/// struct Stock<D>(D);
///
/// impl<D: GuardedDatabase> GuardedDatabase for Stock<D> {
///     type Tx = D::Tx;
///     async fn begin(&self) -> Result<D::Tx, StoreError> {
///         self.0.begin().await
///     }
/// }
///
/// impl<D: UndoLog> UndoLog for Stock<D> {
///     fn is_taken(error: &(dyn std::error::Error + 'static)) -> bool {
///         D::is_taken(error)
///     }
/// }
/// ```
pub trait UndoLog: GuardedDatabase {
    /// Whether an error of a statement, or one that it has led to, says that another run has changed what it was to change:
    /// the database is well, and it is to be tried again.
    fn is_taken(error: &(dyn std::error::Error + 'static)) -> bool;
}

/// The guard rows of a database, in a transaction. Dropping it rolls back.
///
/// This is for [`Guard`](super::Guard): a step writes rows of its own.
pub trait GuardRows: Send {
    /// Inserts a row, unless one of this key is there: then one that somebody else is writing is waited for, but not for
    /// ever: after that it fails for [`Locked`](super::Locked). Whether it was inserted.
    fn insert(
        &mut self,
        key: &GuardKey,
        row: &GuardRow,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The row of a key. Nobody else changes it until this transaction has ended.
    fn find(&mut self, key: &GuardKey) -> impl Future<Output = Result<Option<GuardRow>, StoreError>> + Send;

    /// Changes a row that is there. That it is gone is an error.
    fn change(
        &mut self,
        key: &GuardKey,
        standing: &Standing,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The floor, as it is committed now: rows of runs before it may have been forgotten. An error, which says what to do,
    /// if the tables are not there.
    fn floor(&mut self) -> impl Future<Output = Result<Uuid, StoreError>> + Send;

    /// Whether calls can be made here: an error says what to do. This is asked when a program starts; a database that does
    /// more than to have guard rows has more to look at then. A type around another one passes it on.
    fn check(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async move { self.floor().await.map(drop) }
    }

    /// Deletes the rows of runs before `floor`, and raises the floor to it. How many that were.
    fn forget(&mut self, floor: Uuid) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Rows in the order of their keys, behind one, at most `limit`: for whoever compares them. A row that is being written is
    /// not waited for. A database that does not give them says so by an error.
    fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(GuardKey, GuardRow)>, StoreError>> + Send {
        let _nothing = (after, limit);
        async { Err(StoreError::misuse("this database does not list its guard rows")) }
    }

    /// Commits.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Rolls back.
    fn rollback(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}
