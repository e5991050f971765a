//! Rows of `es_events` ↔ events.
//!
//! Each column of a row costs an allocation and a copy on the way through the driver, and loads are
//! read-heavy. So what every reader needs beside the payload is packed into one column, `head`:
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | event id |
//! | 8 | recorded at: microseconds since 1970, big-endian |
//! | 4 | number of the type, big-endian |
//! | 1 | flags |
//! | 16 | causation, if its flag is set |
//! | 16 | correlation, if its flag is set |
//! | rest | JSON of tags and further metadata, if its flag is set |
//!
//! Stored: change by adding flags. `type` and `recorded_at` are columns too, for filters and for people.

use std::sync::Arc;

use es_core::Metadata;
use es_core::clock::Timestamp;
use es_core::event::Tag;
use es_core::store::{EventId, NewEvent, Position, RecordedEvent, StoreError, StreamId, Version};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::types::Known;

/// What every read of events selects first, from `es_events e`; [`decode`] takes it apart.
pub(crate) const COLUMNS: &str = "e.position, e.head, e.data";

const CAUSATION: u8 = 1;
const CORRELATION: u8 = 2;
/// The correlation is the causation: a command that began a flow.
const SAME: u8 = 4;
const MORE: u8 = 8;

/// Tags, and metadata beside the causes. Stored: change by adding fields.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct More {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

/// What the column `head` holds.
pub(crate) fn head(event: &NewEvent, kind: i64, recorded_at: Timestamp) -> Vec<u8> {
    let (causation, correlation) = (event.metadata.causation, event.metadata.correlation);
    let more = more(event);
    let flags = match (causation, correlation) {
        (None, None) => 0,
        (Some(_), None) => CAUSATION,
        (None, Some(_)) => CORRELATION,
        (Some(a), Some(b)) if a == b => CAUSATION | SAME,
        (Some(_), Some(_)) => CAUSATION | CORRELATION,
    } | if more.is_some() { MORE } else { 0 };
    let mut bytes = Vec::with_capacity(61);
    bytes.extend(event.id.as_bytes());
    bytes.extend(recorded_at.as_microsecond().to_be_bytes());
    bytes.extend(u32::try_from(kind).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push(flags);
    bytes.extend(causation.iter().flat_map(Uuid::as_bytes));
    if flags & CORRELATION != 0 {
        bytes.extend(correlation.iter().flat_map(Uuid::as_bytes));
    }
    bytes.extend(more.unwrap_or_default());
    bytes
}

fn more(event: &NewEvent) -> Option<Vec<u8>> {
    if event.metadata.is_plain() && event.tags.is_empty() {
        return None;
    }
    let mut meta = Metadata::clone(&event.metadata);
    (meta.causation, meta.correlation) = (None, None);
    let more = More {
        meta: Some(meta).filter(|m| !m.is_plain()),
        tags: event.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
    };
    Some(serde_json::to_vec(&more).expect("strings serialize"))
}

/// An event of a row of [`COLUMNS`]. `Ok(None)`: its type is not known here yet, so reload the types.
pub(crate) fn decode(
    row: &SqliteRow,
    stream: &StreamId,
    version: Version,
    types: &Known,
) -> Result<Option<RecordedEvent>, StoreError> {
    let position: i64 = row.get_unchecked(0);
    let broken = |what: &str| StoreError::Corrupt { what: format!("event at position {position}: {what}") };
    let head = open(row.get_unchecked(1)).ok_or_else(|| broken("its head is malformed"))?;
    let Some(kind) = types.kind(head.kind) else { return Ok(None) };
    let (mut metadata, mut tags) = (Metadata::default(), Vec::new());
    if let Some(more) = head.more {
        let stored: More = serde_json::from_slice(more).map_err(|e| broken(&format!("its metadata: {e}")))?;
        metadata = stored.meta.unwrap_or_default();
        let tag = |text| Tag::parse(text).map_err(|e| broken(&e.to_string()));
        tags = stored.tags.into_iter().map(tag).collect::<Result<_, _>>()?;
    }
    (metadata.causation, metadata.correlation) = (head.causation, head.correlation);
    let recorded_at = Timestamp::from_microsecond(head.recorded_at);
    Ok(Some(RecordedEvent {
        position: Some(Position(number(position))),
        stream: stream.clone(),
        version,
        id: head.id,
        name: kind.name.clone(),
        schema: kind.schema,
        codec: kind.codec.clone(),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
        tags,
        metadata: Arc::new(metadata),
        recorded_at: recorded_at.map_err(|e| broken(&e.to_string()))?,
    }))
}

#[derive(Debug, PartialEq)]
struct Head<'h> {
    id: EventId,
    recorded_at: i64,
    kind: i64,
    causation: Option<Uuid>,
    correlation: Option<Uuid>,
    more: Option<&'h [u8]>,
}

fn open(head: &[u8]) -> Option<Head<'_>> {
    let (id, rest) = head.split_first_chunk()?;
    let (recorded_at, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (flags, mut rest) = rest.split_first()?;
    let mut next = |flag| {
        if flags & flag == 0 {
            return Some(None);
        }
        let (id, after) = rest.split_first_chunk()?;
        rest = after;
        Some(Some(Uuid::from_bytes(*id)))
    };
    let causation = next(CAUSATION)?;
    let correlation = next(CORRELATION)?;
    Some(Head {
        id: Uuid::from_bytes(*id),
        recorded_at: i64::from_be_bytes(*recorded_at),
        kind: u32::from_be_bytes(*kind).into(),
        causation,
        correlation: if flags & SAME == 0 { correlation } else { causation },
        more: (flags & MORE != 0).then_some(rest),
    })
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
    fn a_head_holds_every_combination_of_causes() {
        let ids = es_core::id::Ids::default();
        let (id, a, b) = (ids.next(), ids.next(), ids.next());
        let recorded_at = Timestamp::from_microsecond(1_234_567_890).unwrap();
        for (causation, correlation) in
            [(None, None), (Some(a), None), (None, Some(b)), (Some(a), Some(a)), (Some(a), Some(b))]
        {
            for actor in [None, Some("ada".to_owned())] {
                let mut metadata = Metadata::default();
                (metadata.causation, metadata.correlation, metadata.actor) = (causation, correlation, actor);
                let event = NewEvent {
                    id,
                    name: "e".into(),
                    schema: 1,
                    codec: "json".into(),
                    data: "{}".into(),
                    tags: Vec::new(),
                    metadata: Arc::new(metadata),
                };
                let bytes = head(&event, 7, recorded_at);
                let opened = open(&bytes).unwrap();
                assert_eq!((opened.id, opened.kind, opened.recorded_at), (id, 7, 1_234_567_890));
                assert_eq!((opened.causation, opened.correlation), (causation, correlation));
                assert_eq!(opened.more.is_some(), event.metadata.actor.is_some());
            }
        }
    }

    #[test]
    fn a_head_that_is_cut_is_malformed() {
        for n in 0..29 {
            assert_eq!(open(&vec![CAUSATION; n]), None);
        }
    }

    /// Stored: these bytes are read for ever.
    #[test]
    fn the_bytes_of_a_head_are_pinned() {
        let golden =
            [&[1; 16][..], &[0, 0, 0, 0, 0, 0, 0, 2], &[0, 0, 0, 3], &[CAUSATION | SAME], &[4; 16]].concat();
        let four = Some(Uuid::from_bytes([4; 16]));
        let (id, recorded_at, kind) = (Uuid::from_bytes([1; 16]), 2, 3);
        assert_eq!(
            open(&golden),
            Some(Head { id, recorded_at, kind, causation: four, correlation: four, more: None })
        );
    }
}
