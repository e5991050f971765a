//! Every state that a transaction across databases can come to: with answers that are lost, acts that arrive late or twice,
//! a coordinator that crashes anywhere, recovery that races with it, databases that cannot be asked, somebody who ends branches
//! by hand, and an operator who decides.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use es_core::store::Fate;

use super::machine::{Act, Answer, Coordinator, Decided, Decision, Heard, Knows, Next, Step, judge, recover};

/// What a participant has of its branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// A transaction is open.
    Active,
    /// It has written nothing, and is over.
    Left,
    Prepared,
    Committed,
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Part {
    writes: bool,
    at: At,
    /// A tomb is in the place of its marker.
    barred: bool,
    /// Somebody has ended it.
    by_hand: Option<Hand>,
}

/// When a branch was ended by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Hand {
    Early,
    /// It was decided to abort it, and nobody looked at it any more.
    Late,
}

/// One who recovers a branch, on any node, and what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Agent {
    branch: usize,
    knows: Knows,
}

/// A transaction and what is around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what is so of a transaction, each by itself")]
struct World {
    /// None: it has crashed, or is over.
    coordinator: Option<Coordinator>,
    /// What it has told whoever commits.
    told: Option<Answer>,
    /// What it waits for.
    busy: BTreeSet<Act>,
    /// What may still arrive, and nobody hears.
    astray: BTreeSet<Act>,
    parts: Vec<Part>,
    /// The journal's own part, if it has one.
    local: Option<At>,
    decision: Option<Decision>,
    /// The branches on the stored list.
    listed: BTreeSet<usize>,
    parked: BTreeSet<usize>,
    /// It is written down that it is torn.
    noted: bool,
    /// An operator has decided.
    adopted: bool,
    /// Recovery has said that a person has to decide.
    torn: bool,
    /// It has come to say so of one that was decided.
    misled: bool,
    /// What was prepared when another branch was committed by hand, or that was noted, and nobody was at it: it is to stay so
    /// until an operator decides.
    held: BTreeSet<usize>,
    agents: BTreeSet<Agent>,
    crashes: u32,
    repeated: u32,
    by_hand: u32,
    away: u32,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Recovery takes no decision for an abort, and does not insert one.
    NoAsk,
    /// Branches are committed before the decision is stored.
    ActsFirst,
    /// Who loses the insert goes by its own decision.
    KeepsItsOwn,
    /// A decision of which nobody has heard is taken for none.
    UnheardIsNo,
    /// A vote that nobody has heard is taken for a yes.
    UnheardVoteIsYes,
    /// What is gone is taken for committed.
    NoMarkers,
    /// The decision is forgotten before all branches are committed.
    ForgetsEarly,
    /// The journal's part is committed before the others are prepared.
    LastResourceFirst,
    /// What has written is ended like what has not.
    WriterLeaves,
    /// A single writer of whose commit nobody has heard is taken for aborted.
    AloneIsNotAsked,
    /// Recovery decides without a look at the other branches.
    LooksAtNoMarkers,
    /// It takes what is committed for a sign that nothing was decided, and does not read the decision.
    MarkersOnly,
    /// A decision to abort comes without a list.
    AbortHasNoList,
    /// A database that cannot be asked is taken for one where nothing is committed.
    AwayIsNo,
    /// It is not written down that a transaction is torn.
    NotesNothing,
    /// What an operator has decided to commit is taken for what the coordinator has.
    AdoptedIsOwn,
    /// A coordinator that goes back and leaves something decides nothing.
    LeavesWithoutDecision,
}

/// For how long a database cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// It is waited for.
    Briefly,
    /// It is waited for no longer.
    ForLong,
}

/// What people do by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByHand {
    RollsBack,
    Commits,
}

struct Explorer {
    fault: Fault,
    most_crashes: u32,
    most_repeated: u32,
    most_by_hand: u32,
    by_hand: ByHand,
    most_agents: usize,
    most_away: u32,
    away: Away,
    /// Whether an operator decides about what is torn.
    adopts: bool,
    seen: HashSet<World>,
    left: Vec<World>,
    /// What whoever commits was told, and how often.
    told: BTreeMap<String, u64>,
    /// How often a branch was prepared that was decided to be aborted.
    late: u64,
}

impl World {
    fn begin(writes: &[bool], journal: bool) -> Self {
        let part = |writes: &bool| Part { writes: *writes, at: At::Active, barred: false, by_hand: None };
        Self {
            coordinator: Some(Coordinator::new(writes.len(), journal)),
            told: None,
            busy: BTreeSet::new(),
            astray: BTreeSet::new(),
            parts: writes.iter().map(part).collect(),
            local: journal.then_some(At::Active),
            decision: None,
            listed: BTreeSet::new(),
            parked: BTreeSet::new(),
            noted: false,
            adopted: false,
            torn: false,
            misled: false,
            held: BTreeSet::new(),
            agents: BTreeSet::new(),
            crashes: 0,
            repeated: 0,
            by_hand: 0,
            away: 0,
        }
    }

    /// What has written, or may yet, as it is; but for what was ended by hand.
    fn counted(&self) -> impl Iterator<Item = At> {
        let parts =
            self.parts.iter().filter(|part| part.writes && part.by_hand.is_none()).map(|part| part.at);
        parts.chain(self.local)
    }

    /// Nothing of it is committed beside something that is not, unless an operator has committed what there was.
    fn is_whole(&self) -> Result<(), String> {
        let has = |at| self.counted().any(|own| own == at);
        let is_adopted = self.adopted && self.decision == Some(Decision::Commit);
        match has(At::Committed) && has(At::Aborted) && !is_adopted {
            true => Err("one is committed, and another is not".to_owned()),
            false => Ok(()),
        }
    }

    /// The transaction in the journal's database goes with its connection, unless its commit is on its way.
    fn ends_local(&mut self) {
        if self.local == Some(At::Active) && !self.astray.contains(&Act::Decide) {
            self.local = Some(At::Aborted);
        }
    }

    fn prepared(&self) -> BTreeSet<usize> {
        (0..self.parts.len()).filter(|i| self.parts[*i].at == At::Prepared).collect()
    }

    /// Nothing of the coordinator is on its way.
    fn is_quiet(&self) -> bool {
        self.coordinator.is_none() && self.astray.is_empty()
    }

    /// Whether an operator is to decide.
    fn is_theirs(&self) -> bool {
        self.noted && self.decision.is_none()
    }

    /// Whether something that goes over the connection of this branch is on its way.
    fn is_under_way(&self, branch: usize) -> bool {
        let of_session =
            |act: &Act| matches!(act, Act::Leave(i) | Act::Prepare(i) | Act::Alone(i) if *i == branch);
        self.busy.iter().chain(&self.astray).any(of_session)
    }

    /// Whether it goes over the connection of a transaction: it cannot arrive twice, and ends the transaction if it is lost.
    fn is_of_session(&self, act: Act) -> bool {
        matches!(act, Act::Look(_) | Act::Leave(_) | Act::Prepare(_) | Act::Alone(_) | Act::RollBack(_))
            || matches!(act, Act::Decide | Act::LeaveJournal) && self.local.is_some()
    }
}

/// What is heard of an act that has failed.
fn failed(act: Act) -> Heard {
    match act {
        Act::Look(i) => Heard::Looked(i, None),
        Act::Leave(i) => Heard::Left(i, false),
        Act::Prepare(i) => Heard::Prepared(i, false),
        Act::Alone(i) => Heard::Alone(i, false),
        Act::AskAlone(i) => Heard::AskedAlone(i, None),
        Act::Decide => Heard::Decided(Decided::Unheard),
        Act::Ask => Heard::Asked(None),
        Act::Commit(i) | Act::Abort(i) => Heard::Fate(i, None),
        Act::RollBack(i) => Heard::RolledBack(i),
        Act::LeaveJournal => Heard::JournalLeft,
        Act::GiveUp => Heard::GaveUp(None),
        Act::Forget => Heard::Forgotten,
    }
}

impl Explorer {
    fn new(fault: Fault) -> Self {
        let (seen, left, told) = (HashSet::new(), Vec::new(), BTreeMap::new());
        let (most_crashes, most_repeated, most_by_hand, most_agents) = (1, 0, 0, 1);
        let by_hand = ByHand::RollsBack;
        Self {
            fault,
            most_crashes,
            most_repeated,
            most_by_hand,
            by_hand,
            most_agents,
            most_away: 0,
            away: Away::Briefly,
            adopts: false,
            seen,
            left,
            told,
            late: 0,
        }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self, writes: &[bool], journal: bool) -> Result<usize, String> {
        self.left.push(World::begin(writes, journal));
        while let Some(world) = self.left.pop() {
            if self.seen.insert(world.clone()) {
                self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
            }
        }
        Ok(self.seen.len())
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        world.is_whole()?;
        if world.misled {
            return Err("it was decided, and is left to a person".to_owned());
        }
        self.coordinate(world);
        for act in world.busy.clone() {
            self.arrives_and_is_heard(world, act);
        }
        for act in world.astray.clone() {
            self.arrives_astray(world, act);
        }
        self.crash(world);
        self.recovery(world);
        self.by_hand(world);
        self.adopt(world);
        if world.busy.is_empty() && world.astray.is_empty() && world.agents.is_empty() {
            self.rests(world)?;
        }
        Ok(())
    }

    /// The coordinator goes on once it has heard of everything.
    fn coordinate(&mut self, world: &World) {
        let Some(coordinator) = world.coordinator.as_ref().filter(|_| world.busy.is_empty()) else { return };
        let mut then = world.clone();
        match coordinator.next() {
            Next::Do(acts) => then.busy.extend(acts),
            Next::End(answer) => {
                (then.coordinator, then.told) = (None, Some(answer));
                then.ends_local();
                *self.told.entry(format!("{answer:?}")).or_default() += 1;
            }
        }
        let prepares = then.busy.iter().any(|act| matches!(act, Act::Prepare(_)));
        if self.fault == Fault::LastResourceFirst && prepares && then.local.is_some() {
            then.local = Some(At::Committed);
        }
        if self.fault == Fault::ActsFirst && then.busy.contains(&Act::Decide) {
            then.busy.extend(coordinator.prepared().map(Act::Commit));
        }
        self.left.push(then);
    }

    fn arrives_and_is_heard(&mut self, world: &World, act: Act) {
        for (mut then, heard) in self.arrives(world, act) {
            then.busy.remove(&act);
            self.hear(&mut then, act, heard);
            if then.repeated < self.most_repeated && !then.is_of_session(act) {
                let mut twice = World { repeated: then.repeated + 1, ..then.clone() };
                twice.astray.insert(act);
                self.left.push(twice);
            }
            self.left.push(then);
        }
        // Nobody hears of it. It arrives later, or never.
        let mut then = world.clone();
        then.busy.remove(&act);
        match act {
            // Its connection is closed.
            Act::Look(i) | Act::RollBack(i) if then.parts[i].at == At::Active => {
                then.parts[i].at = At::Aborted;
            }
            Act::LeaveJournal => then.ends_local(),
            _ => drop(then.astray.insert(act)),
        }
        self.hear(&mut then, act, failed(act));
        self.left.push(then);
    }

    fn hear(&self, world: &mut World, act: Act, heard: Heard) {
        let Some(coordinator) = &mut world.coordinator else { return };
        let heard = match (self.fault, act, heard) {
            (Fault::KeepsItsOwn, _, Heard::Asked(Some(_))) | (Fault::AdoptedIsOwn, _, Heard::Adopted) => {
                Heard::Asked(Some(Decision::Commit))
            }
            (Fault::UnheardIsNo, _, Heard::Decided(Decided::Unheard)) => Heard::Decided(Decided::Refused),
            (Fault::UnheardVoteIsYes, _, Heard::Prepared(i, _)) => Heard::Prepared(i, true),
            (Fault::AloneIsNotAsked, _, Heard::Alone(i, false)) => Heard::AskedAlone(i, Some(Fate::Aborted)),
            (Fault::LeavesWithoutDecision, Act::GiveUp, _) => Heard::GaveUp(Some(Decision::Abort)),
            (_, _, heard) => heard,
        };
        coordinator.heard(heard);
    }

    /// An act of which nobody hears arrives, or is lost for good.
    fn arrives_astray(&mut self, world: &World, act: Act) {
        for (mut then, heard) in self.arrives(world, act) {
            then.astray.remove(&act);
            let is_late = matches!(heard, Heard::Prepared(_, true)) && then.decision == Some(Decision::Abort);
            self.late += u64::from(is_late);
            self.left.push(then);
        }
        let mut lost = world.clone();
        lost.astray.remove(&act);
        match act {
            Act::Leave(i) | Act::Prepare(i) | Act::Alone(i) if lost.parts[i].at == At::Active => {
                lost.parts[i].at = At::Aborted;
            }
            Act::Decide if lost.local == Some(At::Active) => lost.local = Some(At::Aborted),
            _ => {}
        }
        self.left.push(lost);
    }

    /// What comes of an act that arrives: each thing that can.
    fn arrives(&self, world: &World, act: Act) -> Vec<(World, Heard)> {
        let to = |branch: usize, at: At, heard: Heard| {
            let mut then = world.clone();
            then.parts[branch].at = at;
            (then, heard)
        };
        let none = || vec![(world.clone(), failed(act))];
        let part = |i: usize| world.parts[i];
        match act {
            Act::Look(i) if part(i).at == At::Active => {
                let writes = part(i).writes && self.fault != Fault::WriterLeaves;
                vec![to(i, At::Active, Heard::Looked(i, Some(writes))), to(i, At::Aborted, failed(act))]
            }
            Act::Leave(i) if part(i).at == At::Active => {
                let left = if part(i).writes { At::Committed } else { At::Left };
                vec![to(i, left, Heard::Left(i, true)), to(i, At::Aborted, failed(act))]
            }
            Act::Prepare(i) if part(i).at == At::Active => {
                vec![to(i, At::Prepared, Heard::Prepared(i, true)), to(i, At::Aborted, failed(act))]
            }
            Act::Alone(i) if part(i).at == At::Active && !part(i).barred => {
                vec![to(i, At::Committed, Heard::Alone(i, true)), to(i, At::Aborted, failed(act))]
            }
            Act::Alone(i) if part(i).at == At::Active => vec![to(i, At::Aborted, failed(act))],
            Act::RollBack(i) if part(i).at == At::Active => vec![to(i, At::Aborted, Heard::RolledBack(i))],
            Act::AskAlone(i) => {
                let fate = if part(i).at == At::Committed { Fate::Committed } else { Fate::Aborted };
                let mut then = to(i, part(i).at, Heard::AskedAlone(i, Some(fate)));
                then.0.parts[i].barred |= fate == Fate::Aborted;
                vec![then]
            }
            Act::Decide => self.decides(world),
            // A person has been told that it is theirs to decide.
            Act::Ask if world.is_theirs() && self.fault != Fault::NotesNothing => none(),
            Act::Ask => {
                let (mut then, decision) = self.aborts(world);
                let is_adopted = decision == Decision::Commit && world.adopted;
                if is_adopted {
                    // What the operator has not seen.
                    then.listed.extend(world.coordinator.iter().flat_map(Coordinator::prepared));
                }
                let heard = if is_adopted { Heard::Adopted } else { Heard::Asked(Some(decision)) };
                vec![(then, heard)]
            }
            Act::GiveUp if self.fault == Fault::LeavesWithoutDecision => none(),
            Act::GiveUp => {
                let (mut then, decision) = self.aborts(world);
                if decision == Decision::Commit {
                    then.listed.extend(world.coordinator.iter().flat_map(Coordinator::taken_back));
                }
                vec![(then, Heard::GaveUp(Some(decision)))]
            }
            Act::LeaveJournal => {
                let mut then = world.clone();
                then.ends_local();
                vec![(then, Heard::JournalLeft)]
            }
            Act::Commit(i) => vec![self.finishes(world, i, At::Committed)],
            Act::Abort(i) => vec![self.finishes(world, i, At::Aborted)],
            Act::Forget => {
                let then = World { listed: BTreeSet::new(), ..world.clone() };
                vec![(then, Heard::Forgotten)]
            }
            Act::Look(_) | Act::Leave(_) | Act::Prepare(_) | Act::Alone(_) | Act::RollBack(_) => none(),
        }
    }

    /// Inserts the decision to abort, and reads the winner's.
    fn aborts(&self, world: &World) -> (World, Decision) {
        let mut then = world.clone();
        let decision = *then.decision.get_or_insert(Decision::Abort);
        if world.decision.is_none() && self.fault != Fault::AbortHasNoList {
            // Whoever may have a branch of it.
            then.listed.extend(0..then.parts.len());
        }
        (then, decision)
    }

    fn decides(&self, world: &World) -> Vec<(World, Heard)> {
        let mut lost = world.clone();
        lost.local = lost.local.map(|at| if at == At::Active { At::Aborted } else { at });
        let is_gone = world.local.is_some_and(|at| at == At::Aborted);
        if world.decision.is_some() || is_gone {
            return vec![(lost, Heard::Decided(Decided::Unheard))];
        }
        let mut then = World { decision: Some(Decision::Commit), ..world.clone() };
        then.local = then.local.map(|_| At::Committed);
        let prepared = world.parts.iter().enumerate().filter(|(_, part)| part.writes && part.at != At::Left);
        then.listed = prepared.map(|(i, _)| i).collect();
        let mut all = vec![(then, Heard::Decided(Decided::Yes))];
        if world.local.is_some() && self.fault != Fault::LastResourceFirst {
            // What the journal's database has of it conflicts with others.
            all.push((lost, Heard::Decided(Decided::Refused)));
        }
        all
    }

    fn finishes(&self, world: &World, i: usize, to: At) -> (World, Heard) {
        let mut then = world.clone();
        if then.parts[i].at == At::Prepared {
            then.parts[i].at = to;
        }
        let fate = match then.parts[i].at {
            At::Committed => Fate::Committed,
            _ if self.fault == Fault::NoMarkers && to == At::Committed => Fate::Committed,
            _ => Fate::Aborted,
        };
        if self.fault == Fault::ForgetsEarly && fate == Fate::Committed {
            then.decision = None;
            then.listed.clear();
        }
        (then, Heard::Fate(i, Some(fate)))
    }

    /// The node of the coordinator is gone. What was on its way may arrive; connections with nothing on its way end.
    fn crash(&mut self, world: &World) {
        if world.coordinator.is_none() || world.crashes == self.most_crashes {
            return;
        }
        let mut then = World { coordinator: None, crashes: world.crashes + 1, ..world.clone() };
        then.astray.extend(std::mem::take(&mut then.busy));
        for i in 0..then.parts.len() {
            if then.parts[i].at == At::Active && !then.is_under_way(i) {
                then.parts[i].at = At::Aborted;
            }
        }
        then.ends_local();
        self.left.push(then);
    }

    /// Recovery sees what is prepared, or on the list, at any time, and acts on it later.
    fn recovery(&mut self, world: &World) {
        if world.agents.len() < self.most_agents {
            for agent in (0..world.parts.len()).filter_map(|branch| finds(world, branch)) {
                let mut then = world.clone();
                if then.agents.insert(agent) {
                    self.left.push(then);
                }
            }
        }
        for agent in world.agents.clone() {
            let mut then = world.clone();
            then.agents.remove(&agent);
            // It is gone.
            self.left.push(then.clone());
            if let Some(knows) = self.sees_nothing(&then, agent) {
                let mut away = World { away: then.away + 1, ..then.clone() };
                away.agents.insert(Agent { knows, ..agent });
                self.left.push(away);
            }
            let again = self.works(&mut then, agent);
            then.agents.extend(again);
            self.left.push(then);
        }
    }

    /// What an agent knows if it cannot ask the other databases.
    fn sees_nothing(&self, world: &World, agent: Agent) -> Option<Knows> {
        let traces = recover(agent.knows) == Step::Trace && world.away < self.most_away;
        let is_noted = world.noted && self.fault != Fault::NotesNothing;
        let is_waited_for = self.away == Away::Briefly && self.fault != Fault::AwayIsNo;
        let knows = if is_waited_for { Knows::Unasked } else { Knows::Unmarked };
        traces.then_some(if is_noted { Knows::Noted } else { knows })
    }

    /// What an agent does next; what it knows then, if it is not done.
    fn works(&self, world: &mut World, agent: Agent) -> Option<Agent> {
        let Agent { branch, knows } = agent;
        let goes_on = |knows| Some(Agent { branch, knows });
        match recover(knows) {
            Step::Trace if world.noted && self.fault != Fault::NotesNothing => goes_on(Knows::Noted),
            Step::Trace => {
                let others = world.parts.iter().enumerate().filter(|(i, _)| *i != branch);
                let is_marked = others.into_iter().any(|(_, part)| part.at == At::Committed);
                let is_seen = is_marked && self.fault != Fault::LooksAtNoMarkers;
                goes_on(if is_seen { Knows::Marked } else { Knows::Unmarked })
            }
            Step::Read => {
                let read = world.decision.filter(|_| self.fault != Fault::MarkersOnly);
                world.misled |= read.is_none() && world.decision.is_some();
                goes_on(read.map_or(Knows::Torn, Knows::Decided))
            }
            Step::Ask if self.fault == Fault::NoAsk => {
                goes_on(Knows::Decided(world.decision.unwrap_or(Decision::Abort)))
            }
            Step::Ask => {
                *world = self.arrives(world, Act::Ask).pop()?.0;
                goes_on(Knows::Decided(world.decision?))
            }
            Step::Note => {
                // Who has decided to abort was first with that row.
                if world.decision == Some(Decision::Abort) {
                    return goes_on(Knows::Decided(Decision::Abort));
                }
                world.noted = true;
                if world.is_quiet() && world.decision.is_none() {
                    world.held = world.prepared();
                }
                goes_on(Knows::Noted)
            }
            Step::End(decision) => {
                let at = if decision == Decision::Commit { At::Committed } else { At::Aborted };
                let (then, heard) = self.finishes(world, branch, at);
                *world = then;
                let Heard::Fate(_, Some(fate)) = heard else {
                    panic!("{heard:?} is no answer of a participant")
                };
                match judge(decision, fate) {
                    Some(_) => drop(world.parked.insert(branch)),
                    None => drop(world.listed.remove(&branch)),
                }
                None
            }
            Step::Leave => {
                world.torn = true;
                None
            }
            Step::Wait => None,
        }
    }

    /// An operator decides about what recovery has left, whatever else goes on: about the branches that are seen then.
    fn adopt(&mut self, world: &World) {
        if !self.adopts || !world.is_theirs() {
            return;
        }
        for decision in [Decision::Commit, Decision::Abort] {
            let mut then = World { adopted: true, decision: Some(decision), ..world.clone() };
            let is_seen = |i: &usize| matches!(then.parts[*i].at, At::Prepared | At::Committed);
            let seen: Vec<_> = (0..then.parts.len()).filter(is_seen).collect();
            then.listed.extend(seen);
            then.held.clear();
            self.left.push(then);
        }
    }

    fn by_hand(&mut self, world: &World) {
        if world.by_hand == self.most_by_hand {
            return;
        }
        for i in world.prepared() {
            let mut then = World { by_hand: world.by_hand + 1, ..world.clone() };
            then.parts[i].by_hand = Some(Hand::Early);
            if self.by_hand == ByHand::Commits {
                then.parts[i].at = At::Committed;
                if world.decision == Some(Decision::Abort) && !world.listed.contains(&i) {
                    then.parts[i].by_hand = Some(Hand::Late);
                }
                let is_seen = self.most_away == 0 || self.away == Away::Briefly;
                if world.is_quiet() && world.agents.is_empty() && world.decision.is_none() && is_seen {
                    then.held = then.prepared();
                }
            } else {
                then.parts[i].at = At::Aborted;
            }
            self.left.push(then);
        }
    }

    /// Nothing is on its way. If the coordinator is gone as well, recovery brings all of it to its end.
    fn rests(&self, world: &World) -> Result<(), String> {
        if world.coordinator.is_some() {
            return Ok(());
        }
        let mut end = World { torn: false, ..world.clone() };
        for i in 0..end.parts.len() {
            let mut agent = finds(&end, i);
            while let Some(now) = agent {
                agent = self.works(&mut end, now);
            }
        }
        end.is_whole()?;
        let is_prepared = |i: &usize| end.parts[*i].at == At::Prepared;
        if end.counted().any(|at| at == At::Active || at == At::Prepared && !end.torn) {
            return Err(format!("it is not brought to an end: {end:#?}"));
        }
        if !end.held.iter().all(is_prepared) || !end.held.is_empty() && !end.torn {
            return Err(format!("a branch was committed by hand, and recovery has not stopped: {end:#?}"));
        }
        let is_committed = end.counted().any(|at| at == At::Committed);
        let against = match self.by_hand {
            ByHand::RollsBack => Decision::Commit,
            ByHand::Commits => Decision::Abort,
        };
        let is_odd = |i: &usize| end.parts[*i].by_hand == Some(Hand::Early) && end.decision == Some(against);
        let lost = |i: &usize| is_odd(i) && !end.parked.contains(i);
        if let Some(i) = (0..end.parts.len()).find(lost) {
            return Err(format!("branch {i} was ended by hand, and nobody says so"));
        }
        match world.told {
            Some(Answer::Aborted) if is_committed => Err("it is said to be aborted, and is not".to_owned()),
            Some(Answer::Committed) if end.counted().any(|at| at == At::Aborted) => {
                Err("it is said to be committed, and is not".to_owned())
            }
            Some(Answer::Parked | Answer::WithoutJournal) if end.decision != Some(Decision::Commit) => {
                Err("it is said that an operator has committed it".to_owned())
            }
            Some(Answer::WithoutJournal) if end.local == Some(At::Committed) => {
                Err("the journal's part is said to be rolled back, and is not".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// What recovery sees of a branch.
fn finds(world: &World, branch: usize) -> Option<Agent> {
    let is_listed = world.listed.contains(&branch) && !world.parked.contains(&branch);
    let knows = match world.parts[branch].at {
        // It has read the decision, if there was one.
        At::Prepared => world.decision.map_or(Knows::Nothing, Knows::Decided),
        _ if is_listed => Knows::Decided(world.decision?),
        _ => return None,
    };
    Some(Agent { branch, knows })
}

/// Gives what whoever commits was told.
fn explore(mut explorer: Explorer, writes: &[bool], journal: bool, least: usize) -> BTreeMap<String, u64> {
    let states = explorer.explore(writes, journal).unwrap_or_else(|why| panic!("{why}"));
    assert!(states > least, "{states} states of {writes:?}, {journal}");
    // Somebody decides while another one is not prepared yet; or its coordinator does, that has not heard of it.
    let writers = writes.iter().filter(|writes| **writes).count();
    assert_eq!(explorer.late > 0, writers > 1 || journal && writers > 0, "{writes:?}, {journal}");
    explorer.told
}

#[test]
fn two_branches_both_commit_or_neither_does() {
    let mut two = Explorer::new(Fault::None);
    (two.most_repeated, two.most_agents) = (1, 2);
    let told = explore(two, &[true, true], false, 10_000);
    assert_eq!(told.into_keys().collect::<Vec<_>>(), ["Aborted", "Committed", "Unknown"]);
}

#[test]
fn the_last_logging_resource_commits_with_the_others_or_none_does() {
    for writes in [&[][..], &[true], &[true, false], &[true, true]] {
        let mut some = Explorer::new(Fault::None);
        (some.most_repeated, some.most_agents) = (1, 2);
        let told = explore(some, writes, true, 5);
        assert_eq!(told.into_keys().collect::<Vec<_>>(), ["Aborted", "Committed", "Unknown"]);
    }
}

#[test]
fn branches_that_only_read_have_no_part_in_the_outcome() {
    for writes in [&[false][..], &[false, false], &[true, false], &[true, true, false]] {
        explore(Explorer::new(Fault::None), writes, false, 5);
    }
}

#[test]
fn one_writer_alone_commits_or_not_and_whoever_asks_is_told() {
    let mut alone = Explorer::new(Fault::None);
    alone.most_repeated = 1;
    let told = explore(alone, &[true], false, 20);
    assert_eq!(told.into_keys().collect::<Vec<_>>(), ["Aborted", "Committed", "Unknown"]);
}

#[test]
fn three_branches_all_commit_or_none_does() {
    explore(Explorer::new(Fault::None), &[true, true, true], false, 20_000);
    let mut without_crash = Explorer::new(Fault::None);
    without_crash.most_crashes = 0;
    explore(without_crash, &[true, true, true], true, 20_000);
}

#[test]
fn what_is_rolled_back_by_hand_is_parked() {
    let mut touched = Explorer::new(Fault::None);
    touched.most_by_hand = 1;
    explore(touched, &[true, true], false, 1_000);
}

#[test]
fn what_is_committed_by_hand_stops_recovery_or_is_parked() {
    let mut touched = Explorer::new(Fault::None);
    (touched.most_by_hand, touched.by_hand) = (1, ByHand::Commits);
    explore(touched, &[true, true], false, 1_000);
}

#[test]
fn a_database_that_cannot_be_asked_is_not_taken_for_one_where_nothing_is_committed() {
    for away in [Away::Briefly, Away::ForLong] {
        let mut touched = Explorer::new(Fault::None);
        (touched.most_by_hand, touched.by_hand) = (1, ByHand::Commits);
        (touched.most_away, touched.away) = (2, away);
        explore(touched, &[true, true], false, 1_000);
    }
}

#[test]
fn an_operator_decides_while_the_coordinator_goes_on() {
    let cases: [(&[bool], bool); 3] =
        [(&[true, true], false), (&[true, true], true), (&[true, true, true], false)];
    for (writes, journal) in cases {
        let mut touched = Explorer::new(Fault::None);
        (touched.most_by_hand, touched.by_hand, touched.adopts) = (1, ByHand::Commits, true);
        let told = explore(touched, writes, journal, 1_000);
        assert_eq!(told.contains_key("WithoutJournal"), journal, "{told:?}");
        assert_eq!(told.contains_key("Parked"), !journal, "{told:?}");
    }
}

#[test]
fn what_is_built_wrong_is_found() {
    let cases: [(Fault, &[bool], bool); 17] = [
        (Fault::NoAsk, &[true, true], false),
        (Fault::ActsFirst, &[true, true], false),
        (Fault::KeepsItsOwn, &[true, true], false),
        (Fault::UnheardIsNo, &[true, true], false),
        (Fault::UnheardVoteIsYes, &[true, true], false),
        (Fault::NoMarkers, &[true, true], false),
        (Fault::ForgetsEarly, &[true, true], false),
        (Fault::LastResourceFirst, &[true], true),
        (Fault::WriterLeaves, &[true, true], false),
        (Fault::AloneIsNotAsked, &[true], false),
        (Fault::LooksAtNoMarkers, &[true, true], false),
        (Fault::MarkersOnly, &[true, true], false),
        (Fault::AbortHasNoList, &[true, true], false),
        (Fault::AwayIsNo, &[true, true], false),
        (Fault::NotesNothing, &[true, true], false),
        (Fault::AdoptedIsOwn, &[true, true], true),
        (Fault::LeavesWithoutDecision, &[true, true, true], false),
    ];
    for (fault, writes, journal) in cases {
        let mut wrong = Explorer::new(fault);
        let adopts = matches!(fault, Fault::AdoptedIsOwn | Fault::LeavesWithoutDecision);
        let is_away = matches!(fault, Fault::AwayIsNo | Fault::NotesNothing);
        let commits = adopts || is_away || matches!(fault, Fault::LooksAtNoMarkers | Fault::AbortHasNoList);
        (wrong.adopts, wrong.most_away) = (adopts, u32::from(is_away));
        if fault == Fault::NotesNothing {
            wrong.away = Away::ForLong;
        }
        wrong.most_by_hand = u32::from(commits || fault == Fault::NoMarkers);
        if commits {
            wrong.by_hand = ByHand::Commits;
        }
        assert!(wrong.explore(writes, journal).is_err(), "{fault:?}");
    }
}
