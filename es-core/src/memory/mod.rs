//! The in-memory backend: the whole contract on maps. For tests, examples, and state that may be lost.

mod store;
mod tables;
mod tx;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use self::store::State;
pub use self::tx::{Rows, Tx};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::services::Services;
use crate::store::rules::Ledger;
use crate::store::{
    Backend, Builds, Commit, CommitError, Committed, Generation, Position, RowSnapshot, RowWakes, StoreError,
    Tables, Touched,
};

/// Events, snapshots and views in memory. Clones share one store, which lives as long as any of them.
#[derive(Clone, Debug)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
    /// The projections whose tables have their names here, for an app's queries.
    own: Arc<[Tables]>,
}

#[derive(Debug)]
struct Shared {
    identity: uuid::Uuid,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    head: watch::Sender<Position>,
    row_wakes: RowWakes,
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
        let shared = Shared {
            identity: crate::id::Ids::default().next(),
            clock: Arc::new(clock),
            state: Mutex::default(),
            head: watch::Sender::new(Position(0)),
            row_wakes: RowWakes::default(),
        };
        Self { shared: Arc::new(shared), own: [].into() }
    }

    /// A committed row of the user's own.
    #[must_use]
    pub fn row(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        self.lock().tables.seen_by(&self.own, table)?.get(key).cloned()
    }

    /// All committed rows of one table, by key.
    #[must_use]
    pub fn table(&self, table: &str) -> Rows {
        self.lock().tables.seen_by(&self.own, table).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every check comes before the first write, so a panic leaves nothing half done.
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx::new(self.clone(), None))
    }

    async fn begin_at(&self, tables: &Tables, generation: Generation, _: Duration) -> Result<Tx, StoreError> {
        if !self.lock().tables.is_installed(tables, generation) {
            let name = tables.stored_name();
            let what =
                format!("generation {generation} of {name} is not installed: install it, then write it");
            return Err(StoreError::misuse(what));
        }
        Ok(Tx::new(self.clone(), Some((*tables, generation))))
    }

    fn is_transient(&self, _: &(dyn std::error::Error + 'static)) -> bool {
        false
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        services.replace(Arc::new(Self { own: own.into(), ..self.clone() }));
    }
}

#[async_trait]
impl Builds for MemoryBackend {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.check(tables, generation).await?;
        self.lock().tables.install(tables, generation);
        Ok(())
    }

    async fn check(&self, tables: &Tables, _: Generation) -> Result<(), StoreError> {
        if tables.schema.is_empty() {
            return Ok(());
        }
        let what =
            format!("the schema of projection {} is SQL, and the memory backend has none", tables.name);
        Err(StoreError::misuse(what))
    }

    /// Of the user's own rows, the table with the projection's name goes, and each that a generation of it wrote.
    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.apply(commit, |state| {
            state.tables.clear(tables, generation);
            state.clear(&tables.rows(generation));
        })
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.change(commit, |state, commit, now| {
            if state.tables.current(tables) == generation {
                return Err(StoreError::misuse(in_use(tables, generation)).into());
            }
            let committed = state.apply(commit, now, true)?;
            state.tables.uninstall(tables, generation);
            state.clear(&tables.rows(generation));
            Ok(committed)
        })
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.apply(commit, |state| state.tables.switch(tables, to))
    }

    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        self.change(commit, |state, commit, now| {
            if !state.tables.is_installed(tables, state.tables.current(tables)) {
                let name = tables.stored_name();
                return Err(StoreError::misuse(format!("{name} is not installed: install it first")).into());
            }
            let committed = state.apply(commit, now, true)?;
            state.tables.publish(tables);
            Ok(committed)
        })
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.apply(commit, |state| {
            state.tables.remove_version(projection, version);
            state.clear_version(&format!("{projection}/{version}"));
        })
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        Ok(Box::new(self.lock().snapshot()))
    }
}

/// What a backend says when the tables that queries read are to go.
#[must_use]
pub(crate) fn in_use(tables: &Tables, generation: Generation) -> String {
    let name = tables.stored_name();
    format!("generation {generation} of {name} is the one that queries read: switch to another one first")
}

impl MemoryBackend {
    fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// Judges, then writes, and does the rest with it.
    fn apply(&self, commit: Commit, and: impl FnOnce(&mut State)) -> Result<Committed, CommitError> {
        self.change(commit, |state, commit, now| {
            let committed = state.apply(commit, now, true)?;
            and(state);
            Ok(committed)
        })
    }

    /// Changes what is stored, under the lock, and wakes the readers.
    fn change(
        &self,
        commit: Commit,
        change: impl FnOnce(&mut State, Commit, Timestamp) -> Result<Committed, CommitError>,
    ) -> Result<Committed, CommitError> {
        crate::store::check::commit(&commit)?;
        let now = self.shared.clock.now();
        let touched = self.shared.row_wakes.is_watched().then(|| Touched::from(&commit));
        let (committed, moved) = {
            let mut state = self.lock();
            let before = state.head();
            let committed = change(&mut state, commit, now)?;
            (committed, state.head() > before)
        };
        touched.iter().for_each(|touched| self.shared.row_wakes.touch(touched));
        // Whoever subscribes after this look reads the log after it, and finds the events there.
        if moved && self.shared.head.receiver_count() > 0 {
            self.shared.head.send_if_modified(|head| {
                let ahead = committed.position > *head;
                *head = committed.position.max(*head);
                ahead
            });
        }
        Ok(committed)
    }
}
