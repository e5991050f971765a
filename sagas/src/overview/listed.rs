//! A transaction as it stands in the list of all.

use std::fmt;

use es_core::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The pattern that a transaction is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pattern(&'static str);

impl Pattern {
    /// Runs of a [saga](crate::saga).
    pub const SAGA: Self = Self("saga");
    /// Runs of a [TCC](crate::tcc).
    pub const TCC: Self = Self("tcc");
    /// [Half messages](crate::half).
    pub const HALF: Self = Self("half");
    /// [Three-phase commits](crate::three_phase).
    pub const THREE_PHASE: Self = Self("three-phase");
    /// Instances of a [process](crate::Process).
    pub const PROCESS: Self = Self("process");
    /// Transactions across databases, by [two-phase commit](crate::two_phase).
    pub const TWO_PHASE: Self = Self("two-phase");

    /// One of the engine's, by the name that its metrics have.
    pub(crate) const fn of(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a transaction is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It goes forward. So does a TCC that confirms: whether it is decided is in its journal.
    Running,
    /// It was decided that what it did is undone.
    Undoing,
    /// It was decided to commit it, and not all of it is committed yet.
    Committing,
    /// It is prepared, and nothing is decided yet.
    InDoubt,
    /// It waits for a person.
    Parked,
    /// A part of it is committed and another one prepared, and nothing was decided: a person decides.
    Torn,
    /// It cannot go on as it is stored: somebody has to repair it.
    Damaged,
    /// All of it is done.
    Done,
    /// Nothing is left of it.
    Undone,
    /// A person has ended it where it was.
    Abandoned,
}

impl Status {
    /// Whether it goes no further without a person.
    #[must_use]
    pub const fn needs_person(self) -> bool {
        matches!(self, Self::Parked | Self::Torn | Self::Damaged)
    }

    /// Whether it is over.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Undone | Self::Abandoned)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Committing => "committing",
            Self::InDoubt => "in doubt",
            Self::Parked => "parked",
            Self::Torn => "torn",
            Self::Damaged => "damaged",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Abandoned => "abandoned",
        })
    }
}

/// Names a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct Which {
    /// Its pattern.
    pub pattern: Pattern,
    /// Which saga, TCC or process; `two-phase` for those across databases.
    pub kind: String,
    /// Its key; of one across databases, its id.
    pub key: String,
    /// Its own id, of the run or the incarnation. `None`: whichever one the key stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
}

impl Which {
    /// The one that a key stands for.
    pub fn new(pattern: Pattern, kind: impl Into<String>, key: impl Into<String>) -> Self {
        Self { pattern, kind: kind.into(), key: key.into(), id: None }
    }

    pub(crate) fn with_id(self, id: Uuid) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Whether it may be the one with this id.
    pub(crate) fn is(&self, id: Uuid) -> bool {
        self.id.is_none_or(|of| of == id)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, kind, key, .. } = self;
        match kind == pattern.name() {
            true => write!(f, "{pattern} {key:?}"),
            false => write!(f, "{pattern} {kind} {key:?}"),
        }
    }
}

/// A transaction, as it stands in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Listed {
    /// Which one it is. Of one that cannot be read the key may be empty.
    pub which: Which,
    /// The version of its definition; 0 where there is none, or it cannot be read.
    pub version: u32,
    /// What it is doing.
    pub status: Status,
    /// Why: what it waits for a person with, or was undone for; in full.
    pub reason: Option<String>,
    /// When it began, if that is known.
    pub begun: Option<Timestamp>,
    /// Since when it waits for a person, or is in doubt; or when it has ended.
    pub since: Option<Timestamp>,
    /// The node that works on it, or did, where a transaction has one of its own.
    pub owner: Option<Uuid>,
    /// When it is looked at next, if nothing comes before.
    pub wakes: Option<Timestamp>,
    /// The fingerprint of its last error: without numbers, ids and quoted parts, so that those that fail for one reason say
    /// the same. It is gone once it was got over.
    pub error: Option<String>,
}

impl Listed {
    /// One of which nothing more is known.
    pub(crate) const fn new(which: Which, version: u32, status: Status) -> Self {
        let (reason, error) = (None, None);
        Self { which, version, status, reason, begun: None, since: None, owner: None, wakes: None, error }
    }

    /// Whether it goes no further without a person.
    #[must_use]
    pub const fn needs_person(&self) -> bool {
        self.status.needs_person()
    }
}
