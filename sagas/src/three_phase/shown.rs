//! A three-phase commit in words: what it waits for, how its participants are, and what would become of it.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{Direction, Does, Party, PartyShape, Phase, Shape, State};
use crate::transaction::{Call, HowUndone, IfItFailed, Next, RunStatus, StepShown, WouldUndo};

impl Shape {
    /// What it waits for, and who will wake it.
    pub(super) fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        if let (RunStatus::Parked, Some(why)) = self.status(run, state, now) {
            return format!(
                "a person, who retries it, or says what was done by hand, or abandons it ({why})"
            );
        }
        match self.next(run, state, &BTreeSet::new(), now) {
            Next::Append(_) => "its node, which writes what follows".to_owned(),
            Next::Ended => "nothing: it has ended".to_owned(),
            Next::Act { calls, .. } if !calls.is_empty() => {
                if let Some(others) = self.waits_for_others(state, &calls) {
                    return others;
                }
                let calls: Vec<String> = calls.iter().map(|call| self.called(*call)).collect();
                format!("the answer of {}", calls.join(", "))
            }
            Next::Act { until: Some(until), .. } if self.is_deadline(state, until) => {
                format!("{until}, its deadline, when its node asks for a decision")
            }
            Next::Act { until: Some(until), .. } => format!("{until}, when its node tries again what failed"),
            Next::Act { until: None, .. } => "a person".to_owned(),
        }
    }

    fn is_deadline(&self, state: &State, until: Timestamp) -> bool {
        state.direction == Direction::Open && state.deadline == Some(until)
    }

    fn called(&self, call: Call) -> String {
        let name = self.name_of(call);
        match self.does(call) {
            Does::CanCommit(_) => format!("{name}, which votes"),
            Does::PreCommit(_) => format!("{name}, which is told that all have voted"),
            Does::DoCommit(_) => format!("{name}, which commits"),
            Does::Abort(_) => format!("{name}, which aborts"),
            Does::Decide(_) => "the journal, which says what is decided".to_owned(),
        }
    }

    /// What one waits for that was laid down.
    fn waits_for_others(&self, state: &State, calls: &[Call]) -> Option<String> {
        let of = |call: &Call| {
            let destination = self.parties[self.party_of(*call)?].destination.as_ref()?;
            Some(format!("{destination:?} for {}", self.called(*call)))
        };
        let of: Vec<String> = calls.iter().filter_map(of).collect();
        let others = || format!("{}, which has failed: its node calls it again by itself", of.join(", "));
        (state.is_held() && !of.is_empty()).then(others)
    }

    /// What an operator sees of the participants.
    pub(super) fn show(&self, state: &State) -> Vec<StepShown> {
        let show = |(shape, party): (&PartyShape, &Party)| {
            let failures = &party.trouble.failures;
            let error = (!failures.error.is_empty()).then(|| failures.error.clone());
            StepShown::new(shape.name.clone(), in_words(party).to_owned(), failures.count, error)
        };
        self.parties.iter().zip(&state.parties).map(show).collect()
    }

    /// The calls that whoever has it makes now. That its deadline has passed stops none of them.
    pub(super) fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        if state.is_held() {
            return BTreeSet::new();
        }
        let calls = self.next(run, &state.without_deadline(), &BTreeSet::new(), now).calls();
        // What is asked of the journal is done in the commit of its answer.
        calls.into_iter().filter(|call| self.party_of(*call).is_some()).collect()
    }

    /// What would be aborted if it failed now. `Err`: it cannot fail any more.
    pub(super) fn if_it_failed(&self, state: &State) -> Result<IfItFailed, String> {
        if state.is_abandoned() || self.has_ended(state) {
            return Err("it has ended, or is abandoned: nothing is called for it any more".to_owned());
        }
        match state.direction {
            Direction::Commit => {
                let why = "it is decided to commit: each participant does, or waits for a person";
                return Ok(IfItFailed::Forward(why.to_owned()));
            }
            Direction::Open if state.is_pre_committed() => {
                let why = "a participant is pre-committed: it would ask for the decision to commit";
                return Ok(IfItFailed::Forward(why.to_owned()));
            }
            Direction::Open | Direction::Abort(_) => {}
        }
        let would = |(shape, party): (&PartyShape, &Party)| {
            let how = match party.phase {
                Phase::Aborted => return None,
                _ if party.trouble.parked.is_some() => HowUndone::Asked,
                Phase::Asked => HowUndone::Voided,
                _ => HowUndone::Undone,
            };
            Some(WouldUndo::new(&shape.name, how))
        };
        let round: Vec<WouldUndo> = self.parties.iter().zip(&state.parties).filter_map(would).collect();
        Ok(IfItFailed::Undone(if round.is_empty() { Vec::new() } else { vec![round] }))
    }

    fn has_ended(&self, state: &State) -> bool {
        self.next(Uuid::nil(), state, &BTreeSet::new(), Timestamp::UNIX_EPOCH) == Next::Ended
    }
}

const fn in_words(party: &Party) -> &'static str {
    match party.phase {
        _ if party.trouble.parked.is_some() => "parked",
        Phase::Committed => "committed",
        Phase::Aborted => "aborted",
        _ if party.refused.is_some() => "refused",
        Phase::PreCommitted => "pre-committed",
        Phase::Voted => "voted",
        Phase::Asked if party.trouble.failures.count > 0 => "failed",
        Phase::Asked => "not voted",
    }
}
