//! What SQL backends store of an event in addition to its payload, as bytes of one column.
//!
//! Each column of a row costs a copy on the way through a driver, and loads are read-heavy. So what every
//! reader needs is packed:
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | event id |
//! | 1 | flags |
//! | 16 | causation, if its flag is set |
//! | 16 | correlation, if its flag is set |
//! | rest | JSON of tags and further metadata, if its flag is set |
//!
//! Stored: change by adding flags.

use uuid::Uuid;

use crate::Metadata;
use crate::event::Tag;
use crate::store::{EventId, NewEvent};

const CAUSATION: u8 = 1;
const CORRELATION: u8 = 2;
/// The correlation is the causation: a command that began a flow.
const SAME: u8 = 4;
const MORE: u8 = 8;

/// An unpacked envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend takes all of it")]
pub struct Envelope {
    /// The event's id.
    pub id: EventId,
    /// Who and what caused it.
    pub metadata: Metadata,
    /// What conditions and filters find it by.
    pub tags: Vec<Tag>,
}

/// Tags, and metadata other than the causes. Stored: change by adding fields.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct More {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

/// Appends the envelope of an event to `bytes`.
pub fn pack(event: &NewEvent, bytes: &mut Vec<u8>) {
    let (causation, correlation) = (event.metadata.causation, event.metadata.correlation);
    let more = more(event);
    let flags = match (causation, correlation) {
        (None, None) => 0,
        (Some(_), None) => CAUSATION,
        (None, Some(_)) => CORRELATION,
        (Some(a), Some(b)) if a == b => CAUSATION | SAME,
        (Some(_), Some(_)) => CAUSATION | CORRELATION,
    } | if more.is_some() { MORE } else { 0 };
    bytes.extend(event.id.as_bytes());
    bytes.push(flags);
    bytes.extend(causation.iter().flat_map(Uuid::as_bytes));
    if flags & CORRELATION != 0 {
        bytes.extend(correlation.iter().flat_map(Uuid::as_bytes));
    }
    bytes.extend(more.unwrap_or_default());
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

/// Takes an envelope apart.
///
/// # Errors
///
/// What is wrong with the bytes, in words.
pub fn unpack(bytes: &[u8]) -> Result<Envelope, String> {
    let (id, causes, more) = split(bytes).ok_or("its envelope is cut off")?;
    let (mut metadata, mut tags) = (Metadata::default(), Vec::new());
    if let Some(json) = more {
        let more: More = serde_json::from_slice(json).map_err(|e| format!("its metadata: {e}"))?;
        metadata = more.meta.unwrap_or_default();
        tags = more.tags.into_iter().map(Tag::parse).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    }
    (metadata.causation, metadata.correlation) = causes;
    Ok(Envelope { id, metadata, tags })
}

/// The id, causation and correlation, and the JSON.
type Parts<'b> = (EventId, (Option<Uuid>, Option<Uuid>), Option<&'b [u8]>);

fn split(bytes: &[u8]) -> Option<Parts<'_>> {
    let (id, rest) = bytes.split_first_chunk()?;
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
    let correlation = if flags & SAME == 0 { correlation } else { causation };
    Some((Uuid::from_bytes(*id), (causation, correlation), (flags & MORE != 0).then_some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_holds_every_combination_of_causes() {
        let ids = crate::id::Ids::default();
        let (id, a, b) = (ids.next(), ids.next(), ids.next());
        for (causation, correlation) in
            [(None, None), (Some(a), None), (None, Some(b)), (Some(a), Some(a)), (Some(a), Some(b))]
        {
            for actor in [None, Some("ada".to_owned())] {
                for tags in [vec![], vec![Tag::parse("course:math").unwrap()]] {
                    let metadata =
                        Metadata { causation, correlation, actor: actor.clone(), ..Metadata::default() };
                    let event = NewEvent {
                        id,
                        name: "e".into(),
                        schema: 1,
                        codec: "json".into(),
                        data: "{}".into(),
                        tags: tags.clone(),
                        metadata: metadata.clone().into(),
                    };
                    let mut bytes = Vec::new();
                    pack(&event, &mut bytes);
                    assert_eq!(unpack(&bytes), Ok(Envelope { id, metadata, tags }));
                }
            }
        }
    }

    #[test]
    fn an_envelope_that_is_cut_off_says_so() {
        for n in 0..33 {
            assert_eq!(unpack(&vec![CAUSATION; n]), Err("its envelope is cut off".to_owned()));
        }
    }

    /// Stored: these bytes are read for ever.
    #[test]
    fn the_bytes_of_an_envelope_are_pinned() {
        let golden = [&[1; 16][..], &[CAUSATION | SAME], &[4; 16]].concat();
        let four = Some(Uuid::from_bytes([4; 16]));
        let metadata = Metadata { causation: four, correlation: four, ..Metadata::default() };
        let expected = Envelope { id: Uuid::from_bytes([1; 16]), metadata, tags: Vec::new() };
        assert_eq!(unpack(&golden), Ok(expected));
    }
}
