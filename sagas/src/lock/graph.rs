//! Who waits for whom, and who gives way: pure.
//!
//! A run that waits needs all of those that it waits for to go. So wherever they wait for each other in a circle, none of them
//! goes on by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use uuid::Uuid;

/// Whom each run waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Graph(BTreeMap<Uuid, BTreeSet<Uuid>>);

/// A run that gives way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) run: Uuid,
    /// A circle that it is in, from whom it waits for to who waits for it.
    pub(super) with: Vec<Uuid>,
}

impl Graph {
    /// This one waits for that one.
    pub(super) fn waits(&mut self, run: Uuid, other: Uuid) {
        self.0.entry(run).or_default().insert(other);
    }

    /// Who gives way, so that no circle is left in which one of these runs is. Of each circle it is the youngest of those that
    /// may: ids of runs sort by their age. As few as that comes to: none that another one makes needless.
    pub(super) fn victims(&self, may: &BTreeSet<Uuid>) -> Vec<Victim> {
        let (mut left, mut victims) = (self.clone(), Vec::new());
        while let Some(run) = left.next_victim(may) {
            let with = left.circle(run);
            left.remove(run);
            victims.push(Victim { run, with });
        }
        // One that was first may be needless by those that came after it.
        let mut n = 0;
        while n < victims.len() {
            let mut without = self.clone();
            for (_, other) in victims.iter().enumerate().filter(|(of, _)| *of != n) {
                without.remove(other.run);
            }
            match without.next_victim(may) {
                None => drop(victims.remove(n)),
                Some(_) => n += 1,
            }
        }
        victims
    }

    /// As if it were gone.
    pub(super) fn remove(&mut self, run: Uuid) {
        self.0.remove(&run);
        self.0.values_mut().for_each(|others| others.retain(|other| *other != run));
    }

    /// The youngest of those that are in a circle and may give way.
    fn next_victim(&self, may: &BTreeSet<Uuid>) -> Option<Uuid> {
        may.iter().rev().find(|run| !self.circle(**run).is_empty()).copied()
    }

    /// A shortest circle that a run is in, from whom it waits for; empty if there is none.
    fn circle(&self, run: Uuid) -> Vec<Uuid> {
        let (mut came, mut next) = (BTreeMap::new(), VecDeque::from([run]));
        while let Some(at) = next.pop_front() {
            for other in self.0.get(&at).into_iter().flatten() {
                if *other == run {
                    return back(&came, at, run);
                }
                if !came.contains_key(other) {
                    came.insert(*other, at);
                    next.push_back(*other);
                }
            }
        }
        Vec::new()
    }
}

/// The way from a run to this one, without that run.
fn back(came: &BTreeMap<Uuid, Uuid>, mut at: Uuid, run: Uuid) -> Vec<Uuid> {
    let mut way = Vec::new();
    while at != run {
        way.push(at);
        match came.get(&at) {
            Some(before) => at = *before,
            None => break,
        }
    }
    way.reverse();
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128 + 1)
    }

    fn graph(edges: &[(usize, usize)]) -> Graph {
        let mut graph = Graph::default();
        edges.iter().for_each(|(run, other)| graph.waits(id(*run), id(*other)));
        graph
    }

    fn runs(all: impl IntoIterator<Item = usize>) -> BTreeSet<Uuid> {
        all.into_iter().map(id).collect()
    }

    fn victims(edges: &[(usize, usize)]) -> Vec<usize> {
        let victims = graph(edges).victims(&runs(0..9));
        victims.iter().map(|victim| usize::try_from(victim.run.as_u128()).unwrap() - 1).collect()
    }

    #[test]
    fn the_youngest_of_a_circle_gives_way() {
        assert_eq!(victims(&[(0, 1), (1, 2)]), [0; 0]);
        assert_eq!(victims(&[(0, 1), (1, 0)]), [1]);
        assert_eq!(victims(&[(0, 1), (1, 2), (2, 0), (3, 0)]), [2]);
        // Two that have nothing to do with each other.
        assert_eq!(victims(&[(0, 1), (1, 0), (2, 3), (3, 2)]), [3, 1]);
        // It says with whom.
        let victims = graph(&[(0, 1), (1, 2), (2, 0)]).victims(&runs(0..3));
        assert_eq!(victims, [Victim { run: id(2), with: vec![id(0), id(1)] }]);
        // Of those that may.
        let victims = graph(&[(0, 1), (1, 0)]).victims(&runs([0]));
        assert_eq!(victims, [Victim { run: id(0), with: vec![id(1)] }]);
        assert!(graph(&[(0, 1), (1, 0)]).victims(&runs([5])).is_empty());
    }

    #[test]
    fn one_that_gives_way_for_two_circles_is_enough() {
        // 3 is the youngest of one circle, and 2 of the other one, which is in both.
        assert_eq!(victims(&[(2, 3), (3, 2), (2, 0), (0, 2)]), [2]);
    }

    /// All circles through different runs, by trying all ways.
    fn circles(edges: &BTreeSet<(usize, usize)>, n: usize) -> Vec<BTreeSet<usize>> {
        fn go(
            edges: &BTreeSet<(usize, usize)>,
            way: &mut Vec<usize>,
            n: usize,
            all: &mut Vec<BTreeSet<usize>>,
        ) {
            let (first, last) = (way[0], way[way.len() - 1]);
            if edges.contains(&(last, first)) {
                all.push(way.iter().copied().collect());
            }
            for next in first + 1..n {
                if edges.contains(&(last, next)) && !way.contains(&next) {
                    way.push(next);
                    go(edges, way, n, all);
                    way.pop();
                }
            }
        }
        let mut all = Vec::new();
        (0..n).for_each(|first| go(edges, &mut vec![first], n, &mut all));
        all
    }

    #[test]
    fn it_agrees_with_whoever_tries_all_ways() {
        let mut seed = 7_u64;
        let mut chance = |of: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % of
        };
        let mut with_circles = 0;
        for _ in 0..4_000 {
            let n = 2 + usize::try_from(chance(5)).unwrap();
            let dense = 1 + chance(4);
            let mut edges = BTreeSet::new();
            for run in 0..n {
                edges.extend(
                    (0..n).filter(|other| run != *other && chance(5) < dense).map(|other| (run, other)),
                );
            }
            let may: BTreeSet<usize> = (0..n).filter(|_| chance(5) > 0).collect();
            let edges_of: Vec<_> = edges.iter().copied().collect();
            let victims = graph(&edges_of).victims(&runs(may.iter().copied()));
            let chosen: BTreeSet<usize> =
                victims.iter().map(|victim| usize::try_from(victim.run.as_u128()).unwrap() - 1).collect();
            let all = circles(&edges, n);
            with_circles += usize::from(!all.is_empty());
            let breakable: Vec<_> = all.iter().filter(|circle| !circle.is_disjoint(&may)).collect();
            assert!(
                breakable.iter().all(|circle| !circle.is_disjoint(&chosen)),
                "a circle is left: {edges:?}"
            );
            assert!(chosen.is_subset(&may), "one gives way that may not: {edges:?}");
            for one in &chosen {
                let is_alone = |circle: &&BTreeSet<usize>| {
                    circle.contains(one) && circle.iter().all(|of| of == one || !chosen.contains(of))
                };
                assert!(breakable.iter().any(is_alone), "{one} is needless: {edges:?}");
                let is_youngest = |circle: &&BTreeSet<usize>| circle.intersection(&may).max() == Some(one);
                assert!(breakable.iter().any(is_youngest), "{one} is nowhere the youngest: {edges:?}");
            }
            for Victim { run, with } in &victims {
                let way: Vec<Uuid> =
                    std::iter::once(*run).chain(with.iter().copied()).chain([*run]).collect();
                let index = |id: &Uuid| usize::try_from(id.as_u128()).unwrap() - 1;
                let waits = |two: &[Uuid]| edges.contains(&(index(&two[0]), index(&two[1])));
                assert!(way.windows(2).all(waits), "{way:?} is no circle: {edges:?}");
            }
        }
        assert!(with_circles > 1_000, "{with_circles}");
    }
}
