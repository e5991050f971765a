//! A backend whose line to its store can be cut, and that counts what goes over it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::services::Services;
use crate::slices::Slices;
use crate::store::{
    Attempt, Backend, Builds, Commit, CommitError, Committed, Difference, EventFilter, EventStore,
    Generation, IdempotencyKey, Outcome, Page, Position, RecordedEvent, Resolution, RowStore, Snapshot,
    SnapshotStore, Span, StoreError, StoredRow, StreamId, Tables, Version,
};

/// The line between a node and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a line is one of these")]
pub enum Line {
    /// Everything goes through.
    Up,
    /// Whatever writes waits until the line is up again, and is done then: late.
    HoldsWrites,
    /// Nothing goes through.
    Down,
}

/// A backend at the other end of a line. Clones share it.
#[derive(Clone, Debug)]
pub struct Double<B> {
    inner: B,
    line: Arc<watch::Sender<Line>>,
    counts: Arc<Counted>,
}

/// What went over the line.
#[derive(Debug, Default)]
struct Counted {
    reads: Mutex<Vec<Position>>,
    calls: AtomicU64,
    held: AtomicU64,
}

impl<B> Double<B> {
    /// A line to this backend.
    #[must_use]
    pub fn new(inner: B) -> Self {
        Self { inner, line: Arc::new(watch::Sender::new(Line::Up)), counts: Arc::default() }
    }

    /// Cuts it, or mends it.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// After which positions the log was read, in order.
    #[must_use]
    pub fn reads(&self) -> Vec<Position> {
        self.counts.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the store was asked for anything.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::SeqCst)
    }

    /// How many writes had to wait for the line.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::SeqCst)
    }

    async fn reach(&self, writes: bool) -> Result<(), StoreError> {
        self.counts.calls.fetch_add(1, Ordering::SeqCst);
        let mut line = self.line.subscribe();
        let now = *line.borrow_and_update();
        match now {
            Line::HoldsWrites if writes => {
                self.counts.held.fetch_add(1, Ordering::SeqCst);
                // The sender lives as long as this value.
                drop(line.wait_for(|line| *line == Line::Up).await);
                Ok(())
            }
            Line::Up | Line::HoldsWrites => Ok(()),
            Line::Down => Err(StoreError::transient("a call", std::io::Error::other("the line is down"))),
        }
    }
}

#[async_trait]
impl<B: Backend> EventStore for Double<B> {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.reach(true).await?;
        self.inner.commit(commit).await
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.reach(false).await?;
        self.inner.resolve(attempt).await
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.reach(false).await?;
        self.inner.stream(id, after, limit).await
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        self.reach(false).await?;
        let page = self.inner.read(filter, after, limit).await?;
        if !page.events.is_empty() {
            self.counts.reads.lock().unwrap_or_else(PoisonError::into_inner).push(after);
        }
        Ok(page)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.reach(false).await?;
        self.inner.head().await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.reach(false).await?;
        self.inner.position_at(time).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.reach(false).await?;
        self.inner.now().await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.reach(false).await?;
        self.inner.outcome(key).await
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.inner.watch()
    }

    fn identity(&self) -> Uuid {
        self.inner.identity()
    }
}

#[async_trait]
impl<B: Backend> SnapshotStore for Double<B> {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.reach(false).await?;
        self.inner.snapshot(stream).await
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.reach(true).await?;
        self.inner.put_snapshot(snapshot).await
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.reach(true).await?;
        self.inner.drop_snapshot(stream).await
    }
}

#[async_trait]
impl<B: Backend> RowStore for Double<B> {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        self.reach(false).await?;
        self.inner.rows(table, keys).await
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.reach(false).await?;
        self.inner.scan(table, after, limit).await
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        self.reach(false).await?;
        self.inner.scan_many(table, spans).await
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.inner.watch_rows(table, slices)
    }
}

#[async_trait]
impl<B: Backend> Backend for Double<B> {
    type Tx = B::Tx;

    async fn begin(&self) -> Result<B::Tx, StoreError> {
        self.reach(true).await?;
        self.inner.begin().await
    }

    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<B::Tx, StoreError> {
        self.reach(true).await?;
        self.inner.begin_at(tables, generation, idle).await
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        self.inner.is_transient(error)
    }

    fn provide(&self, services: &mut Services) {
        self.inner.provide(services);
    }
}

#[async_trait]
impl<B: Backend> Builds for Double<B> {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.reach(true).await?;
        self.inner.install(tables, generation).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(true).await?;
        self.inner.clear(tables, generation, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(true).await?;
        self.inner.uninstall(tables, generation, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(true).await?;
        self.inner.switch(tables, to, commit).await
    }

    async fn compare(
        &self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        self.reach(false).await?;
        self.inner.compare(tables, old, new, samples).await
    }
}
