//! The transaction in which an operator sets rows right.

use std::ops::{Deref, DerefMut};

use es_core::guard::GuardRows as _;
use es_core::store::StoreError;
use sqlx::PgConnection;

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
    /// [`StoreError`]: it may have been committed. [`rows`](crate::PgUndoLog::rows) tells.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await
    }
}
