//! Which code makes a build.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::store::{Position, Table};

/// The code that makes a build. Codes are named by their fingerprints; none, if it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRecord {
    pub(crate) code: String,
    /// The types of events that it handles, each with the newest schema that it reads; 0 if that is not known.
    pub(crate) handles: BTreeMap<String, u32>,
    /// The rules by which it finds the keys of its rows, as numbers, by type of event or of all types (`*`); 0 where there is
    /// none. `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<BTreeMap<String, u64>>,
    /// The types that were handled before and are not any more, each with the position up to which they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unhandled: BTreeMap<String, Position>,
    /// Until when a node with it is believed to be on its way: microseconds of the store's clock.
    pub(crate) until: i64,
    /// Whether the build has passed events that the code handles, and is to be rebuilt for their sake.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) incomplete: bool,
    /// If so, the types of events of which it has all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) whole: BTreeSet<String>,
    /// The codes that made the build before: who runs one of them is older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former: Vec<String>,
    /// The name that another program runs it under. What is stored of it has that name, or is about to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) renamed: Option<String>,
}

/// A row for each build.
pub(crate) fn codes() -> Table<CodeRecord> {
    Table::own("es.codes")
}
