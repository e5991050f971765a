//! What would become of a TCC: found out by going on with its records, and without a call.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{Direction, Shape, State};
use crate::By;
use crate::data::Data;
use crate::transaction::{Answer, Call, HowUndone, IfItFailed, Next, Record, Verb, Why, WouldUndo, Written};

/// More rounds than it takes to cancel all branches, with a look before, and a person who is asked.
const ROUNDS: usize = 8;

impl Shape {
    /// The calls that whoever has it makes now. That its deadline has passed stops none of them.
    pub(super) fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        if state.is_held() {
            return BTreeSet::new();
        }
        self.next(run, &state.without_deadline(), &BTreeSet::new(), now).calls()
    }

    /// What would be cancelled if it failed now. `Err`: it cannot fail any more.
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
        match state.direction {
            Direction::Confirm => {
                let why = "every branch has reserved: each is confirmed, or waits for a person";
                return Ok(IfItFailed::Forward(why.to_owned()));
            }
            Direction::Open => {
                let busy = self.under_way(run, &state, now);
                self.add(&mut state, self.decided(Why::Deadline, &busy), now)?;
            }
            Direction::Cancel(_) => {}
        }
        // What is being called may have reserved.
        self.add(&mut state, Record::Taken {}, now)?;
        Ok(IfItFailed::Undone(self.cancelled(run, state, now)?))
    }

    /// The rounds in which every call succeeds, and a person who is asked says that a branch is cancelled.
    fn cancelled(
        &self,
        run: Uuid,
        mut state: State,
        mut now: Timestamp,
    ) -> Result<Vec<Vec<WouldUndo>>, String> {
        let mut rounds = Vec::new();
        for _ in 0..self.branches.len() + ROUNDS {
            match self.next(run, &state, &BTreeSet::new(), now) {
                Next::Ended => break,
                Next::Append(records) => {
                    records.into_iter().try_for_each(|record| self.add(&mut state, record, now))?;
                }
                Next::Act { calls, .. } if !calls.is_empty() => {
                    rounds.push(calls.iter().map(|call| self.would(&state, *call)).collect());
                    for call in calls {
                        let record = self.answered(&state, call, Answer::Done(Data::null()));
                        self.add(&mut state, record, now)?;
                    }
                }
                // What failed before is tried again then.
                Next::Act { until: Some(until), .. } if until > now => now = until,
                Next::Act { .. } => {
                    let asked: Vec<usize> = state.parked().collect();
                    let would = |i: &usize| WouldUndo::new(self.branches[*i].name, HowUndone::Asked);
                    rounds.push(asked.iter().map(would).collect());
                    for i in asked {
                        let verb = Verb::Skip { step: self.branches[i].name.to_owned() };
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
        let i = self.branch_of(call);
        let how = match state.branches[i].held() {
            Some(_) => HowUndone::Undone,
            None => HowUndone::Voided,
        };
        WouldUndo::new(self.branches[i].name, how)
    }

    fn add(&self, state: &mut State, record: Record, at: Timestamp) -> Result<(), String> {
        self.fold(state, &Written { at, record })
    }
}
