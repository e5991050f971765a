//! Which code makes a build.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::Table;

/// The code that makes a build. Codes are named by their fingerprints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRecord {
    pub(crate) code: String,
    /// The types of events that it handles, each with the newest schema that it reads; 0 if that is not known.
    pub(crate) handles: BTreeMap<String, u32>,
    /// Until when a node with it is believed to be on its way: microseconds of the store's clock.
    pub(crate) until: i64,
    /// The codes that made the build before: who runs one of them is older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former: Vec<String>,
}

/// A row for each build.
pub(crate) fn codes() -> Table<CodeRecord> {
    Table::own("es.codes")
}
