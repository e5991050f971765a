//! Every state that a chain can come to, with answers that are lost, nodes that are gone between two commits, and nodes that
//! everybody takes for gone and that go on.

use std::collections::{BTreeSet, HashSet};

use xxhash_rust::xxh3::xxh3_128;

use super::machine::{Act, End, Found, Heard, Next, Try};

/// What a database has committed about a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Row {
    #[default]
    None,
    Done,
    /// A no is kept.
    Refused,
    /// It was undone, or an undo came first.
    Undone,
}

/// A try, and what it has open.
#[derive(Clone, Debug)]
struct Run {
    tried: Try,
    holds: Vec<bool>,
    /// It has rolled back, and is about to leave its no.
    refusing: bool,
}

/// A chain and what is around it.
#[derive(Clone, Debug)]
struct World {
    rows: Vec<Row>,
    /// How often the work of each link has committed.
    commits: Vec<u32>,
    /// The try of whoever has the run.
    own: Option<Run>,
    /// One of somebody who had it before.
    stray: Option<Run>,
    /// How many may begin yet.
    tries: u32,
    /// Nodes that may yet be gone.
    crashes: u32,
    /// Whether it was tried.
    was_tried: bool,
    /// The link that is undone next is the one before this.
    undoing: Option<usize>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Completed,
    Refused,
    Undone,
    /// A person is asked: it is partial.
    Parked,
}

/// What becomes of a partial outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Forward,
    Compensate,
    Park,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Each link commits before the next one is opened.
    CommitsAtOnce,
    /// A no is said, and not kept.
    KeepsNoRefusal,
    /// A no once others have committed counts as one of all.
    RefusesInPart,
    /// A commit that is not heard is taken for none.
    BelievesFailures,
    /// What could not be asked is taken for what has not committed.
    BelievesSilence,
    /// The row is written by the commit only, so tries do not follow each other.
    HoldsNothing,
    /// What has not committed is not barred by an undo.
    BarsNothing,
}

struct Explorer {
    then: Then,
    fault: Fault,
    seen: HashSet<u128>,
    left: Vec<World>,
    ends: BTreeSet<Outcome>,
}

/// Whose try it is.
#[derive(Clone, Copy)]
enum Whose {
    Own,
    Stray,
}

impl World {
    fn run(&mut self, whose: Whose) -> &mut Option<Run> {
        match whose {
            Whose::Own => &mut self.own,
            Whose::Stray => &mut self.stray,
        }
    }

    fn is_held(&self, link: usize) -> bool {
        [&self.own, &self.stray].into_iter().flatten().any(|run| run.holds[link])
    }

    /// Without whom it was.
    fn with(&self, whose: Whose, change: impl FnOnce(&mut Self, &mut Run)) -> Self {
        let mut then = self.clone();
        if let Some(mut run) = then.run(whose).take() {
            change(&mut then, &mut run);
            *then.run(whose) = Some(run);
        }
        then
    }
}

impl Explorer {
    fn new(then: Then, fault: Fault) -> Self {
        Self { then, fault, seen: HashSet::new(), left: Vec::new(), ends: BTreeSet::new() }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self, links: usize) -> Result<usize, String> {
        self.left.push(World {
            rows: vec![Row::None; links],
            commits: vec![0; links],
            own: None,
            stray: None,
            tries: 3,
            crashes: 1,
            was_tried: false,
            undoing: None,
            outcome: None,
        });
        while let Some(world) = self.left.pop() {
            if self.seen.insert(xxh3_128(format!("{world:?}").as_bytes())) {
                self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
            }
        }
        Ok(self.seen.len())
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        Self::is_whole(world)?;
        self.ends.extend(world.outcome);
        for whose in [Whose::Own, Whose::Stray] {
            let mut run = world.clone();
            if let Some(run) = run.run(whose).take() {
                self.goes_on(world, whose, &run)?;
            }
        }
        if world.outcome.is_none() {
            self.begins(world);
            self.undoes(world);
        }
        // A node is gone, and what it has open is rolled back.
        if world.crashes > 0 && (world.own.is_some() || world.stray.is_some()) {
            let then = World { crashes: world.crashes - 1, ..world.clone() };
            self.left.push(World { own: None, ..then.clone() });
            self.left.push(World { stray: None, ..then });
        }
        Ok(())
    }

    /// Whoever has the run tries: also while somebody goes on who had it before.
    fn begins(&mut self, world: &World) {
        if world.tries == 0 || world.undoing.is_some() {
            return;
        }
        let links = world.rows.len();
        let tried = Try::new(links, self.then != Then::Park);
        let own = Some(Run { tried, holds: vec![false; links], refusing: false });
        let then = World { own, tries: world.tries - 1, was_tried: true, ..world.clone() };
        match (&world.own, &world.stray) {
            (None, _) => self.left.push(then),
            (own, None) => self.left.push(World { stray: own.clone(), ..then }),
            _ => {}
        }
    }

    /// Once it was tried in vain, what has committed is undone, the last one first, and what has not is barred.
    fn undoes(&mut self, world: &World) {
        if self.then != Then::Compensate || !world.was_tried || world.own.is_some() {
            return;
        }
        let at = world.undoing.unwrap_or(world.rows.len());
        let Some(link) = at.checked_sub(1) else {
            return self.left.push(World { outcome: Some(Outcome::Undone), ..world.clone() });
        };
        if world.is_held(link) {
            // It waits for whoever has it.
            return;
        }
        let mut then = World { undoing: Some(link), ..world.clone() };
        match then.rows[link] {
            Row::Done => {
                then.rows[link] = Row::Undone;
                then.commits[link] -= 1;
            }
            Row::None if self.fault != Fault::BarsNothing => then.rows[link] = Row::Undone,
            _ => {}
        }
        self.left.push(then);
    }

    /// The next act of a try, with each thing that can come of it.
    fn goes_on(&mut self, world: &World, whose: Whose, run: &Run) -> Result<(), String> {
        let act = match run.tried.next() {
            Next::Do(act) => act,
            Next::End(end) => return self.ended(world, whose, end),
        };
        match act {
            Act::Open(i) => self.opens(world, whose, i),
            Act::Commit(i) => self.commits(world, whose, i, true),
            Act::RollBack(i) => {
                let then = world.with(whose, |_, run| run.holds[i] = false);
                self.hears(&then, whose, Heard::RolledBack(i))
            }
            Act::Refuse(i) => self.refuses(world, whose, i),
        }
    }

    fn opens(&mut self, world: &World, whose: Whose, i: usize) -> Result<(), String> {
        // It waits for a lock in vain, or its database is away.
        self.hears(world, whose, Heard::Opened(i, Found::Unknown))?;
        if world.is_held(i) {
            return Ok(());
        }
        let held = world.with(whose, |_, run| run.holds[i] = self.fault != Fault::HoldsNothing);
        match world.rows[i] {
            Row::None => {
                self.hears(&held, whose, Heard::Opened(i, Found::Refuses))?;
                self.hears(world, whose, Heard::Opened(i, Found::Failed))?;
                match self.fault {
                    Fault::CommitsAtOnce => self.commits(&held, whose, i, false),
                    _ => self.hears(&held, whose, Heard::Opened(i, Found::Open)),
                }
            }
            Row::Done => self.hears(world, whose, Heard::Opened(i, Found::Committed)),
            Row::Refused => self.hears(world, whose, Heard::Opened(i, Found::HasRefused)),
            // It comes after its undo: it has failed.
            Row::Undone => Ok(()),
        }
    }

    fn commits(&mut self, world: &World, whose: Whose, i: usize, is_asked: bool) -> Result<(), String> {
        let lost = world.with(whose, |_, run| run.holds[i] = false);
        let mut done = lost.clone();
        (done.rows[i], done.commits[i]) = (Row::Done, done.commits[i] + 1);
        if !is_asked {
            return self.hears(&done, whose, Heard::Opened(i, Found::Open));
        }
        if self.fault == Fault::CommitsAtOnce {
            // It has.
            return self.hears(&lost, whose, Heard::Committed(i, true));
        }
        self.hears(&done, whose, Heard::Committed(i, true))?;
        self.hears(&done, whose, Heard::Committed(i, false))?;
        self.hears(&lost, whose, Heard::Committed(i, false))
    }

    /// It is rolled back, and then the no is left, if nobody was faster.
    fn refuses(&mut self, world: &World, whose: Whose, i: usize) -> Result<(), String> {
        let run = if let Whose::Own = whose { &world.own } else { &world.stray };
        let is_refusing = run.as_ref().is_some_and(|run| run.refusing);
        if !is_refusing {
            self.left.push(world.with(whose, |_, run| {
                (run.holds[i], run.refusing) = (false, true);
            }));
            return Ok(());
        }
        if self.fault == Fault::KeepsNoRefusal {
            return self.hears(world, whose, Heard::Refused(i, true));
        }
        self.hears(world, whose, Heard::Refused(i, false))?;
        match world.rows[i] {
            _ if world.is_held(i) => Ok(()),
            Row::None => {
                let mut kept = world.clone();
                kept.rows[i] = Row::Refused;
                self.hears(&kept, whose, Heard::Refused(i, true))?;
                // Its answer is lost.
                self.hears(&kept, whose, Heard::Refused(i, false))
            }
            Row::Refused => self.hears(world, whose, Heard::Refused(i, true)),
            Row::Done | Row::Undone => Ok(()),
        }
    }

    fn hears(&mut self, world: &World, whose: Whose, heard: Heard) -> Result<(), String> {
        let (mut says, mut tells) = (None, Ok(()));
        let silent = self.fault == Fault::BelievesSilence;
        let then = world.with(whose, |_, run| {
            let before = run.tried.end();
            run.tried.heard(heard);
            says = run.tried.end().filter(|_| before.is_none());
            tells = says.map_or(Ok(()), |end| Self::tells(world, &run.tried, end, silent));
        });
        tells?;
        if self.fault == Fault::BelievesFailures && matches!(heard, Heard::Committed(0, false)) {
            says = Some(End::Failed { nothing: true });
        }
        let is_done = |row: &Row| *row == Row::Done;
        match says {
            Some(End::Failed { nothing: true }) if world.rows.iter().any(is_done) => {
                Err(format!("it says that nothing is committed: {heard:?}"))
            }
            Some(End::Partial) if !world.rows.iter().any(is_done) => {
                Err(format!("it says that something is committed: {heard:?}"))
            }
            Some(End::Lost) => Err(format!("nothing was lost: {heard:?}")),
            _ => {
                self.left.push(then);
                Ok(())
            }
        }
    }

    /// What it says of each link, as it ends, is so.
    fn tells(world: &World, tried: &Try, end: End, silent: bool) -> Result<(), String> {
        // What was undone was known before.
        if !matches!(end, End::Failed { .. } | End::Partial) || world.undoing.is_some() {
            return Ok(());
        }
        let committed: BTreeSet<usize> = tried.committed().collect();
        let perhaps: BTreeSet<usize> = tried.perhaps().filter(|_| !silent).collect();
        for (i, row) in world.rows.iter().enumerate() {
            let is_done = *row == Row::Done;
            if committed.contains(&i) && !is_done
                || is_done && !committed.contains(&i) && !perhaps.contains(&i)
            {
                return Err(format!("it says {committed:?}, and perhaps {perhaps:?}"));
            }
        }
        Ok(())
    }

    /// What a try came to is heard of whoever has the run.
    fn ended(&mut self, world: &World, whose: Whose, end: End) -> Result<(), String> {
        let mut then = world.clone();
        *then.run(whose) = None;
        let is_any = world.rows.contains(&Row::Done);
        let end = match end {
            End::Failed { nothing: false } | End::Partial if self.fault == Fault::RefusesInPart && is_any => {
                End::Refused
            }
            end => end,
        };
        if let (Whose::Own, None, None) = (whose, world.outcome, world.undoing) {
            then.outcome = match end {
                End::Committed => Some(Outcome::Completed),
                End::Refused => Some(Outcome::Refused),
                End::Partial => Some(Outcome::Parked),
                End::Failed { .. } => None,
                End::Lost => return Err("nothing was lost".to_owned()),
            };
        }
        self.left.push(then);
        Ok(())
    }

    /// Each link has committed once at most; and what it has ended as is so, whatever strays.
    fn is_whole(world: &World) -> Result<(), String> {
        if world.commits.iter().any(|n| *n > 1) {
            return Err("a link has committed twice".to_owned());
        }
        let done = world.commits.iter().filter(|n| **n > 0).count();
        let is_right = match world.outcome {
            None => true,
            Some(Outcome::Completed) => done == world.rows.len(),
            Some(Outcome::Refused | Outcome::Undone) => done == 0,
            Some(Outcome::Parked) => done > 0 && done < world.rows.len(),
        };
        if is_right { Ok(()) } else { Err(format!("{:?}, and {done} have committed", world.outcome)) }
    }
}

#[test]
fn a_chain_is_what_it_says_whoever_is_gone_and_whoever_goes_on() {
    for then in [Then::Forward, Then::Compensate, Then::Park] {
        for links in [1, 2, 3] {
            let mut explorer = Explorer::new(then, Fault::None);
            let states = explorer.explore(links).unwrap_or_else(|why| panic!("{then:?}: {why}"));
            assert!(states > 50, "{then:?} of {links}: {states}");
            let own = match then {
                Then::Forward => None,
                Then::Compensate => Some(Outcome::Undone),
                // One link is all or nothing.
                Then::Park => Some(Outcome::Parked).filter(|_| links > 1),
            };
            let ends = [Outcome::Completed, Outcome::Refused].into_iter().chain(own).collect();
            assert_eq!(explorer.ends, ends, "{then:?} of {links}");
        }
    }
}

#[test]
fn what_is_built_wrong_is_found() {
    use Then::{Compensate, Forward, Park};
    let faults: [(Fault, &[Then]); 7] = [
        (Fault::CommitsAtOnce, &[Forward, Compensate, Park]),
        (Fault::KeepsNoRefusal, &[Forward, Compensate, Park]),
        (Fault::RefusesInPart, &[Forward, Compensate]),
        (Fault::BelievesFailures, &[Forward, Compensate, Park]),
        (Fault::BelievesSilence, &[Forward, Compensate, Park]),
        (Fault::HoldsNothing, &[Forward, Compensate, Park]),
        (Fault::BarsNothing, &[Compensate]),
    ];
    for (fault, all) in faults {
        for then in all {
            let found = Explorer::new(*then, fault).explore(2);
            assert!(found.is_err(), "{fault:?} of {then:?} is not found in {found:?} states");
        }
    }
}
