//! A half message in words, and what would come of a failure.

use std::collections::BTreeSet;

use es_core::Timestamp;
use uuid::Uuid;

use super::machine::{CHECK, EXECUTE, Fate, LOCAL, MESSAGE, RunBy, Shape, State};
use crate::saga::Failures;
use crate::transaction::{IfItFailed, Next, RunStatus, StepShown};

impl Shape {
    /// The calls that whoever has it makes now.
    pub(super) fn under_way(
        &self,
        run: Uuid,
        state: &State,
        now: Timestamp,
    ) -> BTreeSet<crate::transaction::Call> {
        self.next(run, state, &BTreeSet::new(), now).calls()
    }

    /// Nothing is undone of it: its local transaction commits as a whole, or not at all.
    pub(super) fn if_it_failed(
        &self,
        run: Uuid,
        state: &State,
        now: Timestamp,
    ) -> Result<IfItFailed, String> {
        if state.is_abandoned() || self.next(run, state, &BTreeSet::new(), now) == Next::Ended {
            return Err("it has ended, or is abandoned: nothing is called for it any more".to_owned());
        }
        let why = match state.fate {
            Fate::Open => "its local transaction says what becomes of it: it is checked until that is known",
            _ => "its local transaction has committed: the message is sent, or waits for a person",
        };
        Ok(IfItFailed::Forward(why.to_owned()))
    }

    /// What it waits for, and who will wake it.
    pub(super) fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        if let (RunStatus::Parked, Some(why)) = self.status(run, state, now) {
            let says = match state.fate {
                Fate::Open => {
                    "resolves \"local\" if its local transaction has committed, or skips it if it was rolled back"
                }
                _ => "says that the message was sent by hand",
            };
            return format!("a person, who retries it, or {says}, or abandons it ({why})");
        }
        match self.next(run, state, &BTreeSet::new(), now) {
            Next::Append(_) => "its node, which writes what follows".to_owned(),
            Next::Ended => "nothing: it has ended".to_owned(),
            Next::Act { calls, .. } if calls.contains(&EXECUTE) => "its local transaction".to_owned(),
            Next::Act { calls, .. } if calls.contains(&CHECK) => {
                "a check of its local transaction".to_owned()
            }
            Next::Act { calls, .. } if !calls.is_empty() => "the message to be appended".to_owned(),
            Next::Act { until: Some(until), .. } if state.fate != Fate::Open => {
                format!("{until}, when its node tries again to append the message")
            }
            Next::Act { until: Some(until), .. } if self.run_by == RunBy::Caller => {
                format!("its caller, or {until}, when its node checks its local transaction")
            }
            Next::Act { until: Some(until), .. } => {
                format!("{until}, when its node tries its local transaction again, or checks it")
            }
            Next::Act { until: None, .. } => "a person".to_owned(),
        }
    }

    /// What an operator sees of the local transaction, and of the message.
    pub(super) fn show(&self, state: &State) -> Vec<StepShown> {
        let [executions, checks, sends] = state.failures();
        let shown = |name: &str, stage: &str, failures: &Failures| {
            let error = (!failures.error.is_empty()).then(|| failures.error.clone());
            StepShown::new(name.to_owned(), stage.to_owned(), failures.count, error)
        };
        let message = match &state.fate {
            _ if state.is_sent() => "sent",
            Fate::Rollback(_) => "never sent",
            Fate::Commit if state.parked().is_some() => "parked",
            Fate::Commit | Fate::Open => "not sent",
        };
        let local = if checks.count > 0 { checks } else { executions };
        vec![shown(LOCAL, state.stage(), local), shown(MESSAGE, message, sends)]
    }
}
