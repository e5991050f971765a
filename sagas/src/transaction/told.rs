//! What happened to a run, in words.

use super::rows::{Heard, Record, Verb};
use crate::lock::Resource;

/// A record in words.
pub(crate) fn told(record: &Record) -> String {
    match record {
        Record::Begun { deadline, parent, .. } => {
            let of = parent.as_ref().map(|parent| format!(", as {} of {}", parent.step, parent.of));
            let by = deadline.map(|deadline| format!(", to be decided by {deadline}"));
            format!("begun{}{}", of.unwrap_or_default(), by.unwrap_or_default())
        }
        Record::Taken {} => "taken up".to_owned(),
        Record::Held { steps } => {
            let waits = if steps.len() == 1 { "waits" } else { "wait" };
            format!("{} {waits}: who is to be called has failed, for others as well", steps.join(", "))
        }
        Record::Done { step, .. } => format!("{step} is done"),
        Record::Refused { step, why, maybe: false } => format!("{step} is refused: {why}"),
        Record::Refused { step, why, maybe: true } => {
            format!("{step} is refused: {why}; an earlier try may have run")
        }
        Record::Failed { step, undo: false, error } => format!("{step} failed: {error}"),
        Record::Failed { step, undo: true, error } => format!("undoing {step} failed: {error}"),
        Record::Decided { why, .. } => format!("to be undone: {why}"),
        Record::Undone { step } => format!("{step} is undone"),
        Record::Agreed {} => "all have agreed: to be confirmed".to_owned(),
        Record::Confirmed { step } => format!("{step} is confirmed"),
        Record::PreCommitted { step } => format!("{step} is pre-committed"),
        Record::Parked { step, why, .. } => format!("{step} is parked: {why}"),
        Record::Resolved { verb: Verb::Signal { name, id, .. }, .. } => format!("{name} was sent, as {id}"),
        Record::Declined { verb: Verb::Signal { name, id, .. }, why, .. } => {
            format!("{name}, sent as {id}, was declined: {why}")
        }
        Record::Resolved { verb, by } => format!("{} by {}: {}", said(verb), by.actor, by.reason),
        Record::Declined { verb, by, why, .. } => {
            format!("{} by {} was declined: {why}", said(verb), by.actor)
        }
        Record::Called { step, child, .. } => format!("{step} has begun, as {child}"),
        Record::Recalled { step, why } => format!("{step} was told that it is to be undone: {why}"),
        Record::Claimed { step, locks } => {
            let locks: Vec<String> = locks.iter().map(Resource::to_string).collect();
            format!("{step} asks for {}", locks.join(", "))
        }
        Record::Ready {} => "all of it has run: it waits for its parent".to_owned(),
        Record::Heard { says, why, checked } => {
            let who = if *checked { "a check says: " } else { "" };
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            format!("{who}{}{why}", heard(*says))
        }
        Record::Ended { outcome } => format!("ended: {outcome}"),
    }
}

const fn heard(says: Heard) -> &'static str {
    match says {
        Heard::Commit => "the local transaction has committed",
        Heard::Rollback => "the local transaction was rolled back",
        Heard::Unknown => "it is not known what the local transaction has come to",
        Heard::NotMine => "whoever was asked does not know the local transaction",
        Heard::InProgress => "the local transaction is running",
    }
}

fn said(verb: &Verb) -> String {
    match verb {
        Verb::Cancel => "cancelled".to_owned(),
        Verb::GoForward => "decided to go forward".to_owned(),
        Verb::Retry { step: None } => "retried".to_owned(),
        Verb::Retry { step: Some(step) } => format!("{step} retried"),
        Verb::Resolve { step, output } => format!("{step} taken for run with {}", output.text()),
        Verb::Skip { step } => format!("{step} taken for undone"),
        Verb::Abandon => "abandoned".to_owned(),
        Verb::Signal { name, .. } => format!("{name} sent"),
        Verb::Parent { ends } => format!("told that its parent is {ends}"),
    }
}
