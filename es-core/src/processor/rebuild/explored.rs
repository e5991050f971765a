//! Every way through the protocol of a rebuild, with several nodes, crashes, lost answers and late writes.
//!
//! A model of `protocol`: nodes read the row of the builds and write it over what they read, in the steps of the protocol
//! and in any order. Revisions never come again, so what a node has read is either what is there, or makes its write fail.
//! Time is whether that of the freeze is over; a build has come from 0 to [`HEAD`].

use std::collections::{BTreeSet, HashSet};

use super::generations::{Change, Refused};
use crate::clock::Timestamp;
use crate::state::{Building, Freeze, Generations};
use crate::store::{Generation, Position};
use uuid::Uuid;

/// How far builds can come.
const HEAD: u8 = 1;
/// How many numbers are given out at most.
const LAST: Generation = 3;
const NODES: usize = 2;

/// Where a node is in the protocol. `fresh`: the row is as it has read it; `late`: the time that it goes by is over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Idle,
    /// Begins a build, once the tables of this number are there.
    Begin {
        tables: Option<Generation>,
        fresh: bool,
    },
    Freeze {
        to: Generation,
        by: u128,
        late: bool,
        fresh: bool,
    },
    Interrupt {
        to: Generation,
        by: u128,
        old: Generation,
    },
    /// Waits until the build is as far as the old one was then.
    Wait {
        to: Generation,
        by: u128,
        total: u8,
    },
    Switch {
        to: Generation,
        by: u128,
        fresh: bool,
    },
    /// Holds two builds, for a comparison.
    Hold {
        other: Generation,
        by: u128,
        late: bool,
        fresh: bool,
    },
    Stop {
        by: u128,
        both: [Generation; 2],
        stopped: usize,
    },
    Bound {
        by: u128,
        both: [Generation; 2],
        at: u8,
        fresh: bool,
    },
    /// Waits until both are there, and takes the snapshot.
    Meet {
        by: u128,
        both: [Generation; 2],
        at: u8,
    },
    Thaw {
        by: u128,
        fresh: bool,
    },
    Drop {
        generation: Generation,
        fresh: bool,
    },
    Left {
        generation: Generation,
        fresh: bool,
    },
    Expire {
        late: bool,
        fresh: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    row: Generations,
    /// Whether the time of the freeze is over.
    late: bool,
    /// Whether the shares of the build that is read, and of the one that is under way, were moved since they were frozen.
    interrupted: [bool; 2],
    /// How far each number has come that has tables; the rest of its workers may still be at it.
    at: [Option<u8>; LAST as usize + 1],
    nodes: [Step; NODES],
    /// A write whose sender knows nothing of it any more, if nothing else has been written since.
    on_its_way: Option<Step>,
    /// How many numbers are given out.
    last: Generation,
    /// Whether writes may come late.
    loses: bool,
}

fn building() -> Building {
    Building::new(Position(0), Timestamp::UNIX_EPOCH)
}

fn now(late: bool) -> i64 {
    if late { 2 } else { 0 }
}

fn freeze(by: u128, holds: bool) -> Freeze {
    Freeze { until: Some(1), by: Some(Uuid::from_u128(by)), holds, at: None }
}

/// The change that a step writes.
fn change(step: &Step) -> Option<Change> {
    Some(match *step {
        Step::Begin { tables: Some(_), .. } => Change::Begin(building()),
        Step::Freeze { by, .. } => Change::Freeze(freeze(by, false)),
        Step::Hold { by, .. } => Change::Freeze(freeze(by, true)),
        Step::Bound { by, at, .. } => Change::Bound { by: Uuid::from_u128(by), at: Position(at.into()) },
        Step::Switch { to, by, .. } => Change::Switch { to, by: Uuid::from_u128(by) },
        Step::Thaw { by, .. } => Change::Thaw { by: Uuid::from_u128(by) },
        Step::Drop { generation, .. } => Change::Drop(generation),
        Step::Left { generation, .. } => Change::Left(generation),
        Step::Expire { late, .. } => Change::Expire { now: now(late) },
        _ => return None,
    })
}

fn fresh(step: &mut Step) -> Option<&mut bool> {
    match step {
        Step::Begin { fresh, .. }
        | Step::Freeze { fresh, .. }
        | Step::Hold { fresh, .. }
        | Step::Bound { fresh, .. }
        | Step::Switch { fresh, .. }
        | Step::Thaw { fresh, .. }
        | Step::Drop { fresh, .. }
        | Step::Left { fresh, .. }
        | Step::Expire { fresh, .. } => Some(fresh),
        Step::Idle | Step::Interrupt { .. } | Step::Wait { .. } | Step::Stop { .. } | Step::Meet { .. } => {
            None
        }
    }
}

fn by(step: &mut Step) -> Option<&mut u128> {
    match step {
        Step::Freeze { by, .. }
        | Step::Interrupt { by, .. }
        | Step::Wait { by, .. }
        | Step::Switch { by, .. }
        | Step::Hold { by, .. }
        | Step::Stop { by, .. }
        | Step::Bound { by, .. }
        | Step::Meet { by, .. }
        | Step::Thaw { by, .. } => Some(by),
        _ => None,
    }
}

/// What follows a step that could not be taken.
fn failed(step: &Step) -> Step {
    match *step {
        Step::Freeze { by, .. }
        | Step::Interrupt { by, .. }
        | Step::Wait { by, .. }
        | Step::Hold { by, .. }
        | Step::Stop { by, .. }
        | Step::Bound { by, .. }
        | Step::Meet { by, .. }
        | Step::Switch { by, .. } => Step::Thaw { by, fresh: false },
        _ => Step::Idle,
    }
}

impl World {
    fn new(last: Generation, loses: bool) -> Self {
        let row = Generations::default();
        let nodes = std::array::from_fn(|_| Step::Idle);
        let at = std::array::from_fn(|generation| (generation == 1).then_some(0));
        Self { row, late: false, interrupted: [false; 2], at, nodes, on_its_way: None, last, loses }
    }

    fn at(&self, generation: Generation) -> Option<u8> {
        self.at[generation as usize]
    }

    /// The write of a step that has read the row as it is.
    fn write(&self, step: &Step) -> Result<Self, Refused> {
        let change = change(step).expect("it writes");
        let row = self.row.apply(change)?;
        let mut next = self.clone();
        self.check(&row, step);
        if row.freeze.by != self.row.freeze.by {
            next.interrupted = [false; 2];
            next.late = matches!(step, Step::Freeze { late: true, .. } | Step::Hold { late: true, .. });
        }
        if let Step::Left { generation, .. } = step {
            next.at[*generation as usize] = None;
        }
        for node in &mut next.nodes {
            if let (Step::Expire { late, .. }, Step::Freeze { .. } | Step::Hold { .. }) = (&mut *node, step) {
                // The time that it has seen is before the one until which is frozen now.
                *late = false;
            }
            fresh(node).into_iter().for_each(|fresh| *fresh = false);
        }
        next.on_its_way = None;
        next.row = row;
        Ok(next)
    }

    /// What has to hold of each change.
    fn check(&self, row: &Generations, step: &Step) {
        if row.current != self.row.current {
            let Step::Switch { to, by, .. } = *step else { panic!("{step:?} switched {self:?}") };
            assert_eq!(row.current, to);
            let frozen = self.row.freeze.until.is_some() && !self.row.freeze.holds;
            let own = frozen && self.row.freeze.by == Some(Uuid::from_u128(by));
            assert!(own, "switched under the freeze of another: {self:?}");
            assert!(self.at(to) >= self.at(self.row.current), "queries would read less: {self:?}");
        }
        if row.last != self.row.last {
            let new = row.building.as_ref().map(|building| building.generation);
            assert_eq!((row.last, new), (self.row.last + 1, Some(row.last)), "no number twice: {self:?}");
            assert!(!self.row.all().contains(&row.last) && !self.row.leaving.contains(&row.last));
            assert_eq!(self.at(row.last), Some(0), "it begins with nothing: {self:?}");
        }
    }

    /// What has to hold at any time.
    fn holds(&self) {
        for step in &self.nodes {
            let &Step::Meet { by, both, at } = step else { continue };
            // What is compared while the hold is there, is at one position, or comes to it: neither is further.
            let own = self.row.freeze.by == Some(Uuid::from_u128(by));
            let further = both.iter().any(|generation| self.at(*generation) > Some(at));
            // One that was given up meanwhile is not compared any more.
            let own = own && both.iter().all(|generation| self.row.all().contains(generation));
            assert!(!own || !further, "held at {at}: {self:?}");
        }
        let mut all = [self.row.all(), self.row.leaving.clone()].concat();
        for generation in self.row.all() {
            assert!(self.at(generation).is_some(), "{generation} has no tables: {self:?}");
        }
        let builds = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), builds, "a build is one thing at a time: {self:?}");
        assert!(all.iter().all(|generation| *generation <= self.row.last), "{self:?}");
        let stands = self.row.freeze.until.is_some() && self.row.freeze.at.is_none();
        assert!(self.row.role("p", self.row.current).is_some() != stands);
        if self.row.freeze.until.is_some() {
            // If every node is gone, the next one that looks ends it.
            let thawed = self.row.apply(Change::Expire { now: now(true) }).expect("its time is over");
            assert!(thawed.role("p", thawed.current).is_some(), "frozen for ever: {self:?}");
        }
    }

    /// Nodes are alike, and so are the names of switches, and the order in which builds leave.
    fn normalize(&mut self) {
        self.row.leaving.sort_unstable();
        let mut names = Vec::from_iter(self.row.freeze.by.map(|by| by.as_u128()));
        self.nodes.sort_by_key(|step| {
            let mut step = step.clone();
            by(&mut step).into_iter().for_each(|by| *by = u128::from(!names.contains(by)));
            step
        });
        for by in self.nodes.iter_mut().chain(&mut self.on_its_way).filter_map(by) {
            let known = names.iter().position(|name| name == by);
            *by = 1 + known.unwrap_or_else(|| {
                names.push(*by);
                names.len() - 1
            }) as u128;
        }
        let by = self.row.freeze.by.map(|_| Uuid::from_u128(1));
        self.row.freeze.by = by;
    }

    fn with(&self, node: usize, step: Step) -> Self {
        let mut next = self.clone();
        next.nodes[node] = step;
        next
    }

    /// Every state that can come next.
    fn next(&self) -> Vec<Self> {
        let mut all: Vec<Self> = (1..=self.last).filter_map(|generation| self.work(generation)).collect();
        all.extend(self.time_passes());
        if let Some(step) = &self.on_its_way {
            all.extend(self.write(step));
            all.push(Self { on_its_way: None, ..self.clone() });
        }
        for node in 0..NODES {
            self.step(node, &mut all);
        }
        all
    }

    /// The time of the freeze is over, and of those that nodes are about to ask for.
    fn time_passes(&self) -> Option<Self> {
        let mut next = Self { late: self.row.freeze.until.is_some(), ..self.clone() };
        for step in next.nodes.iter_mut().chain(&mut next.on_its_way) {
            if let Step::Freeze { late, .. } | Step::Hold { late, .. } = step {
                *late = true;
            }
        }
        (next != *self).then_some(next)
    }

    /// A worker flushes: also one that does not know yet that its build is none any more.
    fn work(&self, generation: Generation) -> Option<Self> {
        // Its shares come and go with it.
        let shares = self.row.all().contains(&generation) || self.row.leaving.contains(&generation);
        let at = self.at(generation).filter(|_| shares)?;
        let under_way = self.row.building.as_ref().is_some_and(|building| building.generation == generation);
        let interrupted = match generation == self.row.current {
            true => self.interrupted[0],
            false => under_way && self.row.freeze.holds && self.interrupted[1],
        };
        // A worker that begins after that knows how far it may go.
        let held = self.row.freeze.at.filter(|_| interrupted);
        let fenced = interrupted && self.row.freeze.until.is_some() && held.is_none();
        let current = self.at(self.row.current).expect("it is read");
        let bound = match held {
            Some(at) => u8::try_from(at.0).expect("a small number"),
            None if Some(generation) == self.row.previous => current,
            None => HEAD,
        };
        let mut next = self.clone();
        next.at[generation as usize] = Some(at + 1);
        (!fenced && at < bound).then_some(next)
    }

    fn step(&self, node: usize, all: &mut Vec<Self>) {
        let step = &self.nodes[node];
        if *step == Step::Idle {
            return self.begin(node, all);
        }
        // It fails for another reason, or its node ends.
        all.extend([failed(step), Step::Idle].map(|step| self.with(node, step)));
        match *step {
            Step::Interrupt { to, by, old } => {
                let mut next = self.clone();
                // The shares of a build are moved whatever it is by now; only that of the one that is read matters.
                next.interrupted[0] |= old == self.row.current && self.row.freeze.until.is_some();
                let total = self.at(old).unwrap_or_default();
                next.nodes[node] = Step::Wait { to, by, total };
                all.push(next);
            }
            Step::Wait { to, by, total } if self.at(to).unwrap_or_default() >= total => {
                all.push(self.with(node, Step::Switch { to, by, fresh: false }));
            }
            Step::Stop { by, both, stopped } => {
                let mut next = self.clone();
                let is_held = self.row.freeze.until.is_some();
                let is_known = stopped == 1 || both[0] == self.row.current;
                next.interrupted[stopped] |= is_held && is_known;
                let at = both.map(|generation| self.at(generation).unwrap_or_default());
                let at = at.into_iter().max().unwrap_or_default();
                next.nodes[node] = match stopped {
                    0 => Step::Stop { by, both, stopped: 1 },
                    // Positions are read once both have stopped.
                    _ => Step::Bound { by, both, at, fresh: false },
                };
                all.push(next);
            }
            Step::Meet { by, both, at } if both.iter().all(|generation| self.at(*generation) == Some(at)) => {
                all.push(self.with(node, Step::Thaw { by, fresh: false }));
            }
            Step::Wait { .. } | Step::Idle | Step::Meet { .. } => {}
            _ => self.try_write(node, all),
        }
    }

    /// What a node may be asked for.
    fn begin(&self, node: usize, all: &mut Vec<Self>) {
        if self.row.last < self.last {
            all.push(self.with(node, Step::Begin { tables: None, fresh: false }));
        }
        let Generations { building, previous, leaving, .. } = &self.row;
        let other = building.as_ref().map(|building| building.generation).or(*previous);
        if let Some(to) = other {
            // No other has this name.
            all.push(self.with(node, Step::Freeze { to, by: u128::MAX, late: false, fresh: false }));
        }
        if let Some(building) = building {
            let (other, by) = (building.generation, u128::MAX);
            all.push(self.with(node, Step::Hold { other, by, late: false, fresh: false }));
        }
        for generation in other.iter().chain(leaving) {
            all.push(self.with(node, Step::Drop { generation: *generation, fresh: false }));
        }
        if self.row.freeze.until.is_some() {
            all.push(self.with(node, Step::Expire { late: self.late, fresh: false }));
        }
    }

    /// Reads the row, if what was read is old, else writes it.
    fn try_write(&self, node: usize, all: &mut Vec<Self>) {
        let mut step = self.nodes[node].clone();
        if !*fresh(&mut step).expect("it reads and writes") {
            *fresh(&mut step).expect("it reads and writes") = true;
            match step {
                Step::Freeze { to: other, .. } | Step::Hold { other, .. }
                    if !self.row.all().contains(&other) =>
                {
                    step = failed(&step);
                }
                Step::Begin { ref mut tables, .. } => *tables = None,
                _ => {}
            }
            all.push(self.with(node, step));
            return;
        }
        if let Step::Begin { tables: None, fresh } = step {
            let number = self.row.last + 1;
            if self.row.apply(Change::Begin(building())).is_err() || number > self.last {
                all.push(self.with(node, Step::Idle));
                return;
            }
            let mut next = self.with(node, Step::Begin { tables: Some(number), fresh });
            next.at[number as usize].get_or_insert(0);
            all.push(next);
            return;
        }
        let after = match step {
            Step::Freeze { to, by, .. } => Step::Interrupt { to, by, old: self.row.current },
            Step::Hold { other, by, .. } => Step::Stop { by, both: [self.row.current, other], stopped: 0 },
            Step::Bound { by, both, at, .. } => Step::Meet { by, both, at },
            Step::Drop { generation, .. } => Step::Left { generation, fresh: false },
            _ => Step::Idle,
        };
        match self.write(&step) {
            Ok(next) => {
                // The answer comes, or is lost, or the write itself comes later, or never.
                all.extend([next.with(node, after), next.with(node, failed(&step))]);
                if self.loses && self.on_its_way.is_none() {
                    let mut next = self.with(node, failed(&step));
                    next.on_its_way = Some(step);
                    all.push(next);
                }
            }
            // What is left of a build that was dropped before goes all the same.
            Err(Refused::Dropped) if matches!(step, Step::Drop { .. }) => all.push(self.with(node, after)),
            Err(_) => all.push(self.with(node, failed(&step))),
        }
    }
}

/// Goes to every state that can be come by from the first one. Gives which builds were read and kept in any of them.
fn explore(first: World) -> BTreeSet<(Generation, Option<Generation>)> {
    let mut seen = HashSet::<World, foldhash::fast::FixedState>::default();
    let (mut left, mut read) = (vec![first], BTreeSet::new());
    while let Some(world) = left.pop() {
        for mut world in world.next() {
            world.normalize();
            if !seen.contains(&world) {
                world.holds();
                read.insert((world.row.current, world.row.previous));
                seen.insert(world.clone());
                left.push(world);
            }
        }
    }
    read
}

#[test]
fn no_way_through_rebuilds_leads_queries_astray() {
    let read = explore(World::new(LAST, false));
    let ways = [(1, None), (1, Some(2)), (1, Some(3)), (2, None), (2, Some(1)), (2, Some(3)), (3, None)];
    assert_eq!(read, BTreeSet::from_iter(ways.into_iter().chain([(3, Some(1)), (3, Some(2))])));
}

#[test]
fn no_late_write_of_a_switch_leads_queries_astray() {
    let read = explore(World::new(2, true));
    assert_eq!(read, BTreeSet::from([(1, None), (1, Some(2)), (2, None), (2, Some(1))]));
}
