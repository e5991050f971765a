//! What messages are in order by.

use std::fmt;

use es_core::limits::LimitError;
use es_core::store::keys::{Key, digest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What messages are in order by: a source, one of its relays, and a key. A message without an order is a lane of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lane {
    /// Who sends.
    pub source: String,
    /// Which of the source's relays sends; `None`: the message has no order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The key; of a message without an order, its id.
    pub key: String,
}

impl Lane {
    /// The messages of a relay and key.
    pub fn of_key(source: impl Into<String>, relay: impl Into<String>, key: impl Into<String>) -> Self {
        Self { source: source.into(), relay: Some(relay.into()), key: key.into() }
    }

    /// One message without an order, by its id.
    pub fn of_message(source: impl Into<String>, id: impl Into<String>) -> Self {
        Self { source: source.into(), relay: None, key: id.into() }
    }

    /// Stands for it in keys of rows, whatever its length. Who reads a row by it compares the lane.
    pub(super) fn hash(&self) -> Uuid {
        let relay = self.relay.as_deref().map_or(Vec::new(), |relay| format!("={relay}").into_bytes());
        Uuid::from_u128(digest([self.source.as_bytes(), &relay, self.key.as_bytes()]))
    }

    /// The key of its row.
    pub(super) fn row_key(&self) -> Result<String, LimitError> {
        Key::default().id(self.hash()).build()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, relay, key } = self;
        match relay {
            Some(relay) => write!(f, "key {key:?} of relay {relay:?} of {source:?}"),
            None => write!(f, "message {key:?} of {source:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored: rows are found by the same text for ever.
    #[test]
    fn keys_are_pinned() {
        let lanes = [Lane::of_key("/shop", "orders", "7"), Lane::of_message("/shop", "7")];
        let keys = lanes.map(|lane| lane.row_key().unwrap());
        assert_eq!(keys, ["380e634a24417401c147da245400e406", "b3490b15ce9f9ae9dc203c1e45b95413"]);
    }

    #[test]
    fn lanes_are_told_apart() {
        let mut keys: Vec<String> = [
            Lane::of_key("a", "b", "c"),
            Lane::of_key("ab", "", "c"),
            Lane::of_key("a", "", "bc"),
            Lane::of_message("a", "bc"),
            Lane::of_message("a", "=bc"),
            Lane::of_key("a", "=", "bc"),
        ]
        .iter()
        .map(|lane| lane.row_key().unwrap())
        .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }
}
