//! Which events a range handles, and which it leaves out.

use std::collections::{BTreeMap, BTreeSet};

use crate::BoxError;
use crate::processor::parked::Parked;
use crate::slices::Slices;
use crate::store::{Name, Position, RecordedEvent};

/// Decides, for each event and key, whether a handler is called; remembers what was left out.
#[derive(Debug)]
pub struct Admission<'w> {
    scope: Scope<'w>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug)]
enum Scope<'w> {
    /// What a range does with new events.
    Range {
        slices: Slices,
        parked: &'w BTreeMap<String, Parked>,
        skips: &'w BTreeMap<(Position, String), String>,
    },
    /// One sequence, on its own.
    Key(&'w str),
    /// Rows that are rebuilt, without what was left out for good.
    Keys { keys: &'w BTreeSet<String>, skips: &'w BTreeSet<(Position, String)> },
}

/// An event that is not handled for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) key: String,
    pub(crate) position: Position,
    /// Behind a parked one of its key, or skipped for good.
    pub(crate) parked: bool,
}

impl<'w> Admission<'w> {
    pub(crate) const fn of_range(
        slices: Slices,
        parked: &'w BTreeMap<String, Parked>,
        skips: &'w BTreeMap<(Position, String), String>,
    ) -> Self {
        Self { scope: Scope::Range { slices, parked, skips }, left_out: Vec::new() }
    }

    pub(crate) const fn of_key(key: &'w str) -> Self {
        Self { scope: Scope::Key(key), left_out: Vec::new() }
    }

    pub(crate) const fn of_keys(keys: &'w BTreeSet<String>, skips: &'w BTreeSet<(Position, String)>) -> Self {
        Self { scope: Scope::Keys { keys, skips }, left_out: Vec::new() }
    }

    /// Whether the event is to be handled for this key, here and now.
    pub fn admits(&mut self, event: &RecordedEvent, key: &str) -> bool {
        match &self.scope {
            Scope::Key(only) => *only == key,
            Scope::Keys { keys, skips } => {
                keys.contains(key) && !skips.contains(&(event.place(), key.to_owned()))
            }
            Scope::Range { slices, parked, skips } => {
                if !slices.has(key) {
                    return false;
                }
                let parked = !parked.is_empty() && parked.contains_key(key);
                let skipped = !skips.is_empty() && skips.contains_key(&(event.place(), key.to_owned()));
                let known = |left: &LeftOut| left.key == key;
                let of_event = self.left_out.iter().rev().take_while(|left| left.position == event.place());
                // An event can have the same key twice; it is left out once.
                if (parked || skipped) && !of_event.into_iter().any(known) {
                    self.left_out.push(LeftOut { key: key.to_owned(), position: event.place(), parked });
                }
                !parked && !skipped
            }
        }
    }

    pub(crate) fn left_out(self) -> Vec<LeftOut> {
        self.left_out
    }
}

/// A handler failed.
#[derive(Debug, thiserror::Error)]
#[error("event {event} at {position}")]
pub struct Failure {
    /// The key that it was called for.
    pub(crate) key: String,
    pub(crate) event: Name,
    pub(crate) position: Position,
    #[source]
    pub(crate) source: BoxError,
}

impl Failure {
    /// A failure of the handler of one event, called for one key.
    #[must_use]
    pub fn new(event: &RecordedEvent, key: impl Into<String>, source: impl Into<BoxError>) -> Self {
        let (event, position) = (event.name.clone(), event.place());
        Self { key: key.into(), event, position, source: source.into() }
    }
}
