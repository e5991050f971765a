//! Which events a range handles, and which it leaves out.

use std::collections::BTreeMap;

use super::effects::Interrupted;
use crate::BoxError;
use crate::blame::NotTheEvent;
use crate::event::is_of_a_newer_program;
use crate::processor::parked::{Parked, Skips, is_for_any, reason};
use crate::slices::Slices;
use crate::store::{Name, Position, RecordedEvent, StoreError};

/// Decides, for each event and key, whether a handler is called; remembers what was left out.
#[derive(Debug)]
pub struct Admission<'w> {
    scope: Scope<'w>,
    left_out: Vec<LeftOut>,
    undecoded: Vec<(Position, String)>,
    first: Option<String>,
}

#[derive(Debug)]
enum Scope<'w> {
    /// What a range does with new events.
    Range { slices: Slices, parked: &'w BTreeMap<String, Parked>, skips: &'w Skips },
    /// One sequence, on its own.
    Key(&'w str),
    /// Some keys, each up to its event that waits, without what was left out for good.
    Keys { keys: &'w BTreeMap<String, Position>, skips: &'w Skips },
    /// An event of before that can be decoded now: every key of these slices but the one under which it was parked.
    Late { slices: Slices, but: &'w str, parked: &'w BTreeMap<String, Parked>, skips: &'w Skips },
}

/// An event that is not handled for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) key: String,
    pub(crate) position: Position,
    /// Behind a parked one of its key, or skipped for good.
    pub(crate) parked: bool,
    /// Whether it could not be decoded: then its key is a guess.
    pub(crate) undecoded: bool,
}

impl<'w> Admission<'w> {
    pub(crate) const fn of_range(
        slices: Slices,
        parked: &'w BTreeMap<String, Parked>,
        skips: &'w Skips,
    ) -> Self {
        Self::of(Scope::Range { slices, parked, skips })
    }

    pub(crate) const fn of_key(key: &'w str) -> Self {
        Self::of(Scope::Key(key))
    }

    pub(crate) const fn of_keys(keys: &'w BTreeMap<String, Position>, skips: &'w Skips) -> Self {
        Self::of(Scope::Keys { keys, skips })
    }

    pub(crate) const fn of_late(
        slices: Slices,
        but: &'w str,
        parked: &'w BTreeMap<String, Parked>,
        skips: &'w Skips,
    ) -> Self {
        Self::of(Scope::Late { slices, but, parked, skips })
    }

    const fn of(scope: Scope<'w>) -> Self {
        Self { scope, left_out: Vec::new(), undecoded: Vec::new(), first: None }
    }

    /// Whether the event is to be handled for this key, here and now.
    pub fn admits(&mut self, event: &RecordedEvent, key: &str) -> bool {
        self.decide(event, key, false)
    }

    fn decide(&mut self, event: &RecordedEvent, key: &str, undecoded: bool) -> bool {
        let (slices, parked, skips, late) = match &self.scope {
            Scope::Key(only) => return *only == key,
            Scope::Keys { keys, skips } => {
                return keys.get(key).is_some_and(|waits| event.place() < *waits)
                    && (skips.is_empty() || reason(skips, event.place(), key).is_none());
            }
            Scope::Range { slices, parked, skips } => (slices, parked, skips, false),
            Scope::Late { but, .. } if *but == key => return false,
            Scope::Late { slices, parked, skips, .. } => (slices, parked, skips, true),
        };
        if !slices.has(key) {
            return false;
        }
        // What comes before the event that began it is handled, also when it comes again; not what is behind one that was taken
        // in late, and that a reset has left.
        let first = |parked: &Parked| parked.value.first.min(parked.value.position);
        let begun = |parked: &Parked| late || first(parked) <= event.place();
        let skipped = !skips.is_empty() && reason(skips, event.place(), key).is_some();
        // What is left out for good does not wait behind a parked one as well.
        let parked = !skipped && !parked.is_empty() && parked.get(key).is_some_and(begun);
        if !parked && !skipped {
            if late && self.first.is_none() {
                self.first = Some(key.to_owned());
            }
            return true;
        }
        let known = |left: &LeftOut| left.key == key;
        let mut of_event = self.left_out.iter().rev().take_while(|left| left.position == event.place());
        // An event can have the same key twice; it is left out once.
        if !of_event.any(known) {
            let (key, position) = (key.to_owned(), event.place());
            self.left_out.push(LeftOut { key, position, parked, undecoded });
        }
        false
    }

    /// The same of an event that cannot be decoded, with this error, and most likely has this key. If it is, the session
    /// [fails](Failure::of_undecoded) with it; else it [passes](Self::pass_undecoded) the event.
    pub fn admits_undecoded(
        &mut self,
        event: &RecordedEvent,
        key: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> bool {
        // In a sequence it was put by a program that could decode it, or guessed the same key.
        let admits = matches!(self.scope, Scope::Key(_)) || self.decide(event, key, true);
        // What a newer program wrote may belong to any key. And rows that are handled anew would lack it if it is theirs.
        let matters = match &self.scope {
            Scope::Keys { keys, .. } => keys.values().any(|waits| event.place() < *waits),
            _ => is_of_a_newer_program(error),
        };
        admits || matters && !self.is_left_out_for_any_key(event)
    }

    fn is_left_out_for_any_key(&self, event: &RecordedEvent) -> bool {
        match &self.scope {
            Scope::Key(_) => false,
            Scope::Range { skips, .. } | Scope::Keys { skips, .. } | Scope::Late { skips, .. } => {
                is_for_any(skips, event.place())
            }
        }
    }

    /// An event is passed that cannot be decoded, so nobody knows for which keys. Most likely it has this one, for which it
    /// is not to be handled here and now. It is handled under every key that it has, once it can be decoded.
    ///
    /// The same holds if the event can be decoded, but what else tells its keys cannot be read now.
    pub fn pass_undecoded(&mut self, event: &RecordedEvent, key: String) {
        let passes = match &self.scope {
            Scope::Range { skips, .. } => reason(skips, event.place(), &key).is_none(),
            Scope::Late { .. } => true,
            Scope::Key(_) | Scope::Keys { .. } => false,
        };
        // It may have several steps; it is passed once.
        if passes && self.undecoded.last().is_none_or(|(last, _)| *last != event.place()) {
            self.undecoded.push((event.place(), key));
        }
    }

    pub(crate) fn undecoded(&mut self) -> Vec<(Position, String)> {
        std::mem::take(&mut self.undecoded)
    }

    /// The first key that an event of before is handled for.
    pub(crate) fn first(&self) -> Option<&str> {
        self.first.as_deref()
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
    /// Whether the event could not be decoded: then its key is a guess.
    pub(crate) undecoded: bool,
    #[source]
    pub(crate) source: BoxError,
}

impl Failure {
    /// A failure of the handler of one event, called for one key.
    #[must_use]
    pub fn new(event: &RecordedEvent, key: impl Into<String>, source: impl Into<BoxError>) -> Self {
        let (event, position) = (event.name.clone(), event.place());
        Self { key: key.into(), event, position, undecoded: false, source: source.into() }
    }

    /// No handler was called: the store is in the way of that. The event is not to blame, whatever the error says, and comes
    /// again once the store answers.
    #[must_use]
    pub fn of_the_store(event: &RecordedEvent, key: impl Into<String>, source: StoreError) -> Self {
        Self::new(event, key, NotTheEvent::new("its tables", source))
    }

    /// No handler has failed: the session has enough to be flushed, and the event comes after that. Those before it are
    /// handled, of which there must be one.
    #[must_use]
    pub fn not_yet(event: &RecordedEvent) -> Self {
        Self::new(event, event.stream.as_str(), Interrupted)
    }

    /// The position of the event. Those before it are handled.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Whether no handler has failed: what comes before the event is done, and it was not its turn yet.
    pub(crate) fn is_interruption(&self) -> bool {
        self.source.is::<Interrupted>()
    }

    /// The same of an event that cannot be decoded, for the key that it most likely has: its stream, say.
    #[must_use]
    pub fn of_undecoded(event: &RecordedEvent, key: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { undecoded: true, ..Self::new(event, key, source) }
    }
}
