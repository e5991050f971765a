//! A node among others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::store::{Position, Table};

/// The row of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// Until when it is believed to be alive: microseconds of the store's clock.
    pub(crate) until: i64,
    /// What it runs.
    pub(crate) runs: BTreeSet<String>,
    /// What of that cannot be split.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) whole: BTreeSet<String>,
    /// The codes of what it runs, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) codes: BTreeMap<String, String>,
    /// Groups of shares that it leaves to nodes with a newer code.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) stands_by: BTreeSet<String>,
    /// Where it has met events that only a newer program knows, by groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unknown: BTreeMap<String, BTreeSet<Position>>,
}

pub(crate) fn nodes() -> Table<NodeRecord> {
    Table::own("nodes")
}
