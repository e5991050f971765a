//! A build of which this node has met an event that only a newer program knows, though its code is no other.
//!
//! It is left to the other nodes for as long as one of them may know the event. Old ones meet it one after the other and say
//! so in their rows; once all have met it, they share the slices as before, and wait. Once the event was passed, whoever has
//! passed it is newer: the build is left to those until the last of them has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::store::Position;

/// For how many leases a node that has not met the event yet is believed to take it.
const TAKES: u32 = 10;

/// Another node that works on the build.
#[derive(Clone, Copy, Debug)]
pub(super) struct Other {
    pub(super) node: Uuid,
    /// Whether it has met such an event as well.
    pub(super) has_met: bool,
    /// Whether a share of it is past the event.
    pub(super) is_past: bool,
}

#[derive(Debug, Default)]
pub(super) struct Outgrown {
    /// The last event that was met and not known.
    met: Position,
    /// Since when other nodes have been seen.
    seen: BTreeMap<Uuid, Instant>,
    /// Those that were seen to have met it, too: they have not passed it, whatever they have of the build later.
    old: BTreeSet<Uuid>,
    /// Once the event was passed, those that have passed it.
    newer: Option<BTreeSet<Uuid>>,
}

impl Outgrown {
    /// An event was met.
    pub(super) fn meet(&mut self, position: Position) {
        if position > self.met {
            // Of this one nobody was seen to have met it.
            self.old.clear();
        }
        self.met = self.met.max(position);
        self.newer = None;
    }

    /// Whether the event is not behind a position.
    pub(super) fn is_before(&self, position: Position) -> bool {
        position >= self.met
    }

    /// Whether the build is left to the others that work on it. `passed` says whether all of its shares are past the event; if
    /// they are and it is not left to others, all of this is over.
    pub(super) fn is_left_to(&mut self, others: &[Other], passed: bool, lease: Duration) -> bool {
        let now = Instant::now();
        let may_know = others.iter().filter(|other| !other.has_met);
        self.old.extend(others.iter().filter(|other| other.has_met).map(|other| other.node));
        if passed {
            let old = &self.old;
            let has_passed = |other: &&Other| other.is_past && !old.contains(&other.node);
            let past = || may_know.clone().filter(has_passed).map(|other| other.node).collect();
            let newer: &BTreeSet<Uuid> = self.newer.get_or_insert_with(past);
            return may_know.clone().any(|other| newer.contains(&other.node));
        }
        self.seen.retain(|node, _| others.iter().any(|other| other.node == *node));
        let mut is_left = false;
        for other in may_know {
            let since = *self.seen.entry(other.node).or_insert(now);
            is_left |= other.is_past || now - since < lease * TAKES;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn other(n: u128) -> Other {
        Other { node: Uuid::from_u128(n), has_met: false, is_past: false }
    }

    fn met() -> Outgrown {
        let mut outgrown = Outgrown::default();
        outgrown.meet(Position(5));
        outgrown
    }

    #[test]
    fn a_build_is_left_to_nodes_that_have_not_met_what_is_not_known() {
        let mut outgrown = met();
        assert!(outgrown.is_left_to(&[other(1), other(2)], false, LEASE));
        let old = Other { has_met: true, ..other(1) };
        assert!(outgrown.is_left_to(&[old, other(2)], false, LEASE));
        assert!(
            !outgrown.is_left_to(&[old, Other { has_met: true, ..other(2) }], false, LEASE),
            "all are old"
        );
        assert!(outgrown.is_left_to(&[old, other(3)], false, LEASE), "this one may be newer");
    }

    #[test]
    fn what_was_passed_is_left_to_those_who_have_passed_it() {
        let mut outgrown = met();
        let newer = Other { is_past: true, ..other(1) };
        assert!(outgrown.is_left_to(&[newer, other(2)], true, LEASE));
        let younger = Other { is_past: true, ..other(2) };
        assert!(outgrown.is_left_to(&[newer, younger], true, LEASE));
        assert!(!outgrown.is_left_to(&[younger], true, LEASE), "it had not to prove anything");
    }

    #[test]
    fn whoever_has_met_it_has_not_passed_it_and_may_have_its_slices_later() {
        let mut outgrown = met();
        let old = Other { has_met: true, ..other(1) };
        assert!(outgrown.is_left_to(&[old, other(2)], false, LEASE));
        outgrown.meet(Position(5));
        // The newer one has gone before it was seen what it has passed; the old one has its slices, and stands by no more.
        let successor = Other { is_past: true, ..other(1) };
        assert!(!outgrown.is_left_to(&[successor], true, LEASE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_take_it_is_waited_for_some_time() {
        let mut outgrown = met();
        let waits = |outgrown: &mut Outgrown, other| outgrown.is_left_to(&[other], false, LEASE);
        assert!(waits(&mut outgrown, other(1)));
        tokio::time::advance(LEASE * TAKES).await;
        assert!(!waits(&mut outgrown, other(1)));
        assert!(waits(&mut outgrown, Other { is_past: true, ..other(1) }), "it has done a part of it");
        assert!(waits(&mut outgrown, other(2)), "it has just come");
    }
}
