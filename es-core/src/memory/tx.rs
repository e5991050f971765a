//! The live transaction of the memory backend.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryBackend;
use super::tables::Generations;
use crate::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction};

/// One table of the user's own: rows by key.
pub type Rows = BTreeMap<String, Vec<u8>>;

/// A row to write; none deletes.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) table: String,
    pub(super) key: String,
    pub(super) row: Option<Vec<u8>>,
}

/// The user's rows and what is staged, written together or not at all.
#[derive(Debug)]
pub struct Tx {
    backend: MemoryBackend,
    staged: Commit,
    changes: BTreeMap<(String, String), Option<Vec<u8>>>,
    /// Of which generation the tables are, where it is not everybody's current one.
    generation: Option<(Tables, Generation)>,
}

impl Tx {
    pub(super) fn new(backend: MemoryBackend, generation: Option<(Tables, Generation)>) -> Self {
        Self { backend, staged: Commit::default(), changes: BTreeMap::new(), generation }
    }

    /// A row, as this transaction sees it.
    #[must_use]
    pub fn get(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        match self.changes.get(&(table.to_owned(), key.to_owned())) {
            Some(changed) => changed.clone(),
            None => {
                let state = self.backend.lock();
                let table = format!("{table}{}", suffix(&state.tables, self.generation.as_ref()));
                state.tables.table(&table)?.get(key).cloned()
            }
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
        self.backend.shared.identity
    }

    async fn commit(self) -> Result<Committed, CommitError> {
        let (changes, generation) = (self.changes, self.generation);
        self.backend.apply(self.staged, |state| {
            for ((table, key), row) in changes {
                state.tables.write(generation.as_ref(), Change { table, key, row });
            }
        })
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn suffix(tables: &Generations, generation: Option<&(Tables, Generation)>) -> String {
    generation.map(|(projection, generation)| tables.suffix(projection, *generation)).unwrap_or_default()
}
