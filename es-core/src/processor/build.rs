//! A build: one generation of one processor, and the names of its rows.

use std::fmt;
use std::sync::Arc;

use crate::store::{Generation, Position};

/// What a processor fills: one generation of it. Named `balance/1~2`: name, version, generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a build is a name and a number")]
pub struct Build {
    /// The processor's stored name: of a projection `name/version`, of a reactor its name.
    pub processor: Arc<str>,
    /// Which generation, from 1.
    pub generation: Generation,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.processor, self.generation)
    }
}

impl Build {
    /// The key of the checkpoint of the range that begins with this slice.
    pub(crate) fn checkpoint(&self, first: u16) -> String {
        format!("{self}#{first:04}")
    }

    /// The build and the first slice that a key of a checkpoint names.
    pub(crate) fn of_checkpoint(key: &str) -> Option<(Self, u16)> {
        let (build, first) = key.rsplit_once('#')?;
        Some((Self::parse(build)?, first.parse().ok()?))
    }

    /// The build that a text names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (processor, generation) = text.rsplit_once('~')?;
        Some(Self { processor: processor.into(), generation: generation.parse().ok()? })
    }

    /// Its table of sequences that are parked.
    pub(crate) fn parked(&self) -> Arc<str> {
        format!("{self}/parked").into()
    }

    /// Its table of the events in those sequences.
    pub(crate) fn parked_events(&self) -> Arc<str> {
        format!("{self}/parked/events").into()
    }

    /// Its table of what a person asked to be done with those sequences.
    pub(crate) fn requests(&self) -> Arc<str> {
        format!("{self}/requests").into()
    }

    /// Its table of keys whose rows a person asked to be built anew.
    pub(crate) fn afresh(&self) -> Arc<str> {
        format!("{self}/afresh").into()
    }

    /// Its table of events that were left out for good.
    pub(crate) fn skipped(&self) -> Arc<str> {
        format!("{self}/skipped").into()
    }
}

/// The text of a position that sorts like the position.
pub(crate) fn sortable(position: Position) -> String {
    format!("{:020}", position.0)
}
