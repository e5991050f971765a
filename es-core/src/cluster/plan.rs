//! Who works on which slices: what one node does next, from what it sees.
//!
//! Every node decides for itself, by the same rule, on rows that may be a moment old; a row that has changed since
//! refuses the change. So no two nodes have a slice, and after a few rounds every slice has a node and every node its
//! share: `1,024 / nodes`, rounded up. What cannot be split is counted as a whole: no node has two more than another
//! that could have one of them.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::slices::{SLICES, Slices};

/// A share, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) slices: Slices,
    pub(crate) holder: Holder,
    /// Whether it and the next one can be worked on as one.
    pub(crate) merges: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Me,
    /// Another node that is alive.
    Other,
    /// No node, or one that is gone.
    Nobody,
}

/// How a group is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// By slices. `members` counts the nodes that run it, `workers` is how many shares each of them works on at once.
    Slices { members: usize, workers: usize },
    /// As a whole. `mine` says that it falls to this node, `waited` that the node it falls to has not come for it.
    Whole { mine: bool, waited: bool },
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

/// What a node does next.
pub(crate) fn plan(shares: &[Seen], rule: Rule) -> Vec<Action> {
    match rule {
        Rule::Whole { mine, waited } => plan_whole(shares, mine, waited),
        Rule::Slices { members, workers } => {
            let actions = plan_share(shares, members);
            if actions.is_empty() { plan_shape(shares, workers).into_iter().collect() } else { actions }
        }
    }
}

fn plan_whole(shares: &[Seen], mine: bool, waited: bool) -> Vec<Action> {
    let of =
        |holder| shares.iter().filter(move |share| share.holder == holder).map(|share| share.slices.first);
    if mine || waited {
        return of(Holder::Nobody).map(|first| Action::Claim { first }).collect();
    }
    // One part that is free was freed for the node that it falls to.
    of(Holder::Me).map(|first| Action::Free { first }).collect()
}

/// Claims up to the node's share of slices, or frees what is beyond it.
fn plan_share(shares: &[Seen], members: usize) -> Vec<Action> {
    let of = |holder| shares.iter().filter(move |share| share.holder == holder).map(|share| share.slices);
    let members = u16::try_from(members.max(1)).unwrap_or(SLICES).min(SLICES);
    let share = SLICES.div_ceil(members);
    let have: u16 = of(Holder::Me).map(Slices::count).sum();
    let mut actions = Vec::new();
    if have < share {
        let mut need = share - have;
        for Slices { first, last } in of(Holder::Nobody) {
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
        for Slices { first, last } in of(Holder::Me).collect::<Vec<_>>().into_iter().rev() {
            let count = last - first + 1;
            match excess {
                0 => break,
                _ if count <= excess => actions.push(Action::Free { first }),
                _ => actions.push(Action::KeepPart { first, count: count - excess }),
            }
            excess = excess.saturating_sub(count);
        }
    }
    actions
}

/// Splits or merges what the node has, so that it is as many shares as it works on at once.
fn plan_shape(shares: &[Seen], workers: usize) -> Option<Action> {
    let mine = || shares.iter().filter(|share| share.holder == Holder::Me).map(|share| share.slices);
    let n = mine().count();
    if n > 0 && n < workers {
        let largest = mine().max_by_key(|slices| slices.count()).filter(|slices| slices.count() > 1)?;
        return Some(Action::Split { first: largest.first, count: largest.count() / 2 });
    }
    let merges = |pair: &&[Seen]| {
        let [low, high] = pair else { return false };
        low.merges && low.holder == Holder::Me && high.holder == Holder::Me
    };
    let neighbours = shares.windows(2).find(merges).filter(|_| n > workers)?;
    let [low, high] = neighbours else { return None };
    Some(Action::Merge { first: low.slices.first, next: high.slices.first })
}

/// A group that cannot be split.
#[derive(Clone, Debug)]
pub(crate) struct Whole<'g> {
    pub(crate) group: &'g str,
    /// The node that has it, if that is alive.
    pub(crate) holder: Option<Uuid>,
    /// The nodes that could have it.
    pub(crate) members: Vec<Uuid>,
}

/// Which node is to have which group: what is held stays, what is free goes to the member with the fewest, and a group
/// moves only where that makes the two nodes more equal. So nodes that see the same come to the same, and once it is so,
/// nothing moves any more.
pub(crate) fn assign(groups: &[Whole<'_>]) -> BTreeMap<String, Uuid> {
    let mut counts = BTreeMap::<Uuid, usize>::new();
    groups.iter().flat_map(|whole| &whole.members).for_each(|node| *counts.entry(*node).or_default() = 0);
    let mut targets: Vec<Option<Uuid>> = Vec::with_capacity(groups.len());
    for Whole { holder, members, .. } in groups {
        let target = holder.filter(|holder| members.contains(holder));
        target.into_iter().for_each(|node| *counts.entry(node).or_default() += 1);
        targets.push(target);
    }
    let least = |whole: &Whole<'_>, counts: &BTreeMap<Uuid, usize>| {
        whole.members.iter().copied().min_by_key(|node| (counts[node], *node))
    };
    for (whole, target) in groups.iter().zip(&mut targets) {
        if target.is_none() {
            *target = least(whole, &counts);
            target.iter().for_each(|node| *counts.entry(*node).or_default() += 1);
        }
    }
    // Ends: each move makes the sum of the squares of all counts smaller.
    loop {
        let better = |(whole, target): (&Whole<'_>, &Option<Uuid>)| {
            let (from, to) = ((*target)?, least(whole, &counts)?);
            (counts[&to] + 1 < counts[&from]).then_some((from, to))
        };
        let found = groups.iter().zip(&targets).map(better).enumerate();
        let Some((i, (from, to))) = found.filter_map(|(i, found)| Some((i, found?))).next_back() else {
            break;
        };
        targets[i] = Some(to);
        *counts.entry(from).or_default() -= 1;
        *counts.entry(to).or_default() += 1;
    }
    let assigned = groups.iter().zip(targets).filter_map(|(w, target)| Some((w.group.to_owned(), target?)));
    assigned.collect()
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
                holder: holder(*owner),
                merges: true,
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
                    for action in
                        plan(&world.seen(me, &alive), Rule::Slices { members: alive.len(), workers })
                    {
                        world.act(me, action);
                        world.assert_whole();
                    }
                }
                for _ in 0..3 {
                    for me in &alive {
                        for action in
                            plan(&world.seen(*me, &alive), Rule::Slices { members: alive.len(), workers })
                        {
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

    const fn slices(members: usize, workers: usize) -> Rule {
        Rule::Slices { members, workers }
    }

    #[test]
    fn a_node_at_rest_does_nothing() {
        let seen = |slices, holder| Seen { slices, holder, merges: true };
        assert_eq!(plan(&[seen(Slices::ALL, Holder::Me)], slices(1, 1)), []);
        let (low, high) = Slices::ALL.split(512).unwrap();
        assert_eq!(plan(&[seen(low, Holder::Me), seen(high, Holder::Other)], slices(2, 1)), []);
    }

    #[test]
    fn what_does_not_split_is_claimed_by_the_node_that_it_falls_to() {
        let seen = |holder| [Seen { slices: Slices::ALL, holder, merges: false }];
        let whole = |mine, waited| Rule::Whole { mine, waited };
        assert_eq!(plan(&seen(Holder::Nobody), whole(true, false)), [Action::Claim { first: 0 }]);
        assert_eq!(plan(&seen(Holder::Nobody), whole(false, false)), []);
        assert_eq!(plan(&seen(Holder::Nobody), whole(false, true)), [Action::Claim { first: 0 }]);
        assert_eq!(plan(&seen(Holder::Me), whole(true, false)), []);
        assert_eq!(plan(&seen(Holder::Me), whole(false, false)), [Action::Free { first: 0 }]);
        assert_eq!(plan(&seen(Holder::Other), whole(true, true)), []);
    }

    #[test]
    fn neighbours_merge_only_if_they_can() {
        let (low, high) = Slices::ALL.split(512).unwrap();
        let own = |slices, merges| Seen { slices, holder: Holder::Me, merges };
        assert_eq!(plan(&[own(low, false), own(high, false)], slices(1, 1)), []);
        let both = [own(low, true), own(high, false)];
        assert_eq!(plan(&both, slices(1, 1)), [Action::Merge { first: 0, next: 512 }]);
        assert_eq!(plan(&both, slices(1, 2)), []);
    }

    /// Whatever nodes come and go, and whatever each of them runs: what cannot be split has one owner in the end that
    /// runs it, no node has two more than another that could have one of them, and then nothing moves.
    #[test]
    fn what_cannot_be_split_is_shared_fairly() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let n_groups = rng.random_range(1..12);
            const NAMES: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
            let names = &NAMES[..n_groups];
            let mut holders: Vec<Option<Uuid>> = vec![None; n_groups];
            let mut nodes = BTreeMap::<Uuid, BTreeSet<usize>>::new();
            for _ in 0..8 {
                let node = Uuid::from_u128(rng.random_range(0..5));
                if nodes.remove(&node).is_none() {
                    let all = rng.random_bool(0.6);
                    let runs = (0..n_groups).filter(|_| all || rng.random_bool(0.5)).collect();
                    nodes.insert(node, runs);
                }
                let groups = |holders: &[Option<Uuid>]| -> Vec<Whole<'_>> {
                    let whole = |(i, name): (usize, &'static str)| Whole {
                        group: name,
                        holder: holders[i].filter(|holder| nodes.contains_key(holder)),
                        members: nodes
                            .iter()
                            .filter(|(_, runs)| runs.contains(&i))
                            .map(|(n, _)| *n)
                            .collect(),
                    };
                    names.iter().copied().enumerate().map(whole).collect()
                };
                let mut act = |me: Uuid, i: usize| {
                    let seen = groups(&holders);
                    let holder = match seen[i].holder {
                        Some(holder) if holder == me => Holder::Me,
                        Some(_) => Holder::Other,
                        None => Holder::Nobody,
                    };
                    let mine = assign(&seen).get(names[i]) == Some(&me);
                    let share = Seen { slices: Slices::ALL, holder, merges: false };
                    match plan(&[share], Rule::Whole { mine, waited: false })[..] {
                        [Action::Claim { .. }] if nodes[&me].contains(&i) => holders[i] = Some(me),
                        [Action::Free { .. }] => holders[i] = None,
                        _ => {}
                    }
                };
                // They act one after the other, in any order, each on what it sees then; in the end all of them have.
                for _ in 0..60 {
                    if let Some(me) = nodes.keys().nth(rng.random_range(0..nodes.len().max(1))) {
                        act(*me, rng.random_range(0..n_groups));
                    }
                }
                for _ in 0..4 {
                    nodes.keys().for_each(|me| (0..n_groups).for_each(|i| act(*me, i)));
                }
                let seen = groups(&holders);
                let count = |node: &Uuid| seen.iter().filter(|whole| whole.holder == Some(*node)).count();
                for whole in seen.iter().filter(|whole| !whole.members.is_empty()) {
                    let holder =
                        whole.holder.unwrap_or_else(|| panic!("seed {seed}: {whole:?} has no owner"));
                    assert!(whole.members.contains(&holder), "seed {seed}: {whole:?}");
                    for other in &whole.members {
                        assert!(count(&holder) <= count(other) + 1, "seed {seed}: {seen:?}");
                    }
                }
                let held = seen.iter().filter_map(|whole| Some((whole.group.to_owned(), whole.holder?)));
                assert_eq!(assign(&seen), held.collect(), "seed {seed}: at rest nothing moves");
            }
        }
    }
}
