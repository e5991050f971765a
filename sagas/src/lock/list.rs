//! What operators see of locks: who has what, who waits for whom, and since when.

use std::fmt;
use std::sync::Arc;

use es_core::Timestamp;
use es_core::limits::MAX_PAGE;
use es_core::store::{RowStore, StoreError, Table, is_full};
use serde::{Deserialize, Serialize};

use super::row::{Entry, Lock, LockMode};
use super::rows::{LockTables, Owner, lock_key};
use crate::transaction::{Kin, RunError};

/// The locks of a store: of all sagas, and on any node. See [`Sagas::saga_locks`](crate::saga::Sagas::saga_locks).
#[derive(Clone)]
pub struct Locks(Arc<dyn RowStore>);

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locks")
    }
}

/// A run that has a lock, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockShown {
    /// What is locked.
    pub resource: String,
    /// How.
    pub mode: LockMode,
    /// The run.
    pub run: Kin,
    /// Since when it has it, or waits for it.
    pub since: Timestamp,
}

/// One lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockOf {
    /// Who has it.
    pub held: Vec<LockShown>,
    /// Who waits for it: the first one is next.
    pub waiting: Vec<LockShown>,
}

/// Some of those who have locks, or wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockPage {
    /// The runs.
    pub locks: Vec<LockShown>,
    /// Where the next ones begin; `None`: there are no more.
    pub next: Option<LockCursor>,
}

/// Where a page of locks ends. Its text can be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockCursor(String);

impl fmt::Display for LockCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for LockCursor {
    fn from(text: String) -> Self {
        Self(text)
    }
}

fn shown(owner: Owner) -> LockShown {
    let Owner { resource, of: run, mode, since } = owner;
    LockShown { resource, mode, run, since }
}

impl Locks {
    pub(super) fn of(rows: Arc<dyn RowStore>) -> Self {
        Self(rows)
    }

    /// Who has which lock. Those of one lock stand together; locks are in no order that says anything. What comes and goes
    /// meanwhile may be missed, or stand in two pages.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`].
    pub async fn held(&self, after: Option<&LockCursor>, limit: usize) -> Result<LockPage, RunError> {
        self.page(&LockTables::new().map_err(StoreError::from)?.held, after, limit).await
    }

    /// Who waits for which lock: as [`held`](Self::held). For whom, and in which order, is said by [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// [`RunError::Store`].
    pub async fn waiting(&self, after: Option<&LockCursor>, limit: usize) -> Result<LockPage, RunError> {
        self.page(&LockTables::new().map_err(StoreError::from)?.waits, after, limit).await
    }

    /// Who has this one, and who waits for it.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`], also if its row cannot be read.
    pub async fn lock(&self, resource: &str) -> Result<LockOf, RunError> {
        let tables = LockTables::new().map_err(StoreError::from)?;
        let lock = tables.locks.get(&*self.0, &lock_key(resource)?).await?;
        let lock = lock.map_or_else(|| Lock::free(resource.to_owned()), |row| row.value);
        let all = |entries: &[Entry]| entries.iter().map(|entry| shown(Owner::of(resource, entry))).collect();
        Ok(LockOf { held: all(&lock.holders), waiting: all(&lock.queue) })
    }

    async fn page(
        &self,
        table: &Table<Owner>,
        after: Option<&LockCursor>,
        limit: usize,
    ) -> Result<LockPage, RunError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let page = table.stored_page(&*self.0, after.map(|after| &*after.0), limit).await?;
        let next = page.last().map(|row| LockCursor(row.key.clone())).filter(|_| is_full(&page, limit));
        let locks = page.into_iter().filter_map(|row| table.decode(row).ok()).map(|row| shown(row.value));
        Ok(LockPage { locks: locks.collect(), next })
    }
}
