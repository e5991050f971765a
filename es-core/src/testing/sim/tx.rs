//! A live transaction, with the same faults on its commit.

use async_trait::async_trait;
use futures::FutureExt;

use super::SimStore;
use crate::memory::Tx;
use crate::store::{Commit, CommitError, Committed, StoreError, Transaction};

/// The transaction of a [`SimStore`]: its rows are those of the memory backend.
#[derive(Debug)]
pub struct SimTx {
    sim: SimStore,
    inner: Tx,
}

impl SimTx {
    pub(super) const fn new(sim: SimStore, inner: Tx) -> Self {
        Self { sim, inner }
    }

    /// A row, as this transaction sees it.
    #[must_use]
    pub fn get(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        self.inner.get(table, key)
    }

    /// Writes a row.
    pub fn put(&mut self, table: &str, key: &str, row: impl Into<Vec<u8>>) {
        self.inner.put(table, key, row);
    }

    /// Deletes a row.
    pub fn delete(&mut self, table: &str, key: &str) {
        self.inner.delete(table, key);
    }
}

#[async_trait]
impl Transaction for SimTx {
    fn staged(&mut self) -> &mut Commit {
        self.inner.staged()
    }

    fn identity(&self) -> uuid::Uuid {
        self.inner.identity()
    }

    async fn commit(mut self) -> Result<Committed, CommitError> {
        let attempt = self.sim.name(self.inner.staged());
        let inner = self.inner;
        let work = move || inner.commit().now_or_never().expect("the memory backend answers at once");
        self.sim.attempt(attempt, Box::new(work)).await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.sim.delay().await;
        Ok(())
    }
}
