//! The position that a range of a processor has reached, and why it is halted.

use serde::{Deserialize, Serialize};

use super::Progress;
use crate::clock::Timestamp;
use crate::store::Position;

/// The progress of a range of slices of a processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Everything up to here is handled.
    pub(crate) position: Position,
    /// Events up to here were recorded before the build began: a handler can know that.
    #[serde(default)]
    pub(crate) replay: Position,
    /// What is handled as well: side effects are not repeated because one before them is still to come, or a part of their
    /// sequence that is retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ahead: Vec<Position>,
    /// Why it is halted, until an operator resumes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) halt: Option<Halt>,
}

/// Why a range is halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Halt {
    pub(crate) since: Timestamp,
    pub(crate) error: String,
    /// How often its processor had been resumed before.
    pub(crate) resumes: u64,
}

impl Checkpoint {
    /// Of a build that begins after a position.
    pub(crate) const fn new(position: Position, replay: Position) -> Self {
        Self { position, replay, ahead: Vec::new(), halt: None }
    }

    /// At another position, with what is handled behind it.
    pub(crate) fn at(&self, position: Position, ahead: Vec<Position>) -> Self {
        Self { position, ahead, ..self.clone() }
    }
}

impl Progress for Checkpoint {
    /// At one position only: elsewhere events of one part would be handled twice, or not at all.
    fn can_merge(&self, next: &Self) -> bool {
        self == next
    }

    /// Also what one of them is halted at: who works on both tries again.
    fn can_join(&self, next: &Self) -> bool {
        let reason_aside = |part: &Self| Self { halt: None, ..part.clone() };
        reason_aside(self) == reason_aside(next)
    }
}
