//! The transaction in which an operator sets rows right.

use std::ops::{Deref, DerefMut};

use es_core::guard::GuardRows as _;
use es_core::store::StoreError;
use sqlx::PgConnection;

use super::refusal::failed;
use crate::GuardedTx;

/// A transaction in which rows of one call are set right: see [`PgUndoLog::mend`](crate::PgUndoLog::mend). Derefs to sqlx's
/// connection: `sqlx::query(..).execute(&mut *tx)`. Dropped, it is rolled back.
#[derive(Debug)]
pub struct MendTx(pub(super) GuardedTx);

impl Deref for MendTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for MendTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl MendTx {
    /// Commits, with who has done it and why.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if a statement before it has failed, or a constraint that is deferred does: nothing is committed.
    /// Another one: it may have been. [`rows`](crate::PgUndoLog::rows) tells.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        // The server would answer the COMMIT of a transaction that has failed with a rollback, and without an error.
        let check = sqlx::raw_sql("set constraints all immediate").execute(&mut *self).await;
        check.map_err(|e| failed("committing what was set right", e))?;
        self.0.commit().await
    }
}
