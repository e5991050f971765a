//! Whether the store takes writes. A command is blamed for a failure only while it does: a store that has become read-only
//! refuses each of them in words that sound like a mistake.

use std::fmt;
use std::sync::Arc;

use es_core::Commit;
use es_core::cluster::StateStore;
use es_core::store::{Row, StoreError, Table};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often a write is tried: one that is lost says nothing of the next.
const TRIES: usize = 4;

/// Asks a store by writing a row that nobody reads.
#[derive(Clone)]
pub(crate) struct Writes {
    store: Arc<dyn StateStore>,
    table: Table<()>,
    key: String,
    /// When the last write was begun that went through.
    last: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writes").field("table", &self.table).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Writes {
    /// By this row of a table.
    pub(crate) fn new(store: Arc<dyn StateStore>, table: Table<()>, key: String) -> Self {
        Self { store, table, key, last: Arc::default() }
    }

    /// Whether the store takes a write from now on. Whoever asks at the same time shares one.
    pub(super) async fn are_taken(&self) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if last.is_some_and(|begun| begun > asked) {
            return true;
        }
        for _ in 0..TRIES {
            let begun = Instant::now();
            if self.write().await.unwrap_or_default() {
                *last = Some(begun);
                return true;
            }
        }
        false
    }

    async fn write(&self) -> Result<bool, StoreError> {
        let found = self.store.rows(self.table.name(), std::slice::from_ref(&self.key)).await?;
        let rev = found.into_iter().flatten().next().map_or(0, |row| row.rev);
        let row = self.table.put(&Row { key: self.key.clone(), rev, value: () })?;
        Ok(self.store.commit(Commit { rows: vec![row], ..Commit::default() }).await.is_ok())
    }
}
