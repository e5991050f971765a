//! A store that is asked until it answers: so one text of a rule serves all stores, those that fail
//! now and then included.

use std::time::Duration;

use crate::ErrorKind;
use crate::limits::MAX_PAGE;
use crate::processor::{ProcessorError, WaitError};
use crate::store::{
    Backend, Commit, CommitError, Committed, EventFilter, EventStore, ExpectedVersion, Generation,
    IdempotencyKey, NewEvent, Outcome, Page, Position, RecordedEvent, Resolution, RowStore, RowWrite,
    Snapshot, StoreError, StoredRow, StreamId, Tables, Transaction, Version,
};

/// So many refusals to answer are no bad luck any more.
const TRIES: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(1);

/// An error that says what to do about it.
pub(super) trait Kind: std::error::Error + 'static {
    fn kind(&self) -> ErrorKind;
}

impl Kind for StoreError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Kind for ProcessorError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Kind for WaitError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

/// Asks until there is an answer.
pub(super) async fn ask<T, E: Kind, F: Future<Output = Result<T, E>>>(mut question: impl FnMut() -> F) -> T {
    for _ in 0..TRIES {
        match question().await {
            Ok(answer) => return answer,
            Err(error) if error.kind() == ErrorKind::Transient => tokio::time::sleep(PAUSE).await,
            Err(error) => panic!("the store failed: {}", crate::chain(&error)),
        }
    }
    panic!("the store did not answer in {TRIES} tries")
}

/// Commits until the outcome is known: what is unknown is resolved, what was never applied is sent
/// again, with the same event ids.
pub(super) async fn commit(store: &dyn EventStore, commit: Commit) -> Result<Committed, CommitError> {
    known(store, || store.commit(commit.clone())).await
}

/// Changes something until the outcome is known.
async fn known<F: Future<Output = Result<Committed, CommitError>>>(
    store: &dyn EventStore,
    mut change: impl FnMut() -> F,
) -> Result<Committed, CommitError> {
    for _ in 0..TRIES {
        match change().await {
            Err(CommitError::Unknown(attempt)) => match ask(|| store.resolve(&attempt)).await {
                Resolution::Applied(committed) => return Ok(committed),
                Resolution::Never => {}
            },
            Err(error) if error.kind() == ErrorKind::Transient => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    panic!("the store did not commit in {TRIES} tries")
}

/// With a row of its own, so that whoever resolves the commit has something to look for.
pub(super) fn marked(mut commit: Commit) -> Commit {
    let key = super::data::new_id().to_string();
    commit.rows.push(RowWrite { table: "marks".into(), key, rev: 0, row: Some("\"done\"".into()) });
    commit
}

/// The patient view of a backend.
#[derive(Clone, Debug)]
pub(super) struct Patient<B>(pub(super) B);

impl<B: Backend + RowStore + Clone> Patient<B> {
    pub(super) async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self::commit(&self.0, commit).await
    }

    pub(super) async fn append(
        &self,
        stream: &str,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Committed, CommitError> {
        self.commit(Commit::default().and(stream, expected, events)).await
    }

    /// Appends where a refusal would be a mistake of the test.
    pub(super) async fn put(&self, stream: &str, events: Vec<NewEvent>) -> Committed {
        self.append(stream, ExpectedVersion::Any, events).await.expect("an append anywhere is accepted")
    }

    /// A whole stream.
    pub(super) async fn stream(&self, stream: &str) -> Vec<RecordedEvent> {
        let stream = StreamId::new(stream).expect("a short name without control characters");
        let mut all: Vec<RecordedEvent> = Vec::new();
        loop {
            let after = all.last().map_or(Version(0), |e| e.version);
            let page = ask(|| self.0.stream(&stream, after, MAX_PAGE)).await;
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// A stream after a version, at most `limit` events of it.
    pub(super) async fn tail(&self, stream: &str, after: u64, limit: usize) -> Vec<RecordedEvent> {
        let stream = StreamId::new(stream).expect("a short name without control characters");
        ask(|| self.0.stream(&stream, Version(after), limit)).await
    }

    /// The version of a stream.
    pub(super) async fn version(&self, stream: &str) -> u64 {
        self.stream(stream).await.len() as u64
    }

    /// Everything that matches.
    pub(super) async fn read(&self, filter: &EventFilter, after: u64) -> Page {
        let mut all = Page { through: Position(after), ..Page::default() };
        loop {
            let page = self.page(filter, all.through.0, MAX_PAGE).await;
            all.events.extend(page.events);
            all.through = page.through;
            if !page.more {
                return all;
            }
        }
    }

    pub(super) async fn all(&self) -> Vec<RecordedEvent> {
        self.read(&EventFilter::all(), 0).await.events
    }

    pub(super) async fn page(&self, filter: &EventFilter, after: u64, limit: usize) -> Page {
        ask(|| self.0.read(filter, Position(after), limit)).await
    }

    pub(super) async fn head(&self) -> u64 {
        ask(|| self.0.head()).await.0
    }

    pub(super) async fn position_at(&self, time: jiff::Timestamp) -> u64 {
        ask(|| self.0.position_at(time)).await.0
    }

    pub(super) async fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        ask(|| self.0.outcome(key)).await
    }

    pub(super) async fn row(&self, table: &str, key: &str) -> Option<StoredRow> {
        let keys = [key.to_owned()];
        ask(|| self.0.rows(table, &keys)).await.pop().flatten()
    }

    /// All rows of a table, read in pages of this many.
    pub(super) async fn scan(&self, table: &str, limit: usize) -> Vec<StoredRow> {
        let mut all: Vec<StoredRow> = Vec::new();
        loop {
            let after = all.last().map(|row| row.key.clone());
            let page = ask(|| self.0.scan(table, after.as_deref(), limit)).await;
            assert!(page.len() <= limit, "{} rows of at most {limit}", page.len());
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    pub(super) async fn now(&self) -> jiff::Timestamp {
        ask(|| self.0.now()).await
    }

    pub(super) async fn snapshot(&self, stream: &str) -> Option<Snapshot> {
        let stream = StreamId::new(stream).expect("a short name without control characters");
        ask(|| self.0.snapshot(&stream)).await
    }

    pub(super) async fn put_snapshot(&self, snapshot: &Snapshot) {
        ask(|| self.0.put_snapshot(snapshot.clone())).await;
    }

    pub(super) async fn begin(&self) -> B::Tx {
        ask(|| self.0.begin()).await
    }

    /// A transaction in one generation of a projection's tables.
    pub(super) async fn begin_at(&self, tables: &Tables, generation: Generation) -> B::Tx {
        ask(|| self.0.begin_at(tables, generation, super::LIMIT)).await
    }

    pub(super) async fn install(&self, tables: &Tables, generation: Generation) {
        ask(|| self.0.install(tables, generation)).await;
    }

    pub(super) async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let commit = marked(commit);
        known(&self.0, || self.0.clear(tables, generation, commit.clone())).await
    }

    pub(super) async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let commit = marked(commit);
        known(&self.0, || self.0.uninstall(tables, generation, commit.clone())).await
    }

    pub(super) async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let commit = marked(commit);
        known(&self.0, || self.0.switch(tables, to, commit.clone())).await
    }

    pub(super) async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        let commit = marked(commit);
        known(&self.0, || self.0.publish(tables, commit.clone())).await
    }

    pub(super) async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        let commit = marked(commit);
        known(&self.0, || self.0.remove_version(projection, version, commit.clone())).await
    }

    /// Commits a transaction; `false` if it was not applied and has to be done again from its start.
    pub(super) async fn finish(&self, tx: B::Tx) -> Result<bool, CommitError> {
        match tx.commit().await {
            Ok(_) => Ok(true),
            Err(CommitError::Unknown(attempt)) => {
                Ok(matches!(ask(|| self.0.resolve(&attempt)).await, Resolution::Applied(_)))
            }
            Err(error) if error.kind() == ErrorKind::Transient => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Positions count from 1 without holes, and every stream's versions do, in the order of positions.
    pub(super) async fn assert_sound(&self) {
        let all = self.all().await;
        let mut versions = std::collections::HashMap::<StreamId, u64>::new();
        for (i, event) in all.iter().enumerate() {
            assert_eq!(event.place().0, i as u64 + 1, "positions are contiguous");
            let version = versions.entry(event.stream.clone()).or_default();
            *version += 1;
            assert_eq!(event.version.0, *version, "versions of {:?} are contiguous", event.stream);
        }
        assert_eq!(self.head().await, all.len() as u64, "the head is the last position");
    }
}
