//! Sequences that failed, and events that were left out.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::Position;

/// A parked sequence, by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sequence {
    /// Of the event that began it: names the rows of its events.
    pub(crate) first: Position,
    /// The event that failed last, and its type. Where a reset to a place has left earlier ones alone, the first of those.
    pub(crate) position: Position,
    pub(crate) event: String,
    /// How many wait, that one included.
    pub(crate) events: u64,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) first_at: Timestamp,
    pub(crate) last_at: Timestamp,
}

/// An event of a sequence: its key says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ParkedEvent {
    /// Whether it could not be decoded: then it may have none of the keys that it turns out to have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) undecoded: bool,
}

/// What an operator asks to be done with a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    Retry,
    Discard { reason: String },
}

/// An event that was left out for good, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// The position of the event.
    pub position: Position,
    /// The key that it was left out for.
    pub key: String,
    /// What the handler, or the operator who discarded it, said.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Whether it is left out whatever its key turns out to be: it could not be decoded, or a program found it under other keys
    /// later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undecoded: bool,
    /// Whether an operator discarded it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
}

/// An event that some slices passed though it could not be decoded, or its keys could not be told. What it means for their
/// keys is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undecoded {
    /// The key that it most likely has: there it is parked.
    pub(crate) key: String,
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// Whether it could be decoded, and what else tells its keys could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) untold: bool,
}
