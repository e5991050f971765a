//! Why an event could not be written or read.

use super::unknown::{MetUnknown, in_the_way, unknown};
use super::{EventId, Position, RecordedEvent, StreamId};
use crate::BoxError;
use crate::limits::LimitError;

/// An event could not be written. Nothing was stored; fix the event or its type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The codec refused the payload.
    #[error("cannot encode event {name}")]
    Payload {
        /// The stored name of the event.
        name: &'static str,
        /// What the codec said.
        #[source]
        source: BoxError,
    },
    /// The payload was written, but does not read back: a NaN, an asymmetric serde attribute.
    #[error("event {name} does not read back as it was written")]
    RoundTrip {
        /// The stored name of the event.
        name: String,
        /// What decoding said.
        #[source]
        source: BoxError,
    },
    /// A name, tag or size is over its limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// A stored event could not be read. The text names the event; other streams are not affected.
#[derive(Debug, thiserror::Error)]
#[error("cannot read event {name} (schema {schema}) {id} at {} in {stream:?}: {problem}", place(*.position))]
pub struct DecodeError {
    /// The stored name.
    pub name: String,
    /// The stored schema version.
    pub schema: u32,
    /// The event.
    pub id: EventId,
    /// Where it is, once it has a position.
    pub position: Option<Position>,
    /// Its stream.
    pub stream: StreamId,
    /// What is wrong.
    pub problem: DecodeProblem,
}

fn place(position: Option<Position>) -> String {
    position.map_or_else(|| "no position yet".to_owned(), |p| p.to_string())
}

/// Why an event could not be read, and so what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeProblem {
    /// No variant has this name: add it, or the old name of a variant with `was(..)`, or retire it.
    #[error(
        "its type is unknown to this program; if it was renamed, name the old one with `#[event(was(..))]`"
    )]
    UnknownType,
    /// Written by a newer program: upgrade this one.
    #[error("its schema is newer than {newest}, the newest this program knows")]
    NewerSchema {
        /// The newest known schema.
        newest: u32,
    },
    /// No upcaster reads this schema: add `upcast(..)` for it.
    #[error("no upcaster reads that schema")]
    NoUpcaster,
    /// Written with another codec.
    #[error("it was written with the codec {found:?}, and this type reads {expected:?}")]
    Codec {
        /// Stored with the event.
        found: String,
        /// The enum's.
        expected: &'static str,
    },
    /// The bytes are not what the type expects.
    #[error("{0}")]
    Malformed(BoxError),
    /// An upcaster panicked.
    #[error("its upcaster panicked: {0}")]
    UpcasterPanicked(String),
    /// The stream does not belong to the aggregate.
    #[error("the stream is not one of aggregate {0:?}")]
    ForeignStream(&'static str),
}

/// Whether something failed because the program does not know a type or a shape of events, which a newer one does: that is
/// neither the event's fault nor the store's. Of the error of a handler that says nothing of it, see
/// [`handle_now`](crate::guarded::handle_now).
pub fn is_of_a_newer_program(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_newer = |error: &DecodeError| error.problem.is_of_a_newer_program();
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<MetUnknown>() || error.downcast_ref::<DecodeError>().is_some_and(is_newer))
}

impl DecodeProblem {
    const fn is_of_a_newer_program(&self) -> bool {
        matches!(self, Self::NewerSchema { .. } | Self::UnknownType)
    }
}

impl DecodeError {
    /// An error about `stored`.
    #[must_use]
    pub fn new(stored: &RecordedEvent, problem: DecodeProblem) -> Self {
        if problem.is_of_a_newer_program() {
            unknown(stored.id);
        }
        Self {
            name: stored.name.to_string(),
            schema: stored.schema,
            id: stored.id,
            position: stored.position,
            stream: stored.stream.clone(),
            problem,
        }
    }

    /// The same of an event without which something cannot be loaded. A handler that loads it may hide why that failed: so it
    /// is noted that only a newer program knows the event, if that is so.
    pub(crate) fn of_a_load(self) -> Self {
        if self.problem.is_of_a_newer_program() {
            in_the_way(self.id);
        }
        self
    }

    pub(crate) fn stream(stored: &RecordedEvent, aggregate: &'static str) -> Self {
        Self::new(stored, DecodeProblem::ForeignStream(aggregate))
    }
}
