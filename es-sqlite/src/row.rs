//! Rows of `es_events` ↔ events.
//!
//! What every reader needs beside the payload is packed into one column, `head`: the time (8 bytes,
//! microseconds since 1970) and the number of the type (4 bytes), both big-endian, then the
//! [envelope](es_core::store::envelope). `type` and `recorded_at` are columns too, for filters and for people.

use std::sync::Arc;

use es_core::clock::Timestamp;
use es_core::store::envelope::{self, Envelope};
use es_core::store::{NewEvent, Position, RecordedEvent, StoreError, StreamId, Version};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::types::Known;

/// What every read of events selects first, from `es_events e`; [`decode`] takes it apart.
pub(crate) const COLUMNS: &str = "e.position, e.head, e.data";

/// What the column `head` holds.
pub(crate) fn head(event: &NewEvent, kind: i64, recorded_at: Timestamp) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(61);
    bytes.extend(recorded_at.as_microsecond().to_be_bytes());
    bytes.extend(u32::try_from(kind).unwrap_or(u32::MAX).to_be_bytes());
    envelope::pack(event, &mut bytes);
    bytes
}

/// An event of a row of [`COLUMNS`]. `Ok(None)`: its type is not known here yet, so reload the types.
pub(crate) fn decode(
    row: &SqliteRow,
    stream: &StreamId,
    version: Version,
    types: &Known,
) -> Result<Option<RecordedEvent>, StoreError> {
    let position: i64 = row.get_unchecked(0);
    let broken = |what: String| StoreError::Corrupt { what: format!("event at position {position}: {what}") };
    let (recorded_at, kind, packed) =
        open(row.get_unchecked(1)).ok_or_else(|| broken("its head is cut off".to_owned()))?;
    let Some(kind) = types.kind(kind) else { return Ok(None) };
    let Envelope { id, metadata, tags } = envelope::unpack(packed).map_err(broken)?;
    Ok(Some(RecordedEvent {
        position: Some(Position(number(position))),
        stream: stream.clone(),
        version,
        id,
        name: kind.name.clone(),
        schema: kind.schema,
        codec: kind.codec.clone(),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
        tags,
        metadata: Arc::new(metadata),
        recorded_at: Timestamp::from_microsecond(recorded_at).map_err(|e| broken(e.to_string()))?,
        replay: false,
    }))
}

/// The time, the number of the type, and the envelope.
fn open(head: &[u8]) -> Option<(i64, i64, &[u8])> {
    let (recorded_at, rest) = head.split_first_chunk()?;
    let (kind, envelope) = rest.split_first_chunk()?;
    Some((i64::from_be_bytes(*recorded_at), u32::from_be_bytes(*kind).into(), envelope))
}

/// A number that SQLite holds signed and that is never negative.
pub(crate) fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}

/// A number on its way to SQLite; the limits keep it in range.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored: these bytes are read for ever.
    #[test]
    fn the_bytes_of_a_head_are_pinned() {
        let golden = [&[0, 0, 0, 0, 0, 0, 0, 2][..], &[0, 0, 0, 3], b"envelope"].concat();
        assert_eq!(open(&golden), Some((2, 3, &b"envelope"[..])));
        assert_eq!(open(&golden[..11]), None);
    }
}
