//! What was sent last of each key: so each message names the one before it, and what was missed can be asked for.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `relay.marks.NAME` | slice, key | the [`Mark`] of a key |
//!
//! JSON; fields are added with a default. A row is written in the commit of the checkpoint.

use es_core::limits::LimitError;
use es_core::store::{Position, Table};
use serde::{Deserialize, Serialize};

use crate::message::Sequence;

pub(crate) use crate::rows::instance_key as mark_key;

/// How far the messages of a key were sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) key: String,
    /// The event of the first message that was ever sent.
    pub(crate) first: Position,
    /// The last message that was sent.
    pub(crate) last: Sequence,
}

/// The table of a relay.
pub(crate) fn marks(relay: &str) -> Result<Table<Mark>, LimitError> {
    Table::new(format!("relay.marks.{relay}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_pinned() {
        let golden = include_str!("../../tests/golden/mark.json").trim();
        let mark: Mark = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&mark).unwrap(), golden);
        assert_eq!(mark.last, Sequence::of_event(Position(17), 1));
    }
}
