//! Every state that a saga can come to, with answers that are lost, calls that fail, nodes that crash in the middle of calls,
//! a deadline and a cancellation at any time.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::Timestamp;
use uuid::Uuid;

use super::child::IfItRefuses;
use super::machine::{Doable, Shape, State, StepShape};
use super::step::{Awaits, Retry, Unknown};
use crate::By;
use crate::data::Data;
use crate::lock::Resource;
use crate::transaction::{
    Answer, Asked, Call, ChildIs, Errand, Kin, Next, Outcome, Parent, Record, RunStatus, Verb, Why, Written,
};

const RUN: Uuid = Uuid::from_u128(7);

/// What is true of a step, whoever knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Truth {
    acted: bool,
    undone: bool,
    guard: Guard,
}

/// What the guard row of a step bars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Guard {
    #[default]
    Open,
    /// Its undo came first.
    Barred,
    /// It has refused, for good.
    Refused,
}

/// What is true of the run that a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Child {
    #[default]
    None,
    Going,
    /// All of it has run, and it waits.
    Ready,
    /// Its pivot has run.
    Refuses,
    Completed,
    Undone,
    Abandoned,
}

/// What is true of the lock that a step takes, whoever knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Lock {
    #[default]
    Left,
    Waits,
    Held,
}

/// A saga and what is around it.
#[derive(Clone, Debug)]
struct World {
    state: State,
    /// Calls under way, and whether each has acted by now.
    busy: BTreeSet<Call>,
    /// Calls behind a guard whose node is gone: they may still arrive.
    astray: BTreeSet<Call>,
    truth: Vec<Truth>,
    children: Vec<Child>,
    locks: Vec<Lock>,
    /// How its parent ends, once that has said so.
    told: Option<Outcome>,
    /// How often its parent was told that it is not undone.
    said: u32,
    /// Whether the deadline has passed.
    late: bool,
    cancelled: bool,
    crashes: u32,
    /// How often an operator had everything tried again.
    retried: u32,
    /// Whether an operator has decided that it goes forward.
    forward: bool,
    /// How often somebody has sent something.
    sent: u32,
    /// How often a person has taken a step for run, or for undone.
    operated: u32,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Whoever takes it up forgets that the one before may have made calls.
    ForgetsCalls,
    /// A refusal of a repetition is taken for one of all calls.
    BelievesRefusals,
    /// A decision does not say which steps are being called.
    ForgetsOpenCalls,
    /// A call runs though its undo was there before.
    NoGuard,
    /// It is laid down while calls are under way.
    HoldsCalls,
    /// What was laid down is called without being taken up.
    ForgetsToTake,
    /// A child is not told that it is to be undone.
    ForgetsToTell,
    /// A child that waits for its parent is taken for undone when it is asked to be.
    BelievesChildren,
    /// Locks are left once it is decided that all is undone.
    LeavesEarly,
    /// Nobody is asked about a child that has completed before it heard that it is to be undone.
    ForgetsToAsk,
}

struct Explorer {
    shape: Shape,
    fault: Fault,
    /// Whether steps that are fenced live behind guard rows.
    guards: bool,
    most_crashes: u32,
    /// Whether who is called may be away, at any time.
    may_hold: bool,
    /// Whether an operator may send it forward, at any time.
    may_forward: bool,
    /// How often a person may take a step for run, or for undone, at any time.
    most_operated: u32,
    /// It is a child, and whether it ends only with its parent.
    parent: Option<bool>,
    seen: BTreeSet<String>,
    left: Vec<World>,
    ends: BTreeSet<String>,
}

fn at(late: bool) -> Timestamp {
    Timestamp::from_second(if late { 1_000 } else { 10 }).expect("a time")
}

fn step(name: &'static str, stage: usize, place: Doable, unknown: Unknown, fault: Fault) -> StepShape {
    let retry = Retry::default().pauses(Duration::ZERO, Duration::ZERO).tries(2);
    StepShape {
        name,
        needs: Vec::new(),
        stage,
        place,
        retry: retry.late(2, Duration::from_secs(3_600)),
        limit: Duration::from_secs(1),
        unknown,
        refuses_for_good: fault == Fault::BelievesRefusals,
        acts_in_parts: false,
        is_staged: false,
        destination: None,
    }
}

/// The same, tried once: steps that run together, or wait for others, have many states.
fn once(step: StepShape) -> StepShape {
    StepShape { retry: step.retry.tries(1).late(1, Duration::from_secs(3_600)), ..step }
}

/// Whether others send what comes of a step.
const fn is_sent(step: &StepShape) -> bool {
    matches!(step.place, Doable::Sent(_))
}

/// Whether a step takes a lock.
fn is_lock(step: &StepShape) -> bool {
    step.place == Doable::Locked
}

impl Explorer {
    fn new(steps: Vec<StepShape>, pivot: Option<usize>, fault: Fault, most_crashes: u32) -> Self {
        let stages = steps.iter().map(|step| step.stage + 1).max().unwrap_or_default();
        let shape = Shape::new(steps, stages, pivot);
        let (seen, left, ends) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        Self {
            shape,
            fault,
            guards: false,
            most_crashes,
            may_hold: false,
            may_forward: false,
            most_operated: 0,
            parent: None,
            seen,
            left,
            ends,
        }
    }

    /// The same, when who is called may be away.
    fn may_be_away(self) -> Self {
        Self { may_hold: true, ..self }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self) -> Result<usize, String> {
        let mut world = World {
            state: self.shape.begin(),
            busy: BTreeSet::new(),
            astray: BTreeSet::new(),
            truth: vec![Truth::default(); self.shape.steps.len()],
            children: vec![Child::None; self.shape.steps.len()],
            locks: vec![Lock::Left; self.shape.steps.len()],
            told: None,
            said: 0,
            late: false,
            cancelled: false,
            crashes: 0,
            retried: 0,
            forward: false,
            sent: 0,
            operated: 0,
        };
        let input = Data::of(&()).expect("null");
        let parent = self.parent.map(|holds| Parent { of: kin(), step: "within".to_owned(), holds });
        self.write(&mut world, Record::Begun { input, deadline: Some(at(true)), parent })?;
        self.write(&mut world, Record::Taken {})?;
        self.left.push(world);
        while let Some(world) = self.left.pop() {
            // How many records there were makes no difference once it has begun.
            let world = World { state: world.state.counting_up_to(3), ..world };
            if self.seen.insert(format!("{world:?}")) {
                self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
            }
        }
        Ok(self.seen.len())
    }

    fn write(&self, world: &mut World, record: Record) -> Result<(), String> {
        let record = match record {
            Record::Decided { why, .. } if self.fault == Fault::ForgetsOpenCalls => {
                Record::Decided { why, open: Vec::new() }
            }
            record => record,
        };
        let written = Written { at: at(world.late), record };
        self.shape.fold(&mut world.state, &written)?;
        // What it does not claim any more it leaves in that commit.
        let leaves = self.fault == Fault::LeavesEarly && world.state.is_decided();
        for (step, lock) in world.locks.iter_mut().enumerate() {
            let is_claimed = self.shape.claims(&world.state).contains_key(self.shape.steps[step].name);
            if *lock != Lock::Left && (leaves || !is_claimed) {
                *lock = Lock::Left;
            }
        }
        Ok(())
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        for call in world.astray.clone() {
            for truth in self.behind_guard(world, call) {
                let mut then = world.clone();
                then.astray.remove(&call);
                then.truth[call.step] = truth;
                self.left.push(then);
            }
        }
        let next = self.shape.next(RUN, &world.state, &world.busy, at(world.late));
        match &next {
            Next::Ended => return self.holds_at_the_end(world),
            Next::Append(records) => {
                let mut then = world.clone();
                for record in records {
                    self.may_write(world, record)?;
                    self.write(&mut then, record.clone())?;
                }
                self.left.push(then);
                // It can crash before that.
                return self.crash(world);
            }
            Next::Act { calls, until } => {
                let is_free = self.only_looks(world, calls) && world.busy.is_empty();
                if is_free && until.is_none_or(|until| until >= at(true)) {
                    self.stands(world)?;
                }
                self.hold(world, calls)?;
                self.see_to(world, calls)?;
                for call in calls {
                    if self.is_child(call.step) || is_lock(&self.shape.steps[call.step]) {
                        continue;
                    }
                    self.in_order(world, *call)?;
                    if call.undo && !self.shape.is_before_pivot(call.step) {
                        return Err(format!("{call:?}, which has no undo"));
                    }
                    let mut then = world.clone();
                    if then.state.is_held() && self.is_outside(*call) && self.fault != Fault::ForgetsToTake {
                        self.write(&mut then, Record::Taken {})?;
                    }
                    then.busy.insert(*call);
                    self.left.push(then);
                }
            }
        }
        for call in world.busy.clone() {
            self.answer(world, call)?;
        }
        self.crash(world)?;
        self.children_go_on(world)?;
        self.time_and_people(world)
    }

    /// Whether all that is done is to look at children about which a person is asked.
    fn only_looks(&self, world: &World, calls: &[Call]) -> bool {
        calls.iter().all(|call| self.is_child(call.step) && world.state.steps[call.step].parked.is_some())
    }

    fn is_child(&self, step: usize) -> bool {
        self.shape.child_of(step).is_some()
    }

    /// Children begin, and are looked at.
    fn see_to(&mut self, world: &World, calls: &[Call]) -> Result<(), String> {
        let mut is_stuck = !self.only_looks(world, calls) && world.busy.is_empty();
        for call in calls {
            let Some(errand) = self.shape.errand(&world.state, *call) else {
                is_stuck = false;
                continue;
            };
            let mut then = world.clone();
            let record = match errand {
                Errand::Begin => {
                    self.in_order(world, *call)?;
                    then.children[call.step] = Child::Going;
                    let step = self.shape.steps[call.step].name.to_owned();
                    Some(Record::Called { step, child: kin(), gives: None })
                }
                Errand::Look { .. } => self.looked(world, *call),
                Errand::Claim | Errand::Granted(_) => {
                    is_stuck = false;
                    self.see_to_lock(world, *call, errand == Errand::Claim)?;
                    continue;
                }
            };
            if let Some(record) = record {
                then.said += u32::from(matches!(record, Record::Declined { .. }));
                self.write(&mut then, record)?;
                self.left.push(then);
                is_stuck = false;
            }
        }
        let may_say = |step: usize| !self.next_of(world, step).is_empty();
        if is_stuck && !(0..world.children.len()).any(may_say) {
            return Err("it waits for children that have nothing more to say".to_owned());
        }
        Ok(())
    }

    /// A lock is taken, or waited for; or it is looked whether the run has it by now.
    fn see_to_lock(&mut self, world: &World, call: Call, is_new: bool) -> Result<(), String> {
        let (step, mut then) = (self.shape.steps[call.step].name.to_owned(), world.clone());
        if is_new {
            self.in_order(world, call)?;
            let locks = vec![Resource::exclusive(step.clone())];
            then.locks[call.step] = Lock::Waits;
            self.write(&mut then, Record::Claimed { step: step.clone(), locks })?;
            self.left.push(then.clone());
            then.locks[call.step] = Lock::Held;
        }
        if then.locks[call.step] == Lock::Held {
            then.truth[call.step].acted = true;
            self.write(&mut then, Record::Done { step, output: Data::of(&()).expect("null") })?;
            self.left.push(then);
        }
        Ok(())
    }

    fn looked(&self, world: &World, call: Call) -> Option<Record> {
        let output = || Data::of(&1).expect("a number");
        let is = match world.children[call.step] {
            Child::Ready if call.undo && self.fault == Fault::BelievesChildren => {
                ChildIs::Ended(Outcome::Undone(Why::Deadline), None)
            }
            Child::None | Child::Going => ChildIs::Going,
            Child::Ready => ChildIs::Ready(output()),
            Child::Refuses => ChildIs::Refuses,
            Child::Completed => ChildIs::Ended(Outcome::Completed, Some(output())),
            Child::Undone => ChildIs::Ended(Outcome::Undone(Why::Deadline), None),
            Child::Abandoned => ChildIs::Ended(abandoned(), None),
        };
        let seen = self.shape.seen(&world.state, call, is);
        let forgets = self.fault == Fault::ForgetsToAsk && world.children[call.step] == Child::Completed;
        match seen {
            Some(Record::Parked { step, .. }) if forgets => Some(Record::Done { step, output: output() }),
            seen => seen,
        }
    }

    /// What may become of a child.
    fn next_of(&self, world: &World, step: usize) -> Vec<Child> {
        let holds = self.shape.is_before_pivot(step);
        let is_told = world.state.steps[step].child.recalled.is_some() && self.fault != Fault::ForgetsToTell;
        match world.children[step] {
            Child::Going if holds => vec![Child::Ready, Child::Undone, Child::Abandoned],
            Child::Going => vec![Child::Refuses, Child::Undone, Child::Abandoned],
            Child::Ready if is_told => vec![Child::Undone],
            Child::Refuses => vec![Child::Completed],
            _ => Vec::new(),
        }
    }

    fn children_go_on(&mut self, world: &World) -> Result<(), String> {
        for step in 0..world.locks.len() {
            // Another run leaves it.
            if world.locks[step] == Lock::Waits {
                let mut then = world.clone();
                then.locks[step] = Lock::Held;
                self.left.push(then);
            }
        }
        for step in 0..world.children.len() {
            let mut all = self.next_of(world, step);
            // A person has ended it.
            all.extend((world.children[step] == Child::Ready).then_some(Child::Abandoned));
            for next in all {
                let mut then = world.clone();
                then.children[step] = next;
                let acted = matches!(next, Child::Ready | Child::Refuses | Child::Completed);
                let truth = &mut then.truth[step];
                *truth = Truth { acted: acted || truth.acted, undone: next == Child::Undone, ..*truth };
                self.left.push(then);
            }
        }
        Ok(())
    }

    /// Its parent says how it ends, once: that it is undone, at any time, or that it is not, once it knows that all of this
    /// one has run.
    fn parent_says(&mut self, world: &World) -> Result<(), String> {
        if self.parent.is_none() || world.told.is_some() {
            return Ok(());
        }
        for ends in [Outcome::Undone(Why::Deadline), Outcome::Completed, abandoned()] {
            let is_undone = matches!(ends, Outcome::Undone(_));
            if !is_undone && !world.state.as_child.is_ready {
                continue;
            }
            let asked = Asked { verb: Verb::Parent { ends: ends.clone() }, by: by() };
            let mut then = World { told: Some(ends), ..world.clone() };
            match self.shape.asked(&then.state, &then.busy, &asked) {
                Ok(records) => {
                    if records.iter().any(|record| matches!(record, Record::Decided { .. })) {
                        self.no_pivot_has_run(world)?;
                    }
                    records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                    then.forward &= !is_undone;
                }
                // One that has no pivot never refuses.
                Err(why) if self.shape.pivot.is_none() => return Err(why),
                Err(_) => then.said += 1,
            }
            // A person may be heard before anything comes of it.
            self.cancel(&then)?;
            self.left.push(then);
        }
        Ok(())
    }

    /// Nothing goes on by itself: it waits for a person and says so, or for what others send.
    fn stands(&mut self, world: &World) -> Result<(), String> {
        let (status, why) = self.shape.status(RUN, &world.state, at(world.late));
        let is_parked = world.state.parked().next().is_some() || world.state.as_child.is_orphan();
        let is_awaited = self.shape.waits_for_senders(&world.state).is_some() || world.state.as_child.waits();
        match (is_parked, status == RunStatus::Parked && why.is_some()) {
            (true, true) => self.retry(world),
            (false, false) if is_awaited => Ok(()),
            _ => Err(format!("it stands, and is {status:?} because of {why:?}")),
        }
    }

    fn is_outside(&self, call: Call) -> bool {
        self.shape.steps[call.step].place == Doable::Elsewhere
    }

    /// Who is to be called may be away: it is laid down, if no call is under way.
    fn hold(&mut self, world: &World, calls: &[Call]) -> Result<(), String> {
        let is_free = world.busy.is_empty() || self.fault == Fault::HoldsCalls;
        if is_free
            && self.may_hold
            && !world.state.is_held()
            && calls.iter().any(|call| self.is_outside(*call))
        {
            let mut then = world.clone();
            self.write(&mut then, Record::Held { steps: Vec::new() })?;
            self.left.push(then);
        }
        Ok(())
    }

    fn is_guarded(&self, call: Call) -> bool {
        let step = &self.shape.steps[call.step];
        self.guards && step.place == Doable::Elsewhere && step.unknown == Unknown::Fence
    }

    /// What a call comes to that arrives at a guard row.
    fn behind_guard(&self, world: &World, call: Call) -> Vec<Truth> {
        let truth = world.truth[call.step];
        let is_open = truth.guard == Guard::Open && !truth.undone || self.fault == Fault::NoGuard;
        match (call.undo, truth.acted && !truth.undone) {
            (true, true) => vec![Truth { undone: true, ..truth }],
            (true, false) if truth.guard == Guard::Open && !truth.acted => {
                vec![Truth { guard: Guard::Barred, ..truth }]
            }
            (false, false) if is_open => {
                let acted = Truth { acted: true, undone: false, ..truth };
                let refused = Truth { guard: Guard::Refused, ..truth };
                let is_last = self.shape.steps.len() == call.step + 1;
                if is_last { vec![acted] } else { vec![acted, refused] }
            }
            _ => vec![truth],
        }
    }

    /// Each answer of a guarded call: what the row says, or nothing that anybody hears.
    fn answers_behind_guard(&self, world: &World, call: Call) -> Vec<(Truth, Answer)> {
        let now = world.truth[call.step];
        let mut answers = vec![(now, Answer::Failed("it was not reached".into()))];
        if call.undo && now.acted && !now.undone {
            answers.push((now, Answer::Refused("it cannot be undone as things are".into())));
        }
        for truth in self.behind_guard(world, call) {
            let answer = match truth.guard {
                _ if call.undo || truth.acted && !truth.undone => {
                    Answer::Done(Data::of(&1).expect("a number"))
                }
                Guard::Refused => Answer::Refused("no".into()),
                _ => Answer::Failed("hanging".into()),
            };
            answers.extend([(truth, Answer::Failed("lost".into())), (truth, answer)]);
        }
        answers
    }

    /// Each answer that a call can have.
    fn answer(&mut self, world: &World, call: Call) -> Result<(), String> {
        let answers = match self.is_guarded(call) {
            true => self.answers_behind_guard(world, call),
            false => self.answers(world, call),
        };
        for (truth, answer) in answers {
            let mut then = world.clone();
            then.busy.remove(&call);
            then.truth[call.step] = truth;
            let record = self.shape.answered(&then.state, call, answer);
            self.write(&mut then, record)?;
            self.left.push(then);
        }
        Ok(())
    }

    fn answers(&self, world: &World, call: Call) -> Vec<(Truth, Answer)> {
        let truth = world.truth[call.step];
        let is_outside = self.shape.steps[call.step].place == Doable::Elsewhere;
        let is_last = self.shape.steps.len() == call.step + 1;
        let has_been_undone = truth.acted && truth.undone;
        let can_refuse = !(call.undo || is_last || has_been_undone);
        let done = Truth { acted: truth.acted || !call.undo, undone: truth.undone || call.undo, ..truth };
        let mut answers =
            vec![(done, Answer::Done(Data::of(&1).expect("a number"))), (truth, Answer::Failed("no".into()))];
        if is_outside {
            // It acts, and nobody hears of it.
            answers.push((done, Answer::Failed("lost".into())));
        }
        // A partner refuses what has not acted; or the repetition of what has, if it does not know its own key any more.
        if can_refuse && (is_outside || !truth.acted) {
            answers.push((truth, Answer::Refused("no".into())));
        }
        answers
    }

    /// The node is gone. Each call under way may have acted; what was done in the journal's database was not.
    fn crash(&mut self, world: &World) -> Result<(), String> {
        if world.crashes == self.most_crashes {
            return Ok(());
        }
        let mut worlds = vec![World { crashes: world.crashes + 1, busy: BTreeSet::new(), ..world.clone() }];
        for call in &world.busy {
            if self.is_guarded(*call) {
                worlds.iter_mut().for_each(|world| world.astray.extend([*call]));
            } else if self.shape.steps[call.step].place == Doable::Elsewhere {
                for mut world in worlds.clone() {
                    let truth = &mut world.truth[call.step];
                    match call.undo {
                        true => truth.undone = true,
                        false => truth.acted = true,
                    }
                    worlds.push(world);
                }
            }
        }
        for mut world in worlds {
            if self.shape.calls_outside(&world.state) && self.fault != Fault::ForgetsCalls {
                self.write(&mut world, Record::Taken {})?;
            }
            self.left.push(world);
        }
        Ok(())
    }

    fn time_and_people(&mut self, world: &World) -> Result<(), String> {
        if !world.late {
            self.left.push(World { late: true, ..world.clone() });
        }
        if self.may_forward && !world.forward {
            let mut then = World { forward: true, ..world.clone() };
            let asked = Asked { verb: Verb::GoForward, by: by() };
            if let Ok(records) = self.shape.asked(&then.state, &then.busy, &asked) {
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(then);
            }
        }
        self.send(world)?;
        self.parent_says(world)?;
        self.operate(world)?;
        self.cancel(world)
    }

    /// A person who has looked takes a step for undone, or does it by hand and takes it for run.
    fn operate(&mut self, world: &World) -> Result<(), String> {
        if world.operated == self.most_operated {
            return Ok(());
        }
        for (step, shape) in self.shape.steps.iter().enumerate() {
            let Truth { acted, undone, .. } = world.truth[step];
            let (name, output) = (|| shape.name.to_owned(), Data::of(&1).expect("a number"));
            let mut verbs = vec![(Verb::Resolve { step: name(), output }, true)];
            if !acted || undone {
                verbs.push((Verb::Skip { step: name() }, false));
            }
            for (verb, is_there) in verbs {
                let mut then = World { operated: world.operated + 1, ..world.clone() };
                let asked = Asked { verb, by: by() };
                if let Ok(records) = self.shape.asked(&then.state, &then.busy, &asked) {
                    let truth = &mut then.truth[step];
                    *truth = Truth { acted: is_there || acted, undone: !is_there && undone, ..*truth };
                    records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                    self.left.push(then);
                }
            }
        }
        Ok(())
    }

    fn cancel(&mut self, world: &World) -> Result<(), String> {
        if !world.cancelled {
            // Whoever had it sent forward may do so again.
            let mut then = World { cancelled: true, forward: false, ..world.clone() };
            let asked = Asked { verb: Verb::Cancel, by: by() };
            if let Ok(records) = self.shape.asked(&then.state, &then.busy, &asked) {
                if records.iter().any(|record| matches!(record, Record::Decided { .. })) {
                    self.no_pivot_has_run(world)?;
                }
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(then);
            }
        }
        Ok(())
    }

    /// Somebody sends what a step waits for, at any time, or sends the same once more.
    fn send(&mut self, world: &World) -> Result<(), String> {
        let Some(step) = self.shape.steps.iter().position(is_sent).filter(|_| world.sent < 3) else {
            return Ok(());
        };
        for id in ["a", "b"] {
            let (name, value) = (self.shape.steps[step].name.to_owned(), Data::of(&1).expect("a number"));
            let asked = Asked { verb: Verb::Signal { name, id: id.to_owned(), value }, by: by() };
            if let Ok(records) = self.shape.asked(&world.state, &world.busy, &asked) {
                let mut then = World { sent: world.sent + 1, ..world.clone() };
                then.truth[step].acted = true;
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(then);
            }
        }
        Ok(())
    }

    /// A person has it tried again.
    fn retry(&mut self, world: &World) -> Result<(), String> {
        if world.retried == 1 {
            return Ok(());
        }
        let mut then = World { retried: 1, ..world.clone() };
        let asked = Asked { verb: Verb::Retry { step: None }, by: by() };
        let records = self.shape.asked(&then.state, &then.busy, &asked)?;
        records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
        self.left.push(then);
        Ok(())
    }

    fn may_write(&self, world: &World, record: &Record) -> Result<(), String> {
        match record {
            Record::Decided { why, .. } if world.forward => Err(format!("it was sent forward, and {why}")),
            Record::Decided { .. } => self.no_pivot_has_run(world),
            _ => Ok(()),
        }
    }

    fn no_pivot_has_run(&self, world: &World) -> Result<(), String> {
        let pivot = self.shape.steps.iter().position(|step| Some(step.stage) == self.shape.pivot);
        let has_run = |pivot: usize| match is_sent(&self.shape.steps[pivot]) {
            true => world.state.has_run(pivot),
            // It may run at any time.
            false if world.children[pivot] == Child::Going => true,
            false => world.truth[pivot].acted,
        };
        match pivot.is_some_and(has_run) {
            true => Err("it is decided against a pivot that has run".to_owned()),
            false => Ok(()),
        }
    }

    /// An undo comes behind those of all later stages; a forward call behind all earlier ones.
    fn in_order(&self, world: &World, call: Call) -> Result<(), String> {
        let stage = self.shape.steps[call.step].stage;
        for ((other, truth), lock) in self.shape.steps.iter().zip(&world.truth).zip(&world.locks) {
            if is_lock(other) && other.stage < stage && truth.acted && *lock != Lock::Held {
                return Err(format!("{call:?} comes when the lock of {} is left", other.name));
            }
            if is_lock(other) && call.undo {
                continue;
            }
            if call.undo && !is_sent(other) && other.stage > stage && truth.acted && !truth.undone {
                return Err(format!("{call:?} comes before {} is undone", other.name));
            }
            if !call.undo && other.stage < stage && (!truth.acted || truth.undone) {
                return Err(format!("{call:?} comes before {} has run", other.name));
            }
        }
        Ok(())
    }

    fn holds_at_the_end(&mut self, world: &World) -> Result<(), String> {
        let outcome = world.state.outcome().ok_or("it has ended without an outcome")?;
        self.ends.insert(outcome.to_string());
        let words = self.shape.words("outer", &world.state, &Record::Ended { outcome: outcome.clone() });
        for (step, child) in self.shape.steps.iter().zip(&world.children) {
            let is_right = match (child, outcome) {
                (Child::None, _) => {
                    !matches!(step.place, Doable::Child { .. }) || *outcome != Outcome::Completed
                }
                (Child::Ready, Outcome::Completed) => {
                    words.iter().any(|word| word.ends == Outcome::Completed)
                }
                // Abandoned once all of it had run, it seems: else it has not acted.
                (Child::Completed | Child::Abandoned, outcome) => *outcome == Outcome::Completed,
                (Child::Undone, outcome) => *outcome != Outcome::Completed,
                _ => false,
            };
            if !is_right {
                return Err(format!("{outcome}, and the child of {} is {child:?}", step.name));
            }
        }
        if *outcome == Outcome::Completed
            && world.state.unasked().any(|step| self.shape.asks_if_it_refuses(step))
        {
            return Err("nobody was asked whether it goes forward".to_owned());
        }
        if self.parent == Some(true)
            && *outcome == Outcome::Completed
            && !matches!(world.told, Some(Outcome::Completed))
        {
            return Err("it is completed, and its parent may still be undone".to_owned());
        }
        match (&world.told, outcome) {
            (Some(Outcome::Completed), Outcome::Undone(_)) => {
                return Err("it is undone, and its parent is completed".to_owned());
            }
            (Some(Outcome::Undone(_)), Outcome::Completed) if world.said == 0 => {
                return Err("its parent waits to hear whether it is undone".to_owned());
            }
            _ => {}
        }
        if world.locks.iter().any(|lock| *lock != Lock::Left) {
            return Err(format!("{outcome}, and it has locks: {:?}", world.locks));
        }
        for (step, truth) in self.shape.steps.iter().zip(&world.truth) {
            let is_right = match outcome {
                Outcome::Completed => truth.acted && !truth.undone,
                _ => !truth.acted || truth.undone || is_sent(step) || is_lock(step),
            };
            if !is_right {
                return Err(format!("{outcome}, and {} is {truth:?}", step.name));
            }
        }
        Ok(())
    }
}

fn kin() -> Kin {
    Kin { saga: "other".to_owned(), version: 1, key: "a".to_owned(), run: RUN }
}

fn abandoned() -> Outcome {
    Outcome::Abandoned { actor: "bob".to_owned(), reason: "because".to_owned() }
}

fn by() -> By {
    By::new("ada".to_owned(), "because".to_owned(), RUN)
}

/// A step, two that run together, a pivot, and one that has to succeed.
fn saga(fault: Fault, most_crashes: u32) -> Explorer {
    let steps = vec![
        step("first", 0, Doable::Elsewhere, Unknown::Settle, fault),
        step("left", 1, Doable::Elsewhere, Unknown::Fence, fault),
        step("right", 1, Doable::Here, Unknown::Settle, fault),
        step("pivot", 2, Doable::Elsewhere, Unknown::Settle, fault),
        step("last", 3, Doable::Here, Unknown::Settle, fault),
    ];
    Explorer::new(steps, Some(2), fault, most_crashes)
}

fn explore(mut explorer: Explorer) -> BTreeSet<String> {
    let states = explorer.explore().unwrap_or_else(|why| panic!("{why}"));
    assert!(states > 1_000, "{states}");
    explorer.ends
}

#[test]
fn whatever_happens_all_of_it_is_done_or_nothing() {
    let ends = explore(saga(Fault::None, 1).may_be_away());
    let all = ["completed", "undone: its deadline passed", "undone: cancelled by ada: because"];
    assert!(all.iter().all(|end| ends.contains(*end)), "{ends:?}");
    assert!(ends.iter().any(|end| end.contains("was refused")), "{ends:?}");
    assert!(ends.iter().any(|end| end.contains("failed")), "{ends:?}");
}

/// A step and a pivot.
fn brief(fault: Fault, most_crashes: u32) -> Explorer {
    let of = |name, stage, unknown| step(name, stage, Doable::Elsewhere, unknown, fault);
    let steps = vec![of("first", 0, Unknown::Fence), of("pivot", 1, Unknown::Settle)];
    Explorer::new(steps, Some(1), fault, most_crashes)
}

#[test]
fn nodes_may_crash_again_and_again() {
    explore(brief(Fault::None, 4).may_be_away());
}

/// Two calls that run together, and no pivot.
fn two(fault: Fault) -> Explorer {
    let of = |name, unknown| once(step(name, 0, Doable::Elsewhere, unknown, fault));
    Explorer::new(vec![of("left", Unknown::Settle), of("right", Unknown::Fence)], None, fault, 1)
}

#[test]
fn a_saga_without_a_pivot_is_undone_as_well() {
    explore(two(Fault::None).may_be_away());
}

/// The same with steps behind guard rows, whose calls may arrive long after their node has gone.
fn guarded(fault: Fault, most_crashes: u32) -> Explorer {
    let of = |name, stage| {
        let step = once(step(name, stage, Doable::Elsewhere, Unknown::Fence, fault));
        StepShape { refuses_for_good: true, ..step }
    };
    let here = step("here", 0, Doable::Here, Unknown::Settle, fault);
    let steps = vec![of("first", 0), here, of("pivot", 1), of("last", 2)];
    Explorer { guards: true, ..Explorer::new(steps, Some(1), fault, most_crashes) }
}

#[test]
fn calls_that_arrive_late_are_barred_by_their_guard() {
    let ends = explore(guarded(Fault::None, 2).may_be_away());
    assert!(ends.contains("completed") && ends.iter().any(|end| end.contains("was refused")), "{ends:?}");
    assert!(guarded(Fault::NoGuard, 2).explore().is_err());
}

#[test]
fn what_is_sent_may_come_at_any_time() {
    let of = |name, stage, place| once(step(name, stage, place, Unknown::Settle, Fault::None));
    for (awaits, pivot) in [(Awaits::One, 2), (Awaits::Many(2), 1)] {
        let steps = vec![
            of("first", 0, Doable::Elsewhere),
            of("approved", 1, Doable::Sent(awaits)),
            of("next", 2, Doable::Elsewhere),
            of("last", 3, Doable::Here),
        ];
        let ends = explore(Explorer::new(steps, Some(pivot), Fault::None, 1));
        assert!(ends.contains("completed") && ends.contains("undone: its deadline passed"), "{ends:?}");
    }
}

#[test]
fn what_is_sent_may_be_waited_for_beside_a_call() {
    let of = |name, stage, place, unknown| once(step(name, stage, place, unknown, Fault::None));
    let steps = vec![
        of("first", 0, Doable::Elsewhere, Unknown::Settle),
        of("approved", 1, Doable::Sent(Awaits::One), Unknown::Settle),
        of("beside", 1, Doable::Elsewhere, Unknown::Park),
        of("last", 2, Doable::Here, Unknown::Settle),
    ];
    let ends = explore(Explorer::new(steps, Some(2), Fault::None, 1).may_be_away());
    assert!(ends.contains("completed") && ends.contains("undone: its deadline passed"), "{ends:?}");
}

/// A lock, a call under it, another lock, and a call that decides.
fn with_locks(fault: Fault) -> Explorer {
    let of = |name, stage, place| once(step(name, stage, place, Unknown::Settle, fault));
    let steps = vec![
        of("seat", 0, Doable::Locked),
        of("first", 1, Doable::Elsewhere),
        of("row", 2, Doable::Locked),
        of("next", 3, Doable::Here),
        of("pivot", 4, Doable::Elsewhere),
        of("last", 5, Doable::Here),
    ];
    Explorer::new(steps, Some(4), fault, 1)
}

#[test]
fn locks_are_held_while_anything_is_done_or_undone_under_them() {
    let ends = explore(with_locks(Fault::None).may_be_away());
    let all = ["completed", "undone: its deadline passed", "undone: cancelled by ada: because"];
    assert!(all.iter().all(|end| ends.contains(*end)), "{ends:?}");
    assert!(with_locks(Fault::LeavesEarly).explore().is_err());
}

#[test]
fn what_a_person_sends_forward_is_undone_by_a_person_only() {
    let of = |name, stage, place, unknown| step(name, stage, place, unknown, Fault::None);
    let steps = vec![
        of("first", 0, Doable::Elsewhere, Unknown::Settle),
        of("pivot", 1, Doable::Elsewhere, Unknown::Settle),
        of("last", 2, Doable::Here, Unknown::Settle),
    ];
    let mut explorer = Explorer::new(steps, Some(1), Fault::None, 2);
    explorer.may_forward = true;
    let ends = explore(explorer);
    assert!(ends.contains("completed") && ends.contains("undone: cancelled by ada: because"), "{ends:?}");
}

#[test]
fn what_a_person_takes_for_run_or_undone_is_so_at_the_end() {
    let may_operate = |explorer| Explorer { most_operated: 1, ..explorer };
    let ends = explore(may_operate(brief(Fault::None, 1)));
    assert!(ends.contains("completed") && ends.contains("undone: cancelled by ada: because"), "{ends:?}");
    explore(may_operate(two(Fault::None)));
    let of = |name, stage, unknown| step(name, stage, Doable::Elsewhere, unknown, Fault::None);
    let asks = vec![of("first", 0, Unknown::Park), of("pivot", 1, Unknown::Settle)];
    explore(may_operate(Explorer::new(asks, Some(1), Fault::None, 1)));
}

const CHILD: Doable = Doable::Child { gives: "some", if_it_refuses: IfItRefuses::GoForward };

/// A child beside a call, a call that decides, and a child behind it.
fn with_children(fault: Fault) -> Explorer {
    let of = |name, stage, place| once(step(name, stage, place, Unknown::Settle, fault));
    let steps = vec![
        of("first", 0, CHILD),
        of("beside", 0, Doable::Elsewhere),
        of("pivot", 1, Doable::Elsewhere),
        of("last", 2, CHILD),
    ];
    Explorer::new(steps, Some(1), fault, 1)
}

/// A step, and a child that decides.
fn decided_by_a_child(fault: Fault, if_it_refuses: IfItRefuses) -> Explorer {
    let of = |name, stage, place| step(name, stage, place, Unknown::Settle, fault);
    let child = Doable::Child { gives: "some", if_it_refuses };
    let steps = vec![of("first", 0, Doable::Elsewhere), of("pivot", 1, child), of("last", 2, Doable::Here)];
    Explorer::new(steps, Some(1), fault, 2)
}

#[test]
fn children_are_done_with_their_parent_or_undone_with_it() {
    let ends = explore(with_children(Fault::None));
    let all = ["completed", "undone: its deadline passed", "undone: cancelled by ada: because"];
    assert!(all.iter().all(|end| ends.contains(*end)), "{ends:?}");
    assert!(ends.contains("undone: first was refused: its deadline passed"), "{ends:?}");
    for if_it_refuses in [IfItRefuses::GoForward, IfItRefuses::Park] {
        let mut explorer = decided_by_a_child(Fault::None, if_it_refuses);
        let states = explorer.explore().unwrap_or_else(|why| panic!("{why}"));
        assert!(states > 100, "{states}");
        assert!(all.iter().all(|end| explorer.ends.contains(*end)), "{:?}", explorer.ends);
        // It may be sent forward, and cancelled after that.
        explore(Explorer { may_forward: true, ..decided_by_a_child(Fault::None, if_it_refuses) });
    }
    assert!(decided_by_a_child(Fault::ForgetsToAsk, IfItRefuses::Park).explore().is_err());
    for fault in [Fault::ForgetsToTell, Fault::BelievesChildren] {
        assert!(with_children(fault).explore().is_err(), "{fault:?}");
    }
}

#[test]
fn a_child_ends_with_its_parent_or_says_that_it_has_decided() {
    let of = |name, stage, place| step(name, stage, place, Unknown::Settle, Fault::None);
    let steps = || {
        vec![of("first", 0, Doable::Elsewhere), of("next", 1, Doable::Elsewhere), of("here", 2, Doable::Here)]
    };
    for (pivot, holds) in [(None, true), (Some(1), false)] {
        let explorer = Explorer { parent: Some(holds), ..Explorer::new(steps(), pivot, Fault::None, 1) };
        let ends = explore(explorer);
        assert!(ends.contains("completed") && ends.contains("undone: cancelled by ada: because"), "{ends:?}");
    }
    // What its parent says goes on to a child of it that decides.
    for (if_it_refuses, may_forward) in
        [(IfItRefuses::GoForward, false), (IfItRefuses::Park, false), (IfItRefuses::GoForward, true)]
    {
        let explorer = decided_by_a_child(Fault::None, if_it_refuses);
        let ends = explore(Explorer { parent: Some(false), may_forward, ..explorer });
        assert!(ends.contains("completed") && ends.contains("undone: cancelled by ada: because"), "{ends:?}");
    }
}

#[test]
fn what_is_built_wrong_is_found() {
    for fault in [Fault::ForgetsCalls, Fault::BelievesRefusals, Fault::ForgetsOpenCalls] {
        assert!(saga(fault, 2).explore().is_err(), "{fault:?}");
    }
    assert!(two(Fault::HoldsCalls).may_be_away().explore().is_err());
    assert!(brief(Fault::ForgetsToTake, 1).may_be_away().explore().is_err());
}
