//! A build of which this node has met an event that only a newer program knows, though its code is no other.
//!
//! It is left to the other nodes for as long as one of them may know the event. Old ones meet it one after the other and say
//! so in their rows; once all have met it, they share the slices as before, and wait. Once the event was passed, whoever has
//! passed it is newer: the build is left to those until the last of them has gone.
//!
//! Who waits for another event may know this one. Of two nodes that each may know what the other waits for, the one that has
//! got further gives way, or the one of the greater id: so the other one meets that event too, or passes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::store::Position;

/// For how many leases a node that has not met the event yet is believed to take it.
const TAKES: u32 = 10;

/// How many events are remembered at most: those that were met last.
const MOST: usize = 64;

/// Another node that works on the build.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) node: Uuid,
    /// The events that it has met and does not know.
    pub(super) met: BTreeSet<Position>,
    /// Whether a share of it is past the last that was met here.
    pub(super) is_past: bool,
}

#[derive(Debug, Default)]
pub(super) struct Outgrown {
    /// The events that were met and not known.
    met: BTreeSet<Position>,
    /// Since when other nodes have been seen.
    seen: BTreeMap<Uuid, Instant>,
    /// Those that were seen to have met all of them, too: they have not passed them, whatever they have of the build later.
    old: BTreeSet<Uuid>,
    /// Once all were passed, those that have passed them.
    newer: Option<BTreeSet<Uuid>>,
}

impl Outgrown {
    /// An event was met.
    pub(super) fn meet(&mut self, position: Position) {
        if self.met.insert(position) {
            // Of this one nobody was seen to have met it.
            self.old.clear();
            self.seen.clear();
        }
        if self.met.len() > MOST {
            self.met.pop_first();
        }
        self.newer = None;
    }

    /// The events that were met and not known.
    pub(super) const fn met(&self) -> &BTreeSet<Position> {
        &self.met
    }

    /// Whether none of the events is behind a position.
    pub(super) fn is_before(&self, position: Position) -> bool {
        self.met.last().is_none_or(|last| position >= *last)
    }

    /// Whether the build is left to the others that work on it. `passed` says whether all of its shares are past the events; if
    /// they are and it is not left to others, all of this is over.
    pub(super) fn is_left_to(&mut self, own: Uuid, others: &[Other], passed: bool, lease: Duration) -> bool {
        let (now, met) = (Instant::now(), &self.met);
        let has_met = |other: &Other| met.is_subset(&other.met);
        // Both may have met the same last: then their ids decide.
        let gives_way =
            |other: &Other| !other.met.is_subset(met) && (other.met.last(), other.node) > (met.last(), own);
        let may_know = others.iter().filter(|other| !has_met(other));
        self.old.extend(others.iter().filter(|other| has_met(other)).map(|other| other.node));
        if passed {
            let old = &self.old;
            let has_passed = |other: &&Other| other.is_past && !old.contains(&other.node);
            let past = || may_know.clone().filter(has_passed).map(|other| other.node).collect();
            let newer: &BTreeSet<Uuid> = self.newer.get_or_insert_with(past);
            return may_know.clone().any(|other| newer.contains(&other.node));
        }
        self.seen.retain(|node, _| others.iter().any(|other| other.node == *node));
        let mut is_left = false;
        for other in may_know.filter(|other| !gives_way(other)) {
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
    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    fn other(n: u128) -> Other {
        Other { node: Uuid::from_u128(n), met: BTreeSet::new(), is_past: false }
    }

    fn who_met<const N: usize>(n: u128, met: [u64; N]) -> Other {
        Other { met: met.map(Position).into(), ..other(n) }
    }

    fn met() -> Outgrown {
        let mut outgrown = Outgrown::default();
        outgrown.meet(Position(5));
        outgrown
    }

    #[test]
    fn a_build_is_left_to_nodes_that_have_not_met_what_is_not_known() {
        let mut outgrown = met();
        assert!(outgrown.is_left_to(ONE, &[other(1), other(2)], false, LEASE));
        let old = who_met(1, [5]);
        assert!(outgrown.is_left_to(ONE, &[old.clone(), other(2)], false, LEASE));
        assert!(!outgrown.is_left_to(ONE, &[old.clone(), who_met(2, [5, 7])], false, LEASE), "all are old");
        assert!(outgrown.is_left_to(ONE, &[old, other(3)], false, LEASE), "this one may be newer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_did_not_take_one_event_may_take_the_next() {
        let mut outgrown = met();
        assert!(outgrown.is_left_to(ONE, &[other(2)], false, LEASE));
        tokio::time::advance(LEASE * TAKES).await;
        assert!(!outgrown.is_left_to(ONE, &[other(2)], false, LEASE));
        outgrown.meet(Position(9));
        assert!(outgrown.is_left_to(ONE, &[other(2)], false, LEASE));
    }

    #[test]
    fn what_was_passed_is_left_to_those_who_have_passed_it() {
        let mut outgrown = met();
        let newer = Other { is_past: true, ..other(1) };
        assert!(outgrown.is_left_to(ONE, &[newer.clone(), other(2)], true, LEASE));
        let younger = Other { is_past: true, ..other(2) };
        assert!(outgrown.is_left_to(ONE, &[newer, younger.clone()], true, LEASE));
        assert!(!outgrown.is_left_to(ONE, &[younger], true, LEASE), "it had not to prove anything");
    }

    #[test]
    fn whoever_has_met_it_has_not_passed_it_and_may_have_its_slices_later() {
        let mut outgrown = met();
        let old = who_met(1, [5]);
        assert!(outgrown.is_left_to(ONE, &[old, other(2)], false, LEASE));
        outgrown.meet(Position(5));
        // The newer one has gone before it was seen what it has passed; the old one has its slices, and stands by no more.
        let successor = Other { is_past: true, ..other(1) };
        assert!(!outgrown.is_left_to(ONE, &[successor], true, LEASE));
    }

    #[test]
    fn of_two_that_wait_for_different_events_one_gives_way() {
        let (mut one, mut two) = (met(), Outgrown::default());
        two.meet(Position(7));
        assert!(two.is_left_to(TWO, &[who_met(1, [5])], false, LEASE));
        assert!(!one.is_left_to(ONE, &[who_met(2, [7])], false, LEASE));
        // It takes the slices, and meets the other event as well.
        one.meet(Position(7));
        assert!(!two.is_left_to(TWO, &[who_met(1, [5, 7])], false, LEASE));
        assert!(one.is_left_to(ONE, &[who_met(2, [7])], false, LEASE), "that one may know the first");
        two.meet(Position(5));
        assert!(!one.is_left_to(ONE, &[who_met(2, [5, 7])], false, LEASE), "both are old");
    }

    #[test]
    fn of_two_that_have_met_the_same_last_one_gives_way() {
        let (mut one, mut two) = (met(), Outgrown::default());
        two.meet(Position(7));
        for outgrown in [&mut one, &mut two] {
            outgrown.meet(Position(9));
        }
        assert!(!one.is_left_to(ONE, &[who_met(2, [7, 9])], false, LEASE));
        assert!(two.is_left_to(TWO, &[who_met(1, [5, 9])], false, LEASE));
    }

    #[test]
    fn who_has_passed_an_event_and_waits_for_the_next_is_newer() {
        let mut outgrown = met();
        let newer = Other { is_past: true, ..who_met(1, [7]) };
        assert!(outgrown.is_left_to(ONE, &[newer], true, LEASE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_take_it_is_waited_for_some_time() {
        let mut outgrown = met();
        let waits = |outgrown: &mut Outgrown, other| outgrown.is_left_to(ONE, &[other], false, LEASE);
        assert!(waits(&mut outgrown, other(1)));
        tokio::time::advance(LEASE * TAKES).await;
        assert!(!waits(&mut outgrown, other(1)));
        assert!(waits(&mut outgrown, Other { is_past: true, ..other(1) }), "it has done a part of it");
        assert!(waits(&mut outgrown, other(2)), "it has just come");
    }
}
