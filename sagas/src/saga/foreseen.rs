//! What would become of a saga: found out by going on with its records, and without a call.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{Shape, State};
use crate::By;
use crate::data::Data;
use crate::transaction::{Answer, Call, HowUndone, IfItFailed, Next, Record, Verb, Why, WouldUndo, Written};

/// More rounds than an undo of all steps takes, with a look at each of them before.
const ROUNDS: usize = 4;

impl Shape {
    /// The calls that whoever has it makes now. That its deadline has passed stops none of them.
    pub(super) fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        if state.is_held() {
            return BTreeSet::new();
        }
        let calls = self.next(run, &state.without_deadline(), &BTreeSet::new(), now).calls();
        // Nobody calls a saga of its own, nor a lock.
        calls.into_iter().filter(|call| self.errand(state, *call).is_none()).collect()
    }

    /// What would be undone if it failed now. `Err`: it cannot fail any more.
    pub(super) fn if_it_failed(
        &self,
        run: Uuid,
        state: &State,
        now: Timestamp,
    ) -> Result<IfItFailed, String> {
        let (mut state, next) = (state.clone(), self.next(run, state, &BTreeSet::new(), now));
        if state.is_abandoned() || next == Next::Ended {
            return Err("it has ended, or is abandoned: nothing is called for it any more".to_owned());
        }
        if !state.is_decided() {
            let busy = self.under_way(run, &state, now);
            if state.goes_forward() {
                let why = "a person has decided that it goes forward: a step that fails waits for a person";
                return Ok(IfItFailed::Forward(why.to_owned()));
            }
            if let Some(step) = self.deciding(&state) {
                let name = self.steps[step].name;
                let why = format!(
                    "{name} is the pivot, and a saga of its own: whether it is undone is said by that"
                );
                return Ok(IfItFailed::Forward(why));
            }
            if !self.can_be_undone(&state, &busy) {
                let why = "the pivot has run, or may have: it goes forward, or waits for a person";
                return Ok(IfItFailed::Forward(why.to_owned()));
            }
            self.add(&mut state, self.decided(Why::Deadline, &busy), now)?;
        }
        // What is being called may have run.
        self.add(&mut state, Record::Taken {}, now)?;
        Ok(IfItFailed::Undone(self.undone(run, state, now)?))
    }

    /// The rounds of an undo in which every call succeeds, and a person who is asked says that a step is undone.
    fn undone(&self, run: Uuid, mut state: State, mut now: Timestamp) -> Result<Vec<Vec<WouldUndo>>, String> {
        let mut rounds = Vec::new();
        for _ in 0..(self.steps.len() + 1) * ROUNDS {
            match self.next(run, &state, &BTreeSet::new(), now) {
                Next::Ended => break,
                Next::Append(records) => {
                    records.into_iter().try_for_each(|record| self.add(&mut state, record, now))?;
                }
                Next::Act { calls, .. } if !calls.is_empty() => {
                    rounds.push(calls.iter().map(|call| self.would(&state, *call)).collect());
                    for call in calls {
                        let done = Data::of(&()).map_err(|error| error.to_string())?;
                        let record = self.answered(&state, call, Answer::Done(done));
                        self.add(&mut state, record, now)?;
                    }
                }
                // What failed before is tried again then.
                Next::Act { until: Some(until), .. } if until > now => now = until,
                Next::Act { .. } => {
                    let asked: Vec<usize> = state.parked().collect();
                    let would = |i: &usize| WouldUndo::new(self.steps[*i].name, HowUndone::Asked);
                    rounds.push(asked.iter().map(would).collect());
                    for i in asked {
                        let verb = Verb::Skip { step: self.steps[i].name.to_owned() };
                        let by = By::new(String::new(), String::new(), Uuid::nil());
                        self.add(&mut state, Record::Resolved { verb, by }, now)?;
                    }
                }
            }
        }
        rounds.retain(|round: &Vec<WouldUndo>| !round.is_empty());
        Ok(rounds)
    }

    fn would(&self, state: &State, call: Call) -> WouldUndo {
        let how = match (call.undo, state.has_run(call.step)) {
            _ if self.child_of(call.step).is_some() => HowUndone::Child,
            (false, _) => HowUndone::Settled,
            (true, true) => HowUndone::Undone,
            (true, false) => HowUndone::Voided,
        };
        WouldUndo::new(self.steps[call.step].name, how)
    }

    fn add(&self, state: &mut State, record: Record, at: Timestamp) -> Result<(), String> {
        self.fold(state, &Written { at, record })
    }
}
