//! The rows of a batch, and the two messages that write them.
//!
//! Rows travel as JSON arrays, and everything binary as one blob that the rows point into: a statement
//! then has one text for any number of rows, and the driver is crossed once.

use es_core::clock::Timestamp;
use es_core::store::{CheckpointMove, IdempotencyKey, NewEvent, Outcome, Position, StreamId, ViewWrite};
use serde::Serialize;

use super::ledger::{Batch, Stream};
use crate::row::{self, signed};
use crate::types::Kind;
use crate::writer::Writing;

const EVENTS_AND_COMMIT: &str = concat!(include_str!("../sql/write_events.sql"), "commit");
const REST: &str = include_str!("../sql/write_rest.sql");

/// A piece of the blob, as `substr` counts: from 1.
type Piece = (usize, usize);

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) types: Vec<(i64, Kind)>,
    streams: Vec<(i64, String)>,
    events: Vec<(i64, i64, i64, i64, i64, Piece, Piece, Option<String>)>,
    tags: Vec<(String, i64)>,
    outcomes: Vec<(String, Piece, String, i64, i64, u32, Option<Piece>)>,
    checkpoints: Vec<(String, Option<i64>)>,
    views: Vec<(String, String, i64, Option<Piece>)>,
    blob: Vec<u8>,
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.has_rest()
    }

    fn has_rest(&self) -> bool {
        !(self.tags.is_empty() && self.outcomes.is_empty() && self.checkpoints.is_empty() && self.views.is_empty())
    }

    fn piece(&mut self, bytes: &[u8]) -> Piece {
        let from = self.blob.len() + 1;
        self.blob.extend(bytes);
        (from, bytes.len())
    }

    pub(super) fn stream(&mut self, id: i64, name: &StreamId) {
        self.streams.push((id, name.as_str().to_owned()));
    }

    pub(super) fn event(&mut self, to: Stream, kind: i64, recorded_at: Timestamp, event: &NewEvent) {
        let ident = self.piece(&row::ident(event.id, &event.metadata));
        let data = self.piece(&event.data);
        let (position, version) = (signed(to.position.0), signed(to.version.0));
        let meta = row::meta(event);
        self.events.push((position, to.id, version, kind, recorded_at.as_microsecond(), ident, data, meta));
        self.tags.extend(event.tags.iter().map(|tag| (tag.as_str().to_owned(), position)));
    }

    pub(super) fn outcome(&mut self, key: &IdempotencyKey, outcome: &Outcome) {
        let fingerprint = self.piece(&outcome.fingerprint.to_be_bytes());
        let refusal = outcome.refusal.as_ref().map(|refusal| self.piece(refusal));
        self.outcomes.push((
            key.as_str().to_owned(),
            fingerprint,
            outcome.stream.as_str().to_owned(),
            signed(outcome.version.0),
            signed(outcome.position.0),
            outcome.events,
            refusal,
        ));
    }

    pub(super) fn checkpoint(&mut self, step: &CheckpointMove) {
        self.checkpoints.push((step.name.clone(), step.to.map(|Position(to)| signed(to))));
    }

    pub(super) fn view(&mut self, write: &ViewWrite) {
        let row = write.row.as_ref().map(|row| self.piece(row));
        self.views.push((write.view.to_string(), write.key.clone(), signed(write.rev + 1), row));
    }
}

/// Writes the rows and commits.
pub(super) async fn write(writing: &mut Writing, batch: &Batch) -> Result<(), sqlx::Error> {
    let rows = &batch.rows;
    if rows.has_rest() {
        sqlx::query(REST)
            .bind(json(&rows.tags))
            .bind(json(&rows.outcomes))
            .bind(json(&rows.checkpoints))
            .bind(json(&rows.views))
            .bind(&rows.blob[..])
            .execute(writing.conn_mut())
            .await?;
    }
    if rows.events.is_empty() {
        sqlx::query("commit").execute(writing.conn_mut()).await?;
    } else {
        let types: Vec<_> = rows.types.iter().map(|(id, k)| (id, &*k.name, k.schema, &*k.codec)).collect();
        sqlx::query(EVENTS_AND_COMMIT)
            .bind(json(&types))
            .bind(json(&rows.streams))
            .bind(json(&rows.events))
            .bind(&rows.blob[..])
            .execute(writing.conn_mut())
            .await?;
    }
    writing.set_open(false);
    Ok(())
}

/// Whether a batch whose COMMIT failed is stored all the same. Asked on the connection that wrote it, after
/// a rollback, so the answer is final.
pub(super) async fn is_stored(writing: &mut Writing, batch: &Batch) -> Result<bool, sqlx::Error> {
    let Some((position, .., ident, _, _)) = batch.rows.events.last() else { return Ok(false) };
    let ident = &batch.rows.blob[ident.0 - 1..][..ident.1];
    let sql = "select 1 from es_events where position = ? and ident = ?";
    let found = sqlx::query(sql).bind(position).bind(ident).fetch_optional(writing.conn_mut()).await?;
    Ok(found.is_some())
}

fn json<T: Serialize>(rows: &T) -> String {
    serde_json::to_string(rows).expect("rows serialize")
}
