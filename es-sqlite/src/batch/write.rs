//! The rows of a batch, and the message that writes them.
//!
//! Rows travel as JSON arrays, and what is binary as a blob that the rows point into: a statement then has
//! one text for any number of rows, and the driver is crossed once for the whole batch.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use es_core::clock::Timestamp;
use es_core::store::kinds::Kind;
use es_core::store::{IdempotencyKey, NewEvent, Outcome, RowWrite, StreamId};
use serde::Serialize;
use uuid::Uuid;

use super::ledger::{Batch, Stream};
use crate::attempt;
use crate::row::{self, signed};
use crate::writer::Writing;

/// Several statements in one message take plain `?` only: the driver counts numbered ones wrongly from the
/// second statement on, and binds NULL without a word.
const WRITE_AND_COMMIT: &str = concat!(include_str!("../sql/write.sql"), "commit");
/// With witnesses.
const WRITE_WITNESSES: &str =
    concat!(include_str!("../sql/write.sql"), include_str!("../sql/witness.sql"), "commit");
/// With witnesses, and old ones removed.
const WRITE_AND_FORGET: &str = concat!(
    include_str!("../sql/write.sql"),
    include_str!("../sql/witness.sql"),
    include_str!("../sql/forget.sql"),
    "commit"
);
/// After so many new witnesses old ones are removed.
const ROUND: usize = 64;

/// Bytes, and where pieces of them are, as `substr` counts: from 1.
#[derive(Debug, Default)]
struct Blob(Vec<u8>);

type Piece = (usize, usize);

impl Blob {
    fn add(&mut self, bytes: &[u8]) -> Piece {
        let from = self.0.len() + 1;
        self.0.extend(bytes);
        (from, bytes.len())
    }

    fn get(&self, (from, length): Piece) -> &[u8] {
        &self.0[from - 1..][..length]
    }
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) types: Vec<(i64, Kind)>,
    streams: Vec<(i64, String)>,
    events: Vec<(i64, i64, i64, i64, i64, Piece, Piece)>,
    payloads: Blob,
    tags: Vec<(String, i64)>,
    outcomes: Vec<(String, Piece, String, i64, i64, u32, Option<Piece>)>,
    refusals: Blob,
    /// What the last commit of the batch says of each: commits that follow each other may delete a row and
    /// write it again.
    rows: BTreeMap<(String, String), Option<(i64, Piece)>>,
    row_data: Blob,
    /// Of commits that write something and no events: attempts, and the time from which each is kept.
    witnesses: Vec<(String, i64)>,
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        // Types, streams and tags come with events.
        self.events.is_empty()
            && self.outcomes.is_empty()
            && self.rows.is_empty()
            && self.witnesses.is_empty()
    }

    pub(super) fn stream(&mut self, id: i64, name: &StreamId) {
        self.streams.push((id, name.as_str().to_owned()));
    }

    pub(super) fn event(&mut self, to: Stream, kind: i64, recorded_at: Timestamp, event: &NewEvent) {
        let head = self.payloads.add(&row::head(event, kind, recorded_at));
        let data = self.payloads.add(&event.data);
        let (position, version) = (signed(to.position.0), signed(to.version.0));
        self.events.push((position, to.id, version, kind, recorded_at.as_microsecond(), head, data));
        self.tags.extend(event.tags.iter().map(|tag| (tag.as_str().to_owned(), position)));
    }

    pub(super) fn outcome(&mut self, key: &IdempotencyKey, outcome: &Outcome) {
        let fingerprint = self.refusals.add(&outcome.fingerprint.to_be_bytes());
        let refusal = outcome.refusal.as_ref().map(|refusal| self.refusals.add(refusal));
        let stream = outcome.stream.as_str().to_owned();
        let (version, position) = (signed(outcome.version.0), signed(outcome.position.0));
        self.outcomes.push((
            key.as_str().to_owned(),
            fingerprint,
            stream,
            version,
            position,
            outcome.events,
            refusal,
        ));
    }

    pub(super) fn row(&mut self, write: &RowWrite) {
        let row = write.row.as_ref().map(|row| (signed(write.rev + 1), self.row_data.add(row)));
        self.rows.insert((write.table.to_string(), write.key.clone()), row);
    }

    pub(super) fn witness(&mut self, attempt: Uuid, from: Timestamp) {
        self.witnesses.push((attempt::hex(attempt), from.as_microsecond()));
    }
}

/// Writes the rows and commits.
pub(super) async fn write(writing: &mut Writing, batch: &Batch) -> Result<(), sqlx::Error> {
    let rows = &batch.rows;
    if rows.is_empty() {
        sqlx::query("commit").execute(writing.conn_mut()).await?;
    } else {
        let types: Vec<_> = rows.types.iter().map(|(id, k)| (id, &*k.name, k.schema, &*k.codec)).collect();
        let written: Vec<_> = rows
            .rows
            .iter()
            .filter_map(|((table, key), row)| row.map(|(rev, piece)| (table, key, rev, piece)))
            .collect();
        let deleted: Vec<_> = rows.rows.iter().filter(|(_, row)| row.is_none()).map(|(row, _)| row).collect();
        let witnesses = writing.shared().witnesses.load(Ordering::Relaxed) + rows.witnesses.len();
        let sql = match rows.witnesses.len() {
            0 => WRITE_AND_COMMIT,
            _ if witnesses < ROUND => WRITE_WITNESSES,
            _ => WRITE_AND_FORGET,
        };
        let mut query = sqlx::query(sql)
            .bind(json(&types))
            .bind(json(&rows.streams))
            .bind(&rows.payloads.0[..])
            .bind(json(&rows.events))
            .bind(json(&rows.tags))
            .bind(&rows.refusals.0[..])
            .bind(json(&rows.outcomes))
            .bind(&rows.row_data.0[..])
            .bind(json(&written))
            .bind(json(&deleted));
        if !rows.witnesses.is_empty() {
            query = query.bind(json(&rows.witnesses));
        }
        let forgets = sql == WRITE_AND_FORGET;
        if forgets {
            // More than were added, so that they end, and not so many that it is slow.
            let limit = 2 * signed(witnesses as u64);
            query = query.bind(attempt::forgotten_before(batch.now).as_microsecond()).bind(limit);
        }
        query.execute(writing.conn_mut()).await?;
        writing.shared().witnesses.store(if forgets { 0 } else { witnesses }, Ordering::Relaxed);
    }
    writing.set_open(false);
    Ok(())
}

/// Whether a batch whose COMMIT failed is stored all the same. Asked on the connection that wrote it, after
/// a rollback, so the answer is final.
pub(super) async fn is_stored(writing: &mut Writing, batch: &Batch) -> Result<bool, sqlx::Error> {
    let rows = &batch.rows;
    let query = if let Some((position, .., head, _)) = rows.events.last() {
        let sql = "select 1 from es_events where position = ? and head = ?";
        sqlx::query(sql).bind(position).bind(rows.payloads.get(*head))
    } else if let Some((attempt, _)) = rows.witnesses.last() {
        sqlx::query("select 1 from es_attempts where id = unhex(?) and applied_at is not null").bind(attempt)
    } else {
        return Ok(false);
    };
    Ok(query.fetch_optional(writing.conn_mut()).await?.is_some())
}

fn json<T: Serialize>(rows: &T) -> String {
    serde_json::to_string(rows).expect("rows serialize")
}
