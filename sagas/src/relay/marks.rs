//! What was sent last of each key: so each message names the one before it, and what was missed can be asked for.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `relay.marks.NAME` | slice, key | the [`Mark`] of a key |
//!
//! JSON; fields are added with a default. A row is written in the commit of the checkpoint.

use std::fmt;
use std::str::FromStr;

use es_core::BoxError;
use es_core::limits::LimitError;
use es_core::store::{Position, Table};
use serde::{Deserialize, Serialize};

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

/// The place of a message among those of its key: its event, and which of its messages. As text it sorts like this too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Sequence {
    pub(crate) position: Position,
    pub(crate) ordinal: u32,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.position.0)?;
        if self.ordinal > 0 { write!(f, ".{:04}", self.ordinal) } else { Ok(()) }
    }
}

impl FromStr for Sequence {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (position, ordinal) = text.split_once('.').unwrap_or((text, "0"));
        let wrong = |_| format!("{text:?} is no sequence of a relay");
        Ok(Self {
            position: Position(position.parse().map_err(wrong)?),
            ordinal: ordinal.parse().map_err(wrong)?,
        })
    }
}

impl TryFrom<String> for Sequence {
    type Error = BoxError;
    fn try_from(text: String) -> Result<Self, BoxError> {
        text.parse()
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> Self {
        sequence.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_pinned() {
        let golden = include_str!("../../tests/golden/mark.json").trim();
        let mark: Mark = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&mark).unwrap(), golden);
        assert_eq!(mark.last, Sequence { position: Position(17), ordinal: 1 });
    }

    #[test]
    fn sequences_sort_as_texts() {
        let at = |position, ordinal| Sequence { position: Position(position), ordinal };
        let all = [at(2, 0), at(10, 0), at(10, 1), at(10, 9), at(10, 10), at(11, 0)];
        assert!(all.is_sorted() && all.map(|at| at.to_string()).is_sorted());
        assert!(all.iter().all(|at| at.to_string().parse::<Sequence>().is_ok_and(|read| read == *at)));
        assert!(["", "x", "1.", "-1"].iter().all(|text| text.parse::<Sequence>().is_err()));
    }
}
