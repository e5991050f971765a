//! The versions of a projection, next to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::Table;

/// What there is to say of the versions of one projection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// Which one was given the plain names of its tables; 0 if none was. The first one that is installed has them before.
    pub(crate) published: u32,
    /// Since when no live node has been seen that runs a version: microseconds of the store's clock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unseen: BTreeMap<u32, i64>,
}

/// A row for each projection, by its name without a version.
pub(crate) fn versions() -> Table<Versions> {
    Table::own("es.versions")
}
