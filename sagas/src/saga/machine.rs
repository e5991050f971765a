//! What follows what in a saga: pure, so that every state of it can be visited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::{Timestamp, chain};
use uuid::Uuid;

use super::child::IfItRefuses;
use super::family::{AsChild, AsParent};
use super::pace::Failures;
use super::step::{ActedInPart, Awaits, Retry, Unknown};
use crate::data::Data;
use crate::lock::{LockMode, Resource};
use crate::transaction::{
    Answer, Asked, Call, Look, Next, OTHER_SENT, Outcome, Record, RunStatus, Verb, Why, Written, cut, is_over,
};

/// Where a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doable {
    /// In the commit that says so.
    Here,
    /// By a call.
    Elsewhere,
    /// By others, who send what comes of it.
    Sent(Awaits),
    /// By the rows of locks, which say whether the run has them.
    Locked,
    /// As a run of its own, whose output is that of one of its steps.
    Child { gives: &'static str, if_it_refuses: IfItRefuses },
}

/// What is known of a step without a run.
#[derive(Clone, Debug)]
pub(super) struct StepShape {
    pub(super) name: &'static str,
    pub(super) needs: Vec<&'static str>,
    pub(super) stage: usize,
    pub(super) place: Doable,
    pub(super) retry: Retry,
    pub(super) limit: Duration,
    pub(super) unknown: Unknown,
    pub(super) refuses_for_good: bool,
    /// Whether a failure may leave a part of what it does.
    pub(super) acts_in_parts: bool,
    /// Whether what it does is only staged.
    pub(super) is_staged: bool,
    /// Who is called.
    pub(super) destination: Option<String>,
}

/// What is known of a saga without a run: its steps, in stages that follow each other.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) steps: Vec<StepShape>,
    pub(super) stages: usize,
    /// Which stage is the pivot.
    pub(super) pivot: Option<usize>,
}

/// What the records of a run come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    records: u64,
    /// Since then it is laid down, and nobody has called anything for it.
    held: Option<Timestamp>,
    pub(super) input: Option<Data>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) steps: Vec<Standing>,
    decided: Option<Why>,
    /// An operator has decided that it goes forward.
    forward: bool,
    /// An operator has ended it: who, and why.
    abandoned: Option<(String, String)>,
    ended: Option<Outcome>,
    pub(super) as_child: AsChild,
}

impl State {
    /// Whether it is decided that it is undone.
    pub(super) const fn is_decided(&self) -> bool {
        self.decided.is_some()
    }

    /// Whether nobody calls anything for it until it is taken up again.
    pub(super) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether an operator has decided that it goes forward.
    pub(super) const fn goes_forward(&self) -> bool {
        self.forward
    }

    /// Whether an operator has ended it where it is.
    pub(super) const fn is_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    /// The same, had it no deadline.
    pub(super) fn without_deadline(&self) -> Self {
        Self { deadline: None, ..self.clone() }
    }

    /// Which steps wait for a person.
    pub(super) fn parked(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().enumerate().filter(|(_, standing)| standing.parked.is_some()).map(|(i, _)| i)
    }

    /// Whether it is known that a step has run.
    pub(super) fn has_run(&self, step: usize) -> bool {
        matches!(self.steps[step].forward, Forward::Yes(_))
    }
}

#[cfg(test)]
impl State {
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref()
    }

    /// Steps that were told to be undone, of whose refusal nobody knows, and that no person has sent forward.
    pub(super) fn unasked(&self) -> impl Iterator<Item = usize> {
        let is_told = |standing: &Standing| standing.child.recalled.is_some() && !standing.child.has_refused;
        let told = self.steps.iter().enumerate().filter(move |(_, standing)| is_told(standing));
        told.map(|(i, _)| i).filter(|_| !self.forward)
    }

    pub(super) fn counting_up_to(mut self, records: u64) -> Self {
        self.records = self.records.min(records);
        self
    }
}

/// Where a step is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) forward: Forward,
    pub(super) refused: Option<String>,
    pub(super) undone: bool,
    /// It was being called when it was decided that all is undone, and has not answered.
    open: bool,
    pub(super) failures: Failures,
    pub(super) parked: Option<String>,
    /// What was sent for it, by the ids of the senders, in order.
    pub(super) sent: Vec<(String, Data)>,
    /// The run that it is, for a saga of its own.
    pub(super) child: AsParent,
    /// The locks that it has asked for.
    pub(super) claims: Option<Vec<Resource>>,
}

/// Whether a step has run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Forward {
    #[default]
    No,
    Maybe,
    Yes(Data),
}

impl Standing {
    /// Whether there is something to undo, or may be.
    fn to_undo(&self) -> bool {
        self.forward != Forward::No && !self.undone
    }

    fn went_well(&mut self) {
        (self.failures, self.parked) = (Failures::default(), None);
    }
}

impl Shape {
    pub(super) fn new(steps: Vec<StepShape>, stages: usize, pivot: Option<usize>) -> Self {
        Self { steps, stages, pivot }
    }

    pub(super) fn begin(&self) -> State {
        State { steps: vec![Standing::default(); self.steps.len()], ..State::default() }
    }

    pub(super) fn of_stage(&self, stage: usize) -> impl Iterator<Item = usize> + '_ {
        self.steps.iter().enumerate().filter(move |(_, step)| step.stage == stage).map(|(i, _)| i)
    }

    /// Whether there is something to undo, or may be.
    fn is_to_undo(&self, state: &State, step: usize) -> bool {
        state.steps[step].to_undo() && !matches!(self.steps[step].place, Doable::Sent(_) | Doable::Locked)
    }

    pub(super) fn place_of(&self, name: &str) -> Result<usize, String> {
        let unknown = || format!("this program's definition has no step {name:?}");
        self.steps.iter().position(|step| step.name == name).ok_or_else(unknown)
    }

    /// The first stage that has not run to its end.
    pub(super) fn frontier(&self, state: &State) -> Option<usize> {
        let has_run = |i: usize| matches!(state.steps[i].forward, Forward::Yes(_));
        (0..self.stages).find(|stage| !self.of_stage(*stage).all(has_run))
    }

    /// Whether a step stands before the pivot; without a pivot, all do.
    pub(super) fn is_before_pivot(&self, step: usize) -> bool {
        self.pivot.is_none_or(|pivot| self.steps[step].stage < pivot)
    }

    pub(super) fn is_pivot(&self, step: usize) -> bool {
        self.pivot == Some(self.steps[step].stage)
    }

    pub(super) fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        let at = written.at;
        state.records += 1;
        match &written.record {
            Record::Begun { input, deadline, parent } => {
                (state.input, state.deadline) = (Some(input.clone()), *deadline);
                if let Some(parent) = parent {
                    state.as_child =
                        AsChild { of: Some(parent.of.clone()), holds: parent.holds, ..AsChild::default() };
                }
            }
            Record::Taken {} => match state.held.take() {
                Some(since) => self.taken_again(state, since, at),
                None => self.taken(state),
            },
            Record::Held { .. } => {
                state.held.get_or_insert(at);
            }
            Record::Done { step, output } => {
                let standing = &mut state.steps[self.place_of(step)?];
                standing.forward = Forward::Yes(output.clone());
                // It may have been taken for undone before: it was not, of what has run only now.
                (standing.refused, standing.open, standing.undone) = (None, false, false);
                standing.went_well();
            }
            Record::Called { step, child, gives } => {
                let standing = &mut state.steps[self.place_of(step)?];
                // It is its own run that says whether it has run.
                standing.forward = Forward::Maybe;
                standing.child.began(child.clone(), gives.clone());
            }
            Record::Recalled { step, why } => {
                state.steps[self.place_of(step)?].child.recalled = Some(why.clone());
            }
            Record::Claimed { step, locks } => {
                state.steps[self.place_of(step)?].claims = Some(locks.clone());
            }
            Record::Ready {} => state.as_child.ready(at),
            Record::Refused { step, why, maybe } => {
                let standing = &mut state.steps[self.place_of(step)?];
                standing.forward = if *maybe { Forward::Maybe } else { Forward::No };
                (standing.refused, standing.open) = (Some(why.clone()), false);
                (standing.child.is_over, standing.child.has_refused) = (true, false);
                standing.went_well();
            }
            Record::Failed { step, undo, error } => self.failed(state, step, *undo, error, at)?,
            Record::Decided { why, open } => {
                state.decided = Some(why.clone());
                state.as_child.let_go(at);
                // What failed on the way there is another matter.
                state.steps.iter_mut().for_each(Standing::went_well);
                for step in open {
                    state.steps[self.place_of(step)?].open = true;
                }
            }
            Record::Undone { step } => {
                let standing = &mut state.steps[self.place_of(step)?];
                (standing.undone, standing.child.is_over) = (true, true);
                standing.went_well();
            }
            Record::Parked { step, why, refuses } => {
                let standing = &mut state.steps[self.place_of(step)?];
                (standing.parked, standing.child.has_refused) = (Some(why.clone()), *refuses);
            }
            Record::Resolved { verb, by } => {
                if let Verb::Parent { .. } = verb {
                    state.as_child.let_go(at);
                }
                self.resolved(state, verb, by)?;
            }
            Record::Declined { verb: Verb::Parent { .. }, .. } => state.as_child.asked = None,
            Record::Declined { .. } => {}
            Record::Agreed {} | Record::Confirmed { .. } | Record::PreCommitted { .. } => {
                return Err("it is a record of a TCC, or of a three-phase commit".to_owned());
            }
            Record::Heard { .. } => return Err("it is a record of a half message".to_owned()),
            Record::Ended { outcome } => state.ended = Some(outcome.clone()),
        }
        Ok(())
    }

    /// Somebody takes it up: whoever had it before may have called what could be called, and nobody has heard of it.
    fn taken(&self, state: &mut State) {
        // Right behind the beginning, nobody has.
        if state.records > 2 {
            for i in self.maybe_called(state) {
                state.steps[i].forward = Forward::Maybe;
            }
        }
    }

    /// It was laid down since then: nobody has called anything elsewhere, and nobody has tried to.
    fn taken_again(&self, state: &mut State, since: Timestamp, at: Timestamp) {
        let rested = Duration::try_from(at - since).unwrap_or_default();
        for (step, standing) in self.steps.iter().zip(&mut state.steps) {
            if step.place == Doable::Elsewhere {
                standing.failures.rested(rested);
            }
        }
    }

    /// Steps elsewhere that whoever had it before may have called without a record.
    fn maybe_called(&self, state: &State) -> Vec<usize> {
        let frontier = self.frontier(state);
        let is_open = |i: &usize| {
            let (step, standing) = (&self.steps[*i], &state.steps[*i]);
            let is_outside = step.place == Doable::Elsewhere;
            let may_be = standing.open || state.decided.is_none() && frontier == Some(step.stage);
            may_be && is_outside && standing.forward == Forward::No && standing.refused.is_none()
        };
        (0..self.steps.len()).filter(is_open).collect()
    }

    fn failed(
        &self,
        state: &mut State,
        step: &str,
        undo: bool,
        error: &str,
        at: Timestamp,
    ) -> Result<(), String> {
        let i = self.place_of(step)?;
        let standing = &mut state.steps[i];
        standing.open &= undo;
        standing.failures.add(error, at);
        if !undo && self.steps[i].place == Doable::Elsewhere && standing.forward == Forward::No {
            standing.forward = Forward::Maybe;
        }
        if !undo && standing.child.open().is_some() {
            // The run that it was is undone.
            (standing.forward, standing.child.is_over) = (Forward::No, true);
        }
        Ok(())
    }

    fn resolved(&self, state: &mut State, verb: &Verb, by: &crate::By) -> Result<(), String> {
        match verb {
            // The decision is a record of its own, and may come later.
            Verb::Cancel => state.forward = false,
            Verb::Parent { ends: Outcome::Undone(_) } => {
                state.forward = false;
                state.as_child.asked = Some(Asked { verb: verb.clone(), by: by.clone() });
            }
            Verb::GoForward => {
                (state.forward, state.as_child.is_kept) = (true, state.as_child.told.is_some());
                // Something else helps from now on, and is said.
                let says_no = |of: &&mut Standing| of.child.has_refused || of.refused.is_some();
                state.steps.iter_mut().filter(says_no).for_each(|standing| standing.parked = None);
            }
            Verb::Retry { step } => {
                let (is_decided, forward) = (state.decided.is_some(), state.forward);
                let meant = step.as_ref().map(|step| self.place_of(step)).transpose()?;
                let all = state.steps.iter_mut().enumerate();
                for (i, standing) in all.filter(|(i, _)| meant.is_none_or(|meant| meant == *i)) {
                    standing.went_well();
                    let is_behind = !self.is_before_pivot(i) && !self.is_pivot(i);
                    // A run that may have acted is followed by another one where that has to succeed.
                    let may_begin = standing.child.run.is_none() || forward || is_behind;
                    // A refusal that said nothing of the calls before it, or that does not count: it is called again.
                    if (standing.forward == Forward::Maybe || forward) && !is_decided && may_begin {
                        standing.refused = None;
                    }
                }
            }
            Verb::Resolve { step, output } => {
                let i = self.place_of(step)?;
                let standing = &mut state.steps[i];
                (standing.forward, standing.refused) = (Forward::Yes(output.clone()), None);
                // It goes on without them.
                standing.claims = None;
                // The run before that has nothing to undo of it.
                if standing.child.is_over && self.is_before_pivot(i) {
                    standing.child.run = None;
                }
                standing.went_well();
            }
            Verb::Skip { step } => {
                let is_decided = state.decided.is_some();
                let standing = &mut state.steps[self.place_of(step)?];
                match is_decided {
                    true => standing.undone = true,
                    // The pivot has not run: if it was refused, that counts now.
                    false => (standing.forward, standing.child.is_over) = (Forward::No, true),
                }
                standing.went_well();
            }
            Verb::Signal { name, id, value } => {
                let i = self.place_of(name)?;
                if self.sent(state, name, id).is_none() {
                    state.steps[i].sent.push((id.clone(), value.clone()));
                }
            }
            Verb::Parent { ends } => state.as_child.told = Some(ends.clone()),
            Verb::Abandon => state.abandoned = Some((by.actor.clone(), by.reason.clone())),
        }
        Ok(())
    }

    pub(super) fn next(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Next {
        if state.ended.is_some() {
            return Next::Ended;
        }
        if let Some(by) = &state.abandoned {
            return Look::abandoned(by, busy);
        }
        let mut look = Look::default();
        match &state.decided {
            None => self.look_forward(run, state, busy, now, &mut look),
            Some(why) => self.look_back(run, state, busy, now, why, &mut look),
        }
        look.next()
    }

    fn look_forward(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp, look: &mut Look) {
        let Some(stage) = self.frontier(state) else {
            return self.all_done(state, look);
        };
        if self.can_be_undone(state, busy) && !state.forward {
            if let Some(why) = self.was_recalled(state, stage) {
                return look.records.push(self.decided(why, busy));
            }
            let no = self.of_stage(stage).find_map(|i| Some((i, state.steps[i].refused.clone()?)));
            if let Some((i, why)) = no {
                let step = self.steps[i].name.to_owned();
                return look.records.push(self.decided(Why::Refused { step, why }, busy));
            }
            match state.deadline {
                Some(deadline) if deadline <= now => {
                    return look.records.push(self.decided(Why::Deadline, busy));
                }
                Some(deadline) => look.waits(deadline),
                None => {}
            }
        }
        self.look_at_deadline(state, now, look);
        for i in self.of_stage(stage) {
            let standing = &state.steps[i];
            let call = Call { step: i, undo: false };
            if matches!(standing.forward, Forward::Yes(_)) || busy.contains(&call) {
                continue;
            }
            // One that refuses may be undone all the same, while a person is asked.
            if standing.child.open().is_some() && (standing.parked.is_none() || standing.child.has_refused) {
                look.calls.push(call);
                continue;
            }
            if standing.parked.is_some() {
                continue;
            }
            if standing.claims.is_some() {
                look.calls.push(call);
                continue;
            }
            if let Doable::Sent(awaits) = self.steps[i].place {
                look.records.extend(has_come(&self.steps[i], awaits, standing));
                continue;
            }
            if let Some(refused) = &standing.refused {
                let why = match standing.child.run {
                    Some(_) => self.why_left(state, i, refused),
                    None if self.has_acted_in_part(i, standing) => why_in_part(state, refused),
                    None => why_refused(state, refused),
                };
                look.records.push(parked(&self.steps[i], &why));
                continue;
            }
            match self.given_up(i, state, busy, now) {
                Some(record) => look.records.push(record),
                None => self.try_call(run, call, standing, now, look),
            }
        }
    }

    /// Whether it is known that a step has done a part of what it does, and not the rest.
    fn has_acted_in_part(&self, i: usize, standing: &Standing) -> bool {
        self.steps[i].acts_in_parts && standing.forward == Forward::Maybe && standing.refused.is_some()
    }

    /// What becomes of a step that has failed as often as it is tried; `None`: it is tried again.
    fn given_up(&self, i: usize, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Option<Record> {
        let (step, standing) = (&self.steps[i], &state.steps[i]);
        let failures = &standing.failures;
        let has_to_succeed = self.has_to_succeed(state, i);
        let may_run = standing.forward == Forward::Maybe;
        if has_to_succeed || self.is_pivot(i) && may_run {
            return self.is_too_late(i, state, now).then(|| parked(step, &failures.error));
        }
        if failures.count < step.retry.tries.max(1) {
            return None;
        }
        if may_run && step.unknown == Unknown::Park {
            return Some(parked(step, &failures.error));
        }
        let why = Why::Failed { step: step.name.to_owned(), error: failures.error.clone() };
        Some(self.decided(why, busy))
    }

    pub(super) fn decided(&self, why: Why, busy: &BTreeSet<Call>) -> Record {
        let open = busy.iter().filter(|call| !call.undo).map(|call| self.steps[call.step].name.to_owned());
        Record::Decided { why, open: open.collect() }
    }

    fn look_back(
        &self,
        run: Uuid,
        state: &State,
        busy: &BTreeSet<Call>,
        now: Timestamp,
        why: &Why,
        look: &mut Look,
    ) {
        for stage in (0..self.stages).rev() {
            let is_busy = |i: &usize| busy.iter().any(|call| call.step == *i);
            let left: Vec<usize> =
                self.of_stage(stage).filter(|i| self.is_to_undo(state, *i) || is_busy(i)).collect();
            for i in left.iter().copied().filter(|i| !is_busy(i)) {
                let (step, standing) = (&self.steps[i], &state.steps[i]);
                if standing.parked.is_some() {
                    continue;
                }
                if self.child_of(i).is_some() {
                    self.undo_child(i, standing, why, look);
                    continue;
                }
                let is_open = standing.forward == Forward::Maybe && standing.refused.is_none();
                if is_open && step.unknown == Unknown::Park {
                    look.records
                        .push(parked(step, "whether it has run is not known: find out, and resolve or skip"));
                    continue;
                }
                // What may have run is settled before it is undone.
                let call = Call { step: i, undo: !is_open || step.unknown == Unknown::Fence };
                match self.is_too_late(i, state, now) {
                    true => look.records.push(parked(step, &standing.failures.error)),
                    false => self.try_call(run, call, standing, now, look),
                }
            }
            // What others needed is undone after them.
            if !left.is_empty() {
                return;
            }
        }
        look.records.push(Record::Ended { outcome: Outcome::Undone(why.clone()) });
    }

    /// Whether a step that has to succeed was tried for long enough.
    fn is_too_late(&self, i: usize, state: &State, now: Timestamp) -> bool {
        let (step, failures) = (&self.steps[i], &state.steps[i].failures);
        // While it is laid down, only what is done here is tried.
        let held = state.held.filter(|_| step.place == Doable::Elsewhere);
        failures.are_too_many(&step.retry, held.unwrap_or(now))
    }

    fn try_call(&self, run: Uuid, call: Call, standing: &Standing, now: Timestamp, look: &mut Look) {
        let step = &self.steps[call.step];
        match standing.failures.again(&step.retry, step.name, run, call) {
            Some(again) if again > now => look.waits(again),
            _ => look.calls.push(call),
        }
    }

    /// Whether it can still be decided that it is undone: the pivot has not run, and may not have.
    pub(super) fn can_be_undone(&self, state: &State, busy: &BTreeSet<Call>) -> bool {
        let Some(pivot) = self.pivot else { return state.decided.is_none() };
        let is_free = |i: usize| {
            state.steps[i].forward == Forward::No && !busy.contains(&Call { step: i, undo: false })
        };
        state.decided.is_none() && self.of_stage(pivot).all(is_free)
    }

    pub(super) fn asked(
        &self,
        state: &State,
        busy: &BTreeSet<Call>,
        asked: &Asked,
    ) -> Result<Vec<Record>, String> {
        let is_of_people = !matches!(asked.verb, Verb::Signal { .. } | Verb::Parent { .. });
        is_over(state.ended.as_ref(), state.is_abandoned() && is_of_people)?;
        let mut records = Vec::new();
        match &asked.verb {
            Verb::Cancel | Verb::GoForward if let Err(why) = self.is_its_own(state) => return Err(why),
            Verb::Cancel if state.decided.is_some() => return Err("it is being undone already".to_owned()),
            Verb::Cancel if let Some(step) = self.recallable(state) => {
                records.push(self.recalled(step, cancelled(&asked.by)));
            }
            Verb::Cancel if let Some(step) = self.told_before(state) => {
                if !state.forward {
                    let name = self.steps[step].name;
                    return Err(format!(
                        "{name} was told already that it is to be undone, and says what becomes of it"
                    ));
                }
            }
            Verb::Cancel if !self.can_be_undone(state, busy) => {
                return Err("the pivot has run, or may have: it only goes forward from there".to_owned());
            }
            Verb::GoForward => self.can_go_forward(state)?,
            Verb::Retry { step: Some(step) } => drop(self.place_of(step)?),
            Verb::Resolve { step, .. } => self.can_be_resolved(state, busy, step)?,
            Verb::Signal { name, id, value } => self.can_be_sent(state, name, id, value)?,
            Verb::Skip { step } => self.can_be_skipped(state, busy, step)?,
            Verb::Parent { ends } => records.extend(self.hears(state, busy, ends, &asked.by)?),
            Verb::Cancel => records.push(self.decided(cancelled(&asked.by), busy)),
            Verb::Retry { step: None } | Verb::Abandon => {}
        }
        let verb = match &asked.verb {
            // The journal has it.
            Verb::Signal { name, id, .. } if self.sent(state, name, id).is_some() => {
                asked.verb.without_value()
            }
            verb => verb.clone(),
        };
        records.insert(0, Record::Resolved { verb, by: asked.by.clone() });
        Ok(records)
    }

    fn can_go_forward(&self, state: &State) -> Result<(), String> {
        let has_run = |pivot| self.of_stage(pivot).all(|i| state.has_run(i));
        match () {
            () if state.decided.is_some() => Err("it is being undone already".to_owned()),
            () if state.forward && !state.as_child.is_orphan() => Err("that is decided already".to_owned()),
            () if self.pivot.is_some_and(has_run) => Err("the pivot has run: it goes forward".to_owned()),
            () => Ok(()),
        }
    }

    fn can_be_resolved(&self, state: &State, busy: &BTreeSet<Call>, step: &str) -> Result<(), String> {
        let i = self.place_of(step)?;
        let standing = &state.steps[i];
        if matches!(standing.forward, Forward::Yes(_)) {
            return Err(format!("{step} has run"));
        }
        not_called(busy, i, step)?;
        let goes_on = standing.parked.is_none() || standing.child.has_refused;
        if let Some(child) = standing.child.open().filter(|_| goes_on) {
            return Err(format!("{step} is under way, as {child}: ask that one, or abandon that one first"));
        }
        if state.decided.is_some() {
            // What has not run has nothing to undo.
            let may_have_run = standing.forward == Forward::Maybe && !standing.undone;
            let being_undone = || "it is being undone: skip what is undone by hand".to_owned();
            return may_have_run.then_some(()).ok_or_else(being_undone);
        }
        match self.frontier(state) == Some(self.steps[i].stage) {
            true => Ok(()),
            false => Err(format!("it is not {step}'s turn")),
        }
    }

    fn can_be_skipped(&self, state: &State, busy: &BTreeSet<Call>, step: &str) -> Result<(), String> {
        let (i, is_decided) = (self.place_of(step)?, state.decided.is_some());
        let standing = &state.steps[i];
        let Standing { parked, child, .. } = standing;
        if is_decided || self.is_pivot(i) {
            not_called(busy, i, step)?;
        }
        if !is_decided && child.has_refused {
            return Err(format!("{step} decides: ask its saga what becomes of it"));
        }
        let waits = self.is_pivot(i) && parked.is_some() && !state.forward;
        // What a person has undone of it would be taken for done by the next try.
        if !is_decided && waits && self.steps[i].acts_in_parts && !self.has_acted_in_part(i, standing) {
            return Err(format!(
                "it is not known that {step} has acted in part: retry it, and skip it once that is known; or resolve it if all of \
                 it is done, or abandon it"
            ));
        }
        match if is_decided { self.is_to_undo(state, i) } else { waits } {
            true => Ok(()),
            false => Err(format!(
                "{step} is neither to be undone nor a pivot that waits: there is nothing to skip"
            )),
        }
    }

    /// Whether a run takes what is sent, or has taken it.
    fn can_be_sent(&self, state: &State, name: &str, id: &str, value: &Data) -> Result<(), String> {
        let i = self.place_of(name)?;
        let Doable::Sent(awaits) = self.steps[i].place else {
            return Err(format!("{name} is a step that is called, and no signal"));
        };
        let (standing, most) = (&state.steps[i], awaits.bytes());
        if let Some(before) = self.sent(state, name, id) {
            return if before.says_the_same(value) { Ok(()) } else { Err(OTHER_SENT.to_owned()) };
        }
        match () {
            () if state.decided.is_some() => Err("it is being undone".to_owned()),
            () if state.abandoned.is_some() => Err("it is abandoned".to_owned()),
            () if standing.sent.len() >= awaits.count() || matches!(standing.forward, Forward::Yes(_)) => {
                Err(format!("it has every {name} that it waits for"))
            }
            () if value.text().len() > most => {
                Err(format!("what is sent as {name} has more than {most} bytes"))
            }
            () => Ok(()),
        }
    }

    /// What was taken under an id.
    pub(super) fn sent<'s>(&self, state: &'s State, name: &str, id: &str) -> Option<&'s Data> {
        let sent = &state.steps[self.place_of(name).ok()?].sent;
        sent.iter().find(|(taken, _)| taken == id).map(|(_, value)| value)
    }

    pub(super) fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        let (shape, standing) = (&self.steps[call.step], &state.steps[call.step]);
        let step = shape.name.to_owned();
        match answer {
            Answer::Done(_) if call.undo => Record::Undone { step },
            Answer::Done(output) => Record::Done { step, output },
            Answer::Refused(why) if !call.undo => {
                let maybe = standing.forward == Forward::Maybe && !shape.refuses_for_good;
                Record::Refused { step, why, maybe }
            }
            // It says that it cannot be undone as things are.
            Answer::Refused(why) => Record::Parked { step, why: cut(&why), refuses: false },
            Answer::Failed(error) => match error.downcast_ref::<ActedInPart>() {
                Some(part) if !call.undo => Record::Refused { step, why: cut(&part.0), maybe: true },
                _ => Record::Failed { step, undo: call.undo, error: cut(&chain(&*error)) },
            },
        }
    }

    /// The locks that it has or waits for. What it waits for it wants no more once it is undone; what it has it keeps until it
    /// ends.
    pub(super) fn claims(&self, state: &State) -> BTreeMap<String, LockMode> {
        let mut all = BTreeMap::<String, LockMode>::new();
        if state.ended.is_some() {
            return all;
        }
        let is_open =
            |standing: &&Standing| !state.is_decided() || matches!(standing.forward, Forward::Yes(_));
        let wanted = state.steps.iter().filter(is_open).filter_map(|standing| standing.claims.as_ref());
        for Resource { name, mode } in wanted.flatten() {
            let of = all.entry(name.clone()).or_insert(*mode);
            *of = (*mode).max(*of);
        }
        all
    }

    /// Outputs of the steps that have run.
    pub(super) fn outputs(&self, state: &State) -> super::step::Outputs {
        let output = |(shape, standing): (&StepShape, &Standing)| match &standing.forward {
            Forward::Yes(output) => Some((shape.name, output.clone())),
            _ => None,
        };
        self.steps.iter().zip(&state.steps).filter_map(output).collect()
    }

    /// Whether a call to somewhere else may be made now, or was made without a record: then whoever takes it up says so first.
    pub(super) fn calls_outside(&self, state: &State) -> bool {
        let is_outside = |i: &usize| self.steps[*i].place == Doable::Elsewhere;
        if state.is_held() {
            return false;
        }
        match (&state.decided, self.frontier(state)) {
            (None, Some(stage)) => self.of_stage(stage).any(|i| is_outside(&i)),
            (Some(_), _) => {
                !self.maybe_called(state).is_empty()
                    || (0..self.steps.len()).any(|i| is_outside(&i) && state.steps[i].to_undo())
            }
            (None, None) => false,
        }
    }

    pub(super) fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        let waits = state
            .steps
            .iter()
            .zip(&self.steps)
            .filter_map(|(standing, shape)| Some(format!("{}: {}", shape.name, standing.parked.as_ref()?)))
            .reduce(|all, why| all + "; " + &why)
            .or_else(|| state.as_child.why_orphan().filter(|_| !state.is_decided()));
        // A child is looked at also while a person is asked about it.
        let is_asked = |call: &Call| state.steps[call.step].parked.is_some();
        let stands = matches!(
            self.next(run, state, &BTreeSet::new(), now),
            Next::Act { calls, until }
                if calls.iter().all(is_asked) && (until.is_none() || until == state.deadline)
        );
        match (&state.ended, waits) {
            (Some(_), _) => (RunStatus::Ended, None),
            (None, Some(why)) if stands => (RunStatus::Parked, Some(why)),
            // Others of its steps go on; a person can help all the same.
            (None, why) if state.decided.is_some() => (RunStatus::Undoing, why),
            (None, why) => (RunStatus::Running, why),
        }
    }
}

/// Nothing is said of a step whose call has no answer yet.
fn not_called(busy: &BTreeSet<Call>, i: usize, step: &str) -> Result<(), String> {
    match busy.iter().any(|call| call.step == i) {
        true => Err(format!("{step} is being called: ask again once that has an answer")),
        false => Ok(()),
    }
}

pub(super) fn cancelled(by: &crate::By) -> Why {
    Why::Cancelled { actor: by.actor.clone(), reason: by.reason.clone() }
}

/// Why a step that said no waits for a person.
fn why_refused(state: &State, refused: &str) -> String {
    match state.forward {
        true => format!(
            "it was refused, and it was decided to go forward: retry or resolve it, or cancel ({refused})"
        ),
        // It is the pivot, and one of its calls before may have run.
        false => format!(
            "it was refused, and an earlier call of it may have run: find out, and resolve it, or skip it if it has not run ({refused})"
        ),
    }
}

/// Why a step that has acted in part waits for a person.
fn why_in_part(state: &State, part: &str) -> String {
    match state.forward {
        true => format!(
            "it has acted in part, and it was decided to go forward: finish it by hand and resolve it, or abandon it ({part})"
        ),
        false => format!(
            "it has acted in part: finish it by hand and resolve it, or undo it by hand and skip it ({part})"
        ),
    }
}

fn parked(step: &StepShape, why: &str) -> Record {
    Record::Parked { step: step.name.to_owned(), why: why.to_owned(), refuses: false }
}

/// What was sent for a step, once that is all of it.
fn has_come(step: &StepShape, awaits: Awaits, standing: &Standing) -> Option<Record> {
    if standing.sent.len() < awaits.count() {
        return None;
    }
    let step = step.name.to_owned();
    let sent: Vec<&Data> = standing.sent.iter().map(|(_, sent)| sent).collect();
    Some(match awaits.output(&sent) {
        Ok(output) => Record::Done { step, output },
        Err(error) => Record::Parked { step, why: cut(&error.to_string()), refuses: false },
    })
}

#[cfg(test)]
mod tests {
    use super::super::family::tests::{Case, output};
    use super::*;

    const FORWARD: Call = Call { step: 0, undo: false };
    const UNDO: Call = Call { step: 0, undo: true };

    fn skip(step: &str) -> Verb {
        Verb::Skip { step: step.to_owned() }
    }

    fn resolve(step: &str) -> Verb {
        Verb::Resolve { step: step.to_owned(), output: output() }
    }

    /// It has failed as often as it is tried, and is settled.
    fn settled() -> Case {
        let mut case = Case::new(&[Doable::Elsewhere], None, None);
        let error = "no connection".to_owned();
        case.write(Record::Failed { step: "first".to_owned(), undo: false, error });
        assert_eq!(case.ask(Verb::Cancel), Ok(()));
        assert_eq!(case.go_on(), [FORWARD]);
        case
    }

    #[test]
    fn what_is_being_called_is_not_taken_for_undone() {
        let mut case = settled();
        let why = case.ask_while(&[FORWARD], skip("first")).unwrap_err();
        assert_eq!(why, "first is being called: ask again once that has an answer");
        // What runs once it was taken for undone is undone.
        assert_eq!(case.ask(skip("first")), Ok(()));
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        assert_eq!(case.go_on(), [UNDO]);
    }

    #[test]
    fn what_is_undone_or_has_not_run_is_not_taken_for_run_any_more() {
        let mut case = Case::new(&[Doable::Elsewhere, Doable::Elsewhere], Some(1), None);
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        case.write(Record::Refused { step: "next".to_owned(), why: "no".to_owned(), maybe: false });
        assert_eq!(case.go_on(), [UNDO]);
        let being_undone = Err("it is being undone: skip what is undone by hand".to_owned());
        assert_eq!(case.ask(resolve("next")), being_undone);
        let mut case = settled();
        assert_eq!(case.ask(skip("first")), Ok(()));
        assert_eq!(case.ask(resolve("first")), being_undone);
        // What may have run can be.
        let mut case = settled();
        assert_eq!(case.ask(resolve("first")), Ok(()));
        assert_eq!(case.go_on(), [UNDO]);
    }

    #[test]
    fn nothing_more_is_asked_of_what_is_abandoned() {
        let mut case = Case::new(&[Doable::Elsewhere], None, None);
        assert_eq!(case.ask_while(&[FORWARD], Verb::Abandon), Ok(()));
        let retry = Verb::Retry { step: None };
        for verb in [Verb::Cancel, Verb::GoForward, retry, resolve("first"), skip("first"), Verb::Abandon] {
            let why = case.ask_while(&[FORWARD], verb).unwrap_err();
            assert_eq!(why, "it is abandoned, and ends once what is being called has an answer");
        }
        case.go_on();
        assert!(matches!(case.state.outcome(), Some(Outcome::Abandoned { .. })));
    }
}
