//! A backend without its transaction's type: what the engine asks of it.

use async_trait::async_trait;

use crate::store::{
    Backend, Commit, CommitError, Committed, Difference, EventStore, Generation, RowStore, StoreError, Tables,
};

/// [`Backend`], object-safe. Its methods mean the same there.
#[async_trait]
pub(crate) trait AnyBackend: EventStore + RowStore {
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool;
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError>;
    async fn clear(&self, tables: &Tables, at: Generation, commit: Commit) -> Result<Committed, CommitError>;
    async fn uninstall(
        &self,
        tables: &Tables,
        at: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError>;
    async fn switch(&self, tables: &Tables, to: Generation, commit: Commit)
    -> Result<Committed, CommitError>;
    async fn compare(
        &self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError>;
}

#[async_trait]
impl<B: Backend> AnyBackend for B {
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        Backend::is_transient(self, error)
    }

    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        Backend::install(self, tables, generation).await
    }

    async fn clear(&self, tables: &Tables, at: Generation, commit: Commit) -> Result<Committed, CommitError> {
        Backend::clear(self, tables, at, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        at: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Backend::uninstall(self, tables, at, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Backend::switch(self, tables, to, commit).await
    }

    async fn compare(
        &self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        Backend::compare(self, tables, old, new, samples).await
    }
}
