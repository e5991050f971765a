//! Parked sequences: events of a key that failed, and those behind it.
//!
//! A sequence is a row that names its key and its error, and a row for each of its events, with the event's position:
//! the events themselves stay in the log. Everything that changes a sequence is written with the checkpoint of its
//! range, so only the owner does; a person writes a request, and the owner takes it up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::build::{Build, sortable};
use super::rows;
use super::work::LeftOut;
use crate::clock::Timestamp;
use crate::slices::Slices;
use crate::store::{Position, RowStore, RowWrite, StoreError, StoredRow};

/// How much of an error is stored, in characters.
const ERROR: usize = 2_000;

/// How much may be parked: beyond it, a processor stops instead of dropping anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkingLimits {
    /// Sequences of one processor: 1,024 by default.
    pub sequences: usize,
    /// Events of one sequence: 100,000 by default.
    pub events: u64,
}

impl Default for ParkingLimits {
    fn default() -> Self {
        Self { sequences: 1_024, events: 100_000 }
    }
}

impl ParkingLimits {
    /// Other limits.
    #[must_use]
    pub const fn new(sequences: usize, events: u64) -> Self {
        Self { sequences, events }
    }
}

/// A sequence that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedSequence {
    /// Its key: of a view the row's, else the stream.
    pub key: String,
    /// The event that failed.
    pub position: Position,
    /// Its type.
    pub event: String,
    /// How many events wait, that one included.
    pub events: u64,
    /// What the handler said last, with its sources; cut after 2,000 characters.
    pub error: String,
    /// How often the handler was called for it.
    pub attempts: u32,
    /// When it was parked.
    pub first_at: Timestamp,
    /// When the handler failed last.
    pub last_at: Timestamp,
}

/// The data of a sequence's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Of the event that began it: names the rows of its events.
    pub(crate) first: Position,
    pub(crate) position: Position,
    pub(crate) event: String,
    pub(crate) events: u64,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) first_at: Timestamp,
    pub(crate) last_at: Timestamp,
}

/// A sequence as its owner knows it; revision 0 is one that is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) rev: u64,
    pub(crate) stored: Stored,
}

/// What a person asks to be done with a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    Retry,
    Discard { reason: String },
}

/// An event that was left out for good, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// Where the event stands.
    pub position: Position,
    /// The key that it was left out for.
    pub key: String,
    /// What the handler, or whoever discarded it, said.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The first characters of an error's text.
pub(crate) fn cut(error: &str) -> String {
    match error.char_indices().nth(ERROR) {
        Some((end, _)) => format!("{}..", &error[..end]),
        None => error.to_owned(),
    }
}

impl Kept {
    /// A sequence that begins with this event.
    pub(crate) fn begin(
        position: Position,
        event: String,
        error: &str,
        attempts: u32,
        now: Timestamp,
    ) -> Self {
        let error = cut(error);
        let stored = Stored {
            first: position,
            position,
            event,
            events: 0,
            error,
            attempts,
            first_at: now,
            last_at: now,
        };
        Self { rev: 0, stored }
    }

    /// What the keys of its events begin with. Of fixed width, for keys may be any text.
    pub(crate) fn prefix(&self, key: &str) -> String {
        format!("{}:{:016x}:", sortable(self.stored.first), xxh3_64(key.as_bytes()))
    }

    pub(crate) fn event_key(&self, key: &str, position: Position) -> String {
        format!("{}{}", self.prefix(key), sortable(position))
    }

    pub(crate) fn write(&self, build: &Build, key: &str) -> RowWrite {
        let row = serde_json::to_vec(&self.stored).expect("a sequence serializes");
        RowWrite { table: build.parked(), key: key.to_owned(), rev: self.rev, row: Some(row.into()) }
    }

    pub(crate) fn public(self, key: String) -> ParkedSequence {
        let Stored { first: _, position, event, events, error, attempts, first_at, last_at } = self.stored;
        ParkedSequence { key, position, event, events, error, attempts, first_at, last_at }
    }
}

/// The position that the row of an event of a sequence names.
pub(crate) fn position_of(row: &StoredRow) -> Option<Position> {
    row.key.rsplit_once(':')?.1.parse().ok().map(Position)
}

/// The rows of what was left out: events that queue up, and events that are skipped. Counts them in.
pub(crate) fn write(
    build: &Build,
    parked: &mut BTreeMap<String, Kept>,
    skips: &BTreeMap<(Position, String), String>,
    left_out: &[LeftOut],
    now: Timestamp,
) -> Vec<RowWrite> {
    let mut rows = Vec::with_capacity(left_out.len());
    let mut touched = std::collections::BTreeSet::new();
    for LeftOut { key, position, parked: queues } in left_out {
        if !queues {
            let reason = skips.get(&(*position, key.clone())).cloned().unwrap_or_default();
            rows.push(skip(build, &Skipped { position: *position, key: key.clone(), reason, at: now }));
            continue;
        }
        let kept = parked.get_mut(key).expect("what queues up has a sequence");
        kept.stored.events += 1;
        let event = kept.event_key(key, *position);
        rows.push(RowWrite { table: build.parked_events(), key: event, rev: 0, row: Some("{}".into()) });
        touched.insert(key);
    }
    rows.extend(touched.into_iter().map(|key| parked[key].write(build, key)));
    rows
}

pub(crate) fn skip(build: &Build, skipped: &Skipped) -> RowWrite {
    // A key of a row has at most 255 bytes, and this one comes with a position: its hash will do.
    let key = format!("{}:{:016x}", sortable(skipped.position), xxh3_64(skipped.key.as_bytes()));
    let row = serde_json::to_vec(skipped).expect("a text serializes");
    RowWrite { table: build.skipped(), key, rev: 0, row: Some(row.into()) }
}

fn decode(table: &str, row: &StoredRow) -> Result<Kept, StoreError> {
    Ok(Kept { rev: row.rev, stored: rows::decode(table, row)? })
}

/// The sequences of a range.
pub(crate) async fn of_range(
    store: &dyn RowStore,
    build: &Build,
    slices: Slices,
) -> Result<BTreeMap<String, Kept>, StoreError> {
    let table = build.parked();
    let all = rows::whole(store, &table).await?;
    let own = all.iter().filter(|row| slices.has(&row.key));
    own.map(|row| Ok((row.key.clone(), decode(&table, row)?))).collect()
}

/// Sequences of a build in the order of their keys, after one, at most `limit` of them.
pub(crate) async fn list(
    store: &dyn RowStore,
    build: &Build,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ParkedSequence>, StoreError> {
    let table = build.parked();
    let page = store.scan(&table, after, limit).await?;
    page.into_iter().map(|row| Ok(decode(&table, &row)?.public(row.key))).collect()
}

/// One sequence.
pub(crate) async fn one(store: &dyn RowStore, build: &Build, key: &str) -> Result<Option<Kept>, StoreError> {
    let table = build.parked();
    rows::one(store, &table, key).await?.map(|row| decode(&table, &row)).transpose()
}

/// Where the events of a sequence stand, after a position, at most `limit` of them.
pub(crate) async fn positions(
    store: &dyn RowStore,
    build: &Build,
    key: &str,
    kept: &Kept,
    after: Position,
    limit: usize,
) -> Result<Vec<(StoredRow, Position)>, StoreError> {
    let (table, prefix) = (build.parked_events(), kept.prefix(key));
    let after = format!("{prefix}{}", sortable(after));
    let found = rows::below(store, &table, &prefix, Some(&after), limit).await?;
    Ok(found.into_iter().filter_map(|row| position_of(&row).map(|position| (row, position))).collect())
}

/// What was asked for, by key, with the revision of the request.
pub(crate) async fn requests(
    store: &dyn RowStore,
    build: &Build,
) -> Result<Vec<(String, u64, Request)>, StoreError> {
    let table = build.requests();
    let all = rows::whole(store, &table).await?;
    all.into_iter().map(|row| Ok((row.key.clone(), row.rev, rows::decode(&table, &row)?))).collect()
}

/// Events that were left out for good.
pub(crate) async fn skipped(store: &dyn RowStore, build: &Build) -> Result<Vec<Skipped>, StoreError> {
    let table = build.skipped();
    rows::whole(store, &table).await?.iter().map(|row| rows::decode(&table, row)).collect()
}
