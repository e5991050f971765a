//! What has to be true of a run, whatever went wrong.

use es_core::Timestamp;

use super::case::Stored;
use super::probe::{Came, Event, Seen};
use super::tried::confirming;
use crate::saga::{Outcome, Outline, OutlineStep, RunStatus};
use crate::transaction::Record;

/// What is wrong, if something is.
pub(super) fn judge(outline: &Outline, stored: &Stored, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(of_the_journal(stored));
    wrong.extend(of_the_fence(seen));
    wrong.extend(of_local_steps(outline, seen));
    let calls = Calls { outline, stored, seen };
    wrong.extend(calls.of_the_order());
    wrong.extend(calls.of_the_end());
    wrong
}

/// Whether the head says what the records come to.
pub(super) fn folded(stored: &Stored, folded: Result<RunStatus, String>) -> Option<String> {
    match folded {
        Ok(status) if status == stored.head.status => None,
        Ok(status) => Some(format!("its head says {:?}, and its records say {status:?}", stored.head.status)),
        Err(why) => Some(format!("its records cannot be folded: {why}")),
    }
}

/// When the last record was written.
pub(super) fn last(stored: &Stored) -> Timestamp {
    stored.records.last().map_or(stored.head.begun, |written| written.at)
}

fn of_the_journal(stored: &Stored) -> Vec<String> {
    let (mut wrong, head) = (Vec::new(), &stored.head);
    let records: Vec<&Record> = stored.records.iter().map(|written| &written.record).collect();
    if records.len() as u64 != head.records {
        wrong.push(format!("its head counts {} records, and there are {}", head.records, records.len()));
    }
    if !matches!(records.first(), Some(Record::Begun { .. })) {
        wrong.push("its first record is not its beginning".to_owned());
    }
    let is_decision = |record: &&&Record| matches!(record, Record::Decided { .. } | Record::Agreed {});
    let decisions = records.iter().filter(is_decision).count();
    if decisions > 1 {
        wrong.push(format!("it was decided {decisions} times"));
    }
    let ends = records.iter().filter(|record| matches!(record, Record::Ended { .. })).count();
    let is_last =
        matches!(records.last(), Some(Record::Ended { outcome }) if Some(outcome) == head.outcome.as_ref());
    let is_ended = head.status == RunStatus::Ended;
    if ends != usize::from(is_ended) || is_last != is_ended {
        wrong.push(format!("it is {:?}, with {ends} records of an end", head.status));
    }
    if stored.attention == is_ended && !stored.waits_for_other {
        wrong.push(format!(
            "it is {:?}, and among those that wait for a person: {}",
            head.status, stored.attention
        ));
    }
    if is_ended && stored.locks > 0 {
        wrong.push(format!("it has ended, and has {} locks, or waits for them", stored.locks));
    }
    if !is_ended && stored.wakes == 0 {
        wrong.push("it has not ended, and nothing wakes it".to_owned());
    }
    wrong
}

fn of_the_fence(seen: &Seen) -> Vec<String> {
    let twice = seen.written.iter().filter(|(_, records)| records.len() > 1);
    let told = twice.map(|(number, records)| {
        format!(
            "record {number} was written {} times: a node that was overtaken was not stopped",
            records.len()
        )
    });
    told.collect()
}

fn of_local_steps(outline: &Outline, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    for step in outline.steps.iter().filter(|step| step.is_local) {
        for (what, n) in
            [("is done", seen.commits(&step.name, false)), ("is undone", seen.commits(&step.name, true))]
        {
            if n > 1 {
                wrong.push(format!("{} {what} {n} times in its database", step.name));
            }
        }
    }
    wrong
}

impl Seen {
    /// How often it was committed that a step is done, or undone.
    fn commits(&self, name: &str, undo: bool) -> usize {
        let is = |record: &&Record| match record {
            Record::Done { step, .. } => !undo && step == name,
            Record::Undone { step } => undo && step == name,
            Record::Confirmed { step } => !undo && confirming(step) == name,
            _ => false,
        };
        self.written.values().flatten().filter(is).count()
    }
}

/// The calls of a run, in order.
struct Calls<'j> {
    outline: &'j Outline,
    stored: &'j Stored,
    seen: &'j Seen,
}

impl Calls<'_> {
    /// Where a call of a step first came to something.
    fn first(&self, step: &OutlineStep, undo: bool, came: Came) -> Option<usize> {
        let is = |event: &Event| event.step == step.name && event.undo == undo && event.came == came;
        self.seen.calls.iter().position(is)
    }

    /// Where a call of a step had come far enough for one of `next`: what is staged is known to what is staged behind it, before
    /// both are committed.
    fn has_run(&self, step: &OutlineStep, undo: bool, next: &OutlineStep) -> Option<usize> {
        let acted = self.first(step, undo, Came::Acted);
        match step.is_staged && next.is_staged {
            true => self.first(step, undo, Came::Within).or(acted),
            false => acted,
        }
    }

    /// Whether an undo has acted before a place. A call that was made before that may arrive later: whoever is called knows
    /// its key.
    fn is_undone(&self, step: &OutlineStep, before: usize) -> bool {
        self.first(step, true, Came::Acted).is_some_and(|undone| undone < before)
    }

    /// Whether the engine has called it again though it was undone. A step in the journal's database may be, by a node that
    /// was overtaken: its commit is refused.
    fn is_called_again(&self, step: &OutlineStep) -> bool {
        let is = |event: &Event| event.step == step.name && !event.undo && event.came == Came::Began;
        let last = self.seen.calls.iter().rposition(is);
        last.is_some_and(|last| self.is_undone(step, last))
    }

    /// A step comes behind all stages before it, an undo behind those of all stages after it.
    fn of_the_order(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for step in &self.outline.steps {
            if !step.is_local && self.is_called_again(step) {
                wrong.push(format!("{} was called again after it was undone", step.name));
            }
            if let Some(at) = self.first(step, false, Came::Began) {
                let earlier = self.outline.steps.iter().filter(|other| other.stage < step.stage);
                let open =
                    earlier.filter(|other| self.has_run(other, false, step).is_none_or(|acted| acted > at));
                wrong.extend(
                    open.map(|other| format!("{} was called before {} had run", step.name, other.name)),
                );
            }
            if let Some(at) = self.first(step, true, Came::Began) {
                let later =
                    self.outline.steps.iter().filter(|other| other.stage > step.stage && !other.is_lock);
                let acted = later.filter_map(|other| Some((other, self.first(other, false, Came::Acted)?)));
                let is_undone = |other| self.has_run(other, true, step).is_some_and(|undone| undone < at);
                let open = acted.filter(|(other, acted)| *acted < at && !is_undone(other));
                wrong.extend(
                    open.map(|(other, _)| format!("{} was undone before {} was", step.name, other.name)),
                );
            }
        }
        wrong
    }

    /// All of it, or nothing.
    fn of_the_end(&self) -> Vec<String> {
        let of: fn(&Self, &OutlineStep) -> Option<String> = match self.stored.head.outcome {
            Some(Outcome::Completed) => Self::not_completed,
            Some(Outcome::Undone(_)) => Self::not_undone,
            // It waits for a person, or one has ended it.
            _ => return Vec::new(),
        };
        self.outline.steps.iter().filter_map(|step| of(self, step)).collect()
    }

    fn not_completed(&self, step: &OutlineStep) -> Option<String> {
        let has_run = match step.is_local {
            true => self.seen.commits(&step.name, false) == 1,
            false => self.first(step, false, Came::Acted).is_some(),
        };
        match (has_run, self.first(step, true, Came::Began)) {
            (false, _) => Some(format!("it is completed, and {} has not run", step.name)),
            (true, Some(_)) => Some(format!("it is completed, and {} was undone", step.name)),
            (true, None) => None,
        }
    }

    fn not_undone(&self, step: &OutlineStep) -> Option<String> {
        if step.is_local {
            let is_left = self.seen.commits(&step.name, false) > self.seen.commits(&step.name, true);
            return is_left.then(|| format!("it is undone, and {} is not", step.name));
        }
        let has_acted = self.first(step, false, Came::Acted).is_some();
        let may_have = has_acted || !step.refuses_for_good && self.first(step, false, Came::Cut).is_some();
        let is_left = may_have && !step.is_lock && !self.is_undone(step, self.seen.calls.len());
        is_left.then(|| format!("it is undone, and {}, which has run or may have, is not", step.name))
    }
}
