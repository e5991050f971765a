//! A store that has forgotten the fence of runs.

use std::time::Duration;

use async_trait::async_trait;
use es_core::memory::{MemoryBackend, Tx};
use es_core::processor::Slices;
use es_core::services::Services;
use es_core::store::{
    Attempt, Builds, Commit, CommitError, Committed, EventFilter, EventStore, Generation, IdempotencyKey,
    Outcome, Page, Resolution, RowSnapshot, RowStore, Snapshot, SnapshotStore, Span, StoreError, StoredRow,
    Tables,
};
use es_core::{Backend, Position, RecordedEvent, StreamId, Timestamp, Version};
use tokio::sync::watch;
use uuid::Uuid;

/// Writes rows of runs over whatever is there.
#[derive(Clone, Debug)]
pub(crate) struct Unfenced(pub(crate) MemoryBackend);

#[async_trait]
impl EventStore for Unfenced {
    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        let of_runs = |table: &str| table.contains("txn.");
        for row in commit.rows.iter_mut().filter(|row| of_runs(&row.table)) {
            let found = self.0.rows(&row.table, std::slice::from_ref(&row.key)).await?;
            row.rev = found[0].as_ref().map_or(0, |found| found.rev);
        }
        commit.rows.retain(|row| !of_runs(&row.table) || row.row.is_some() || row.rev > 0);
        self.0.commit(commit).await
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.0.resolve(attempt).await
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.0.stream(id, after, limit).await
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        self.0.read(filter, after, limit).await
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        self.0.at(positions).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.head().await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.0.position_at(time).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.0.now().await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.0.outcome(key).await
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.watch()
    }

    fn identity(&self) -> Uuid {
        self.0.identity()
    }
}

#[async_trait]
impl SnapshotStore for Unfenced {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.0.snapshot(stream).await
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.0.put_snapshot(snapshot).await
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.0.drop_snapshot(stream).await
    }
}

#[async_trait]
impl RowStore for Unfenced {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        self.0.rows(table, keys).await
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.0.scan(table, after, limit).await
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        self.0.scan_many(table, spans).await
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.0.watch_rows(table, slices)
    }
}

#[async_trait]
impl Builds for Unfenced {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.0.install(tables, generation).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.0.clear(tables, generation, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.0.uninstall(tables, generation, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.0.switch(tables, to, commit).await
    }

    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        self.0.publish(tables, commit).await
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.0.remove_version(projection, version, commit).await
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        self.0.row_snapshot().await
    }
}

#[async_trait]
impl Backend for Unfenced {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.0.begin().await
    }

    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<Tx, StoreError> {
        self.0.begin_at(tables, generation, idle).await
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        self.0.is_transient(error)
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        self.0.provide(services, own);
    }
}
