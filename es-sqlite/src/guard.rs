//! Watches over a user's transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::SqliteConnection;

/// SQLite ends a transaction by itself after some errors (a full disk, `insert or rollback`), and what follows would commit
/// statement by statement: a user who went on would keep half.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// Whether the open transaction is a user's.
    watching: AtomicBool,
    /// Whether SQLite has ended it.
    lost: AtomicBool,
}

impl Guard {
    pub(crate) fn watch(&self, watching: bool) {
        self.lost.store(false, Ordering::SeqCst);
        self.watching.store(watching, Ordering::SeqCst);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.watching.load(Ordering::SeqCst) && self.lost.load(Ordering::SeqCst)
    }

    /// Hooks of the connection: nothing commits in the place of a transaction that was lost.
    pub(crate) async fn install(self: &Arc<Self>, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let mut handle = conn.lock_handle().await?;
        let guard = self.clone();
        handle.set_rollback_hook(move || guard.lost.store(true, Ordering::SeqCst));
        let guard = self.clone();
        handle.set_commit_hook(move || !guard.is_lost());
        Ok(())
    }
}
