//! What follows what in a TCC: pure, so that every state of it can be visited.
//!
//! | direction | what is called | what ends it |
//! | --- | --- | --- |
//! | open | `reserve` of each branch | all have reserved: confirm · one refuses, or fails as often as it is tried; the deadline; a person: cancel |
//! | confirm | `confirm` of each branch, until it succeeds | all are confirmed |
//! | cancel | `cancel` of each branch that has reserved, or may have, until it succeeds | all are cancelled |
//!
//! The direction is a record, and never changes again. A branch that has not succeeded for long waits for a person.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::{Timestamp, chain};
use uuid::Uuid;

use crate::By;
use crate::data::Data;
use crate::saga::{Does, Failures, Retry};
use crate::transaction::{
    Answer, Asked, Call, Look, Next, Outcome, Record, RunStatus, Verb, Why, Written, cut, is_over,
};

/// What is known of a branch without a run.
#[derive(Clone, Debug)]
pub(super) struct BranchShape {
    pub(super) name: &'static str,
    /// Whether it lives in the database of the journal.
    pub(super) is_local: bool,
    /// Whether what it does is only staged.
    pub(super) is_staged: bool,
    pub(super) retry: Retry,
    pub(super) limit: Duration,
    pub(super) refuses_for_good: bool,
    /// Who is called.
    pub(super) destination: Option<String>,
}

/// What is known of a TCC without a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) branches: Vec<BranchShape>,
}

/// What the records of a run come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    records: u64,
    /// Since then it is laid down, and nobody has called anything for it.
    held: Option<Timestamp>,
    pub(super) input: Option<Data>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) direction: Direction,
    pub(super) branches: Vec<Standing>,
    /// An operator has ended it: who, and why.
    abandoned: Option<(String, String)>,
    ended: Option<Outcome>,
}

/// Which way it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Direction {
    #[default]
    Open,
    Confirm,
    Cancel(Why),
}

/// Where a branch is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) reserved: Reserved,
    pub(super) refused: Option<String>,
    pub(super) confirmed: bool,
    pub(super) cancelled: bool,
    /// It was being called when it was decided that all is cancelled, and has not answered.
    open: bool,
    pub(super) failures: Failures,
    pub(super) parked: Option<String>,
}

/// Whether a branch has reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reserved {
    #[default]
    No,
    Maybe,
    Yes(Data),
}

impl State {
    /// Whether nobody calls anything for it until it is taken up again.
    pub(super) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether it is not decided which way it goes.
    pub(super) fn is_open(&self) -> bool {
        self.direction == Direction::Open
    }

    /// Whether an operator has ended it where it is.
    pub(super) const fn is_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    /// The same, had it no deadline.
    pub(super) fn without_deadline(&self) -> Self {
        Self { deadline: None, ..self.clone() }
    }

    /// Which branches wait for a person.
    pub(super) fn parked(&self) -> impl Iterator<Item = usize> {
        self.branches.iter().enumerate().filter(|(_, standing)| standing.parked.is_some()).map(|(i, _)| i)
    }

    fn is_agreed(&self) -> bool {
        self.branches.iter().all(|standing| matches!(standing.reserved, Reserved::Yes(_)))
    }
}

#[cfg(test)]
impl State {
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref()
    }

    /// The same, without what makes no difference for what follows: how many records there were once it has begun, why it is
    /// cancelled, and a deadline that is over.
    pub(super) fn alike(mut self) -> Self {
        self.records = self.records.min(3);
        if let Direction::Cancel(why) = &mut self.direction {
            *why = Why::Deadline;
        }
        if let Some(Outcome::Undone(why)) = &mut self.ended {
            *why = Why::Deadline;
        }
        if self.direction != Direction::Open {
            self.deadline = None;
        }
        self
    }
}

impl Standing {
    /// What it has reserved, if that is known.
    pub(super) const fn held(&self) -> Option<&Data> {
        match &self.reserved {
            Reserved::Yes(held) => Some(held),
            _ => None,
        }
    }

    /// Whether there is something to cancel, or may be.
    fn to_cancel(&self) -> bool {
        self.reserved != Reserved::No && !self.cancelled
    }

    fn went_well(&mut self) {
        (self.failures, self.parked) = (Failures::default(), None);
    }
}

/// The calls of a branch: behind the reservations of all branches come their confirmations.
impl Shape {
    pub(super) fn branch_of(&self, call: Call) -> usize {
        call.step % self.branches.len()
    }

    pub(super) fn does(&self, call: Call) -> Does {
        match call.step < self.branches.len() {
            true if call.undo => Does::Undo,
            true => Does::Run,
            false => Does::Confirm,
        }
    }

    const fn reserve(branch: usize) -> Call {
        Call { step: branch, undo: false }
    }

    const fn cancel(branch: usize) -> Call {
        Call { step: branch, undo: true }
    }

    fn confirm(&self, branch: usize) -> Call {
        Call { step: self.branches.len() + branch, undo: false }
    }

    fn is_busy(&self, busy: &BTreeSet<Call>, branch: usize) -> bool {
        busy.iter().any(|call| self.branch_of(*call) == branch)
    }

    fn place_of(&self, name: &str) -> Result<usize, String> {
        let unknown = || format!("this program's definition has no branch {name:?}");
        self.branches.iter().position(|branch| branch.name == name).ok_or_else(unknown)
    }
}

impl Shape {
    pub(super) fn begin(&self) -> State {
        State { branches: vec![Standing::default(); self.branches.len()], ..State::default() }
    }

    pub(super) fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        let at = written.at;
        state.records += 1;
        match &written.record {
            Record::Begun { input, deadline, parent: None } => {
                (state.input, state.deadline) = (Some(input.clone()), *deadline);
            }
            Record::Taken {} => match state.held.take() {
                Some(since) => self.taken_again(state, since, at),
                None => self.taken(state),
            },
            Record::Held { .. } => {
                state.held.get_or_insert(at);
            }
            Record::Done { step, output } => {
                let standing = &mut state.branches[self.place_of(step)?];
                (standing.reserved, standing.open) = (Reserved::Yes(output.clone()), false);
                standing.went_well();
            }
            Record::Refused { step, why, maybe } => {
                let standing = &mut state.branches[self.place_of(step)?];
                standing.reserved = if *maybe { Reserved::Maybe } else { Reserved::No };
                (standing.refused, standing.open) = (Some(why.clone()), false);
                standing.went_well();
            }
            Record::Failed { step, undo, error } => self.failed(state, step, *undo, error, at)?,
            Record::Agreed {} => self.turned(state, Direction::Confirm, &[])?,
            Record::Decided { why, open } => self.turned(state, Direction::Cancel(why.clone()), open)?,
            Record::Confirmed { step } => {
                let standing = &mut state.branches[self.place_of(step)?];
                standing.confirmed = true;
                standing.went_well();
            }
            Record::Undone { step } => {
                let standing = &mut state.branches[self.place_of(step)?];
                standing.cancelled = true;
                standing.went_well();
            }
            Record::Parked { step, why, .. } => {
                state.branches[self.place_of(step)?].parked = Some(why.clone());
            }
            Record::PreCommitted { .. } => return Err("it is a record of a three-phase commit".to_owned()),
            Record::Resolved { verb, by } => self.resolved(state, verb, by)?,
            Record::Declined { .. } => {}
            Record::Claimed { .. } => return Err("it is a record of a saga with locks".to_owned()),
            Record::Begun { .. } | Record::Called { .. } | Record::Recalled { .. } | Record::Ready {} => {
                return Err("it is a record of a saga within a saga".to_owned());
            }
            Record::Heard { .. } => return Err("it is a record of a half message".to_owned()),
            Record::Ended { outcome } => state.ended = Some(outcome.clone()),
        }
        Ok(())
    }

    /// Which way it goes is decided, once. These branches were being called then.
    fn turned(&self, state: &mut State, direction: Direction, open: &[String]) -> Result<(), String> {
        if state.direction != Direction::Open {
            return Err("it was decided before which way it goes".to_owned());
        }
        state.direction = direction;
        // What failed on the way there is another matter.
        state.branches.iter_mut().for_each(Standing::went_well);
        for branch in open {
            state.branches[self.place_of(branch)?].open = true;
        }
        Ok(())
    }

    /// Somebody takes it up: whoever had it before may have called what could be called, and nobody has heard of it.
    fn taken(&self, state: &mut State) {
        // Right behind the beginning, nobody has.
        if state.records > 2 {
            for i in self.maybe_called(state) {
                state.branches[i].reserved = Reserved::Maybe;
            }
        }
    }

    /// It was laid down since then: nobody has called anything elsewhere, and nobody has tried to.
    fn taken_again(&self, state: &mut State, since: Timestamp, at: Timestamp) {
        let rested = Duration::try_from(at - since).unwrap_or_default();
        for (branch, standing) in self.branches.iter().zip(&mut state.branches) {
            if !branch.is_local {
                standing.failures.rested(rested);
            }
        }
    }

    /// Branches elsewhere that whoever had it before may have called without a record.
    fn maybe_called(&self, state: &State) -> Vec<usize> {
        let is_open = |i: &usize| {
            let standing = &state.branches[*i];
            let may_be = standing.open || state.direction == Direction::Open;
            may_be
                && !self.branches[*i].is_local
                && standing.reserved == Reserved::No
                && standing.refused.is_none()
        };
        (0..self.branches.len()).filter(is_open).collect()
    }

    fn failed(
        &self,
        state: &mut State,
        branch: &str,
        undo: bool,
        error: &str,
        at: Timestamp,
    ) -> Result<(), String> {
        let i = self.place_of(branch)?;
        let standing = &mut state.branches[i];
        standing.open &= undo;
        let is_cancelled = matches!(state.direction, Direction::Cancel(_));
        if is_cancelled == undo {
            standing.failures.add(error, at);
        }
        // A reservation that was under way when it was decided: its cancel has not failed by that.
        if !undo && !self.branches[i].is_local && standing.reserved == Reserved::No {
            standing.reserved = Reserved::Maybe;
        }
        Ok(())
    }

    fn resolved(&self, state: &mut State, verb: &Verb, by: &By) -> Result<(), String> {
        match verb {
            // The decision is a record of its own; the others are declined.
            Verb::Cancel | Verb::GoForward | Verb::Signal { .. } | Verb::Parent { .. } => {}
            Verb::Retry { step: None } => state.branches.iter_mut().for_each(Standing::went_well),
            Verb::Retry { step: Some(step) } => state.branches[self.place_of(step)?].went_well(),
            Verb::Resolve { step, output } => {
                let is_agreed = state.direction == Direction::Confirm;
                let standing = &mut state.branches[self.place_of(step)?];
                match is_agreed {
                    true => standing.confirmed = true,
                    false => standing.reserved = Reserved::Yes(output.clone()),
                }
                standing.went_well();
            }
            Verb::Skip { step } => {
                let standing = &mut state.branches[self.place_of(step)?];
                standing.cancelled = true;
                standing.went_well();
            }
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
        match &state.direction {
            Direction::Open => self.look_open(run, state, busy, now, &mut look),
            Direction::Confirm => self.look_on(run, state, busy, now, &mut look),
            Direction::Cancel(why) => self.look_back(run, state, busy, now, why, &mut look),
        }
        look.next()
    }

    /// The branches reserve, until it can be decided.
    fn look_open(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp, look: &mut Look) {
        if state.is_agreed() {
            return look.records.push(Record::Agreed {});
        }
        if let Some(why) = self.why_not(state, now) {
            return look.records.push(self.decided(why, busy));
        }
        if let Some(deadline) = state.deadline {
            look.waits(deadline);
        }
        for (i, standing) in state.branches.iter().enumerate() {
            if standing.held().is_none() && !self.is_busy(busy, i) {
                self.try_call(run, Self::reserve(i), standing, now, look);
            }
        }
    }

    /// Why it is cancelled, if it is.
    fn why_not(&self, state: &State, now: Timestamp) -> Option<Why> {
        for (branch, standing) in self.branches.iter().zip(&state.branches) {
            let step = || branch.name.to_owned();
            if let Some(why) = &standing.refused {
                return Some(Why::Refused { step: step(), why: why.clone() });
            }
            let Failures { count, error, .. } = &standing.failures;
            if *count >= branch.retry.tries.max(1) {
                return Some(Why::Failed { step: step(), error: error.clone() });
            }
        }
        state.deadline.is_some_and(|deadline| deadline <= now).then_some(Why::Deadline)
    }

    pub(super) fn decided(&self, why: Why, busy: &BTreeSet<Call>) -> Record {
        let open = busy.iter().map(|call| self.branches[self.branch_of(*call)].name.to_owned());
        Record::Decided { why, open: open.collect() }
    }

    /// What is reserved is confirmed.
    fn look_on(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp, look: &mut Look) {
        let mut is_over = true;
        for (i, _) in state.branches.iter().enumerate().filter(|(_, standing)| !standing.confirmed) {
            is_over = false;
            self.has_to_succeed(run, (i, self.confirm(i)), state, busy, now, look);
        }
        if is_over {
            look.records.push(Record::Ended { outcome: Outcome::Completed });
        }
    }

    /// What is reserved, or may be, is cancelled.
    fn look_back(
        &self,
        run: Uuid,
        state: &State,
        busy: &BTreeSet<Call>,
        now: Timestamp,
        why: &Why,
        look: &mut Look,
    ) {
        let mut is_over = true;
        for (i, standing) in state.branches.iter().enumerate() {
            if standing.to_cancel() || self.is_busy(busy, i) {
                is_over = false;
                self.has_to_succeed(run, (i, Self::cancel(i)), state, busy, now, look);
            }
        }
        if is_over {
            look.records.push(Record::Ended { outcome: Outcome::Undone(why.clone()) });
        }
    }

    /// A call that is made until it succeeds, or somebody has to look.
    fn has_to_succeed(
        &self,
        run: Uuid,
        (i, call): (usize, Call),
        state: &State,
        busy: &BTreeSet<Call>,
        now: Timestamp,
        look: &mut Look,
    ) {
        let (branch, standing) = (&self.branches[i], &state.branches[i]);
        if standing.parked.is_some() || self.is_busy(busy, i) {
            return;
        }
        // While it is laid down, only what is done here is tried.
        let held = state.held.filter(|_| !branch.is_local);
        match standing.failures.are_too_many(&branch.retry, held.unwrap_or(now)) {
            true => {
                let (step, why) = (branch.name.to_owned(), standing.failures.error.clone());
                look.records.push(Record::Parked { step, why, refuses: false });
            }
            false => self.try_call(run, call, standing, now, look),
        }
    }

    fn try_call(&self, run: Uuid, call: Call, standing: &Standing, now: Timestamp, look: &mut Look) {
        let branch = &self.branches[self.branch_of(call)];
        match standing.failures.again(&branch.retry, branch.name, run, call) {
            Some(again) if again > now => look.waits(again),
            _ => look.calls.push(call),
        }
    }

    pub(super) fn asked(
        &self,
        state: &State,
        busy: &BTreeSet<Call>,
        asked: &Asked,
    ) -> Result<Vec<Record>, String> {
        is_over(state.ended.as_ref(), state.is_abandoned())?;
        self.can_be_asked(state, busy, &asked.verb)?;
        let mut records = vec![Record::Resolved { verb: asked.verb.clone(), by: asked.by.clone() }];
        if asked.verb == Verb::Cancel {
            let (actor, reason) = (asked.by.actor.clone(), asked.by.reason.clone());
            records.push(self.decided(Why::Cancelled { actor, reason }, busy));
        }
        Ok(records)
    }

    fn can_be_asked(&self, state: &State, busy: &BTreeSet<Call>, verb: &Verb) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        match (verb, &state.direction) {
            (Verb::Cancel, Direction::Open) | (Verb::Abandon | Verb::Retry { step: None }, _) => Ok(()),
            (Verb::Cancel, Direction::Cancel(_)) => no("it is being cancelled already"),
            (Verb::Cancel, Direction::Confirm) => no(
                "every branch has reserved, and it was decided to confirm: it only goes forward from there",
            ),
            (Verb::Retry { step: Some(step) }, _) => self.place_of(step).map(drop),
            (Verb::Resolve { step, .. }, _) => self.can_be_resolved(state, busy, step),
            (Verb::Skip { step }, _) => self.can_be_skipped(state, busy, step),
            (Verb::GoForward, _) => {
                no("a TCC goes forward once every branch has reserved, and not before: retry what fails")
            }
            (Verb::Parent { .. }, _) => no("a TCC has no parent"),
            (Verb::Signal { .. }, _) => no("a TCC waits for nothing that is sent"),
        }
    }

    fn can_be_resolved(&self, state: &State, busy: &BTreeSet<Call>, branch: &str) -> Result<(), String> {
        let i = self.place_of(branch)?;
        let standing = &state.branches[i];
        match &state.direction {
            _ if self.is_busy(busy, i) => {
                Err(format!("{branch} is being called: ask again once that has an answer"))
            }
            Direction::Open if standing.held().is_some() => Err(format!("{branch} has reserved")),
            Direction::Confirm if standing.confirmed => Err(format!("{branch} is confirmed")),
            Direction::Cancel(_) => Err("it is being cancelled: skip what is cancelled by hand".to_owned()),
            Direction::Open | Direction::Confirm => Ok(()),
        }
    }

    fn can_be_skipped(&self, state: &State, busy: &BTreeSet<Call>, branch: &str) -> Result<(), String> {
        let i = self.place_of(branch)?;
        match &state.direction {
            Direction::Cancel(_) if self.is_busy(busy, i) => {
                Err(format!("{branch} is being called: ask again once that has an answer"))
            }
            Direction::Cancel(_) if state.branches[i].to_cancel() => Ok(()),
            _ => Err(format!("{branch} is not to be cancelled: there is nothing to skip")),
        }
    }

    pub(super) fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        let i = self.branch_of(call);
        let (branch, standing, does) = (&self.branches[i], &state.branches[i], self.does(call));
        let step = branch.name.to_owned();
        let failed = |error: String| Record::Failed { step: step.clone(), undo: does == Does::Undo, error };
        match (answer, does) {
            (Answer::Done(output), Does::Run) => Record::Done { step, output },
            (Answer::Done(_), Does::Undo) => Record::Undone { step },
            (Answer::Done(_), Does::Confirm) => Record::Confirmed { step },
            (Answer::Refused(why), Does::Run) => {
                let maybe = standing.reserved == Reserved::Maybe && !branch.refuses_for_good;
                Record::Refused { step, why, maybe }
            }
            // It says that it cannot be cancelled as things are.
            (Answer::Refused(why), Does::Undo) => Record::Parked { step, why: cut(&why), refuses: false },
            (Answer::Refused(why), Does::Confirm) => failed(why),
            (Answer::Failed(error), _) => failed(cut(&chain(&*error))),
        }
    }

    /// Whether a call to somewhere else may be made now, or was made without a record: then whoever takes it up says so first.
    pub(super) fn calls_outside(&self, state: &State) -> bool {
        let is_left = |i: &usize| match state.direction {
            Direction::Open => state.branches[*i].held().is_none(),
            Direction::Confirm => !state.branches[*i].confirmed,
            Direction::Cancel(_) => state.branches[*i].to_cancel(),
        };
        let mut outside = (0..self.branches.len()).filter(|i| !self.branches[*i].is_local);
        !state.is_held() && (outside.any(|i| is_left(&i)) || !self.maybe_called(state).is_empty())
    }

    pub(super) fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        let waits = state
            .branches
            .iter()
            .zip(&self.branches)
            .filter_map(|(standing, shape)| Some(format!("{}: {}", shape.name, standing.parked.as_ref()?)))
            .reduce(|all, why| all + "; " + &why);
        let stands = matches!(
            self.next(run, state, &BTreeSet::new(), now),
            Next::Act { calls, until: None } if calls.is_empty()
        );
        match (&state.ended, waits) {
            (Some(_), _) => (RunStatus::Ended, None),
            (None, Some(why)) if stands => (RunStatus::Parked, Some(why)),
            // Others of its branches go on; a person can help all the same.
            (None, why) if matches!(state.direction, Direction::Cancel(_)) => (RunStatus::Undoing, why),
            (None, why) => (RunStatus::Running, why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_more_is_asked_of_what_is_abandoned() {
        let branch = |name| BranchShape {
            name,
            is_local: false,
            is_staged: false,
            retry: Retry::default(),
            limit: Duration::from_secs(1),
            refuses_for_good: false,
            destination: None,
        };
        let shape = Shape { branches: vec![branch("left"), branch("right")] };
        let (mut state, busy) = (shape.begin(), BTreeSet::from([Shape::reserve(0)]));
        let asked = |verb| Asked { verb, by: By::new("ada".to_owned(), "because".to_owned(), Uuid::nil()) };
        for record in shape.asked(&state, &busy, &asked(Verb::Abandon)).unwrap() {
            shape.fold(&mut state, &Written { at: Timestamp::UNIX_EPOCH, record }).unwrap();
        }
        for verb in [Verb::Cancel, Verb::Retry { step: None }, Verb::Skip { step: "right".to_owned() }] {
            let why = shape.asked(&state, &busy, &asked(verb)).unwrap_err();
            assert_eq!(why, "it is abandoned, and ends once what is being called has an answer");
        }
    }
}
