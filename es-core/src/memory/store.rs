//! The state of the memory backend, and the contract over it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{MemoryBackend, Rows};
use crate::limits::MAX_PAGE;
use crate::store::rules::{Ledger, Verdict, judge};
use crate::store::{
    Append, Attempt, Commit, CommitError, Committed, EventFilter, EventStore, IdempotencyKey, Name, Outcome, Page,
    Position, RecordedEvent, Resolution, Snapshot, SnapshotStore, StoreError, StreamId, Version, ViewRow, ViewStore,
};

#[derive(Debug, Default)]
pub(super) struct State {
    /// The event at position p stands at index p - 1.
    log: Vec<RecordedEvent>,
    /// The positions of each stream's events.
    streams: HashMap<StreamId, Vec<Position>>,
    outcomes: HashMap<IdempotencyKey, Outcome>,
    pub(super) checkpoints: BTreeMap<String, Position>,
    pub(super) views: HashMap<String, BTreeMap<String, (u64, Bytes)>>,
    snapshots: HashMap<StreamId, Snapshot>,
    pub(super) rows: BTreeMap<String, Rows>,
}

impl State {
    fn at(&self, position: Position) -> &RecordedEvent {
        &self.log[index(position)]
    }

    /// The log after a position.
    fn after(&self, position: Position) -> &[RecordedEvent] {
        &self.log[index(Position(position.0.saturating_add(1))).min(self.log.len())..]
    }

    pub(super) fn apply(&mut self, commit: Commit, now: Timestamp) -> Result<Committed, CommitError> {
        if let Verdict::Repeat(committed) = judge(&commit, self)? {
            return Ok(committed);
        }
        let Commit { appends, checks: _, condition: _, outcomes, checkpoints, views, explain: _ } = commit;
        // The store's clock may go backwards; recorded times do not.
        let recorded_at = self.log.last().map_or(now, |last| last.recorded_at.max(now));
        let versions = appends.into_iter().map(|append| self.append(append, recorded_at)).collect();
        for mark in outcomes {
            let mut outcome = mark.outcome;
            let positions = self.streams.get(&outcome.stream);
            outcome.version = self.version(&outcome.stream);
            outcome.position = positions.and_then(|p| p.last()).copied().unwrap_or_default();
            self.outcomes.insert(mark.key, outcome);
        }
        for step in checkpoints {
            match step.to {
                Some(to) => self.checkpoints.insert(step.name, to),
                None => self.checkpoints.remove(&step.name),
            };
        }
        for write in views {
            let rows = self.views.entry(write.view.to_string()).or_default();
            match write.row {
                Some(row) => rows.insert(write.key, (write.rev + 1, row)),
                None => rows.remove(&write.key),
            };
        }
        Ok(Committed { position: self.head(), versions })
    }

    fn append(&mut self, append: Append, recorded_at: Timestamp) -> Version {
        let Append { stream, expected: _, events } = append;
        if events.is_empty() {
            return self.version(&stream);
        }
        let positions = self.streams.entry(stream.clone()).or_default();
        for event in events {
            let position = Position(self.log.len() as u64 + 1);
            positions.push(position);
            self.log.push(RecordedEvent {
                position: Some(position),
                stream: stream.clone(),
                version: Version(positions.len() as u64),
                id: event.id,
                name: event.name,
                schema: event.schema,
                codec: event.codec,
                data: event.data,
                tags: event.tags,
                metadata: event.metadata,
                recorded_at,
            });
        }
        Version(positions.len() as u64)
    }
}

fn index(position: Position) -> usize {
    usize::try_from(position.0.saturating_sub(1)).unwrap_or(usize::MAX)
}

impl Ledger for State {
    fn head(&self) -> Position {
        Position(self.log.len() as u64)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version(self.streams.get(stream).map_or(0, Vec::len) as u64)
    }

    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        let positions = self.streams.get(stream).map_or(&[][..], |p| p);
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        positions.iter().skip(skip).take(limit).map(|p| self.at(*p).clone()).collect()
    }

    fn first_match(&self, filter: &EventFilter, after: Position) -> Option<(Position, Name)> {
        let found = self.after(after).iter().find(|event| filter.matches(event))?;
        Some((found.place(), found.name.clone()))
    }

    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        self.outcomes.get(key).cloned()
    }

    fn checkpoint(&self, name: &str) -> Option<Position> {
        self.checkpoints.get(name).copied()
    }

    fn view_rev(&self, view: &str, key: &str) -> u64 {
        self.views.get(view).and_then(|rows| rows.get(key)).map_or(0, |(rev, _)| *rev)
    }
}

#[async_trait]
impl EventStore for MemoryBackend {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.apply(commit, Vec::new())
    }

    /// Never asked: no outcome of this backend is unknown, since a commit has no await point.
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        let state = self.lock();
        let mut committed = Committed { position: Position(0), versions: Vec::new() };
        for (stream, ids) in &attempt.appends {
            let positions = state.streams.get(stream).map_or(&[][..], |p| p);
            let last = positions.iter().rev().find(|p| ids.last() == Some(&state.at(**p).id));
            let Some(last) = last else { return Ok(Resolution::Never) };
            committed.versions.push(state.at(*last).version);
            committed.position = committed.position.max(*last);
        }
        let keys = attempt.keys.iter().all(|key| state.outcomes.contains_key(key));
        let moved = attempt.checkpoints.iter().all(|step| state.checkpoint(&step.name) == step.to);
        Ok(if keys && moved { Resolution::Applied(committed) } else { Resolution::Never })
    }

    async fn stream(&self, id: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>, StoreError> {
        Ok(self.lock().tail(id, after, limit.min(MAX_PAGE)))
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        let (state, limit) = (self.lock(), limit.min(MAX_PAGE));
        let matching = state.after(after).iter().filter(|event| filter.matches(event));
        let events: Vec<_> = matching.take(limit).cloned().collect();
        let more = events.len() == limit && limit > 0;
        let through = match events.last() {
            Some(last) if more => last.place(),
            _ if limit == 0 => after,
            _ => state.head().max(after),
        };
        Ok(Page { events, through, more })
    }

    async fn head(&self) -> Result<Position, StoreError> {
        Ok(self.lock().head())
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        Ok(Position(self.lock().log.partition_point(|event| event.recorded_at < time) as u64))
    }

    async fn checkpoint(&self, name: &str) -> Result<Option<Position>, StoreError> {
        Ok(Ledger::checkpoint(&*self.lock(), name))
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Position)>, StoreError> {
        Ok(self.lock().checkpoints.iter().map(|(name, position)| (name.clone(), *position)).collect())
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        Ok(Ledger::outcome(&*self.lock(), key))
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.head.subscribe()
    }

    fn identity(&self) -> uuid::Uuid {
        self.0.identity
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
impl ViewStore for MemoryBackend {
    async fn rows(&self, view: &str, keys: &[String]) -> Result<Vec<Option<ViewRow>>, StoreError> {
        let state = self.lock();
        let rows = state.views.get(view);
        let row = |key: &String| {
            let (rev, data) = rows?.get(key)?;
            Some(ViewRow { key: key.clone(), rev: *rev, data: data.clone() })
        };
        Ok(keys.iter().map(row).collect())
    }

    async fn scan(&self, view: &str, after: Option<&str>, limit: usize) -> Result<Vec<ViewRow>, StoreError> {
        let state = self.lock();
        let Some(rows) = state.views.get(view) else { return Ok(Vec::new()) };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let row = |(key, (rev, data)): (&String, &(u64, Bytes))| ViewRow {
            key: key.clone(),
            rev: *rev,
            data: data.clone(),
        };
        Ok(rows.range::<str, _>((from, Bound::Unbounded)).take(limit.min(MAX_PAGE)).map(row).collect())
    }
}
