//! The live transaction of the memory backend.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryBackend;
use crate::store::{Commit, CommitError, Committed, StoreError, Transaction};

/// One table of the user's own: rows by key.
pub type Rows = BTreeMap<String, Vec<u8>>;

/// `(table, key, row)`; no row deletes.
pub(super) type Changes = Vec<(String, String, Option<Vec<u8>>)>;

/// The user's rows and what is staged, written together or not at all.
#[derive(Debug)]
pub struct Tx {
    backend: MemoryBackend,
    staged: Commit,
    changes: BTreeMap<(String, String), Option<Vec<u8>>>,
}

impl Tx {
    pub(super) fn new(backend: MemoryBackend) -> Self {
        Self { backend, staged: Commit::default(), changes: BTreeMap::new() }
    }

    /// A row, as this transaction sees it.
    #[must_use]
    pub fn get(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        match self.changes.get(&(table.to_owned(), key.to_owned())) {
            Some(changed) => changed.clone(),
            None => self.backend.row(table, key),
        }
    }

    /// Writes a row.
    pub fn put(&mut self, table: &str, key: &str, row: impl Into<Vec<u8>>) {
        self.changes.insert((table.to_owned(), key.to_owned()), Some(row.into()));
    }

    /// Deletes a row.
    pub fn delete(&mut self, table: &str, key: &str) {
        self.changes.insert((table.to_owned(), key.to_owned()), None);
    }
}

#[async_trait]
impl Transaction for Tx {
    fn staged(&mut self) -> &mut Commit {
        &mut self.staged
    }

    fn identity(&self) -> uuid::Uuid {
        self.backend.0.identity
    }

    async fn commit(self) -> Result<Committed, CommitError> {
        let changes = self.changes.into_iter().map(|((table, key), row)| (table, key, row)).collect();
        self.backend.apply(self.staged, changes)
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}
