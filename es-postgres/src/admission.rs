//! Which requests may share a batch.
//!
//! The requests of one batch do not see each other. So what one of them writes is named by no other one, and no
//! condition matches an event of an earlier one. A request that has to wait keeps its turn: what it names bars those
//! behind it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use es_core::event::Tag;
use es_core::store::{
    AppendCondition, Commit, ExpectedVersion, FilterItem, INLINE, IdempotencyKey, NewEvent, StreamId,
};

/// How requests name a stream. Those that name it alike may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Appends anywhere.
    AppendAny,
    /// Looks, and writes nothing.
    Check,
    /// Anything else.
    Own,
}

/// What a request has to do with the set of inline projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// Appends events, and names it.
    Named(u64),
    /// Writes it: what is appended before and after that is not the same.
    Changed,
}

/// What the requests before the next one name.
#[derive(Debug, Default)]
pub(crate) struct Admission<'c> {
    streams: HashMap<&'c StreamId, Use>,
    keys: HashSet<&'c IdempotencyKey>,
    rows: HashSet<(&'c str, &'c str)>,
    /// The set of inline projections that those with events name; or one of them changes it, and shares nothing.
    inline: Option<Set>,
    events: Vec<&'c NewEvent>,
    tagged: HashMap<&'c Tag, Vec<&'c NewEvent>>,
    /// Conditions of requests that wait: events that match them wait behind them.
    waiting: Vec<&'c AppendCondition>,
    /// Whether any request has a condition: only then events are remembered.
    conditions: bool,
}

impl<'c> Admission<'c> {
    pub(crate) fn new(requests: impl Iterator<Item = &'c Commit>) -> Self {
        let conditions = requests.into_iter().any(|commit| commit.condition.is_some());
        Self { conditions, ..Self::default() }
    }

    /// Whether the next request may share the batch. Either way, it bars those behind it.
    pub(crate) fn admits(&mut self, commit: &'c Commit) -> bool {
        let Commit { appends, checks: _, condition, outcomes, rows, inline, explain: _, attempt: _ } = commit;
        let mut free = true;
        for (stream, wanted) in uses(commit) {
            free &= self.claim(stream, wanted);
        }
        for mark in outcomes {
            free &= self.keys.insert(&mark.key);
        }
        for write in rows {
            free &= self.rows.insert((&write.table, &write.key));
        }
        let set = match rows.iter().any(|write| (&*write.table, &*write.key) == INLINE) {
            true => Some(Set::Changed),
            false if appends.iter().any(|append| !append.events.is_empty()) => Some(Set::Named(*inline)),
            false => None,
        };
        free &= match (self.inline, set) {
            (_, None) => true,
            (Some(before), Some(set)) => before == set && set != Set::Changed,
            (None, set) => {
                self.inline = set;
                true
            }
        };
        if self.conditions {
            free &= !condition.iter().any(|condition| self.is_broken(condition));
            let new = || appends.iter().flat_map(|a| &a.events);
            free &= !self
                .waiting
                .iter()
                .any(|c| new().any(|event| c.fail_if_events_match.matches_parts(&event.name, &event.tags)));
            for event in new() {
                self.events.push(event);
                for tag in &event.tags {
                    self.tagged.entry(tag).or_default().push(event);
                }
            }
            if !free {
                self.waiting.extend(condition);
            }
        }
        free
    }

    fn claim(&mut self, stream: &'c StreamId, wanted: Use) -> bool {
        match self.streams.entry(stream) {
            Entry::Vacant(entry) => {
                entry.insert(wanted);
                true
            }
            Entry::Occupied(mut entry) => {
                let shared = *entry.get() == wanted && wanted != Use::Own;
                if !shared {
                    entry.insert(Use::Own);
                }
                shared
            }
        }
    }

    fn is_broken(&self, condition: &AppendCondition) -> bool {
        let items = condition.fail_if_events_match.items();
        if items.is_empty() {
            return !self.events.is_empty();
        }
        items.iter().any(|item| self.is_met(item))
    }

    /// Whether an event of an earlier request matches.
    fn is_met(&self, item: &FilterItem) -> bool {
        let candidates = match item.tags().first() {
            Some(tag) => self.tagged.get(tag).map_or(&[][..], |events| events),
            None => &self.events,
        };
        let typed = |e: &NewEvent| item.types().is_empty() || item.types().contains(&e.name);
        candidates.iter().any(|event| typed(event) && item.tags().iter().all(|tag| event.tags.contains(tag)))
    }
}

/// Each stream of a commit, once.
fn uses(commit: &Commit) -> Vec<(&StreamId, Use)> {
    let most = commit.appends.len() + commit.checks.len();
    let (mut uses, mut places) = (Vec::<(&StreamId, Use)>::with_capacity(most), HashMap::new());
    let appended = commit.appends.iter().map(|a| {
        let any = a.expected == ExpectedVersion::Any && !a.events.is_empty();
        (&a.stream, if any { Use::AppendAny } else { Use::Own })
    });
    for (stream, wanted) in appended.chain(commit.checks.iter().map(|c| (&c.stream, Use::Check))) {
        // The usual commit has one, which needs no place.
        let place = if most > 1 { *places.entry(stream).or_insert(uses.len()) } else { 0 };
        match uses.get_mut(place) {
            Some((_, known)) if *known != wanted => *known = Use::Own,
            Some(_) => {}
            None => uses.push((stream, wanted)),
        }
    }
    uses
}
