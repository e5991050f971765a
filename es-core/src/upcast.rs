//! Old shapes, read for ever.
//!
//! Stored events never change. When a payload changes, its enum says how the old shape becomes the
//! new one, and every read (streams, subscriptions, projections, snapshots' tails) goes through it.
//!
//! | change | what to write |
//! | --- | --- |
//! | a field more | `#[event(version = 2, upcast(1 = OldShape))]` and `impl From<OldShape> for Payload` |
//! | several steps | `version = 3, upcast(1 = A, 2 = B)`: `A` becomes `B` becomes the payload |
//! | a new name | `#[event(was("old.name"))]` on the variant |
//! | one becomes many, or none | `#[event(retired("old.name" = Old))]` on the enum and `impl From<Old> for Vec<TheEnum>` |
//!
//! The functions here are what the derive calls, and what a hand-written
//! [`Event`](crate::Event) impl calls.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, DecodeError, DecodeProblem, EncodeError};
use crate::event::{EventData, Tag, decoded};
use crate::guarded::caught_now;
use crate::store::{Name, RecordedEvent};

/// Encodes one payload.
///
/// # Errors
///
/// [`EncodeError`] if the codec refuses the payload.
pub fn encode<C: Codec, P: Serialize>(
    name: &'static str,
    schema: u32,
    payload: &P,
    tags: Vec<Tag>,
) -> Result<EventData, EncodeError> {
    let data = C::encode(payload).map_err(|source| EncodeError::Payload { name, source })?;
    Ok(EventData { name: Name::Static(name), schema, codec: Name::Static(C::NAME), data, tags })
}

/// Decodes the stored bytes as `P`, the shape of the stored schema.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are of another codec or do not fit.
pub fn decode<C: Codec, P: DeserializeOwned>(stored: &RecordedEvent) -> Result<P, DecodeError> {
    if stored.codec != C::NAME {
        let found = stored.codec.to_string();
        return Err(DecodeError::new(stored, DecodeProblem::Codec { found, expected: C::NAME }));
    }
    let payload =
        C::decode(&stored.data).map_err(|e| DecodeError::new(stored, DecodeProblem::Malformed(e)))?;
    decoded(stored.id);
    Ok(payload)
}

/// Runs an upcaster; a panic in it is an error about this event, not the end of the reader.
///
/// # Errors
///
/// [`DecodeError`] with the text of the panic.
pub fn upcast<T>(stored: &RecordedEvent, upcaster: impl FnOnce() -> T) -> Result<T, DecodeError> {
    caught_now(upcaster).map_err(|panic| DecodeError::new(stored, DecodeProblem::UpcasterPanicked(panic.0)))
}

/// The error for a name or schema that no arm of `decode` reads; `newest` is 0 for an unknown name.
#[must_use]
pub fn unreadable(stored: &RecordedEvent, newest: u32) -> DecodeError {
    let problem = match newest {
        0 => DecodeProblem::UnknownType,
        _ if stored.schema > newest => DecodeProblem::NewerSchema { newest },
        _ => DecodeProblem::NoUpcaster,
    };
    DecodeError::new(stored, problem)
}
