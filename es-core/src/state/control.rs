//! What an operator asks of a processor: of all of it, or of some rows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Build;
use crate::clock::Timestamp;
use crate::store::{Position, Row, RowStore, StoreError, Table};

/// What an operator has asked of a whole processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// Since when it is paused; `None` if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<Timestamp>,
    /// How often it was resumed: what was halted before is tried again.
    #[serde(default)]
    pub(crate) resumes: u64,
}

/// A row for each processor that anything was asked of.
pub(crate) fn control() -> Table<Control> {
    Table::own("es.control")
}

/// Counts, by the revision of its row, how often something was asked of a build, or how often it was set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {}

impl Asked {
    /// Of the requests for parked sequences. The row is never deleted, so whoever names its revision knows that nothing has
    /// been asked since: requests themselves come and go, and their revisions begin again.
    pub(crate) async fn requests(rows: &dyn RowStore, build: &Build) -> Result<Row<Self>, StoreError> {
        Self::counted(rows, build.to_string()).await
    }

    /// How often it was set back. What was asked of it before is not asked any more.
    pub(crate) async fn set_backs(rows: &dyn RowStore, build: &Build) -> Result<Row<Self>, StoreError> {
        Self::counted(rows, format!("{build} set back")).await
    }

    async fn counted(rows: &dyn RowStore, key: String) -> Result<Row<Self>, StoreError> {
        Ok(asked().get(rows, &key).await?.unwrap_or_else(|| Row::new(key, Self {})))
    }
}

/// A row for each build that anything was asked of.
pub(crate) fn asked() -> Table<Asked> {
    Table::own("asked")
}

/// A row of a view that is to be rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Afresh {
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
    /// Of a build under way, if not empty: the row is to be rebuilt only if it has any of these events.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) without: BTreeSet<Position>,
}

/// The rows of a build that are to be rebuilt, by their keys.
pub(crate) fn afresh(build: &Build) -> Table<Afresh> {
    Table::own(format!("{build}/afresh"))
}
