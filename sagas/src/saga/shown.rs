//! A saga in words: what it waits for, and how its steps are.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{Doable, Forward, Shape, Standing, State, StepShape};
use crate::transaction::{Call, Next, RunStatus, StepShown};

impl Shape {
    /// What it waits for, and who will wake it.
    pub(super) fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        if let (RunStatus::Parked, Some(why)) = self.status(run, state, now) {
            let late = self.by_its_deadline(state);
            return format!("a person, who retries, resolves, skips, or abandons it ({why}){late}");
        }
        let next = self.next(run, state, &BTreeSet::new(), now);
        if let Next::Act { calls, .. } = &next
            && let Some(family) = self.waits_for_family(state, calls)
        {
            return family + &self.by_its_deadline(state);
        }
        if let Next::Act { calls, until } = &next
            && calls.is_empty()
            && until.is_none_or(|until| Some(until) == state.deadline)
            && let Some(senders) = self.waits_for_senders(state)
        {
            return senders;
        }
        match next {
            Next::Append(_) => "its node, which writes what follows".to_owned(),
            Next::Ended => "nothing: it has ended".to_owned(),
            Next::Act { calls, .. } if !calls.is_empty() => {
                if let Some(others) = self.waits_for_others(state, &calls) {
                    return others;
                }
                let calls: Vec<String> = calls.iter().map(|call| self.called(*call)).collect();
                format!("the answer of {}", calls.join(", "))
            }
            Next::Act { until: Some(until), .. } if Some(until) == state.deadline => {
                format!("{until}, its deadline, when its node undoes it")
            }
            Next::Act { until: Some(until), .. } => format!("{until}, when its node tries again what failed"),
            Next::Act { until: None, .. } => "a person".to_owned(),
        }
    }

    /// What one waits for that others send.
    pub(super) fn waits_for_senders(&self, state: &State) -> Option<String> {
        let stage = self.frontier(state).filter(|_| !state.is_decided())?;
        let is_sent = |i: &usize| matches!(self.steps[*i].place, Doable::Sent(_)) && !state.has_run(*i);
        let of: Vec<&str> = self.of_stage(stage).filter(is_sent).map(|i| self.steps[i].name).collect();
        let late = self.by_its_deadline(state);
        (!of.is_empty()).then(|| format!("somebody who sends {}{late}", of.join(", ")))
    }

    /// What its deadline does to one that waits.
    fn by_its_deadline(&self, state: &State) -> String {
        // All of one that waits for its parent has run.
        let counts = !state.goes_forward() && self.frontier(state).is_some();
        match (state.deadline.filter(|_| counts), self.recallable(state)) {
            (Some(at), Some(pivot)) => {
                format!("; {} is told at {at}, its deadline, that it is to be undone", self.steps[pivot].name)
            }
            (Some(at), None) if self.can_be_undone(state, &BTreeSet::new()) => {
                format!("; it is undone at {at}, its deadline")
            }
            _ => String::new(),
        }
    }

    fn called(&self, call: Call) -> String {
        let name = self.steps[call.step].name;
        if call.undo { format!("undoing {name}") } else { name.to_owned() }
    }

    /// What one waits for that was laid down.
    fn waits_for_others(&self, state: &State, calls: &[Call]) -> Option<String> {
        let of = |call: &Call| {
            let destination = self.steps[call.step].destination.as_ref()?;
            Some(format!("{destination:?} for {}", self.called(*call)))
        };
        let of: Vec<String> = calls.iter().filter_map(of).collect();
        let late = self.by_its_deadline(state);
        let others =
            || format!("{}, which has failed: its node calls it again by itself{late}", of.join(", "));
        (state.is_held() && !of.is_empty()).then(others)
    }

    /// What an operator sees of the steps.
    pub(super) fn show(&self, state: &State) -> Vec<StepShown> {
        let show = |(shape, standing): (&StepShape, &Standing)| {
            let waits = match shape.place {
                Doable::Sent(awaits) => format!("{} of {} sent", standing.sent.len(), awaits.count()),
                Doable::Locked if standing.claims.is_some() => "waits".to_owned(),
                _ => "not run".to_owned(),
            };
            let state = match (&standing.forward, &standing.refused) {
                _ if standing.parked.is_some() => "parked",
                _ if standing.undone => "undone",
                (Forward::Yes(_), _) => "done",
                (_, Some(_)) => "refused",
                (Forward::Maybe, None) => "may have run",
                (Forward::No, None) if standing.failures.count > 0 => "failed",
                (Forward::No, None) => &waits,
            };
            let state = match state {
                "may have run" if standing.child.open().is_some() => "under way",
                state => state,
            };
            let error = (!standing.failures.error.is_empty()).then(|| standing.failures.error.clone());
            let child = standing.child.run.clone();
            let shown =
                StepShown::new(shape.name.to_owned(), state.to_owned(), standing.failures.count, error);
            StepShown { child, ..shown }
        };
        self.steps.iter().zip(&state.steps).map(show).collect()
    }
}
