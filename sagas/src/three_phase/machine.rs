//! What follows what in a three-phase commit, for its coordinator: pure, so that every state of it can be visited.
//!
//! | direction | what is called | what ends it |
//! | --- | --- | --- |
//! | open, not all have voted | `can_commit` of each participant | all have voted yes: pre-commit · one says no, or fails as often as it is tried; the deadline; an operator: it asks for the decision to abort |
//! | open, all have voted | `pre_commit` of each participant | all are pre-committed: it asks for the decision to commit · one cannot be reached; the deadline: it asks for the decision to commit if one is pre-committed, else to abort · one has aborted; an operator: to abort |
//! | commit | `do_commit` of each participant, until it succeeds | all are committed |
//! | abort | `abort` of each participant, until it succeeds | all are aborted |
//!
//! Asking for a decision is a call too: it inserts that decision, or reads the one that a participant has inserted. The
//! direction is what stands there, whatever was asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::{Timestamp, chain};
use uuid::Uuid;

use crate::By;
use crate::data::Data;
use crate::saga::{Failures, Retry};
use crate::transaction::{
    Answer, Asked, Call, Look, Next, Outcome, Record, RunStatus, Verb, Why, Written, is_over,
};
use crate::two_phase::Decision;

/// The name of what is called for a decision, among those of participants.
pub(super) const DECISION: &str = "decision";

/// What is known of a participant without a run.
#[derive(Clone, Debug)]
pub(super) struct PartyShape {
    pub(super) name: String,
    pub(super) retry: Retry,
    pub(super) limit: Duration,
    /// Who is called.
    pub(super) destination: Option<String>,
}

/// What is known of a transaction without a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) parties: Vec<PartyShape>,
}

/// What the records of a run come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Since then it is laid down, and nobody has called anything for it.
    held: Option<Timestamp>,
    pub(super) input: Option<Data>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) direction: Direction,
    pub(super) parties: Vec<Party>,
    /// An operator wants it to be aborted, if it is not decided: who, and why.
    cancelled: Option<(String, String)>,
    /// That a decision could not be asked for.
    decision: Trouble,
    /// An operator has ended it: who, and why.
    abandoned: Option<(String, String)>,
    ended: Option<Outcome>,
}

/// Which way it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Direction {
    #[default]
    Open,
    Commit,
    Abort(Why),
}

/// Where a participant is, as the coordinator knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Party {
    pub(super) phase: Phase,
    /// It has said no, or that it has aborted.
    pub(super) refused: Option<String>,
    pub(super) trouble: Trouble,
}

/// How far a participant is, as the coordinator knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Asked,
    Voted,
    PreCommitted,
    Committed,
    Aborted,
}

/// What failed, and whether an operator is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) failures: Failures,
    pub(super) parked: Option<String>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    CanCommit(usize),
    PreCommit(usize),
    DoCommit(usize),
    Abort(usize),
    /// It asks for this decision, and hears which one stands.
    Decide(Decision),
}

impl State {
    /// Whether nobody calls anything for it until it is taken up again.
    pub(super) const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether an operator has ended it where it is.
    pub(super) const fn is_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    /// The same, had it no deadline.
    pub(super) fn without_deadline(&self) -> Self {
        Self { deadline: None, ..self.clone() }
    }

    /// What waits for an operator, by its name.
    pub(super) fn parked<'a>(&'a self, shape: &'a Shape) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parties = shape.parties.iter().zip(&self.parties);
        let all = parties.map(|(shape, party)| (&*shape.name, &party.trouble));
        let all = all.chain([(DECISION, &self.decision)]);
        all.filter_map(|(name, trouble)| Some((name, trouble.parked.as_deref()?)))
    }

    pub(super) fn all(&self, phase: Phase) -> bool {
        self.parties.iter().all(|party| party.phase >= phase)
    }

    /// Whether the coordinator has heard that a participant is pre-committed: so all have voted yes.
    pub(super) fn is_pre_committed(&self) -> bool {
        self.parties.iter().any(|party| party.phase >= Phase::PreCommitted)
    }
}

#[cfg(test)]
impl State {
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref()
    }

    /// All of it that makes a difference for what follows, a byte each: not why it is aborted, nor what has failed before.
    pub(super) fn mark(&self) -> Vec<u8> {
        let of =
            |trouble: &Trouble| [u8::from(trouble.failures.count > 0), u8::from(trouble.parked.is_some())];
        let direction = match self.direction {
            Direction::Open => 0,
            Direction::Commit => 1,
            Direction::Abort(_) => 2,
        };
        let is_open = self.direction == Direction::Open;
        let flags =
            [direction, u8::from(self.ended.is_some()), u8::from(is_open && self.cancelled.is_some())];
        let party = |party: &Party| {
            let [failed, parked] = of(&party.trouble);
            [party.phase as u8, u8::from(is_open && party.refused.is_some()), failed, parked]
        };
        flags.into_iter().chain(of(&self.decision)).chain(self.parties.iter().flat_map(party)).collect()
    }
}

impl Trouble {
    fn is_over(&mut self) {
        *self = Self::default();
    }
}

/// The calls of a participant: behind the votes of all come their pre-commits, behind these their commits, and then the
/// decision.
impl Shape {
    pub(super) fn does(&self, call: Call) -> Does {
        let n = self.parties.len();
        match (call.step / n, call.step % n) {
            (0, i) if call.undo => Does::Abort(i),
            (0, i) => Does::CanCommit(i),
            (1, i) => Does::PreCommit(i),
            (2, i) => Does::DoCommit(i),
            _ if call.undo => Does::Decide(Decision::Abort),
            _ => Does::Decide(Decision::Commit),
        }
    }

    pub(super) fn call(&self, does: Does) -> Call {
        let n = self.parties.len();
        let (step, undo) = match does {
            Does::CanCommit(i) => (i, false),
            Does::Abort(i) => (i, true),
            Does::PreCommit(i) => (n + i, false),
            Does::DoCommit(i) => (2 * n + i, false),
            Does::Decide(decision) => (3 * n, decision == Decision::Abort),
        };
        Call { step, undo }
    }

    /// The participant of a call; none of one for a decision.
    pub(super) fn party_of(&self, call: Call) -> Option<usize> {
        (call.step < 3 * self.parties.len()).then(|| call.step % self.parties.len())
    }

    /// The name under which what comes of a call is noted.
    pub(super) fn name_of(&self, call: Call) -> &str {
        self.party_of(call).map_or(DECISION, |i| &self.parties[i].name)
    }

    fn is_busy(&self, busy: &BTreeSet<Call>, party: usize) -> bool {
        busy.iter().any(|call| self.party_of(*call) == Some(party))
    }

    fn place_of(&self, name: &str) -> Result<usize, String> {
        let unknown = || format!("this program's definition has no participant {name:?}");
        self.parties.iter().position(|party| party.name == name).ok_or_else(unknown)
    }

    fn trouble<'s>(&self, state: &'s mut State, name: &str) -> Result<&'s mut Trouble, String> {
        Ok(match name {
            DECISION => &mut state.decision,
            name => &mut state.parties[self.place_of(name)?].trouble,
        })
    }
}

impl Shape {
    pub(super) fn begin(&self) -> State {
        State { parties: vec![Party::default(); self.parties.len()], ..State::default() }
    }

    pub(super) fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        let at = written.at;
        match &written.record {
            Record::Begun { input, deadline, parent: None } => {
                (state.input, state.deadline) = (Some(input.clone()), *deadline);
            }
            Record::Taken {} => {
                if let Some(since) = state.held.take() {
                    let rested = Duration::try_from(at - since).unwrap_or_default();
                    state.parties.iter_mut().for_each(|party| party.trouble.failures.rested(rested));
                }
            }
            Record::Held { .. } => {
                state.held.get_or_insert(at);
            }
            Record::Done { step, .. } => self.comes_to(state, step, Phase::Voted)?,
            Record::PreCommitted { step } => self.comes_to(state, step, Phase::PreCommitted)?,
            Record::Confirmed { step } => self.comes_to(state, step, Phase::Committed)?,
            Record::Undone { step } => self.comes_to(state, step, Phase::Aborted)?,
            Record::Refused { step, why, .. } => {
                let party = &mut state.parties[self.place_of(step)?];
                party.refused = Some(why.clone());
                party.trouble.is_over();
            }
            Record::Failed { step, undo, error } => {
                // A vote that was under way when it was decided: its abort has not failed by that.
                let is_abort = matches!(state.direction, Direction::Abort(_));
                if step == DECISION || is_abort == *undo {
                    self.trouble(state, step)?.failures.add(error, at);
                }
            }
            Record::Agreed {} => turned(state, Direction::Commit)?,
            Record::Decided { why, .. } => turned(state, Direction::Abort(why.clone()))?,
            Record::Parked { step, why, .. } => self.trouble(state, step)?.parked = Some(why.clone()),
            Record::Resolved { verb, by } => self.resolved(state, verb, by)?,
            Record::Declined { .. } => {}
            Record::Begun { .. } | Record::Called { .. } | Record::Recalled { .. } | Record::Ready {} => {
                return Err("it is a record of a saga within a saga".to_owned());
            }
            Record::Claimed { .. } => return Err("it is a record of locks, and it has none".to_owned()),
            Record::Heard { .. } => return Err("it is a record of a half message".to_owned()),
            Record::Ended { outcome } => state.ended = Some(outcome.clone()),
        }
        Ok(())
    }

    fn comes_to(&self, state: &mut State, name: &str, phase: Phase) -> Result<(), String> {
        let party = &mut state.parties[self.place_of(name)?];
        // What is answered late takes nothing back.
        party.phase = party.phase.max(phase);
        party.trouble.is_over();
        Ok(())
    }

    fn resolved(&self, state: &mut State, verb: &Verb, by: &By) -> Result<(), String> {
        let who = || Some((by.actor.clone(), by.reason.clone()));
        match verb {
            Verb::Cancel => state.cancelled = who(),
            Verb::Abandon => state.abandoned = who(),
            Verb::GoForward | Verb::Signal { .. } | Verb::Parent { .. } => {}
            Verb::Retry { step: Some(step) } => self.trouble(state, step)?.is_over(),
            Verb::Retry { step: None } => {
                state.decision.is_over();
                state.parties.iter_mut().for_each(|party| party.trouble.is_over());
            }
            Verb::Resolve { step, .. } => self.comes_to(state, step, Phase::Committed)?,
            Verb::Skip { step } => self.comes_to(state, step, Phase::Aborted)?,
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
            Direction::Commit => {
                let completed = Outcome::Completed;
                self.look_on(run, state, busy, now, (Phase::Committed, Does::DoCommit, completed), &mut look);
            }
            Direction::Abort(why) => {
                let undone = Outcome::Undone(why.clone());
                self.look_on(run, state, busy, now, (Phase::Aborted, Does::Abort, undone), &mut look);
            }
        }
        look.next()
    }

    /// The participants vote, and are then told that all have, until it can be decided.
    fn look_open(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp, look: &mut Look) {
        if let Some(decision) = self.to_decide(state, now) {
            return self.ask_for(decision, run, state, busy, now, look);
        }
        if let Some(deadline) = state.deadline {
            look.waits(deadline);
        }
        let have_voted = state.all(Phase::Voted);
        for (i, party) in state.parties.iter().enumerate() {
            let does = match party.phase {
                Phase::Asked => Does::CanCommit(i),
                Phase::Voted if have_voted => Does::PreCommit(i),
                _ => continue,
            };
            if !self.is_busy(busy, i) {
                self.try_call(run, self.call(does), &party.trouble.failures, now, look);
            }
        }
    }

    /// The decision that it asks for, once there is one to ask for.
    fn to_decide(&self, state: &State, now: Timestamp) -> Option<Decision> {
        if state.all(Phase::PreCommitted) && state.cancelled.is_none() {
            return Some(Decision::Commit);
        }
        self.why_not(state, Some(now)).map(|why| match why {
            // All have voted, and one knows: it is as its own time-out would have it.
            Why::Failed { .. } | Why::Deadline if state.is_pre_committed() => Decision::Commit,
            _ => Decision::Abort,
        })
    }

    /// Why it goes no further by itself. Without a time: why it was asked for the decision to abort.
    fn why_not(&self, state: &State, now: Option<Timestamp>) -> Option<Why> {
        if let Some((actor, reason)) = &state.cancelled {
            return Some(Why::Cancelled { actor: actor.clone(), reason: reason.clone() });
        }
        let all = || self.parties.iter().zip(&state.parties);
        let no = all().find_map(|(shape, party)| Some((shape.name.clone(), party.refused.clone()?)));
        if let Some((step, why)) = no {
            return Some(Why::Refused { step, why });
        }
        let given_up =
            |(shape, party): &(&PartyShape, &Party)| party.trouble.failures.count >= shape.retry.tries.max(1);
        if let Some((shape, party)) = all().find(given_up) {
            let (step, error) = (shape.name.clone(), party.trouble.failures.error.clone());
            return Some(Why::Failed { step, error });
        }
        let is_late = state.deadline.is_some_and(|deadline| now.is_none_or(|now| deadline <= now));
        is_late.then_some(Why::Deadline)
    }

    fn ask_for(
        &self,
        decision: Decision,
        run: Uuid,
        state: &State,
        busy: &BTreeSet<Call>,
        now: Timestamp,
        look: &mut Look,
    ) {
        let call = self.call(Does::Decide(decision));
        if state.decision.parked.is_some() || busy.contains(&call) {
            return;
        }
        let failures = &state.decision.failures;
        match failures.are_too_many(&Retry::default(), now) {
            true => look.records.push(parked(DECISION, failures)),
            false => self.try_call(run, call, failures, now, look),
        }
    }

    /// It is decided: each participant follows, sooner or later.
    fn look_on(
        &self,
        run: Uuid,
        state: &State,
        busy: &BTreeSet<Call>,
        now: Timestamp,
        (phase, does, outcome): (Phase, fn(usize) -> Does, Outcome),
        look: &mut Look,
    ) {
        let mut is_over = true;
        for (i, (shape, party)) in self.parties.iter().zip(&state.parties).enumerate() {
            let is_busy = self.is_busy(busy, i);
            if party.phase == phase && !is_busy {
                continue;
            }
            is_over = false;
            if party.trouble.parked.is_some() || is_busy {
                continue;
            }
            let failures = &party.trouble.failures;
            match failures.are_too_many(&shape.retry, state.held.unwrap_or(now)) {
                true => look.records.push(parked(&shape.name, failures)),
                false => self.try_call(run, self.call(does(i)), failures, now, look),
            }
        }
        if is_over {
            look.records.push(Record::Ended { outcome });
        }
    }

    fn try_call(&self, run: Uuid, call: Call, failures: &Failures, now: Timestamp, look: &mut Look) {
        let (retry, name) = match self.party_of(call) {
            Some(i) => (self.parties[i].retry, &*self.parties[i].name),
            None => (Retry::default(), DECISION),
        };
        match failures.again(&retry, name, run, call) {
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
        is_over(state.ended.as_ref(), state.abandoned.is_some())?;
        self.can_be_asked(state, busy, &asked.verb)?;
        Ok(vec![Record::Resolved { verb: asked.verb.clone(), by: asked.by.clone() }])
    }

    fn can_be_asked(&self, state: &State, busy: &BTreeSet<Call>, verb: &Verb) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        match (verb, &state.direction) {
            (Verb::Cancel, Direction::Open) if state.cancelled.is_some() => {
                no("that is asked already: the decision to abort is being asked for")
            }
            (Verb::Cancel, Direction::Open) | (Verb::Abandon | Verb::Retry { step: None }, _) => Ok(()),
            (Verb::Cancel, Direction::Abort(_)) => no("it is being aborted already"),
            (Verb::Cancel, Direction::Commit) => {
                no("it was decided to commit: it only goes forward from there")
            }
            (Verb::Retry { step: Some(step) }, _) if step == DECISION => Ok(()),
            (Verb::Retry { step: Some(step) }, _) => self.place_of(step).map(drop),
            (Verb::Resolve { step, .. }, Direction::Commit) => {
                self.can_be_said(state, busy, step, Phase::Committed, "committed")
            }
            (Verb::Skip { step }, Direction::Abort(_)) => {
                self.can_be_said(state, busy, step, Phase::Aborted, "aborted")
            }
            (Verb::Resolve { .. }, _) => no("nothing is to be committed: there is nothing to resolve"),
            (Verb::Skip { .. }, _) => no("nothing is to be aborted: there is nothing to skip"),
            (Verb::GoForward, _) => {
                no("it goes forward once every participant has voted, and not before: retry what fails")
            }
            (Verb::Parent { .. }, _) => no("it has no parent"),
            (Verb::Signal { .. }, _) => no("it waits for nothing that is sent"),
        }
    }

    fn can_be_said(
        &self,
        state: &State,
        busy: &BTreeSet<Call>,
        name: &str,
        phase: Phase,
        so: &str,
    ) -> Result<(), String> {
        let i = self.place_of(name)?;
        match () {
            () if self.is_busy(busy, i) => {
                Err(format!("{name} is being called: ask again once that has an answer"))
            }
            () if state.parties[i].phase == phase => Err(format!("{name} is {so}")),
            () => Ok(()),
        }
    }

    pub(super) fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        let (does, step) = (self.does(call), self.name_of(call).to_owned());
        let undo = matches!(does, Does::Abort(_));
        let failed = |error: String| Record::Failed { step: step.clone(), undo, error };
        match (answer, does) {
            (Answer::Done(output), Does::CanCommit(_)) => Record::Done { step, output },
            (Answer::Done(_), Does::PreCommit(_)) => Record::PreCommitted { step },
            (Answer::Done(_), Does::DoCommit(_)) => Record::Confirmed { step },
            (Answer::Done(_), Does::Abort(_)) => Record::Undone { step },
            (Answer::Done(stands), Does::Decide(_)) => match stands.read() {
                Ok(Decision::Commit) => Record::Agreed {},
                Ok(Decision::Abort) => Record::Decided { why: self.why_aborted(state), open: Vec::new() },
                Err(error) => failed(cut(&format!("what was decided cannot be read: {error}"))),
            },
            (Answer::Refused(why), Does::CanCommit(_) | Does::PreCommit(_)) => {
                Record::Refused { step, why, maybe: false }
            }
            (Answer::Refused(why), _) => failed(why),
            (Answer::Failed(error), _) => failed(cut(&chain(&*error))),
        }
    }

    /// Why it is aborted, once that is decided.
    fn why_aborted(&self, state: &State) -> Why {
        let by_others = || Why::Refused {
            step: DECISION.to_owned(),
            why: "a participant has waited for too long, and has inserted the decision to abort".to_owned(),
        };
        match state.all(Phase::PreCommitted) && state.cancelled.is_none() {
            true => by_others(),
            false => self.why_not(state, None).unwrap_or_else(by_others),
        }
    }

    pub(super) fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        let waits = state.parked(self).map(|(name, why)| format!("{name}: {why}"));
        let waits = waits.reduce(|all, why| all + "; " + &why);
        let stands = matches!(
            self.next(run, state, &BTreeSet::new(), now),
            Next::Act { calls, until: None } if calls.is_empty()
        );
        match (&state.ended, waits) {
            (Some(_), _) => (RunStatus::Ended, None),
            (None, Some(why)) if stands => (RunStatus::Parked, Some(why)),
            (None, why) if matches!(state.direction, Direction::Abort(_)) => (RunStatus::Undoing, why),
            (None, why) => (RunStatus::Running, why),
        }
    }
}

/// Which way it goes is decided, once.
fn turned(state: &mut State, direction: Direction) -> Result<(), String> {
    if state.direction != Direction::Open {
        return Err("it was decided before which way it goes".to_owned());
    }
    state.direction = direction;
    // What failed on the way there is another matter.
    state.decision.is_over();
    state.parties.iter_mut().for_each(|party| party.trouble.is_over());
    Ok(())
}

fn parked(name: &str, failures: &Failures) -> Record {
    Record::Parked { step: name.to_owned(), why: failures.error.clone(), refuses: false }
}

/// Bytes of an error that are kept.
const MAX_ERROR: usize = 1_000;

fn cut(error: &str) -> String {
    error[..error.floor_char_boundary(MAX_ERROR)].to_owned()
}
