//! A build: one generation of one processor, and the names of its rows.

use std::fmt;
use std::sync::Arc;

use super::{ParkedEvent, Request, Sequence, Skipped, Undecoded, afresh};
use crate::store::{Generation, Position, Table};

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
    /// The first generation of a processor.
    pub(crate) fn first(processor: &str) -> Self {
        Self { processor: processor.into(), generation: 1 }
    }

    /// The build that a text names.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (processor, generation) = text.rsplit_once('~')?;
        Some(Self { processor: processor.into(), generation: generation.parse().ok()? })
    }

    fn table<T>(&self, what: &str) -> Table<T> {
        Table::own(format!("{self}/{what}"))
    }

    /// The names of the tables that it has for itself, if it has no rows that queries read.
    pub(crate) fn tables(&self) -> [Arc<str>; 5] {
        let (parked, events) = (self.parked().name().clone(), self.parked_events().name().clone());
        let (requests, skipped) = (self.requests().name().clone(), self.skipped().name().clone());
        [parked, events, requests, skipped, self.undecoded().name().clone()]
    }

    /// The names of all its tables, that of the rows which queries read among them.
    pub(crate) fn all_tables(&self) -> impl Iterator<Item = Arc<str>> {
        [self.to_string().into(), afresh(self).name().clone()].into_iter().chain(self.tables())
    }

    /// Its sequences that are parked.
    pub(crate) fn parked(&self) -> Table<Sequence> {
        self.table("parked")
    }

    /// The events in those sequences.
    pub(crate) fn parked_events(&self) -> Table<ParkedEvent> {
        self.table("parked/events")
    }

    /// What an operator asked to be done with those sequences.
    pub(crate) fn requests(&self) -> Table<Request> {
        self.table("requests")
    }

    /// Events that were passed though they could not be decoded.
    pub(crate) fn undecoded(&self) -> Table<Undecoded> {
        self.table("undecoded")
    }

    /// Events that were left out for good.
    pub(crate) fn skipped(&self) -> Table<Skipped> {
        self.table("skipped")
    }
}

/// The text of a position that sorts like the position.
pub(crate) fn sortable(position: Position) -> String {
    format!("{:020}", position.0)
}
