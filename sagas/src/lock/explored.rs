//! Every state of one lock, with three runs that take it in either mode, leave it, and may be gone at any time.

use std::collections::{BTreeMap, BTreeSet};

use es_core::Timestamp;
use uuid::Uuid;

use super::row::{Lock, LockMode, LockRefused};
use crate::transaction::Kin;

const RUNS: u128 = 3;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    /// It has not asked.
    Outside,
    Waits(LockMode),
    Holds(LockMode),
    /// It has left, and is not back again.
    Left,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Who comes later does not wait behind those who do.
    Overtakes,
    /// Who leaves the queue lets nobody in.
    ForgetsTheNext,
}

/// The lock, what each run knows, and in which order they came.
#[derive(Clone, Debug)]
struct World {
    lock: Lock,
    runs: BTreeMap<Uuid, Is>,
    came: Vec<Uuid>,
}

fn at() -> Timestamp {
    Timestamp::from_second(10).unwrap()
}

fn kin(run: Uuid) -> Kin {
    Kin { saga: "sale".to_owned(), version: 1, key: run.to_string(), run }
}

fn explore(fault: Fault) -> Result<usize, String> {
    let runs: Vec<Uuid> = (1..=RUNS).map(Uuid::from_u128).collect();
    let outside = runs.iter().map(|run| (*run, Is::Outside)).collect();
    let mut left = vec![World { lock: Lock::free("seat".to_owned()), runs: outside, came: Vec::new() }];
    let mut seen = BTreeSet::new();
    while let Some(world) = left.pop() {
        if !seen.insert(format!("{world:?}")) {
            continue;
        }
        holds(&world).map_err(|why| format!("{why}: {world:#?}"))?;
        for run in &runs {
            for mode in [LockMode::Shared, LockMode::Exclusive] {
                left.extend(takes(&world, *run, mode, fault)?);
            }
            left.extend(leaves(&world, *run, fault));
        }
    }
    Ok(seen.len())
}

fn takes(world: &World, run: Uuid, mode: LockMode, fault: Fault) -> Result<Option<World>, String> {
    let (mut then, was) = (world.clone(), world.runs[&run]);
    if fault == Fault::Overtakes {
        let queue = std::mem::take(&mut then.lock.queue);
        let taken = then.lock.take(&kin(run), mode, at());
        let own = std::mem::replace(&mut then.lock.queue, queue);
        then.lock.queue.extend(own);
        return Ok(was_outside(was, taken).map(|held| then.now(run, mode, held)));
    }
    match (was, then.lock.take(&kin(run), mode, at())) {
        (Is::Left, _) => Ok(None),
        (Is::Outside, Ok(held)) => Ok(Some(then.now(run, mode, held))),
        (Is::Outside, Err(why)) => Err(format!("it is refused to one that is new: {why}")),
        // What it has, or waits for, in a mode that is enough.
        (Is::Holds(has), Ok(true)) | (Is::Waits(has), Ok(false))
            if has >= mode && then.lock == world.lock =>
        {
            Ok(None)
        }
        (Is::Holds(has) | Is::Waits(has), Err(LockRefused::Upgrade { .. }))
            if has < mode && then.lock == world.lock =>
        {
            Ok(None)
        }
        (was, taken) => Err(format!("{was:?} takes it once more, {mode}: {taken:?}")),
    }
}

fn was_outside(was: Is, taken: Result<bool, LockRefused>) -> Option<bool> {
    taken.ok().filter(|_| was == Is::Outside)
}

impl World {
    fn now(mut self, run: Uuid, mode: LockMode, held: bool) -> Self {
        self.runs.insert(run, if held { Is::Holds(mode) } else { Is::Waits(mode) });
        self.came.push(run);
        self
    }
}

/// Also of one that is gone: whoever sees that has it leave.
fn leaves(world: &World, run: Uuid, fault: Fault) -> Option<World> {
    let mut then = world.clone();
    match (fault, then.lock.waiter(run).is_some()) {
        (Fault::ForgetsTheNext, true) => then.lock.queue.retain(|entry| entry.of.run != run),
        _ => {
            for next in then.lock.leave(run, at()) {
                let Is::Waits(mode) = then.runs[&next.run] else { panic!("{next} did not wait") };
                then.runs.insert(next.run, Is::Holds(mode));
            }
        }
    }
    if matches!(then.runs[&run], Is::Outside | Is::Left) {
        assert_eq!(then.lock, world.lock, "one leaves that was not there");
        return None;
    }
    then.runs.insert(run, Is::Left);
    then.came.retain(|of| *of != run);
    Some(then)
}

fn holds(world: &World) -> Result<(), String> {
    let World { lock, runs, came } = world;
    let held: Vec<LockMode> = lock.holders.iter().map(|entry| entry.mode).collect();
    if held.contains(&LockMode::Exclusive) && held.len() > 1 {
        return Err("it is exclusive, and another one has it".to_owned());
    }
    if lock.holders.is_empty() && !lock.queue.is_empty() {
        return Err("nobody has it, and one waits".to_owned());
    }
    for (run, is) in runs {
        let stands = match (lock.holder(*run), lock.waiter(*run)) {
            (Some(entry), None) => Is::Holds(entry.mode),
            (None, Some(entry)) => Is::Waits(entry.mode),
            (None, None) if *is == Is::Left => Is::Left,
            (None, None) => Is::Outside,
            (Some(_), Some(_)) => return Err("it has it, and waits".to_owned()),
        };
        if stands != *is {
            return Err(format!("{run} is {is:?}, and stands as {stands:?}"));
        }
    }
    // In the order in which they came: whoever waits, waits for one that came before, and for none that came later.
    let place = |run: Uuid| came.iter().position(|of| *of == run);
    for waiter in &lock.queue {
        let before: Vec<_> = lock.before(waiter.of.run).collect();
        if before.is_empty() {
            return Err(format!("{} waits for nobody", waiter.of.run));
        }
        if before.iter().any(|entry| place(entry.of.run) > place(waiter.of.run)) {
            return Err(format!("{} waits for one that came later", waiter.of.run));
        }
    }
    Ok(())
}

#[test]
fn a_lock_is_never_two_runs_own_and_whoever_came_first_is_next() {
    let states = explore(Fault::None).unwrap_or_else(|why| panic!("{why}"));
    assert!(states > 100, "{states}");
}

#[test]
fn what_is_built_wrong_is_found() {
    for fault in [Fault::Overtakes, Fault::ForgetsTheNext] {
        assert!(explore(fault).is_err(), "{fault:?}");
    }
}
