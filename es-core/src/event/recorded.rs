//! A payload together with where and when it was recorded: what handlers of the read side receive.

use std::ops::Deref;

use super::{EventId, Metadata, Payload, Position, RecordedEvent, StreamId, Version};
use crate::clock::Timestamp;

/// A payload and its record. Derefs to the payload.
#[derive(Debug)]
pub struct Recorded<'a, P> {
    payload: &'a P,
    record: &'a RecordedEvent,
}

// By hand: a derive would ask for `P: Clone`, and nothing of `P` is cloned.
impl<P> Clone for Recorded<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Recorded<'_, P> {}

impl<P> Deref for Recorded<'_, P> {
    type Target = P;
    fn deref(&self) -> &P {
        self.payload
    }
}

impl<'a, P: Payload> Recorded<'a, P> {
    /// Puts a payload beside its record; the macros do this.
    #[must_use]
    pub const fn new(payload: &'a P, record: &'a RecordedEvent) -> Self {
        Self { payload, record }
    }

    /// The payload, for as long as the record lives.
    #[must_use]
    pub const fn payload(&self) -> &'a P {
        self.payload
    }

    /// The record as it is stored.
    #[must_use]
    pub const fn record(&self) -> &'a RecordedEvent {
        self.record
    }

    /// `None` for an event that is not committed yet: positions are given out by the commit.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.record.position
    }

    /// The event's version in its stream.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.record.version
    }

    /// The event's stream.
    #[must_use]
    pub const fn stream(&self) -> &'a StreamId {
        &self.record.stream
    }

    /// The event's own id.
    #[must_use]
    pub const fn id(&self) -> EventId {
        self.record.id
    }

    /// When it was recorded, by the store's clock. Never use it for order.
    #[must_use]
    pub const fn recorded_at(&self) -> Timestamp {
        self.record.recorded_at
    }

    /// Whether a projection that is being built, or was reset, handles an event that was in the log when it began. The
    /// record carries it, so a clone says the same. Never true for a reactor: it is not called for such events.
    #[must_use]
    pub const fn is_replay(&self) -> bool {
        self.record.replay
    }

    /// Who and what caused it.
    #[must_use]
    pub fn metadata(&self) -> &'a Metadata {
        &self.record.metadata
    }
}
