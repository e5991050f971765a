//! A TCC in words: what it waits for, and how its branches are.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{BranchShape, Direction, Reserved, Shape, Standing, State};
use crate::saga::Does;
use crate::transaction::{Call, Next, RunStatus, StepShown};

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
                format!("{until}, its deadline, when its node cancels it")
            }
            Next::Act { until: Some(until), .. } => format!("{until}, when its node tries again what failed"),
            Next::Act { until: None, .. } => "a person".to_owned(),
        }
    }

    fn is_deadline(&self, state: &State, until: Timestamp) -> bool {
        state.direction == Direction::Open && state.deadline == Some(until)
    }

    fn called(&self, call: Call) -> String {
        let name = self.branches[self.branch_of(call)].name;
        match self.does(call) {
            Does::Run => format!("reserving {name}"),
            Does::Undo => format!("cancelling {name}"),
            Does::Confirm => format!("confirming {name}"),
        }
    }

    /// What one waits for that was laid down.
    fn waits_for_others(&self, state: &State, calls: &[Call]) -> Option<String> {
        let of = |call: &Call| {
            let destination = self.branches[self.branch_of(*call)].destination.as_ref()?;
            Some(format!("{destination:?} for {}", self.called(*call)))
        };
        let of: Vec<String> = calls.iter().filter_map(of).collect();
        let late = state.deadline.filter(|_| state.direction == Direction::Open);
        let late = late.map(|at| format!("; it is cancelled at {at}, its deadline")).unwrap_or_default();
        let others =
            || format!("{}, which has failed: its node calls it again by itself{late}", of.join(", "));
        (state.is_held() && !of.is_empty()).then(others)
    }

    /// What an operator sees of the branches.
    pub(super) fn show(&self, state: &State) -> Vec<StepShown> {
        let show = |(shape, standing): (&BranchShape, &Standing)| {
            let error = (!standing.failures.error.is_empty()).then(|| standing.failures.error.clone());
            let state = in_words(standing).to_owned();
            StepShown::new(shape.name.to_owned(), state, standing.failures.count, error)
        };
        self.branches.iter().zip(&state.branches).map(show).collect()
    }
}

const fn in_words(standing: &Standing) -> &'static str {
    match (&standing.reserved, &standing.refused) {
        _ if standing.parked.is_some() => "parked",
        _ if standing.confirmed => "confirmed",
        _ if standing.cancelled => "cancelled",
        (Reserved::Yes(_), _) => "reserved",
        (_, Some(_)) => "refused",
        (Reserved::Maybe, None) => "may have reserved",
        (Reserved::No, None) if standing.failures.count > 0 => "failed",
        (Reserved::No, None) => "not reserved",
    }
}
