//! The state of the memory backend, and the contract over it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use foldhash::HashMap;
use jiff::Timestamp;
use tokio::sync::watch;

use super::MemoryBackend;
use super::tables::Generations;
use crate::limits::MAX_PAGE;
use crate::slices::Slices;
use crate::store::rules::{Ledger, Verdict, judge};
use crate::store::{
    Append, Attempt, CURRENT, Commit, CommitError, Committed, Difference, EventFilter, EventId, EventStore,
    Filling, Generation, IdempotencyKey, Name, Outcome, Page, Position, RecordedEvent, Resolution,
    RowSnapshot, RowStore, Snapshot, SnapshotStore, Span, StoreError, StoredRow, StreamId, Tables, Version,
    check, measure,
};

/// Events by position, in blocks: a log that grows is not moved.
#[derive(Debug, Default)]
struct Log {
    blocks: Vec<Vec<RecordedEvent>>,
    len: usize,
}

impl Log {
    const BLOCK: usize = 1_024;

    fn push(&mut self, event: RecordedEvent) {
        if self.len.is_multiple_of(Self::BLOCK) {
            self.blocks.push(Vec::with_capacity(if self.len == 0 { 16 } else { Self::BLOCK }));
        }
        self.blocks.last_mut().expect("just made, if there was none").push(event);
        self.len += 1;
    }

    fn head(&self) -> Position {
        Position(self.len as u64)
    }

    fn at(&self, position: Position) -> Option<&RecordedEvent> {
        let index = usize::try_from(position.0.checked_sub(1)?).ok()?;
        self.blocks.get(index / Self::BLOCK)?.get(index % Self::BLOCK)
    }

    fn after(&self, position: Position) -> impl Iterator<Item = &RecordedEvent> {
        let index = usize::try_from(position.0).map_or(self.len, |p| p.min(self.len));
        let (block, skip) = (index / Self::BLOCK, index % Self::BLOCK);
        self.blocks.iter().skip(block).flatten().skip(skip)
    }

    /// Recorded times never go backwards, so this is a binary search.
    fn last_before(&self, time: Timestamp) -> Position {
        let (mut before, mut head) = (0, self.len as u64);
        while before < head {
            let middle = before + (head - before).div_ceil(2);
            match self.at(Position(middle)) {
                Some(event) if event.recorded_at < time => before = middle,
                _ => head = middle - 1,
            }
        }
        Position(before)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    log: Log,
    /// The positions of each stream's events.
    streams: HashMap<StreamId, Vec<Position>>,
    outcomes: HashMap<IdempotencyKey, Outcome>,
    rows: BTreeMap<String, TableRows>,
    snapshots: HashMap<StreamId, Snapshot>,
    attempts: Attempts,
    /// Rows of the user's own.
    pub(super) tables: Generations,
}

/// What builds keep, at one moment.
#[derive(Debug)]
pub(super) struct RowsAndTables {
    rows: BTreeMap<String, TableRows>,
    tables: Generations,
}

#[async_trait]
impl RowSnapshot for RowsAndTables {
    async fn scan(
        &mut self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let span = Span { after: after.unwrap_or_default().to_owned(), before: None, limit };
        Ok(self.rows.get(table).map_or_else(Vec::new, |rows| span_of(rows, &span, Filling::default())))
    }

    async fn compare(
        &mut self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        Ok(self.tables.compare(tables, old, new, samples))
    }
}

/// Rows by key, each with its revision.
type TableRows = BTreeMap<String, (u64, Bytes)>;

fn span_of(rows: &TableRows, Span { after, before, limit }: &Span, mut filling: Filling) -> Vec<StoredRow> {
    if before.as_ref().is_some_and(|before| before <= after) {
        return Vec::new();
    }
    let row = |(key, (rev, data)): (&String, &(u64, Bytes))| StoredRow {
        key: key.clone(),
        rev: *rev,
        data: data.clone(),
    };
    let end = before.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let found = rows.range::<str, _>((Bound::Excluded(&**after), end)).take((*limit).min(MAX_PAGE)).map(row);
    found.take_while(|row| filling.takes(row)).collect()
}

/// What became of attempts that have a name: those that wrote something and no events, and those that never will be
/// applied.
#[derive(Debug, Default)]
struct Attempts {
    known: HashMap<uuid::Uuid, Resolution>,
    oldest_first: VecDeque<uuid::Uuid>,
}

impl Attempts {
    /// How many are remembered: whoever asks does so soon.
    const KEPT: usize = 10_000;

    fn remember(&mut self, attempt: uuid::Uuid, fate: Resolution) {
        if self.known.insert(attempt, fate).is_none() {
            self.oldest_first.push_back(attempt);
        }
        if self.oldest_first.len() > Self::KEPT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl State {
    /// `beside`: whether more is written with it than it says.
    pub(super) fn apply(
        &mut self,
        commit: Commit,
        now: Timestamp,
        beside: bool,
    ) -> Result<Committed, CommitError> {
        if self.attempts.known.get(&commit.attempt) == Some(&Resolution::Never) {
            let attempt = commit.attempt;
            return Err(StoreError::misuse(format!(
                "attempt {attempt} was given up: send it under another name"
            ))
            .into());
        }
        if let Verdict::Repeat(committed) = judge(&commit, self)? {
            return Ok(committed);
        }
        let needs_witness = !commit.attempt.is_nil() && commit.needs_witness(beside);
        let Commit { appends, checks: _, condition: _, outcomes, rows, inline: _, explain: _, attempt } =
            commit;
        // The store's clock may go backwards; recorded times do not.
        let recorded_at = self.log.at(self.log.head()).map_or(now, |last| last.recorded_at.max(now));
        let versions = appends.into_iter().map(|append| self.append(append, recorded_at)).collect();
        for mark in outcomes {
            let mut outcome = mark.outcome;
            let at = outcome.version.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
            let positions = self.streams.get(&outcome.stream);
            outcome.position = at.and_then(|index| positions?.get(index).copied()).unwrap_or_default();
            self.outcomes.insert(mark.key, outcome);
        }
        for write in rows {
            if !self.rows.contains_key(&*write.table) {
                self.rows.insert(write.table.to_string(), TableRows::new());
            }
            let rows = self.rows.get_mut(&*write.table).expect("it was just added");
            match write.row {
                Some(row) => rows.insert(write.key, (write.rev + 1, row)),
                None => rows.remove(&write.key),
            };
        }
        let committed = Committed { position: self.head(), versions };
        if needs_witness {
            self.attempts.remember(attempt, Resolution::Applied(committed.clone()));
        }
        Ok(committed)
    }

    /// Where the events of an attempt stand, if they do.
    fn witnessed(&self, attempt: &Attempt) -> Option<Committed> {
        let mut committed = Committed::default();
        for (stream, ids) in &attempt.appends {
            let Some(id) = ids.last() else {
                committed.versions.push(self.version(stream));
                continue;
            };
            let positions = self.streams.get(stream).map_or(&[][..], |p| p);
            let last =
                positions.iter().rev().filter_map(|p| self.log.at(*p)).find(|event| event.id == *id)?;
            committed.versions.push(last.version);
            committed.position = committed.position.max(last.place());
        }
        attempt.has_events().then_some(committed)
    }

    fn resolve(&mut self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        if attempt.id.is_nil() && !attempt.has_events() {
            return Err(StoreError::misuse(
                "an attempt without a name and without events cannot be looked for",
            ));
        }
        if let Some(known) = self.attempts.known.get(&attempt.id) {
            return Ok(known.clone());
        }
        let fate = self.witnessed(attempt).map_or(Resolution::Never, Resolution::Applied);
        if fate == Resolution::Never && !attempt.id.is_nil() {
            self.attempts.remember(attempt.id, fate.clone());
        }
        Ok(fate)
    }

    /// Removes the rows of all generations of a version.
    pub(super) fn clear_version(&mut self, stored_name: &str) {
        let of_version =
            |table: &str| table.strip_prefix(stored_name).is_some_and(|rest| rest.starts_with('~'));
        self.rows.retain(|table, _| !of_version(table));
    }

    /// Removes the rows of a table and of those below its name.
    pub(super) fn clear(&mut self, table: &str) {
        let below = |name: &str| {
            name.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.rows.retain(|name, _| !below(name));
    }

    /// The rows of a table, or of the one that its name stands for.
    fn table(&self, name: &str) -> Option<&TableRows> {
        let current = self.rows.get(CURRENT).and_then(|names| names.get(name));
        let current = current.and_then(|(_, data)| std::str::from_utf8(data).ok());
        self.rows.get(current.unwrap_or(name))
    }

    fn span(&self, table: &str, span: &Span, filling: Filling) -> Vec<StoredRow> {
        self.table(table).map_or_else(Vec::new, |rows| span_of(rows, span, filling))
    }

    pub(super) fn snapshot(&self) -> RowsAndTables {
        RowsAndTables { rows: self.rows.clone(), tables: self.tables.clone() }
    }

    fn append(&mut self, append: Append, recorded_at: Timestamp) -> Version {
        let Append { stream, expected: _, events } = append;
        if events.is_empty() {
            return self.version(&stream);
        }
        let positions = self.streams.entry(stream.clone()).or_default();
        for event in events {
            let position = Position(self.log.head().0 + 1);
            positions.push(position);
            let version = Version(positions.len() as u64);
            self.log.push(event.into_recorded(stream.clone(), version, Some(position), recorded_at));
        }
        Version(positions.len() as u64)
    }
}

impl Ledger for State {
    fn head(&self) -> Position {
        self.log.head()
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version(self.streams.get(stream).map_or(0, Vec::len) as u64)
    }

    fn last(&self, stream: &StreamId) -> Option<EventId> {
        self.log.at(*self.streams.get(stream)?.last()?).map(|event| event.id)
    }

    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        let positions = self.streams.get(stream).map_or(&[][..], |p| p);
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        positions.iter().skip(skip).take(limit).filter_map(|p| self.log.at(*p).cloned()).collect()
    }

    fn first_match(&self, filter: &EventFilter, after: Position) -> Option<(Position, Name)> {
        let found = self.log.after(after).find(|event| filter.matches(event))?;
        Some((found.place(), found.name.clone()))
    }

    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        self.outcomes.get(key).cloned()
    }

    fn row_rev(&self, table: &str, key: &str) -> u64 {
        self.rows.get(table).and_then(|rows| rows.get(key)).map_or(0, |(rev, _)| *rev)
    }
}

#[async_trait]
impl EventStore for MemoryBackend {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let outcome = self.change(commit, |state, commit, now| state.apply(commit, now, false));
        measure::outcome(&outcome);
        outcome
    }

    /// No outcome of this backend is unknown, since a commit has no await point: asked by those around it.
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        let resolution = self.lock().resolve(attempt);
        measure::resolved(&resolution);
        resolution
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let (mut events, mut filling) =
            (self.lock().tail(id, after, limit.min(MAX_PAGE)), Filling::default());
        events.retain(|event| filling.takes(event));
        Ok(events)
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        check::filter(filter)?;
        let (state, limit) = (self.lock(), limit.min(MAX_PAGE));
        let matching = state.log.after(after).filter(|event| filter.matches(event));
        let mut filling = Filling::default();
        let events: Vec<_> =
            matching.take(limit).take_while(|event| filling.takes(*event)).cloned().collect();
        let more = limit > 0 && (events.len() == limit || filling.is_full());
        let through = match events.last() {
            Some(last) if more => last.place(),
            _ if limit == 0 => after,
            _ => state.head().max(after),
        };
        Ok(Page { events, through, more })
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        let (state, positions) = (self.lock(), check::positions(positions)?);
        let (found, mut filling) =
            (positions.into_iter().filter_map(|position| state.log.at(position)), Filling::default());
        Ok(found.take_while(|event| filling.takes(*event)).cloned().collect())
    }

    async fn head(&self) -> Result<Position, StoreError> {
        Ok(self.lock().head())
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        Ok(self.lock().log.last_before(time))
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock().now())
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        Ok(Ledger::outcome(&*self.lock(), key))
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.shared.head.subscribe()
    }

    fn identity(&self) -> uuid::Uuid {
        self.shared.identity
    }

    fn history(&self) -> u64 {
        0
    }
}

#[async_trait]
impl SnapshotStore for MemoryBackend {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.lock().snapshots.get(stream).cloned())
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        let mut state = self.lock();
        let newer = |old: &Snapshot| old.schema == snapshot.schema && old.version > snapshot.version;
        if !state.snapshots.get(&snapshot.stream).is_some_and(newer) {
            state.snapshots.insert(snapshot.stream.clone(), snapshot);
        }
        Ok(())
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.lock().snapshots.remove(stream);
        Ok(())
    }
}

#[async_trait]
impl RowStore for MemoryBackend {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        check::rows(table, keys)?;
        let state = self.lock();
        let rows = state.table(table);
        let row = |key: &String| {
            let (rev, data) = rows?.get(key)?;
            Some(StoredRow { key: key.clone(), rev: *rev, data: data.clone() })
        };
        Ok(keys.iter().map(row).collect())
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        check::bounds(table, after)?;
        let span = Span { after: after.unwrap_or_default().to_owned(), before: None, limit };
        Ok(self.lock().span(table, &span, Filling::default()))
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        check::bounds(table, spans.iter().flat_map(Span::bounds))?;
        let state = self.lock();
        let filling = Filling::shared(spans.len());
        Ok(spans.iter().map(|span| state.span(table, span, filling)).collect())
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.shared.row_wakes.watch(table, slices)
    }
}
