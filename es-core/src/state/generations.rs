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
    /// Whether that one goes by itself: no operator asked for the rebuild that took its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) previous_goes: bool,
    /// What is on its way out: no node works on it, and its tables may be gone or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) leaving: Vec<Generation>,
    /// What is being set back: no node works on it before that is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) set_back: Vec<SetBack>,
    /// The highest number that was given out.
    pub(crate) last: Generation,
    /// How the version began; `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept_as: Option<KeptAs>,
    /// Set while queries are switched to another build, or builds are compared.
    #[serde(flatten)]
    pub(crate) freeze: Freeze,
    /// Whether the version is being removed, with its builds: no node works on them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retiring: bool,
    /// Whether the version was removed. The row stays, for its revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retired: bool,
}

/// Where a projection keeps what it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeptAs {
    /// In rows by key.
    Rows,
    /// In tables that its handlers write.
    Tables,
}

/// A build that is being set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SetBack {
    pub(crate) generation: Generation,
    /// What was set aside after this position goes; `None`: to the start, and all its rows go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Position>,
}

/// Whether no node works on the build that queries read, or goes on with it, for how long, and who asked for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Freeze {
    /// Until this time of the store's clock, in microseconds.
    #[serde(default, rename = "frozen", skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<i64>,
    /// The switch, or the comparison, that it belongs to; `None` also if a version without owners wrote it.
    #[serde(default, rename = "frozen_by", skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Uuid>,
    /// Whether it is one for a comparison: then it holds the build that is under way as well.
    #[serde(default, rename = "held", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) holds: bool,
    /// The position up to which both are worked on, and no further, once that is known.
    #[serde(default, rename = "held_at", skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Position>,
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
    /// Whether it was begun because a program handles more than the build that is read did: then queries are switched to it
    /// once it has caught up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) by_itself: bool,
}

impl Building {
    /// A strict one that an operator asked for. Its number is given by the change that begins it.
    pub(crate) const fn new(head: Position, since: Timestamp) -> Self {
        Self { generation: 0, head, since, lenient: false, honours_skips: false, by_itself: false }
    }
}

impl Default for Generations {
    /// What a projection begins with.
    fn default() -> Self {
        Self {
            current: 1,
            building: None,
            previous: None,
            previous_goes: false,
            leaving: Vec::new(),
            set_back: Vec::new(),
            last: 1,
            kept_as: None,
            freeze: Freeze::default(),
            retiring: false,
            retired: false,
        }
    }
}

/// A row for each projection.
pub(crate) fn generations() -> Table<Generations> {
    Table::own("generations")
}
