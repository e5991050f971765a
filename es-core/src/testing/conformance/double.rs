//! A backend whose line to its store can be cut, and that counts what goes over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::data::new_id;
use crate::ErrorKind;
use crate::services::Services;
use crate::slices::Slices;
use crate::store::{
    Attempt, Backend, Builds, Commit, CommitError, Committed, EventFilter, EventStore, Generation,
    IdempotencyKey, Outcome, Page, Position, RecordedEvent, Resolution, RowSnapshot, RowStore, RowWrite,
    Snapshot, SnapshotStore, Span, StoreError, StoredRow, StreamId, Tables, Version,
};

/// The line between a node and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a line is one of these")]
pub enum Line {
    /// Everything goes through.
    Up,
    /// Whatever writes waits until the line is up again, and is done then: late.
    HoldsWrites,
    /// The same for commits with rows of this table, and for nothing else.
    HoldsCommits(&'static str),
    /// The same for commits with rows of this table once so many of them have gone through.
    HoldsCommitsAfter(&'static str, usize),
    /// The same for look-ups of rows of this table by their keys.
    HoldsLookups(&'static str),
    /// The same for look-ups of the row of this key in this table.
    HoldsRow(&'static str, &'static str),
    /// The same for scans of this table.
    HoldsScans(&'static str),
    /// The same for the opening of transactions.
    HoldsOpenings,
    /// Commits and the openings of transactions take so long.
    Slow(Duration),
    /// Commits with rows of this table do not go through.
    Refuses(&'static str),
    /// Commits with the row of this key in this table do not go through.
    RefusesRow(&'static str, &'static str),
    /// No transaction is opened and no row of this table is looked up, as in a database whose view is broken.
    Broken(&'static str),
    /// Whoever looks the row of this key up in this table is told that it cannot be read.
    Damages(&'static str, &'static str),
    /// No version is given the plain names of its tables.
    RefusesNames,
    /// The same for good, and if this says so, none that has them is removed either.
    KeepsNames(bool),
    /// Whatever writes is refused as a mistake, as by a server that has become read-only.
    ReadOnly,
    /// Commits write rows of tables whose names have this in them over whatever is there, as in a store without a fence.
    Unfenced(&'static str),
    /// Commits are done, and nobody hears of it; what became of them is not told either, with an error of this kind.
    LosesAnswers(ErrorKind),
    /// The event at this position is not found by its position any more.
    Lacks(u64),
    /// Nothing goes through.
    Down,
}

/// What is to go over the line.
#[derive(Clone, Copy, Debug)]
enum Call<'c> {
    Read,
    Lookup(&'c str, &'c [String]),
    Scan(&'c str),
    Write,
    Open,
    Commit(&'c Commit),
    Publish(&'c Commit),
}

impl Call<'_> {
    const fn commit(&self) -> Option<&Commit> {
        match self {
            Self::Commit(commit) | Self::Publish(commit) => Some(commit),
            Self::Read | Self::Lookup(..) | Self::Scan(_) | Self::Write | Self::Open => None,
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Open) || self.commit().is_some()
    }

    fn writes_to(self, table: &str) -> bool {
        self.commit().is_some_and(|commit| commit.rows.iter().any(|row| *row.table == *table))
    }

    fn writes_row(self, table: &str, key: &str) -> bool {
        let is_it = |row: &RowWrite| *row.table == *table && row.key == key;
        self.commit().is_some_and(|commit| commit.rows.iter().any(is_it))
    }
}

impl Line {
    fn holds(self, call: Call<'_>, commits: impl Fn(&str) -> usize) -> bool {
        match self {
            Self::HoldsCommitsAfter(table, n) => call.writes_to(table) && commits(table) >= n,
            Self::HoldsWrites => call.writes(),
            Self::HoldsCommits(table) => call.writes_to(table),
            Self::HoldsLookups(table) => matches!(call, Call::Lookup(of, _) if of == table),
            Self::HoldsRow(table, key) => {
                matches!(call, Call::Lookup(of, keys) if of == table && keys.iter().any(|of| of == key))
            }
            Self::HoldsScans(table) => matches!(call, Call::Scan(of) if of == table),
            Self::HoldsOpenings => matches!(call, Call::Open),
            _ => false,
        }
    }

    fn refuses(self, call: Call<'_>) -> Option<StoreError> {
        match self {
            Self::Refuses(table) => call.writes_to(table).then(down),
            Self::RefusesRow(table, key) => call.writes_row(table, key).then(down),
            Self::Broken(table) => (matches!(call, Call::Open)
                || matches!(call, Call::Lookup(of, _) if of == table))
            .then(|| StoreError::misuse("a view of the database names a table that is not there")),
            Self::RefusesNames => matches!(call, Call::Publish(_)).then(down),
            Self::KeepsNames(_) => matches!(call, Call::Publish(_)).then(in_the_way),
            Self::ReadOnly => {
                call.writes().then(|| StoreError::misuse("the database takes no writes: it is read-only"))
            }
            line => (line == Self::Down).then(down),
        }
    }
}

/// Notes the tables that a commit has rows of.
fn note(commits: &Mutex<Vec<BTreeSet<Arc<str>>>>, commit: &Commit) {
    let tables = commit.rows.iter().map(|row| row.table.clone()).collect();
    commits.lock().unwrap_or_else(PoisonError::into_inner).push(tables);
}

fn down() -> StoreError {
    StoreError::transient("a call", std::io::Error::other("the line is down"))
}

fn in_the_way() -> StoreError {
    StoreError::misuse("a view of somebody's is in the way")
}

/// A backend at the other end of a line. Clones share it.
#[derive(Clone, Debug)]
pub struct Double<B> {
    inner: B,
    line: Arc<watch::Sender<Line>>,
    counts: Arc<Counted>,
    /// Nobody is woken through it, if it is deaf.
    deaf: Option<Arc<watch::Sender<u64>>>,
}

/// What went over the line.
#[derive(Debug, Default)]
struct Counted {
    reads: Mutex<Vec<Position>>,
    commits: Mutex<Vec<BTreeSet<Arc<str>>>>,
    refused: Mutex<Vec<BTreeSet<Arc<str>>>>,
    opened: AtomicUsize,
    calls: AtomicU64,
    rows: AtomicUsize,
    held: AtomicU64,
    refusals: AtomicU64,
    weight: Arc<Weight>,
    most_written: AtomicUsize,
    scanned: Mutex<BTreeMap<String, Scanned>>,
}

/// What was read of a table in its order.
#[derive(Clone, Copy, Debug, Default)]
struct Scanned {
    scans: usize,
    rows: usize,
    most: usize,
}

/// Bytes of events that were read and are still in memory.
#[derive(Debug, Default)]
struct Weight {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Data that count as long as they are in memory.
struct Weighed {
    data: Bytes,
    weight: Arc<Weight>,
}

impl Weighed {
    fn count(data: Bytes, weight: Arc<Weight>) -> Bytes {
        let now = weight.now.fetch_add(data.len(), Ordering::SeqCst) + data.len();
        weight.most.fetch_max(now, Ordering::SeqCst);
        Bytes::from_owner(Self { data, weight })
    }
}

impl AsRef<[u8]> for Weighed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.weight.now.fetch_sub(self.data.len(), Ordering::SeqCst);
    }
}

impl<B> Double<B> {
    /// A line to this backend.
    #[must_use]
    pub fn new(inner: B) -> Self {
        Self { inner, line: Arc::new(watch::Sender::new(Line::Up)), counts: Arc::default(), deaf: None }
    }

    /// One that does not hear when rows are written.
    pub(super) fn deaf(inner: B) -> Self {
        Self { deaf: Some(Arc::default()), ..Self::new(inner) }
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

    /// The tables of each commit that had rows of this one, in order.
    pub(super) fn commits(&self, table: &str) -> Vec<BTreeSet<Arc<str>>> {
        let all = self.counts.commits.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|tables| tables.contains(table)).cloned().collect()
    }

    /// How many commits that had rows of this table the line refused.
    pub(super) fn refused(&self, table: &str) -> usize {
        let all = self.counts.refused.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|tables| tables.contains(table)).count()
    }

    /// How many transactions were opened.
    pub(super) fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::SeqCst)
    }

    /// How often the store was asked for anything.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::SeqCst)
    }

    /// How many rows scans have read.
    #[must_use]
    pub fn scanned(&self) -> usize {
        self.counts.rows.load(Ordering::SeqCst)
    }

    /// How many calls had to wait for the line.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::SeqCst)
    }

    /// How many calls the line refused.
    pub(super) fn refusals(&self) -> u64 {
        self.counts.refusals.load(Ordering::SeqCst)
    }

    /// The most bytes of events' payloads that those who read had in memory together.
    pub(super) fn most_held(&self) -> usize {
        self.counts.weight.most.load(Ordering::SeqCst)
    }

    /// The most bytes of rows in one commit.
    pub(super) fn most_written(&self) -> usize {
        self.counts.most_written.load(Ordering::SeqCst)
    }

    /// How many rows of a table were read in its order, and the most of them at once.
    #[must_use]
    pub fn scanned_of(&self, table: &str) -> (usize, usize) {
        let Scanned { rows, most, .. } = self.scans(table);
        (rows, most)
    }

    /// How often that was done.
    pub(super) fn scans_of(&self, table: &str) -> usize {
        self.scans(table).scans
    }

    fn scans(&self, table: &str) -> Scanned {
        let all = self.counts.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(table).copied().unwrap_or_default()
    }

    fn note_scan(&self, table: &str, rows: usize) {
        let mut all = self.counts.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(table.to_owned()).or_default();
        known.scans += 1;
        known.rows += rows;
        known.most = known.most.max(rows);
    }

    /// Begins to measure again.
    pub(super) fn forget_most(&self) {
        let Counted { weight, most_written, .. } = &*self.counts;
        weight.most.store(weight.now.load(Ordering::SeqCst), Ordering::SeqCst);
        most_written.store(0, Ordering::SeqCst);
        self.counts.scanned.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn weigh(&self, mut events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
        for event in &mut events {
            event.data = Weighed::count(std::mem::take(&mut event.data), self.counts.weight.clone());
        }
        events
    }

    /// How the line was when it let this through.
    async fn reach(&self, call: Call<'_>) -> Result<Line, StoreError> {
        self.counts.calls.fetch_add(1, Ordering::SeqCst);
        let mut line = self.line.subscribe();
        let now = *line.borrow_and_update();
        if let Some(refused) = now.refuses(call) {
            self.counts.refusals.fetch_add(1, Ordering::SeqCst);
            if let Some(commit) = call.commit() {
                note(&self.counts.refused, commit);
            }
            return Err(refused);
        }
        if let (Line::Slow(takes), Call::Commit(_) | Call::Open) = (now, call) {
            tokio::time::sleep(takes).await;
        }
        let commits = |table: &str| self.commits(table).len();
        if now.holds(call, commits) {
            self.counts.held.fetch_add(1, Ordering::SeqCst);
            let lets = |line: &Line| match line {
                Line::HoldsCommitsAfter(..) | Line::HoldsScans(_) => !line.holds(call, commits),
                line => matches!(line, Line::Up | Line::LosesAnswers(_)),
            };
            // The sender lives as long as this value.
            drop(line.wait_for(lets).await);
        }
        if let Call::Open = call {
            self.counts.opened.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(commit) = call.commit() {
            note(&self.counts.commits, commit);
            let bytes = commit.rows.iter().filter_map(|row| row.row.as_ref()).map(Bytes::len).sum();
            self.counts.most_written.fetch_max(bytes, Ordering::SeqCst);
        }
        Ok(now)
    }
}

impl<B: Backend> Double<B> {
    /// Names the revisions that rows have, whichever were read.
    async fn unfence(&self, tables: &str, commit: &mut Commit) -> Result<(), StoreError> {
        for row in commit.rows.iter_mut().filter(|row| row.table.contains(tables)) {
            let found = self.inner.rows(&row.table, std::slice::from_ref(&row.key)).await?;
            row.rev = found.into_iter().flatten().next().map_or(0, |found| found.rev);
        }
        commit.rows.retain(|row| !row.table.contains(tables) || row.row.is_some() || row.rev > 0);
        Ok(())
    }
}

#[async_trait]
impl<B: Backend> EventStore for Double<B> {
    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        match self.reach(Call::Commit(&commit)).await? {
            Line::LosesAnswers(_) => {}
            Line::Unfenced(tables) => {
                self.unfence(tables, &mut commit).await?;
                return self.inner.commit(commit).await;
            }
            _ => return self.inner.commit(commit).await,
        }
        if commit.attempt.is_nil() {
            commit.attempt = new_id();
        }
        let attempt = Attempt::of(commit.attempt, &commit);
        self.inner.commit(commit).await?;
        Err(CommitError::Unknown(Box::new(attempt)))
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        match self.reach(Call::Read).await? {
            Line::LosesAnswers(ErrorKind::Transient) => Err(down()),
            Line::LosesAnswers(_) => {
                Err(StoreError::Corrupt { what: "what tells of attempts cannot be read".to_owned() })
            }
            _ => self.inner.resolve(attempt).await,
        }
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.reach(Call::Read).await?;
        Ok(self.weigh(self.inner.stream(id, after, limit).await?))
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        self.reach(Call::Read).await?;
        let mut page = self.inner.read(filter, after, limit).await?;
        page.events = self.weigh(page.events);
        if !page.events.is_empty() {
            self.counts.reads.lock().unwrap_or_else(PoisonError::into_inner).push(after);
        }
        Ok(page)
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        let line = self.reach(Call::Read).await?;
        let mut events = self.inner.at(positions).await?;
        events.retain(|event| line != Line::Lacks(event.place().0));
        Ok(self.weigh(events))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.head().await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.position_at(time).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.now().await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.outcome(key).await
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.inner.watch()
    }

    fn identity(&self) -> Uuid {
        self.inner.identity()
    }

    fn history(&self) -> u64 {
        self.inner.history()
    }
}

#[async_trait]
impl<B: Backend> SnapshotStore for Double<B> {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.snapshot(stream).await
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.reach(Call::Write).await?;
        self.inner.put_snapshot(snapshot).await
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.reach(Call::Write).await?;
        self.inner.drop_snapshot(stream).await
    }
}

#[async_trait]
impl<B: Backend> RowStore for Double<B> {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        let line = self.reach(Call::Lookup(table, keys)).await?;
        if let Line::Damages(of, key) = line
            && of == table
            && keys.iter().any(|asked| asked == key)
        {
            return Err(StoreError::Corrupt {
                what: format!("row {key:?} of {table}: bytes that nobody wrote"),
            });
        }
        self.inner.rows(table, keys).await
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.reach(Call::Scan(table)).await?;
        let rows = self.inner.scan(table, after, limit).await?;
        self.counts.rows.fetch_add(rows.len(), Ordering::SeqCst);
        self.note_scan(table, rows.len());
        Ok(rows)
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        self.reach(Call::Read).await?;
        let pages = self.inner.scan_many(table, spans).await?;
        self.note_scan(table, pages.iter().map(Vec::len).sum());
        self.counts.rows.fetch_add(pages.iter().map(Vec::len).sum(), Ordering::SeqCst);
        Ok(pages)
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        match &self.deaf {
            Some(silence) => silence.subscribe(),
            None => self.inner.watch_rows(table, slices),
        }
    }
}

#[async_trait]
impl<B: Backend> Backend for Double<B> {
    type Tx = B::Tx;

    async fn begin(&self) -> Result<B::Tx, StoreError> {
        self.reach(Call::Open).await?;
        self.inner.begin().await
    }

    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<B::Tx, StoreError> {
        self.reach(Call::Open).await?;
        self.inner.begin_at(tables, generation, idle).await
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        self.inner.is_transient(error)
    }

    fn has_one_writer(&self) -> bool {
        self.inner.has_one_writer()
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        self.inner.provide(services, own);
    }
}

#[async_trait]
impl<B: Backend> Builds for Double<B> {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.reach(Call::Write).await?;
        self.inner.install(tables, generation).await
    }

    async fn check(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        self.reach(Call::Read).await?;
        self.inner.check(tables, generation).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(Call::Commit(&commit)).await?;
        self.inner.clear(tables, generation, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(Call::Commit(&commit)).await?;
        self.inner.uninstall(tables, generation, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        self.reach(Call::Commit(&commit)).await?;
        self.inner.switch(tables, to, commit).await
    }

    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        self.reach(Call::Publish(&commit)).await?;
        self.inner.publish(tables, commit).await
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        if self.reach(Call::Commit(&commit)).await? == Line::KeepsNames(true) {
            return Err(in_the_way().into());
        }
        self.inner.remove_version(projection, version, commit).await
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        self.reach(Call::Read).await?;
        self.inner.row_snapshot().await
    }
}
