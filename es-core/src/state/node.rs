//! A node among others.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::store::Table;

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
}

pub(crate) fn nodes() -> Table<NodeRecord> {
    Table::own("nodes")
}
