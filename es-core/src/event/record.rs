//! An event as data: on its way into a store, and as it is stored.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    DecodeError, Event as _, EventData, EventId, Metadata, Name, Payload, Position, StreamId, Tag, Version,
};

/// Bytes of what can be large of an event.
pub(crate) fn size(data: &Bytes, tags: &[Tag], metadata: &Metadata) -> usize {
    let tags: usize = tags.iter().map(|tag| tag.as_str().len()).sum();
    data.len() + tags + metadata.size()
}

/// An event on its way into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what is stored of an event, each backend writes all of it")]
pub struct NewEvent {
    /// Its identity, not nil.
    pub id: EventId,
    /// The stored name.
    pub name: Name,
    /// The schema version of `data`.
    pub schema: u32,
    /// The name of the codec that wrote `data`.
    pub codec: Name,
    /// The payload.
    pub data: Bytes,
    /// What conditions and filters find it by.
    pub tags: Vec<Tag>,
    /// Who and what caused it.
    pub metadata: Arc<Metadata>,
}

impl NewEvent {
    /// Gives encoded data its identity and its cause.
    #[must_use]
    pub fn new(id: EventId, data: EventData, metadata: Arc<Metadata>) -> Self {
        let EventData { name, schema, codec, data, tags } = data;
        Self { id, name, schema, codec, data, tags, metadata }
    }

    /// How many bytes it takes, without what every one takes: payload, tags and texts of the metadata.
    #[must_use]
    pub fn size(&self) -> usize {
        size(&self.data, &self.tags, &self.metadata)
    }

    /// The event as it is read back from this place.
    #[must_use]
    pub fn into_recorded(
        self,
        stream: StreamId,
        version: Version,
        position: Option<Position>,
        recorded_at: Timestamp,
    ) -> RecordedEvent {
        let Self { id, name, schema, codec, data, tags, metadata } = self;
        RecordedEvent {
            position,
            stream,
            version,
            id,
            name,
            schema,
            codec,
            data,
            tags,
            metadata,
            recorded_at,
            replay: false,
        }
    }

    /// Whether `stored` is this event, content and all.
    #[must_use]
    pub fn is_same(&self, stored: &RecordedEvent) -> bool {
        let Self { id, name, schema, codec, data, tags, metadata: _ } = self;
        *id == stored.id
            && *name == stored.name
            && *schema == stored.schema
            && *codec == stored.codec
            && *data == stored.data
            && *tags == stored.tags
    }
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what is stored of an event, each backend reads all of it")]
pub struct RecordedEvent {
    /// Its place in the global log; `None` for an event that is not committed yet.
    pub position: Option<Position>,
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream, from 1.
    pub version: Version,
    /// Its identity.
    pub id: EventId,
    /// The stored name.
    pub name: Name,
    /// The schema version of `data`.
    pub schema: u32,
    /// The name of the codec that wrote `data`.
    pub codec: Name,
    /// The payload.
    pub data: Bytes,
    /// What conditions and filters find it by.
    pub tags: Vec<Tag>,
    /// Who and what caused it.
    pub metadata: Arc<Metadata>,
    /// When it was committed, by the store's clock, in whole microseconds. Never goes backwards in
    /// position order: a store whose clock does, repeats the last time.
    pub recorded_at: Timestamp,
    /// Not stored, and false as a store reads it: whether the processor that delivers the event replays it, see
    /// [`Recorded::is_replay`](crate::Recorded::is_replay).
    pub replay: bool,
}

impl RecordedEvent {
    /// The event as the payload `P`; the first such one if the event was split; `None` if it is something else.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    pub fn payload<P: Payload>(&self) -> Result<Option<P>, DecodeError> {
        if !P::SOURCES.contains(&&*self.name) {
            return Ok(None);
        }
        Ok(P::Event::decode(self)?.into_iter().find_map(|event| P::from_event(event).ok()))
    }

    /// Its place in the log, or 0 if it has none yet.
    #[must_use]
    pub fn place(&self) -> Position {
        self.position.unwrap_or_default()
    }
}
