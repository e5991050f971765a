//! Which builds a projection has, and which one queries read.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::{Generation, Position, Table};

/// The builds of one projection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Generations {
    /// What queries read.
    pub(crate) current: Generation,
    /// What is being built to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) building: Option<Building>,
    /// What queries read before; kept up to date, so that one can go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Generation>,
    /// What is on its way out: no node works on it, and its tables may be gone or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) leaving: Vec<Generation>,
    /// The highest number that was given out.
    pub(crate) last: Generation,
    /// Set while queries are switched to another build.
    #[serde(flatten)]
    pub(crate) freeze: Freeze,
    /// Whether another version of the projection has taken its place, and its builds have gone. The row stays, for its
    /// revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retired: bool,
}

/// Whether no node works on the build that queries read, for how long, and who asked for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Freeze {
    /// Until this time of the store's clock, in microseconds.
    #[serde(default, rename = "frozen", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<i64>,
    /// The switch that it belongs to; `None` also if a version without owners wrote it.
    #[serde(default, rename = "frozen_by", skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Uuid>,
}

/// A build that is not read yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Building {
    pub(crate) generation: Generation,
    /// The head of the log when it began.
    pub(crate) head: Position,
    pub(crate) since: Timestamp,
    /// Whether an event that fails is treated as the projection says, not as a reason to stop.
    #[serde(default)]
    pub(crate) lenient: bool,
    /// Whether events that were skipped before are skipped again.
    #[serde(default)]
    pub(crate) honours_skips: bool,
}

impl Default for Generations {
    /// What a projection begins with.
    fn default() -> Self {
        Self {
            current: 1,
            building: None,
            previous: None,
            leaving: Vec::new(),
            last: 1,
            freeze: Freeze::default(),
            retired: false,
        }
    }
}

/// A row for each projection.
pub(crate) fn generations() -> Table<Generations> {
    Table::own("generations")
}
