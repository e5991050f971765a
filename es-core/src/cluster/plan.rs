//! Who works on which slices: what one node does next, from what it sees.
//!
//! Every node decides for itself, by the same rules, on rows that may be a moment old; a row that has changed since
//! refuses the change. [`spread`] says which slices each node is to have: neighbours, as many as the others have, and as
//! many of those that it has already as possible. [`assign`] says the same of what cannot be split: it is counted as a
//! whole, and no node has two more than another that could have one of them. [`plan`] says what a node does to get there.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::slices::{SLICES, Slices};

/// A share, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) slices: Slices,
    /// The node that has it, if that is alive.
    pub(crate) owner: Option<Uuid>,
    /// Whether it and the next one can be worked on as one.
    pub(crate) merges: bool,
    /// It has been free for so long that the node which is to have it will not come.
    pub(crate) waited: bool,
    /// This node took it in the place of one that did not come, and does not offer it again yet.
    pub(crate) kept: bool,
}

impl Seen {
    /// Whether a node may change its shape.
    fn is_of(&self, node: Uuid) -> bool {
        self.owner == Some(node) && !self.kept
    }
}

/// How a group is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// By slices. `own` are those that this node is to have, `workers` is how many shares it works on at once.
    Slices { own: Option<Slices>, workers: usize },
    /// As a whole. `mine` says that it falls to this node.
    Whole { mine: bool },
}

/// What to do with the share that begins with a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Claim a part of it, or all; the rest stays free.
    Claim {
        first: u16,
        part: Slices,
    },
    Free {
        first: u16,
    },
    /// Keep a part of it, and free the rest.
    Keep {
        first: u16,
        part: Slices,
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
pub(crate) fn plan(shares: &[Seen], me: Uuid, rule: Rule) -> Vec<Action> {
    match rule {
        Rule::Whole { mine } => plan_whole(shares, me, mine),
        Rule::Slices { own, workers } => {
            let actions = plan_slices(shares, me, own);
            if actions.is_empty() { plan_shape(shares, me, workers).into_iter().collect() } else { actions }
        }
    }
}

fn plan_whole(shares: &[Seen], me: Uuid, mine: bool) -> Vec<Action> {
    let of = |owner| shares.iter().filter(move |share| share.owner == owner).map(|share| share.slices);
    if mine || shares.iter().any(|share| share.owner.is_none() && share.waited) {
        let claims: Vec<_> = of(None).map(|part| Action::Claim { first: part.first, part }).collect();
        // It may have been split before.
        return if claims.is_empty() { neighbours(shares, me).into_iter().collect() } else { claims };
    }
    // One part that is free was freed for the node that it falls to.
    of(Some(me)).map(|Slices { first, .. }| Action::Free { first }).collect()
}

/// Frees what the node is not to have, and claims what nobody has of what it is to have.
fn plan_slices(shares: &[Seen], me: Uuid, own: Option<Slices>) -> Vec<Action> {
    let (mut freed, mut claimed) = (Vec::new(), Vec::new());
    for Seen { slices, owner, waited, kept, .. } in shares {
        let first = slices.first;
        let part = own.and_then(|own| own.and(*slices));
        match (owner, part) {
            (Some(owner), _) if *owner != me || *kept => {}
            (Some(_), None) => freed.push(Action::Free { first }),
            (Some(_), Some(part)) if part == *slices => {}
            (Some(_), Some(part)) => freed.push(Action::Keep { first, part }),
            (None, Some(part)) => claimed.push(Action::Claim { first, part }),
            (None, None) if *waited => claimed.push(Action::Claim { first, part: *slices }),
            (None, None) => {}
        }
    }
    freed.append(&mut claimed);
    freed
}

/// Splits or merges what the node has, so that it is as many shares as it works on at once.
fn plan_shape(shares: &[Seen], me: Uuid, workers: usize) -> Option<Action> {
    let mine = || shares.iter().filter(|share| share.is_of(me)).map(|share| share.slices);
    let n = mine().count();
    if n > 0 && n < workers {
        let largest = mine().max_by_key(|slices| slices.count()).filter(|slices| slices.count() > 1)?;
        return Some(Action::Split { first: largest.first, count: largest.count() / 2 });
    }
    if n > workers { neighbours(shares, me) } else { None }
}

/// Two shares of the node that can be worked on as one.
fn neighbours(shares: &[Seen], me: Uuid) -> Option<Action> {
    let pair = |pair: &[Seen]| {
        let [low, high] = pair else { return None };
        let merges = low.merges && low.is_of(me) && high.is_of(me);
        merges.then_some(Action::Merge { first: low.slices.first, next: high.slices.first })
    };
    shares.windows(2).find_map(pair)
}

/// Which node is to have which slices: each member one interval, `1,024 / members` and at most one more, so that together
/// they have as many as possible already.
///
/// What every node of the same view comes to, and goes on to come to: whoever frees what it is not to have, or claims
/// what it is to have, makes this way to give out the intervals no worse, and no other one better. So nodes that act on
/// an older state of the same move do the right thing, and once all have what they are to have, nothing moves any more.
pub(crate) fn spread(shares: &[Seen], members: &BTreeSet<Uuid>) -> BTreeMap<Uuid, Slices> {
    // A node more than there are slices has none.
    let nodes: Vec<Uuid> = members.iter().copied().take(usize::from(SLICES)).collect();
    let n = u16::try_from(nodes.len()).unwrap_or(SLICES);
    let intervals = intervals(n);
    let mut worth = Worth::new(&nodes);
    for Seen { slices, owner, .. } in shares {
        let Some(row) = owner.and_then(|owner| nodes.binary_search(&owner).ok()) else { continue };
        let meets = intervals.iter().enumerate().skip_while(|(_, interval)| interval.last < slices.first);
        let meets = meets.map_while(|(i, interval)| Some((i, interval.and(*slices)?)));
        meets.for_each(|(i, both)| worth.held[row * nodes.len() + i] += both.count());
    }
    let found = worth.at_rest(&intervals).unwrap_or_else(|| matching(nodes.len(), &worth.values()));
    nodes.into_iter().zip(found).map(|(node, i)| (node, intervals[i])).collect()
}

/// All slices in so many intervals. The first ones have one more, if need be.
fn intervals(n: u16) -> Vec<Slices> {
    let mut next = 0;
    let mut interval = |i| {
        let first = next;
        next += SLICES / n + u16::from(i < SLICES % n);
        Slices { first, last: next - 1 }
    };
    (0..n).map(&mut interval).collect()
}

/// What it is worth that a node has an interval, by node and interval.
struct Worth<'n> {
    nodes: &'n [Uuid],
    /// How many of its slices the node has already.
    held: Vec<u16>,
}

impl<'n> Worth<'n> {
    fn new(nodes: &'n [Uuid]) -> Self {
        Self { nodes, held: vec![0; nodes.len() * nodes.len()] }
    }

    /// Every node has all of one interval: what one sees nearly always.
    fn at_rest(&self, intervals: &[Slices]) -> Option<Vec<usize>> {
        let all = |row: &[u16]| row.iter().zip(intervals).position(|(held, whole)| *held == whole.count());
        self.held.chunks(self.nodes.len().max(1)).map(all).collect()
    }

    /// The slices that are held; where that does not decide, a number that is the same in every process, and for every
    /// state: all of them together weigh less than one slice.
    fn values(&self) -> Vec<i64> {
        let n = self.nodes.len();
        let value = |(i, held): (usize, &u16)| {
            let key = [self.nodes[i / n].as_bytes().as_slice(), &(i % n).to_be_bytes()].concat();
            (i64::from(*held) << 42) + i64::try_from(xxh3_64(&key) >> 34).unwrap_or_default()
        };
        self.held.iter().enumerate().map(value).collect()
    }
}

/// The column for each of `n` rows, no two the same, with the greatest sum of values: the Hungarian method, in the form
/// of Jonker and Volgenant (1987). `n`³ steps at worst.
fn matching(n: usize, values: &[i64]) -> Vec<usize> {
    // Rows and columns count from 1; the row of column 0 is the one that looks for a column.
    let (mut of_row, mut of_column) = (vec![0; n + 1], vec![0; n + 1]);
    let mut row_of = vec![0; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let (mut least, mut way, mut used) = (vec![i64::MAX; n + 1], vec![0; n + 1], vec![false; n + 1]);
        let mut at = 0;
        while row_of[at] != 0 {
            used[at] = true;
            let (from, mut step, mut next) = (row_of[at], i64::MAX, 0);
            for column in (1..=n).filter(|column| !used[*column]) {
                let cost = -values[(from - 1) * n + column - 1] - of_row[from] - of_column[column];
                if cost < least[column] {
                    (least[column], way[column]) = (cost, at);
                }
                if least[column] < step {
                    (step, next) = (least[column], column);
                }
            }
            for column in 0..=n {
                if used[column] {
                    of_row[row_of[column]] += step;
                    of_column[column] -= step;
                } else {
                    least[column] -= step;
                }
            }
            at = next;
        }
        while at != 0 {
            row_of[at] = row_of[way[at]];
            at = way[at];
        }
    }
    let mut found = vec![0; n];
    (1..=n).for_each(|column| found[row_of[column] - 1] = column - 1);
    found
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
    use std::collections::VecDeque;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// The shares of one group by their first slices: who has each, and how often it has changed.
    #[derive(Clone, Debug)]
    struct World {
        shares: BTreeMap<u16, (Slices, Option<Uuid>, u64)>,
        changes: u64,
        /// How many slices were claimed.
        moved: u32,
    }

    type Nodes = BTreeSet<Uuid>;

    const fn node(n: u8) -> Uuid {
        Uuid::from_u128(n as u128)
    }

    fn nodes(n: u8) -> Nodes {
        (0..n).map(node).collect()
    }

    impl World {
        fn new() -> Self {
            Self { shares: BTreeMap::from([(0, (Slices::ALL, None, 0))]), changes: 0, moved: 0 }
        }

        fn seen(&self, alive: &Nodes) -> Vec<Seen> {
            let seen = |(slices, owner, _): &(Slices, Option<Uuid>, u64)| {
                seen(*slices, owner.filter(|owner| alive.contains(owner)))
            };
            self.shares.values().map(seen).collect()
        }

        /// What a node does next, by what it sees.
        fn plan(&self, me: Uuid, alive: &Nodes, workers: usize) -> Vec<Action> {
            let seen = self.seen(alive);
            let own = spread(&seen, alive).get(&me).copied();
            plan(&seen, me, Rule::Slices { own, workers })
        }

        fn put(&mut self, slices: Slices, owner: Option<Uuid>) {
            self.changes += 1;
            self.shares.insert(slices.first, (slices, owner, self.changes));
        }

        fn cut(&mut self, me: Uuid, whole: Slices, part: Slices) {
            if whole.first < part.first {
                self.put(Slices { last: part.first - 1, ..whole }, None);
            }
            self.put(part, Some(me));
            if part.last < whole.last {
                self.put(Slices { first: part.last + 1, ..whole }, None);
            }
        }

        /// As a keeper does it: on what was seen; a share that has changed since refuses it.
        fn act(&mut self, me: Uuid, before: &Self, action: Action) {
            let (Action::Claim { first, .. }
            | Action::Free { first }
            | Action::Keep { first, .. }
            | Action::Split { first, .. }
            | Action::Merge { first, .. }) = action;
            let Some((slices, owner, _)) = self.shares.get(&first).copied() else { return };
            if self.shares[&first] != before.shares[&first] {
                return;
            }
            match action {
                Action::Claim { part, .. } => {
                    self.moved += u32::from(part.count());
                    self.cut(me, slices, part);
                }
                _ if owner != Some(me) => panic!("{action:?} of {me} with what {owner:?} has"),
                Action::Free { .. } => self.put(slices, None),
                Action::Keep { part, .. } => self.cut(me, slices, part),
                Action::Split { count, .. } => {
                    let (low, high) = slices.split(count).unwrap();
                    self.put(low, owner);
                    self.put(high, owner);
                }
                Action::Merge { next, .. } => {
                    if self.shares.get(&next) == before.shares.get(&next) {
                        let last = self.shares.remove(&next).unwrap().0.last;
                        self.put(Slices { first, last }, owner);
                    }
                }
            }
        }

        fn step(&mut self, me: Uuid, alive: &Nodes, workers: usize) -> bool {
            let before = self.clone();
            let actions = before.plan(me, alive, workers);
            actions.iter().for_each(|action| self.act(me, &before, *action));
            self.assert_whole();
            !actions.is_empty()
        }

        fn assert_whole(&self) {
            let mut next = 0;
            for (slices, ..) in self.shares.values() {
                assert_eq!(slices.first, next, "every slice is in exactly one range: {self:?}");
                next = slices.last + 1;
            }
            assert_eq!(next, SLICES);
        }

        /// Until no node does anything any more: then each has one interval, as large as the others', in as many shares
        /// as it works on at once.
        fn rest(&mut self, alive: &Nodes, workers: usize) {
            let acts = |world: &mut Self| alive.iter().filter(|me| world.step(**me, alive, workers)).count();
            let rounds = (0..200).take_while(|_| acts(self) > 0).count();
            assert!(rounds < 200, "it does not come to rest: {self:?}");
            let fair = SLICES / u16::try_from(alive.len()).unwrap();
            for me in alive {
                let own = self.shares.values().filter(|(_, owner, _)| *owner == Some(*me));
                let own: Vec<Slices> = own.map(|(slices, ..)| *slices).collect();
                let count: u16 = own.iter().map(|slices| slices.count()).sum();
                assert!(count == fair || count == fair + 1, "{me} has {count} of {fair}: {self:?}");
                assert!(own.windows(2).all(|two| two[0].last + 1 == two[1].first), "{me} has {own:?}");
                assert_eq!(own.len(), workers, "{me} has {own:?}");
            }
            assert_eq!(self.shares.len(), alive.len() * workers, "nobody else has any: {self:?}");
        }
    }

    const fn seen(slices: Slices, owner: Option<Uuid>) -> Seen {
        Seen { slices, owner, merges: true, waited: false, kept: false }
    }

    /// P5, P6: whatever nodes come and go, every slice has one owner in the end, and every node a fair share.
    #[test]
    fn nodes_that_come_and_go_share_all_slices() {
        for seed in 0..100 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut world = World::new();
            let mut alive = nodes(1);
            let workers = rng.random_range(1..4);
            for _ in 0..12 {
                let n = node(rng.random_range(0..7));
                if !alive.remove(&n) || alive.is_empty() {
                    alive.insert(n);
                }
                // They do not wait for each other, and act in any order.
                for _ in 0..rng.random_range(0..40) {
                    let me = *alive.iter().nth(rng.random_range(0..alive.len())).unwrap();
                    world.step(me, &alive, workers);
                }
                if rng.random_bool(0.7) {
                    world.rest(&alive, workers);
                }
            }
            world.rest(&alive, workers);
        }
    }

    /// P5, P6: also while some see an older state than others, and other nodes.
    #[test]
    fn nodes_that_see_an_older_state_share_all_slices_once_they_see_the_same() {
        for seed in 0..100 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut world = World::new();
            let workers = rng.random_range(1..3);
            let mut alive = nodes(rng.random_range(1..8));
            let mut past: VecDeque<(World, Nodes)> = VecDeque::new();
            for _ in 0..150 {
                if rng.random_bool(0.1) {
                    let n = node(rng.random_range(0..8));
                    if !alive.remove(&n) || alive.is_empty() {
                        alive.insert(n);
                    }
                }
                past.push_front((world.clone(), alive.clone()));
                past.truncate(12);
                let (before, others) = &past[rng.random_range(0..past.len())];
                let me = *alive.iter().nth(rng.random_range(0..alive.len())).unwrap();
                // A node always knows of itself.
                let others = &others.iter().copied().chain([me]).collect();
                for action in before.plan(me, others, workers) {
                    world.act(me, before, action);
                    world.assert_whole();
                }
            }
            world.rest(&alive, workers);
        }
    }

    /// P6: a node replaced after the other, again and again, leaves no more shares than are worked on.
    #[test]
    fn rolling_deploys_leave_one_interval_to_each_node() {
        for (n, workers) in [(3, 1), (3, 2), (10, 1), (20, 1)] {
            for others_act_between in [true, false] {
                let (mut world, mut alive) = (World::new(), nodes(n));
                world.rest(&alive, workers);
                for old in 0..n * 2 {
                    assert!(alive.remove(&node(old)));
                    if others_act_between {
                        world.rest(&alive, workers);
                    }
                    alive.insert(node(old + n));
                    let before = world.moved;
                    world.rest(&alive, workers);
                    let moved = world.moved - before;
                    let place = u32::from(SLICES / u16::from(n)) + 1;
                    assert!(others_act_between || moved <= place, "it takes the place: {moved} moved");
                }
            }
        }
    }

    /// P6: a newcomer cannot have one interval unless others move a little. The least of that is a quarter of all slices,
    /// where the newcomer comes to stand in the middle; at the end it would be half of them.
    #[test]
    fn a_newcomer_moves_no_more_than_it_must() {
        for n in [1, 2, 3, 4, 9, 10, 19, 20, 49] {
            let (mut world, alive, more) = (World::new(), nodes(n), nodes(n + 1));
            world.rest(&alive, 1);
            let before = std::mem::take(&mut world.moved);
            assert_eq!(before, u32::from(SLICES), "each was claimed once");
            world.rest(&more, 1);
            let (moved, n) = (world.moved, u32::from(n) + 1);
            assert!(moved <= u32::from(SLICES) / 4 + u32::from(SLICES) / n + n, "{moved} moved for {n}");
            assert!(n > 10 || moved <= 3 * u32::from(SLICES) / n, "{moved} moved for {n}");
        }
    }

    /// It takes every node one round to free and one to claim, and others need not look on.
    #[test]
    fn what_is_to_be_had_stays_the_same_while_it_moves() {
        let (mut world, alive) = (World::new(), nodes(9));
        world.rest(&alive, 1);
        let alive: Nodes = alive.into_iter().filter(|n| *n != node(2)).chain([node(20), node(21)]).collect();
        let target = spread(&world.seen(&alive), &alive);
        for _ in 0..3 {
            for me in alive.iter().rev() {
                world.step(*me, &alive, 1);
                assert_eq!(spread(&world.seen(&alive), &alive), target);
            }
        }
        let held = world.shares.values().map(|(slices, owner, _)| (owner.unwrap(), *slices));
        assert_eq!(held.collect::<BTreeMap<_, _>>(), target);
    }

    #[test]
    fn the_best_of_all_matchings_is_found() {
        fn best(n: usize, values: &[i64], row: usize, used: &mut Vec<usize>) -> i64 {
            let mut most = if row == n { 0 } else { i64::MIN };
            for column in (0..n).filter(|_| row < n) {
                if !used.contains(&column) {
                    used.push(column);
                    most = most.max(values[row * n + column] + best(n, values, row + 1, used));
                    used.pop();
                }
            }
            most
        }
        let mut rng = StdRng::seed_from_u64(7);
        for n in (0..7).cycle().take(200) {
            let values: Vec<i64> = (0..n * n).map(|_| rng.random_range(0..20)).collect();
            let found = matching(n, &values);
            assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), n, "no two the same");
            let sum: i64 = found.iter().enumerate().map(|(row, column)| values[row * n + column]).sum();
            assert_eq!(sum, best(n, &values, 0, &mut Vec::new()));
        }
    }

    #[test]
    fn more_nodes_than_slices_is_no_mistake() {
        for n in [1_023_u16, 1_024, 1_025] {
            let members: Nodes = (0..n).map(|n| Uuid::from_u128(n.into())).collect();
            let n = u32::from(n.min(SLICES));
            let whole: Vec<Seen> = members
                .iter()
                .zip(intervals(n.try_into().unwrap()))
                .map(|(node, slices)| seen(slices, Some(*node)))
                .collect();
            let counts = spread(&whole, &members).into_values().map(|slices| u32::from(slices.count()));
            assert_eq!(counts.sum::<u32>(), u32::from(SLICES));
        }
        assert_eq!(spread(&[seen(Slices::ALL, None)], &Nodes::new()), BTreeMap::new());
    }

    const ME: Uuid = node(1);
    const OTHER: Uuid = node(2);

    const fn by_slices(own: Slices, workers: usize) -> Rule {
        Rule::Slices { own: Some(own), workers }
    }

    const fn range(first: u16, last: u16) -> Slices {
        Slices { first, last }
    }

    #[test]
    fn a_node_at_rest_does_nothing() {
        assert_eq!(plan(&[seen(Slices::ALL, Some(ME))], ME, by_slices(Slices::ALL, 1)), []);
        let (low, high) = Slices::ALL.split(512).unwrap();
        assert_eq!(plan(&[seen(low, Some(ME)), seen(high, Some(OTHER))], ME, by_slices(low, 1)), []);
    }

    #[test]
    fn both_ends_of_a_share_are_freed_and_the_middle_of_a_free_one_is_claimed() {
        let middle = range(300, 600);
        let own = by_slices(middle, 1);
        let act = |owner| plan(&[seen(Slices::ALL, owner)], ME, own);
        assert_eq!(act(Some(ME)), [Action::Keep { first: 0, part: middle }]);
        assert_eq!(act(None), [Action::Claim { first: 0, part: middle }]);
        assert_eq!(act(Some(OTHER)), []);
        let low = seen(range(0, 299), Some(ME));
        let high = seen(range(300, 1_023), None);
        let claim = Action::Claim { first: 300, part: middle };
        assert_eq!(plan(&[low, high], ME, own), [Action::Free { first: 0 }, claim]);
        let nothing = Rule::Slices { own: None, workers: 1 };
        assert_eq!(plan(&[low, high], ME, nothing), [Action::Free { first: 0 }]);
    }

    #[test]
    fn what_nobody_comes_for_is_claimed_by_anybody_and_kept_for_a_while() {
        let (low, high) = Slices::ALL.split(512).unwrap();
        let mut shares = [seen(low, Some(ME)), seen(high, None)];
        assert_eq!(plan(&shares, ME, by_slices(low, 1)), []);
        shares[1].waited = true;
        assert_eq!(plan(&shares, ME, by_slices(low, 1)), [Action::Claim { first: 512, part: high }]);
        shares[1] = Seen { kept: true, ..seen(high, Some(ME)) };
        assert_eq!(plan(&shares, ME, by_slices(low, 1)), []);
        shares[1].kept = false;
        assert_eq!(plan(&shares, ME, by_slices(low, 1)), [Action::Free { first: 512 }]);
    }

    #[test]
    fn what_does_not_split_is_claimed_by_the_node_that_it_falls_to() {
        let seen = |owner, waited| [Seen { merges: false, waited, ..seen(Slices::ALL, owner) }];
        let whole = |mine| Rule::Whole { mine };
        let claim = [Action::Claim { first: 0, part: Slices::ALL }];
        assert_eq!(plan(&seen(None, false), ME, whole(true)), claim);
        assert_eq!(plan(&seen(None, false), ME, whole(false)), []);
        assert_eq!(plan(&seen(None, true), ME, whole(false)), claim);
        assert_eq!(plan(&seen(Some(ME), false), ME, whole(true)), []);
        assert_eq!(plan(&seen(Some(ME), false), ME, whole(false)), [Action::Free { first: 0 }]);
        assert_eq!(plan(&seen(Some(OTHER), true), ME, whole(true)), []);
    }

    #[test]
    fn neighbours_merge_only_if_they_can() {
        let (low, high) = Slices::ALL.split(512).unwrap();
        let own = |slices, merges| Seen { merges, ..seen(slices, Some(ME)) };
        let plan = |shares: &[Seen], workers| plan(shares, ME, by_slices(Slices::ALL, workers));
        assert_eq!(plan(&[own(low, false), own(high, false)], 1), []);
        let both = [own(low, true), own(high, false)];
        assert_eq!(plan(&both, 1), [Action::Merge { first: 0, next: 512 }]);
        assert_eq!(plan(&both, 2), []);
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
                    let mine = assign(&seen).get(names[i]) == Some(&me);
                    let share = Seen { merges: false, ..tests::seen(Slices::ALL, seen[i].holder) };
                    match plan(&[share], me, Rule::Whole { mine })[..] {
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
