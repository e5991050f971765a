//! What is stored, as far as a batch asks, and what the batch adds to it.

use std::collections::{HashMap, HashSet};

use es_core::clock::Timestamp;
use es_core::store::kinds::Kind;
use es_core::store::rules::Ledger;
use es_core::store::{
    Commit, CommitError, Committed, EventFilter, EventId, IdempotencyKey, Name, NewEvent, Outcome, Position,
    RecordedEvent, RowWrite, StreamId, Version,
};
use uuid::Uuid;

use super::write::Rows;
use crate::attempt;
use crate::forget;
use crate::types::Types;

/// A stream, as it is stored and as the batch leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// Its number; 0 if it has none yet.
    pub(super) id: i64,
    pub(super) version: Version,
    /// The position of its last event.
    pub(super) position: Position,
    /// The id of its last event.
    pub(super) last: Option<EventId>,
}

/// The stored part is filled in by the look-up, the rest by [`Batch::add`].
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) types: Types,
    /// The history that the store has.
    pub(super) history: u64,
    pub(super) head: Position,
    /// By the store's clock.
    pub(super) now: Timestamp,
    /// When the events of this batch are recorded: now, or when the last one was, if the clock has gone backwards.
    pub(super) recorded_at: Timestamp,
    /// Keys and attempts from before this are forgotten.
    pub(super) forgotten: Option<Timestamp>,
    pub(super) next_stream: i64,
    pub(super) next_type: i64,
    pub(super) streams: HashMap<StreamId, Stream>,
    /// Stored events behind a failed expectation, then events of this batch, by stream.
    pub(super) tails: HashMap<StreamId, Vec<RecordedEvent>>,
    /// The first stored event that breaks the condition of the commit with this index.
    pub(super) broken: HashMap<usize, (Position, Name)>,
    pub(super) outcomes: HashMap<IdempotencyKey, Outcome>,
    pub(super) row_revs: HashMap<(String, String), u64>,
    /// Attempts that were given up.
    pub(super) fences: HashSet<Uuid>,
    /// Whether it ends a user's transaction, which has written rows of its own.
    pub(super) users: bool,
    /// The commit that is judged.
    current: usize,
    /// Whether later commits of the batch may ask for the events of earlier ones.
    pub(super) remembers: bool,
    /// The last event that the batch adds.
    last: Option<(Position, EventId)>,
    added: Vec<RecordedEvent>,
    types_added: HashMap<(String, u32, String), i64>,
    pub(super) rows: Rows,
}

impl Batch {
    pub(super) fn new(types: Types) -> Self {
        Self { types, ..Self::default() }
    }

    pub(super) fn turn_to(&mut self, commit: usize) {
        self.current = commit;
    }

    /// Refuses what may have been used before, and is forgotten.
    pub(super) fn check_age(&self, commit: &Commit) -> Result<(), CommitError> {
        let Some(before) = self.forgotten else { return Ok(()) };
        if es_core::id::made_at(commit.attempt).is_some_and(|made| made < before) {
            return Err(attempt::given_up(commit.attempt));
        }
        let known = |key| self.outcomes.contains_key(key);
        let mut keys = commit.outcomes.iter().map(|mark| &mark.key).filter(|key| !known(key));
        match keys.find(|key| key.made_at().is_some_and(|made| made < before)) {
            Some(key) => Err(forget::too_old(key)),
            None => Ok(()),
        }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The last event that it adds.
    pub(super) const fn last(&self) -> Option<(Position, EventId)> {
        self.last
    }

    pub(super) fn new_types(&self) -> impl Iterator<Item = (i64, &Kind)> {
        self.rows.types.iter().map(|(id, kind)| (*id, kind))
    }

    /// Takes in an accepted commit.
    pub(super) fn add(&mut self, commit: &Commit) -> Committed {
        let Commit { appends, checks: _, condition: _, outcomes, rows, inline: _, explain: _, attempt } =
            commit;
        // Events prove their commit, and one that only looks needs no proof.
        if !attempt.is_nil() && commit.needs_witness(self.users) {
            self.rows.witness(*attempt, attempt::kept_from(*attempt, self.now));
        }
        let mut versions = Vec::with_capacity(appends.len());
        let mut added = HashMap::new();
        for append in appends {
            for event in &append.events {
                let to = self.add_event(&append.stream, event);
                if !outcomes.is_empty() {
                    added.insert((&append.stream, to.version), to.position);
                }
            }
            versions.push(self.version(&append.stream));
        }
        for mark in outcomes {
            let mut outcome = mark.outcome.clone();
            let stored = self.streams.get(&outcome.stream).filter(|stream| stream.version == outcome.version);
            let position = added.get(&(&outcome.stream, outcome.version)).copied();
            outcome.position = position.or_else(|| stored.map(|stream| stream.position)).unwrap_or_default();
            self.rows.outcome(&mark.key, &outcome);
            self.outcomes.insert(mark.key.clone(), outcome);
        }
        for write in rows {
            self.add_row(write);
        }
        Committed { position: self.head, versions }
    }

    fn add_event(&mut self, stream: &StreamId, event: &NewEvent) -> Stream {
        let kind = self.type_id(event);
        let to = self.streams.entry(stream.clone()).or_default();
        if to.id == 0 {
            to.id = self.next_stream;
            self.next_stream += 1;
            self.rows.stream(to.id, stream);
        }
        self.head.0 += 1;
        to.version.0 += 1;
        to.position = self.head;
        to.last = Some(event.id);
        self.last = Some((to.position, event.id));
        let to = *to;
        self.rows.event(to, kind, self.recorded_at, event);
        if self.remembers {
            self.remember(stream, to, event);
        }
        to
    }

    fn remember(&mut self, stream: &StreamId, to: Stream, event: &NewEvent) {
        let event =
            event.clone().into_recorded(stream.clone(), to.version, Some(to.position), self.recorded_at);
        self.tails.entry(stream.clone()).or_default().push(event.clone());
        self.added.push(event);
    }

    fn type_id(&mut self, event: &NewEvent) -> i64 {
        let id = self.types.known().id(event);
        if let Some(id) = id {
            return id;
        }
        let key = (event.name.to_string(), event.schema, event.codec.to_string());
        *self.types_added.entry(key).or_insert_with(|| {
            let id = self.next_type;
            self.next_type += 1;
            let kind = Kind::of(event);
            self.rows.types.push((id, kind));
            id
        })
    }

    fn add_row(&mut self, write: &RowWrite) {
        self.rows.row(write);
        let row = (write.table.to_string(), write.key.clone());
        match write.row {
            Some(_) => self.row_revs.insert(row, write.rev + 1),
            None => self.row_revs.remove(&row),
        };
    }
}

impl Ledger for Batch {
    fn head(&self) -> Position {
        self.head
    }

    fn version(&self, stream: &StreamId) -> Version {
        self.streams.get(stream).map_or(Version(0), |s| s.version)
    }

    fn last(&self, stream: &StreamId) -> Option<EventId> {
        self.streams.get(stream).and_then(|stream| stream.last)
    }

    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        let known = self.tails.get(stream).map_or(&[][..], |events| events);
        known.iter().filter(|event| event.version > after).take(limit).cloned().collect()
    }

    fn first_match(&self, filter: &EventFilter, after: Position) -> Option<(Position, Name)> {
        let added = || self.added.iter().filter(|e| e.place() > after).find(|e| filter.matches(e));
        let stored = self.broken.get(&self.current).cloned();
        stored.or_else(|| added().map(|event| (event.place(), event.name.clone())))
    }

    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        self.outcomes.get(key).cloned()
    }

    fn row_rev(&self, table: &str, key: &str) -> u64 {
        self.row_revs.get(&(table.to_owned(), key.to_owned())).copied().unwrap_or_default()
    }
}
