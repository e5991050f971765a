//! `Commit`: what must become durable together, as one value.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::{EventId, NewEvent, Position, StreamId, Version};
use crate::store::{AppendCondition, IdempotencyKey};

/// What must become durable together. A backend applies it entirely or not at all.
///
/// Exhaustive on purpose, and backends destructure it without `..`: a new section must be a compile
/// error in every backend, not a write that one of them drops silently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "see above")]
pub struct Commit {
    /// Events, stream by stream, in order. The same stream may appear twice: the second continues the first.
    pub appends: Vec<Append>,
    /// Streams that are not written, but must be where they were seen.
    pub checks: Vec<Check>,
    /// A boundary across streams.
    pub condition: Option<AppendCondition>,
    /// Outcomes under idempotency keys.
    pub outcomes: Vec<OutcomeMark>,
    /// Rows of keyed views and of the framework's own state, such as checkpoints.
    pub rows: Vec<RowWrite>,
    /// The set of inline projections that the writer runs: the revision of the row [`INLINE`]. A commit with events
    /// that names another one than is stored is refused, so that every writer runs the same set.
    pub inline: u64,
    /// Whether a [`Conflict`](crate::store::CommitError::Conflict) brings the events that caused it.
    pub explain: bool,
    /// Names this try to write it, should its outcome become unknown: see [`Attempt`]. Nil: the backend names it.
    /// Every try has a name of its own, also one with the same events.
    pub attempt: uuid::Uuid,
}

impl Commit {
    /// Whether there is nothing to write and nothing to check.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let Self { appends, checks, condition, outcomes, rows, inline: _, explain: _, attempt: _ } = self;
        appends.is_empty()
            && checks.is_empty()
            && condition.is_none()
            && outcomes.is_empty()
            && rows.is_empty()
    }

    /// Whether there is nothing to write: no event, no outcome and no row. It leaves nothing that proves it, and can be
    /// asked again.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        let Self { appends, checks: _, condition: _, outcomes, rows, inline: _, explain: _, attempt: _ } =
            self;
        appends.iter().all(|append| append.events.is_empty()) && outcomes.is_empty() && rows.is_empty()
    }

    /// Whether it is proven by its name alone: it writes no events, but outcomes or rows; or somebody may have written
    /// something of their own `beside` it, in the same transaction. See [`Attempt`].
    #[must_use]
    pub fn needs_witness(&self, beside: bool) -> bool {
        let events = self.appends.iter().any(|append| !append.events.is_empty());
        !events && (beside || !self.only_looks())
    }

    /// Whether a history that is gone may have led to it, and nothing in it proves otherwise: revisions and positions are
    /// given out again, while an append names the event that it follows. Handed over in another history than the one that
    /// it would be written in, it is refused: [`OtherHistory`](super::CommitError::OtherHistory).
    #[must_use]
    pub fn depends_on_its_history(&self) -> bool {
        self.condition.is_some() || self.rows.iter().any(|row| row.rev > 0)
    }
}

/// Events for one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an append is a stream, an expectation and events")]
pub struct Append {
    /// Where to.
    pub stream: StreamId,
    /// Where the stream must be, counting what this commit appended to it before.
    pub expected: ExpectedVersion,
    /// What. May be empty: then it only checks, and says where the stream is.
    pub events: Vec<NewEvent>,
}

/// A stream that the decision looked at and does not write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a check is a stream and an expectation")]
pub struct Check {
    /// Which stream.
    pub stream: StreamId,
    /// Where it must be before this commit.
    pub expected: ExpectedVersion,
}

/// Where a stream must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every backend must know every one")]
pub enum ExpectedVersion {
    /// Anywhere: never conflicts.
    Any,
    /// It has no events.
    NoStream,
    /// It has at least one event.
    Exists,
    /// It has this many events.
    Exact(Version),
    /// It has this many events, and this is the last of them. A version alone passes again in another history of the
    /// store: after a failover that lost the last commits, say, once as many events have come.
    After(Version, EventId),
}

impl ExpectedVersion {
    /// Whether a stream at `actual` is where it must be, as far as its version says. See [`event`](Self::event).
    #[must_use]
    pub const fn holds(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual.0 == 0,
            Self::Exists => actual.0 > 0,
            Self::Exact(expected) | Self::After(expected, _) => actual.0 == expected.0,
        }
    }

    /// The version it names, if it names one.
    #[must_use]
    pub const fn exact(self) -> Option<Version> {
        match self {
            Self::Any | Self::Exists => None,
            Self::NoStream => Some(Version(0)),
            Self::Exact(version) | Self::After(version, _) => Some(version),
        }
    }

    /// The event that it names as the last one, if it names one.
    #[must_use]
    pub const fn event(self) -> Option<EventId> {
        match self {
            Self::Any | Self::NoStream | Self::Exists | Self::Exact(_) => None,
            Self::After(_, event) => Some(event),
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::Exists => f.write_str("an existing stream"),
            Self::Exact(version) => version.fmt(f),
            Self::After(version, event) => write!(f, "{version}, after event {event}"),
        }
    }
}

/// Remembers what a request led to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark is a key and an outcome")]
pub struct OutcomeMark {
    /// The request's name.
    pub key: IdempotencyKey,
    /// What it led to; `position` is filled in by the backend.
    pub outcome: Outcome,
}

/// What a request led to, stored under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend stores all of it")]
pub struct Outcome {
    /// A stable hash of the request: the same key with another request is refused.
    pub fingerprint: u128,
    /// The stream it was about.
    pub stream: StreamId,
    /// The stream's version after it, which is not the end of the commit if more was appended with it.
    pub version: Version,
    /// The position of the event at `version`; 0 for a stream without events.
    pub position: Position,
    /// How many events it appended.
    pub events: u32,
    /// The encoded refusal, if the domain refused.
    pub refusal: Option<Bytes>,
}

/// The table and the key of the row that names the inline projections: see [`Commit::inline`].
pub const INLINE: (&str, &str) = ("inline", "set");

/// Writes one row, if it is at the revision that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend stores all of it")]
pub struct RowWrite {
    /// Its table: of a view, or of the framework.
    pub table: Arc<str>,
    /// The row's key.
    pub key: String,
    /// The revision that was read; 0 for a row that is not there.
    pub rev: u64,
    /// The row; `None` deletes it.
    pub row: Option<Bytes>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct Committed {
    /// The position of the last event; the head when nothing was appended.
    pub position: Position,
    /// Where each stream is now: one entry for each append, in order.
    pub versions: Vec<Version>,
}

/// Names a commit whose outcome is unknown, and its witness.
///
/// A commit is atomic, so one witness is enough: any of its events, which never leave, or if it has none, the name of the
/// attempt, which a backend keeps next to what it wrote. Rows and keys prove nothing: others write and delete them.
///
/// A commit that only looks (checks, a condition, appends without events) writes nothing, and leaves no witness either:
/// it is found not to be applied, whatever it was answered, and can be asked again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct Attempt {
    /// The try: [`Commit::attempt`], or what the backend named it.
    pub id: uuid::Uuid,
    /// The ids of each append's events, by stream.
    pub appends: Vec<(StreamId, Vec<EventId>)>,
}

impl Attempt {
    /// What to look for, should `commit` become unknown.
    #[must_use]
    pub fn of(id: uuid::Uuid, commit: &Commit) -> Self {
        let ids = |a: &Append| (a.stream.clone(), a.events.iter().map(|e| e.id).collect());
        Self { id, appends: commit.appends.iter().map(ids).collect() }
    }

    /// Whether an event of it, if it is stored, proves it.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.appends.iter().any(|(_, ids)| !ids.is_empty())
    }
}
