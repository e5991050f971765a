//! Rows of `events` ↔ events.

use std::sync::Arc;

use bytes::Bytes;
use es_core::clock::Timestamp;
use es_core::store::envelope::{self, Envelope};
use es_core::store::{Position, RecordedEvent, StoreError, StreamId, Version};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::types::Known;

/// What every read of events selects first; [`decode`] takes it apart.
pub(crate) const COLUMNS: &str = "e.position, e.type_id, e.recorded_at, e.envelope, e.data";

/// PostgreSQL counts time from the year 2000, in microseconds.
pub(crate) const EPOCH: i64 = 946_684_800_000_000;

/// An event of a row of [`COLUMNS`]. `Ok(None)`: its type is not known here yet, so reload the types.
pub(crate) fn decode(
    row: &PgRow,
    stream: StreamId,
    version: Version,
    types: &Known,
) -> Result<Option<RecordedEvent>, StoreError> {
    let position: i64 = row.get_unchecked(0);
    let broken = |what: String| StoreError::Corrupt { what: format!("event at position {position}: {what}") };
    let Some(kind) = types.kind(row.get_unchecked(1)) else { return Ok(None) };
    let Envelope { id, metadata, tags } = envelope::unpack(row.get_unchecked(3)).map_err(broken)?;
    let recorded_at = time(row.get_unchecked(2)).map_err(|e| broken(e.to_string()))?;
    Ok(Some(RecordedEvent {
        position: Some(Position(number(position))),
        stream,
        version,
        id,
        name: kind.name.clone(),
        schema: kind.schema,
        codec: kind.codec.clone(),
        data: Bytes::copy_from_slice(row.get_unchecked(4)),
        tags,
        metadata: Arc::new(metadata),
        recorded_at,
        replay: false,
    }))
}

/// A time as the driver gives it when it is asked for the number in it.
pub(crate) fn time(since_2000: i64) -> Result<Timestamp, impl std::error::Error> {
    Timestamp::from_microsecond(since_2000.saturating_add(EPOCH))
}

/// A number that SQL holds signed and that is never negative.
pub(crate) fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}

/// A number on its way to SQL; the limits keep it in range.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
