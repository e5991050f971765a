//! A store for tests that has another history at some time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::Metadata;
use crate::memory::MemoryBackend;
use crate::store::{
    Append, Attempt, Commit, CommitError, Committed, EventFilter, EventStore, ExpectedVersion,
    IdempotencyKey, NewEvent, Outcome, Page, Position, RecordedEvent, Resolution, StoreError, StreamId,
    Version,
};

/// A store that fails over between two reads, and no read fails.
#[derive(Debug)]
pub(crate) struct FailsOver {
    logs: [MemoryBackend; 2],
    pub(crate) has: AtomicBool,
    /// It fails over behind so many reads of a stream; zero: it is told when.
    pub(crate) in_reads: AtomicU32,
    /// Whether it says so.
    tells: bool,
}

impl FailsOver {
    fn log(&self) -> &MemoryBackend {
        &self.logs[usize::from(self.has.load(Ordering::SeqCst))]
    }

    /// One more event. Who began to watch before it failed over is not woken.
    pub(crate) async fn add(&self, id: uuid::Uuid) {
        append(self.log(), id).await;
    }
}

#[async_trait]
impl EventStore for FailsOver {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.log().commit(commit).await
    }
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.log().resolve(attempt).await
    }
    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        n: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let events = self.log().stream(id, after, n).await;
        let left = self.in_reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left == Ok(1) {
            self.has.store(true, Ordering::SeqCst);
        }
        events
    }
    async fn read(&self, filter: &EventFilter, after: Position, n: usize) -> Result<Page, StoreError> {
        self.log().read(filter, after, n).await
    }
    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        self.log().at(positions).await
    }
    async fn head(&self) -> Result<Position, StoreError> {
        self.log().head().await
    }
    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.log().position_at(time).await
    }
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.log().now().await
    }
    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.log().outcome(key).await
    }
    fn watch(&self) -> watch::Receiver<Position> {
        self.log().watch()
    }
    // A standby has the identity of its primary.
    fn identity(&self) -> uuid::Uuid {
        self.logs[0].identity()
    }
    fn history(&self) -> u64 {
        u64::from(self.tells && self.has.load(Ordering::SeqCst))
    }
}

async fn append(to: &MemoryBackend, id: uuid::Uuid) {
    let event = NewEvent {
        id,
        name: "e".into(),
        schema: 1,
        codec: "json".into(),
        data: "{}".into(),
        tags: Vec::new(),
        metadata: Metadata::default().into(),
    };
    let append = Append {
        stream: StreamId::new("s").expect("a stream"),
        expected: ExpectedVersion::Any,
        events: vec![event],
    };
    to.commit(Commit { appends: vec![append], ..Commit::default() }).await.expect("it is appended");
}

/// A store whose logs have these events.
pub(crate) async fn between(events: [Vec<uuid::Uuid>; 2], tells: bool) -> Arc<FailsOver> {
    let logs = [MemoryBackend::new(), MemoryBackend::new()];
    for (log, ids) in logs.iter().zip(events) {
        for id in ids {
            append(log, id).await;
        }
    }
    of(logs, tells)
}

/// A store that has one of these logs, and then the other.
pub(crate) fn of(logs: [MemoryBackend; 2], tells: bool) -> Arc<FailsOver> {
    Arc::new(FailsOver { logs, has: AtomicBool::new(false), in_reads: AtomicU32::new(0), tells })
}
