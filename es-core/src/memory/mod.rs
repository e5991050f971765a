//! The in-memory backend: the whole contract on maps. For tests, examples, and state that may be lost.

mod store;
mod tx;

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use self::store::State;
pub use self::tx::{Rows, Tx};
use crate::clock::{Clock, SystemClock};
use crate::command::Services;
use crate::store::rules::Ledger;
use crate::store::{Backend, Commit, Position, StoreError, Tables};

/// Events, snapshots and views in memory. Clones share one store, which lives as long as any of them.
#[derive(Clone, Debug)]
pub struct MemoryBackend(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    identity: uuid::Uuid,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    head: watch::Sender<Position>,
}

/// What queries read through: the user's rows.
pub type Db = MemoryBackend;

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// An empty store with another clock than the machine's.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> Self {
        Self(Arc::new(Shared {
            identity: crate::id::Ids::default().next(),
            clock: Arc::new(clock),
            state: Mutex::default(),
            head: watch::Sender::new(Position(0)),
        }))
    }

    /// A committed row of the user's own.
    #[must_use]
    pub fn row(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        self.lock().rows.get(table)?.get(key).cloned()
    }

    /// All committed rows of one table, by key.
    #[must_use]
    pub fn table(&self, table: &str) -> Rows {
        self.lock().rows.get(table).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every check comes before the first write, so a panic leaves nothing half done.
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx::new(self.clone()))
    }

    fn provide(&self, services: &mut Services) {
        services.replace(Arc::new(self.clone()));
    }

    async fn install(&self, tables: &Tables) -> Result<(), StoreError> {
        if tables.schema.is_empty() {
            return Ok(());
        }
        let what = format!("projection {} has a SQL schema, and the memory backend has no SQL", tables.name);
        Err(StoreError::misuse(what))
    }

    /// Of the user's own rows, the table with the projection's name goes.
    async fn reset(&self, tables: &Tables) -> Result<(), StoreError> {
        let name = tables.stored_name();
        let mut state = self.lock();
        state.views.remove(&*name);
        state.checkpoints.remove(&name);
        state.rows.remove(tables.name);
        Ok(())
    }
}

impl MemoryBackend {
    /// Judges, then writes: the one function that changes anything.
    fn apply(
        &self,
        commit: Commit,
        rows: tx::Changes,
    ) -> Result<crate::store::Committed, crate::store::CommitError> {
        crate::limits::check(&commit)?;
        let now = self.0.clock.now();
        let (committed, moved) = {
            let mut state = self.lock();
            let before = state.head();
            let committed = state.apply(commit, now)?;
            for (table, key, row) in rows {
                let table = state.rows.entry(table).or_default();
                match row {
                    Some(row) => table.insert(key, row),
                    None => table.remove(&key),
                };
            }
            (committed, state.head() > before)
        };
        // Whoever subscribes after this look reads the log after it, and finds the events there.
        if moved && self.0.head.receiver_count() > 0 {
            self.0.head.send_if_modified(|head| {
                let ahead = committed.position > *head;
                *head = committed.position.max(*head);
                ahead
            });
        }
        Ok(committed)
    }
}
