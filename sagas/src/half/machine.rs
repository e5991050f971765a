//! What follows what for a half message: pure, so that every state of it can be visited.
//!
//! | fate of the local transaction | what is called | what ends it |
//! | --- | --- | --- |
//! | open | its execution, if the engine runs it; then checks, with pauses that grow | an execution or a check says commit or rollback; a person says so, once it is parked |
//! | commit | the message is appended, until that succeeds | it is appended |
//! | rollback | nothing | nothing is left to do |
//!
//! The fate is a record, and never changes again. A check that meets the local transaction while it runs does not count; those
//! that come to nothing do, and after the most of them a person is asked.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::{Timestamp, chain};
use uuid::Uuid;

use crate::By;
use crate::data::Data;
use crate::saga::{Failures, Retry};
pub(super) use crate::transaction::LOCAL;
use crate::transaction::{
    Answer, Asked, Call, Heard, Look, Next, Outcome, Record, RunStatus, Verb, Why, Written, cut, is_over,
};

/// The step that is the message.
pub(super) const MESSAGE: &str = "message";
/// What whoever runs the local transaction sends as a hint.
pub(super) const HINTS: [&str; 2] = ["commit", "rollback"];

/// Runs the local transaction.
pub(super) const EXECUTE: Call = Call { step: 0, undo: false };
/// Asks what became of it.
pub(super) const CHECK: Call = Call { step: 1, undo: false };
/// Appends the message.
pub(super) const SEND: Call = Call { step: 2, undo: false };

/// Who runs the local transaction, and by what it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunBy {
    /// The engine, as often as it takes: a guard row makes it act once, and answers for it.
    Engine,
    /// The caller: a guard row answers for it.
    Caller,
    /// The engine, once. Nothing bars it, and whoever wrote it says how it is checked.
    Listener,
}

/// What is known of half messages without a run.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) run_by: RunBy,
    /// How the local transaction is tried, where the engine runs it; and how the message is appended.
    pub(super) retry: Retry,
    /// The pauses between checks, and how many there are at most.
    pub(super) checks: Retry,
    /// For so long from its beginning it is not checked, unless somebody asks for that.
    pub(super) immunity: Duration,
    /// How long an execution or a check may take.
    pub(super) limit: Duration,
}

/// What the records of a run come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    records: u64,
    begun: Option<Timestamp>,
    pub(super) input: Option<Data>,
    executed: Executed,
    pub(super) fate: Fate,
    soon: Soon,
    /// Executions that came to nothing certain.
    executions: Failures,
    /// Checks that did.
    checks: Failures,
    /// Checks that met it while it ran, since one that did not.
    met: Failures,
    /// Tries to append the message.
    sends: Failures,
    parked: Option<String>,
    is_sent: bool,
    /// An operator has ended it: who, and why.
    abandoned: Option<(String, String)>,
    ended: Option<Outcome>,
}

/// Whether somebody has asked for a check: it waits for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Soon {
    #[default]
    No,
    /// The next answer may be that of a check which was begun before: it does not do.
    Asked,
    /// The next answer does.
    Again,
}

/// What is decided about the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Open,
    Commit,
    /// And why.
    Rollback(String),
}

/// Whether an execution was called that nothing bars, and has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Executed {
    #[default]
    No,
    /// It may be running somewhere.
    Maybe,
    Returned,
}

impl State {
    pub(super) const fn is_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    pub(super) const fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// What the checks, or the tries to append the message, have come to.
    pub(super) const fn failures(&self) -> [&Failures; 3] {
        [&self.executions, &self.checks, &self.sends]
    }

    pub(super) const fn parked(&self) -> Option<&String> {
        self.parked.as_ref()
    }

    /// Where it stands, in the words of the literature.
    pub(super) fn stage(&self) -> &'static str {
        match &self.fate {
            Fate::Commit => "commit",
            Fate::Rollback(_) => "rollback",
            Fate::Open if self.parked.is_some() => "unknown",
            Fate::Open if self.soon != Soon::No || self.checks.count + self.met.count > 0 => "checking",
            Fate::Open if self.executed == Executed::No && self.executions.count == 0 => "prepared",
            Fate::Open => "unknown",
        }
    }
}

#[cfg(test)]
impl State {
    pub(super) const fn outcome(&self) -> Option<&Outcome> {
        self.ended.as_ref()
    }

    /// The same, without what makes no difference for what follows: how many records there were, when and with what something
    /// failed, and why it was rolled back.
    pub(super) fn alike(mut self) -> Self {
        self.records = self.records.min(3);
        for failures in [&mut self.executions, &mut self.checks, &mut self.met, &mut self.sends] {
            let n = failures.count;
            *failures = Failures::default();
            failures.count = n;
        }
        self.met.count = self.met.count.min(1);
        if let Fate::Rollback(why) = &mut self.fate {
            why.clear();
        }
        if let Some(Outcome::Undone(why)) = &mut self.ended {
            *why = Why::Deadline;
        }
        self
    }
}

impl Shape {
    pub(super) fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        let at = written.at;
        state.records += 1;
        match &written.record {
            Record::Begun { input, parent: None, .. } => {
                (state.input, state.begun) = (Some(input.clone()), Some(at));
            }
            Record::Taken {} => self.taken(state),
            Record::Heard { says, why, checked } => heard(state, *says, why, *checked, at)?,
            Record::Failed { step, error, .. } if step == LOCAL => {
                state.executed = Executed::Maybe;
                state.executions.add(error, at);
            }
            Record::Failed { step, error, .. } if step == MESSAGE => state.sends.add(error, at),
            Record::Done { step, .. } if step == MESSAGE => state.sent(),
            Record::Parked { why, .. } => state.parked = Some(why.clone()),
            Record::Resolved { verb, by } => state.resolved(verb, by)?,
            Record::Declined { .. } => {}
            Record::Ended { outcome } => state.ended = Some(outcome.clone()),
            other => return Err(format!("it is no record of a half message: {other:?}")),
        }
        Ok(())
    }

    /// Somebody takes it up: whoever had it before may have called what nothing bars, and nobody has heard of it.
    fn taken(&self, state: &mut State) {
        // Right behind the beginning, nobody has.
        if self.run_by == RunBy::Listener && state.records > 2 && state.executed == Executed::No {
            state.executed = Executed::Maybe;
        }
    }

    pub(super) fn next(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Next {
        if state.ended.is_some() {
            return Next::Ended;
        }
        if let Some(by) = &state.abandoned {
            return Look::abandoned(by, busy);
        }
        let mut look = Look::default();
        match &state.fate {
            _ if !busy.is_empty() => {}
            Fate::Open => self.look_open(run, state, now, &mut look),
            Fate::Commit => self.look_on(run, state, now, &mut look),
            Fate::Rollback(why) => {
                let outcome = Outcome::Undone(Why::RolledBack { why: why.clone() });
                look.records.push(Record::Ended { outcome });
            }
        }
        look.next()
    }

    /// The local transaction is executed, or asked for.
    fn look_open(&self, run: Uuid, state: &State, now: Timestamp, look: &mut Look) {
        if self.is_to_execute(state) {
            let again = state.executions.again(&self.retry, LOCAL, run, EXECUTE);
            return call_at(again, EXECUTE, now, look);
        }
        if state.parked.is_some() {
            return;
        }
        if state.soon == Soon::No && state.checks.are_too_many(&self.checks, now) {
            let (n, error) = (state.checks.count, &state.checks.error);
            let why = format!("{n} checks have come to nothing certain, the last one to: {error}");
            return look.records.push(Record::Parked { step: LOCAL.to_owned(), why, refuses: false });
        }
        call_at(self.check_at(run, state), CHECK, now, look);
    }

    fn is_to_execute(&self, state: &State) -> bool {
        match self.run_by {
            RunBy::Engine => state.executions.count < self.retry.tries.max(1),
            RunBy::Caller => false,
            RunBy::Listener => state.executed == Executed::No,
        }
    }

    /// When it is checked next; `None`: now.
    fn check_at(&self, run: Uuid, state: &State) -> Option<Timestamp> {
        if state.soon != Soon::No {
            return None;
        }
        // What the engine runs itself has had its tries by now.
        let immune = state.begun.filter(|_| self.run_by != RunBy::Engine);
        let immune = immune.and_then(|begun| begun.saturating_add(self.immunity).ok());
        let again = [&state.checks, &state.met].map(|of| of.again(&self.checks, LOCAL, run, CHECK));
        again.into_iter().flatten().chain(immune).max()
    }

    /// The message is appended.
    fn look_on(&self, run: Uuid, state: &State, now: Timestamp, look: &mut Look) {
        if state.is_sent {
            return look.records.push(Record::Ended { outcome: Outcome::Completed });
        }
        if state.parked.is_some() {
            return;
        }
        if state.sends.are_too_many(&self.retry, now) {
            let (step, why) = (MESSAGE.to_owned(), state.sends.error.clone());
            return look.records.push(Record::Parked { step, why, refuses: false });
        }
        call_at(state.sends.again(&self.retry, MESSAGE, run, SEND), SEND, now, look);
    }

    pub(super) fn asked(
        &self,
        state: &State,
        busy: &BTreeSet<Call>,
        asked: &Asked,
    ) -> Result<Vec<Record>, String> {
        is_over(state.ended.as_ref(), state.is_abandoned())?;
        let is_hint = matches!(&asked.verb, Verb::Signal { name, .. } if HINTS.contains(&&**name));
        let is_wanted = match state.soon {
            Soon::No => false,
            Soon::Asked => true,
            // The check under way may have looked before.
            Soon::Again => busy.is_empty(),
        };
        if is_hint && self.run_by == RunBy::Caller && (is_wanted || state.fate != Fate::Open) {
            // It says nothing new.
            return Ok(Vec::new());
        }
        self.can_be_asked(state, busy, &asked.verb)?;
        Ok(vec![Record::Resolved { verb: asked.verb.without_value(), by: asked.by.clone() }])
    }

    fn can_be_asked(&self, state: &State, busy: &BTreeSet<Call>, verb: &Verb) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        match verb {
            Verb::Abandon | Verb::Retry { step: None } => Ok(()),
            Verb::Retry { step: Some(step) } => is_step(step),
            Verb::Resolve { step, .. } | Verb::Skip { step } => {
                is_step(step)?;
                let is_skip = matches!(verb, Verb::Skip { .. });
                match (&state.fate, &**step) {
                    _ if !busy.is_empty() => no("it is being called: ask again once that has an answer"),
                    _ if state.parked.is_none() => no(
                        "it goes on by itself, and what it finds out is so: that can be said by a person once it is parked",
                    ),
                    (Fate::Open, LOCAL) => Ok(()),
                    (Fate::Commit, MESSAGE) if !is_skip => Ok(()),
                    (Fate::Commit, MESSAGE) => no(
                        "its local transaction has committed: retry it, or abandon it, and nothing is sent",
                    ),
                    (Fate::Open, _) => no("it is not known what its local transaction has come to"),
                    _ => no("what its local transaction has come to is known"),
                }
            }
            Verb::Cancel | Verb::GoForward => no(
                "its local transaction says what becomes of it: retry it, which checks that now; once it is parked, resolve \
                 \"local\" if it has committed, and skip it if it was rolled back",
            ),
            Verb::Signal { name, .. } => match self.run_by {
                RunBy::Caller if HINTS.contains(&&**name) => Ok(()),
                RunBy::Caller => no("it waits for a hint to commit or to roll back, and for nothing else"),
                RunBy::Engine | RunBy::Listener => no("it waits for nothing that is sent"),
            },
            Verb::Parent { .. } => no("a half message has no parent"),
        }
    }

    pub(super) fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        let failed = |step: &str, error: String| Record::Failed { step: step.to_owned(), undo: false, error };
        let said = |says, why, checked| Record::Heard { says, why, checked };
        match (call, answer) {
            (SEND, Answer::Done(output)) => Record::Done { step: MESSAGE.to_owned(), output },
            (SEND, Answer::Refused(why)) => failed(MESSAGE, why),
            (SEND, Answer::Failed(error)) => failed(MESSAGE, cut(&chain(&*error))),
            (CHECK, Answer::Done(told)) => match told.read::<Told>() {
                Ok(told) => self.believed(state, told),
                Err(error) => said(Heard::Unknown, error.to_string(), true),
            },
            (CHECK, Answer::Refused(why)) => said(Heard::Unknown, why, true),
            (CHECK, Answer::Failed(error)) => said(Heard::Unknown, cut(&chain(&*error)), true),
            (_, Answer::Refused(why)) => said(Heard::Rollback, why, false),
            (_, Answer::Failed(error)) => failed(LOCAL, cut(&chain(&*error))),
            (_, Answer::Done(_)) if self.run_by == RunBy::Engine => said(Heard::Commit, String::new(), false),
            (_, Answer::Done(told)) => match told.read::<Told>() {
                Ok(Told { says, why }) => said(says, why, false),
                Err(error) => failed(LOCAL, error.to_string()),
            },
        }
    }

    /// What a check has said, as far as it is believed.
    fn believed(&self, state: &State, Told { says, why }: Told) -> Record {
        let is_early = self.run_by == RunBy::Listener && state.executed != Executed::Returned;
        match says {
            Heard::Rollback if is_early => Record::Heard {
                says: Heard::Unknown,
                why: format!(
                    "a check says that it was rolled back, and it may be running still: the call that ran it has not \
                     returned ({why})"
                ),
                checked: true,
            },
            Heard::Rollback if !state.executions.error.is_empty() => Record::Heard {
                says,
                why: format!("{why}; the last try has failed: {}", state.executions.error),
                checked: true,
            },
            says => Record::Heard { says, why, checked: true },
        }
    }

    /// Whether a call that nothing bars may be made now: then whoever takes it up says so first.
    pub(super) fn calls_outside(&self, state: &State) -> bool {
        self.run_by == RunBy::Listener && state.fate == Fate::Open && state.executed == Executed::No
    }

    pub(super) fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        let stands = matches!(
            self.next(run, state, &BTreeSet::new(), now),
            Next::Act { calls, until: None } if calls.is_empty()
        );
        match &state.parked {
            _ if state.ended.is_some() => (RunStatus::Ended, None),
            Some(why) if stands => (RunStatus::Parked, Some(why.clone())),
            _ => (RunStatus::Running, None),
        }
    }
}

/// What is heard of a local transaction, on its way to a record.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Told {
    pub(super) says: Heard,
    pub(super) why: String,
}

fn heard(state: &mut State, says: Heard, why: &str, checked: bool, at: Timestamp) -> Result<(), String> {
    if state.fate != Fate::Open {
        return Err("it was decided before what becomes of it".to_owned());
    }
    if checked {
        state.soon = if state.soon == Soon::Asked { Soon::Again } else { Soon::No };
    } else {
        state.executed = Executed::Returned;
    }
    match says {
        Heard::Commit => state.decided(Fate::Commit),
        Heard::Rollback => state.decided(Fate::Rollback(why.to_owned())),
        Heard::Unknown | Heard::NotMine if checked => {
            state.checks.add(why, at);
            state.met = Failures::default();
        }
        Heard::InProgress => state.met.add(why, at),
        Heard::Unknown | Heard::NotMine => {}
    }
    Ok(())
}

impl State {
    /// It is known what becomes of the message. From now on time changes nothing.
    fn decided(&mut self, fate: Fate) {
        (self.fate, self.parked, self.soon) = (fate, None, Soon::No);
    }

    fn check_soon(&mut self) {
        (self.parked, self.soon) = (None, if self.fate == Fate::Open { Soon::Asked } else { Soon::No });
    }

    fn sent(&mut self) {
        (self.is_sent, self.parked) = (true, None);
    }

    fn resolved(&mut self, verb: &Verb, by: &By) -> Result<(), String> {
        match verb {
            Verb::Resolve { step, .. } if step == MESSAGE => self.sent(),
            Verb::Resolve { .. } | Verb::Skip { .. } if self.fate != Fate::Open => {
                return Err("it was decided before what becomes of it".to_owned());
            }
            Verb::Resolve { .. } => self.decided(Fate::Commit),
            Verb::Skip { .. } => {
                self.decided(Fate::Rollback(format!("{} says so: {}", by.actor, by.reason)));
            }
            // Whoever hints knows nothing that a check does not.
            Verb::Signal { .. } => self.check_soon(),
            Verb::Retry { .. } => {
                self.check_soon();
                (self.executions, self.checks) = (Failures::default(), Failures::default());
                self.sends = Failures::default();
            }
            Verb::Abandon => self.abandoned = Some((by.actor.clone(), by.reason.clone())),
            // They are declined.
            Verb::Cancel | Verb::GoForward | Verb::Parent { .. } => {}
        }
        Ok(())
    }
}

fn is_step(step: &str) -> Result<(), String> {
    match step {
        LOCAL | MESSAGE => Ok(()),
        other => {
            Err(format!("a half message has the steps {LOCAL:?} and {MESSAGE:?}, and none named {other:?}"))
        }
    }
}

/// A call that is made at a time, or now.
fn call_at(at: Option<Timestamp>, call: Call, now: Timestamp, look: &mut Look) {
    match at {
        Some(at) if at > now => look.waits(at),
        _ => look.calls.push(call),
    }
}
