//! Who works on which slices: what one node does next, from what it sees.
//!
//! Every node decides for itself, by the same rule, on rows that may be a moment old; a row that has changed since
//! refuses the change. So no two nodes have a slice, and after a few rounds every slice has a node and every node its
//! share: `1,024 / nodes`, rounded up.

use crate::slices::{SLICES, Slices};
use crate::store::Position;

/// A range, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) slices: Slices,
    pub(crate) position: Position,
    pub(crate) holder: Holder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Me,
    /// Another node that is alive.
    Other,
    /// Nobody, or a node that is gone.
    Nobody,
}

/// What to do with the range that begins with a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Claim {
        first: u16,
    },
    /// Claim so many slices from its beginning, and leave the rest.
    ClaimPart {
        first: u16,
        count: u16,
    },
    Free {
        first: u16,
    },
    /// Keep so many slices from its beginning, and free the rest.
    KeepPart {
        first: u16,
        count: u16,
    },
    /// Work on it in two parts, the first with so many slices.
    Split {
        first: u16,
        count: u16,
    },
    /// Work on two neighbours as on one.
    Merge {
        first: u16,
        next: u16,
    },
}

/// What a node does next. `members` counts the nodes that run the processor, `workers` is how many ranges each of them
/// works on at once.
pub(crate) fn plan(ranges: &[Seen], members: usize, splits: bool, workers: usize) -> Vec<Action> {
    let mine = || ranges.iter().filter(|range| range.holder == Holder::Me);
    let free = || ranges.iter().filter(|range| range.holder == Holder::Nobody);
    if !splits {
        return free().map(|range| Action::Claim { first: range.slices.first }).collect();
    }
    let members = u16::try_from(members.max(1)).unwrap_or(SLICES).min(SLICES);
    let share = SLICES.div_ceil(members);
    let have: u16 = mine().map(|range| range.slices.count()).sum();
    let mut actions = Vec::new();
    if have < share {
        let mut need = share - have;
        for Slices { first, last } in free().map(|range| range.slices) {
            let count = last - first + 1;
            match need {
                0 => break,
                _ if count <= need => actions.push(Action::Claim { first }),
                _ => actions.push(Action::ClaimPart { first, count: need }),
            }
            need = need.saturating_sub(count);
        }
    } else if have > share {
        let mut excess = have - share;
        for Slices { first, last } in mine().map(|range| range.slices).collect::<Vec<_>>().into_iter().rev() {
            let count = last - first + 1;
            match excess {
                0 => break,
                _ if count <= excess => actions.push(Action::Free { first }),
                _ => actions.push(Action::KeepPart { first, count: count - excess }),
            }
            excess = excess.saturating_sub(count);
        }
    }
    if !actions.is_empty() {
        return actions;
    }
    let n = mine().count();
    if n > 0 && n < workers {
        let largest = mine().max_by_key(|range| range.slices.count()).expect("there is one");
        if largest.slices.count() > 1 {
            return vec![Action::Split { first: largest.slices.first, count: largest.slices.count() / 2 }];
        }
    }
    if n > workers {
        let neighbours = |pair: &&[Seen]| {
            let [low, high] = pair else { return false };
            let mine = low.holder == Holder::Me && high.holder == Holder::Me;
            mine && low.slices.last + 1 == high.slices.first && low.position == high.position
        };
        if let Some([low, high]) = ranges.windows(2).find(neighbours) {
            return vec![Action::Merge { first: low.slices.first, next: high.slices.first }];
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// The ranges of one processor, and who has them.
    #[derive(Debug)]
    struct World(BTreeMap<u16, (Slices, Option<u8>)>);

    impl World {
        fn seen(&self, me: u8, alive: &BTreeSet<u8>) -> Vec<Seen> {
            let holder = |owner: Option<u8>| match owner {
                Some(owner) if owner == me => Holder::Me,
                Some(owner) if alive.contains(&owner) => Holder::Other,
                _ => Holder::Nobody,
            };
            let seen = |(slices, owner): &(Slices, Option<u8>)| Seen {
                slices: *slices,
                position: Position(1),
                holder: holder(*owner),
            };
            self.0.values().map(seen).collect()
        }

        fn put(&mut self, slices: Slices, owner: Option<u8>) {
            self.0.insert(slices.first, (slices, owner));
        }

        fn act(&mut self, me: u8, action: Action) {
            let split = |world: &mut Self, first: u16, count: u16, low: Option<u8>, high: Option<u8>| {
                let (a, b) = world.0[&first].0.split(count).unwrap();
                world.put(a, low);
                world.put(b, high);
            };
            match action {
                Action::Claim { first } => self.put(self.0[&first].0, Some(me)),
                Action::Free { first } => self.put(self.0[&first].0, None),
                Action::ClaimPart { first, count } | Action::KeepPart { first, count } => {
                    split(self, first, count, Some(me), None);
                }
                Action::Split { first, count } => split(self, first, count, Some(me), Some(me)),
                Action::Merge { first, next } => {
                    let last = self.0.remove(&next).unwrap().0.last;
                    self.put(Slices { first, last }, Some(me));
                }
            }
        }

        fn assert_whole(&self) {
            let mut next = 0;
            for (slices, _) in self.0.values() {
                assert_eq!(slices.first, next, "every slice is in exactly one range: {self:?}");
                next = slices.last + 1;
            }
            assert_eq!(next, SLICES);
        }
    }

    /// P5, P6: whatever nodes come and go, every slice has one owner in the end, and every node a fair share.
    #[test]
    fn nodes_that_come_and_go_share_all_slices() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut world = World(BTreeMap::from([(0, (Slices::ALL, None))]));
            let mut alive = BTreeSet::from([0]);
            let workers = rng.random_range(1..4);
            for _ in 0..12 {
                let node = rng.random_range(0..7);
                if !alive.remove(&node) || alive.is_empty() {
                    alive.insert(node);
                }
                // They do not wait for each other, and act in any order.
                for _ in 0..60 {
                    let me = *alive.iter().nth(rng.random_range(0..alive.len())).unwrap();
                    for action in plan(&world.seen(me, &alive), alive.len(), true, workers) {
                        world.act(me, action);
                        world.assert_whole();
                    }
                }
                for _ in 0..3 {
                    for me in &alive {
                        for action in plan(&world.seen(*me, &alive), alive.len(), true, workers) {
                            world.act(*me, action);
                        }
                    }
                }
                let share = SLICES.div_ceil(u16::try_from(alive.len()).unwrap());
                for node in &alive {
                    let own = world.0.values().filter(|(_, owner)| *owner == Some(*node));
                    let count: u16 = own.map(|(slices, _)| slices.count()).sum();
                    assert!(count <= share, "seed {seed}: node {node} has {count} of {share}: {world:?}");
                }
                let owned = |(_, owner): &&(Slices, Option<u8>)| owner.is_some_and(|o| alive.contains(&o));
                assert!(world.0.values().all(|range| owned(&range)), "seed {seed}: {world:?}");
            }
        }
    }

    #[test]
    fn a_node_at_rest_does_nothing() {
        let one = [Seen { slices: Slices::ALL, position: Position(1), holder: Holder::Me }];
        assert_eq!(plan(&one, 1, true, 1), []);
        let (low, high) = Slices::ALL.split(512).unwrap();
        let two = [(low, Holder::Me), (high, Holder::Other)].map(|(slices, holder)| Seen {
            slices,
            position: Position(1),
            holder,
        });
        assert_eq!(plan(&two, 2, true, 1), []);
    }

    #[test]
    fn what_does_not_split_has_one_owner() {
        let seen = |holder| [Seen { slices: Slices::ALL, position: Position(1), holder }];
        assert_eq!(plan(&seen(Holder::Nobody), 3, false, 4), [Action::Claim { first: 0 }]);
        assert_eq!(plan(&seen(Holder::Me), 3, false, 4), []);
        assert_eq!(plan(&seen(Holder::Other), 3, false, 4), []);
    }

    #[test]
    fn neighbours_merge_only_at_one_position() {
        let (low, high) = Slices::ALL.split(512).unwrap();
        let at = |slices, position| Seen { slices, position: Position(position), holder: Holder::Me };
        assert_eq!(plan(&[at(low, 5), at(high, 6)], 1, true, 1), []);
        assert_eq!(plan(&[at(low, 6), at(high, 6)], 1, true, 1), [Action::Merge { first: 0, next: 512 }]);
        assert_eq!(plan(&[at(low, 6), at(high, 6)], 1, true, 2), []);
    }
}
