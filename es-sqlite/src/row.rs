//! Rows of `es_events` ↔ events.
//!
//! `ident` holds the event id (16 bytes), then a byte of flags, then causation and correlation if the
//! flags say so. It is one column because each column of a row costs an allocation on the way through
//! the driver, and loads are read-heavy. Stored: change by adding flags.

use std::sync::Arc;

use es_core::Metadata;
use es_core::clock::Timestamp;
use es_core::event::Tag;
use es_core::store::{EventId, NewEvent, Position, RecordedEvent, StoreError, StreamId, Version};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::types::Types;

/// What every read of events selects, from `es_events e`; [`decode`] takes it apart.
pub(crate) const COLUMNS: &str = "e.position, e.version, e.type, e.recorded_at, e.ident, e.data, e.meta";

const CAUSATION: u8 = 1;
const CORRELATION: u8 = 2;
/// The correlation is the causation: a command that began a flow.
const SAME: u8 = 4;

/// The rest of the metadata and the tags, where there are any. Stored: change by adding fields.
#[derive(serde::Serialize, serde::Deserialize)]
struct Meta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

pub(crate) fn ident(id: EventId, metadata: &Metadata) -> Vec<u8> {
    let (causation, correlation) = (metadata.causation, metadata.correlation);
    let mut bytes = Vec::with_capacity(49);
    bytes.extend(id.as_bytes());
    let flags = match (causation, correlation) {
        (None, None) => 0,
        (Some(_), None) => CAUSATION,
        (None, Some(_)) => CORRELATION,
        (Some(a), Some(b)) if a == b => CAUSATION | SAME,
        (Some(_), Some(_)) => CAUSATION | CORRELATION,
    };
    bytes.push(flags);
    if flags & CAUSATION != 0 {
        bytes.extend(causation.iter().flat_map(Uuid::as_bytes));
    }
    if flags & CORRELATION != 0 {
        bytes.extend(correlation.iter().flat_map(Uuid::as_bytes));
    }
    bytes
}

/// The text of the `meta` column; `None` for the usual event, which needs none.
pub(crate) fn meta(event: &NewEvent) -> Option<String> {
    if event.metadata.is_plain() && event.tags.is_empty() {
        return None;
    }
    let mut metadata = Metadata::clone(&event.metadata);
    (metadata.causation, metadata.correlation) = (None, None);
    let meta = Meta {
        meta: Some(metadata).filter(|m| !m.is_plain()),
        tags: event.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
    };
    Some(serde_json::to_string(&meta).expect("strings serialize"))
}

/// An event of a row of [`COLUMNS`]. `Ok(None)`: its type is not known here yet, so reload the types.
pub(crate) fn decode(
    row: &SqliteRow,
    stream: &StreamId,
    types: &Types,
) -> Result<Option<RecordedEvent>, StoreError> {
    let position: i64 = row.get_unchecked(0);
    let broken = |what: &str| StoreError::Corrupt { what: format!("event at position {position}: {what}") };
    let Some(kind) = types.kind(row.get_unchecked(2)) else { return Ok(None) };
    let time: i64 = row.get_unchecked(3);
    let ident: &[u8] = row.get_unchecked(4);
    let data: Vec<u8> = row.get_unchecked(5);
    let meta: Option<&str> = row.get_unchecked(6);
    let (id, mut metadata) = open(ident).ok_or_else(|| broken("its ident is malformed"))?;
    let mut tags = Vec::new();
    if let Some(meta) = meta {
        let stored: Meta = serde_json::from_str(meta).map_err(|e| broken(&format!("its meta: {e}")))?;
        if let Some(rest) = stored.meta {
            let (causation, correlation) = (metadata.causation, metadata.correlation);
            metadata = rest;
            (metadata.causation, metadata.correlation) = (causation, correlation);
        }
        let tag = |text| Tag::parse(text).map_err(|e| broken(&e.to_string()));
        tags = stored.tags.into_iter().map(tag).collect::<Result<_, _>>()?;
    }
    Ok(Some(RecordedEvent {
        position: Some(Position(number(position))),
        stream: stream.clone(),
        version: Version(number(row.get_unchecked(1))),
        id,
        name: kind.name,
        schema: kind.schema,
        codec: kind.codec,
        data: data.into(),
        tags,
        metadata: Arc::new(metadata),
        recorded_at: Timestamp::from_microsecond(time).map_err(|e| broken(&e.to_string()))?,
    }))
}

fn open(ident: &[u8]) -> Option<(EventId, Metadata)> {
    let (id, rest) = ident.split_first_chunk()?;
    let (flags, mut rest) = rest.split_first()?;
    let mut next = |flag| {
        if flags & flag == 0 {
            return Some(None);
        }
        let (id, after) = rest.split_first_chunk()?;
        rest = after;
        Some(Some(Uuid::from_bytes(*id)))
    };
    let mut metadata = Metadata::default();
    metadata.causation = next(CAUSATION)?;
    metadata.correlation = next(CORRELATION)?;
    if flags & SAME != 0 {
        metadata.correlation = metadata.causation;
    }
    Some((Uuid::from_bytes(*id), metadata))
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

    #[test]
    fn an_ident_holds_every_combination_of_causes() {
        let ids = es_core::id::Ids::default();
        let (id, a, b) = (ids.next(), ids.next(), ids.next());
        for (causation, correlation) in
            [(None, None), (Some(a), None), (None, Some(b)), (Some(a), Some(a)), (Some(a), Some(b))]
        {
            let mut metadata = Metadata::default();
            (metadata.causation, metadata.correlation) = (causation, correlation);
            assert_eq!(open(&ident(id, &metadata)), Some((id, metadata)));
        }
        assert_eq!(open(&[0; 16]), None);
        assert_eq!(open(&[&[0; 16][..], &[CAUSATION], &[0; 15]].concat()), None);
    }
}
