//! What one look at a run finds: records to write first, or calls to make until a time.

use std::collections::BTreeSet;

use es_core::Timestamp;

use super::outcome::Outcome;
use super::protocol::{Call, Next};
use super::rows::Record;

/// Bytes of an error that are kept.
const MAX_ERROR: usize = 1_000;

/// An error, as it is kept.
pub(crate) fn cut(error: &str) -> String {
    error[..error.floor_char_boundary(MAX_ERROR)].to_owned()
}

/// Whether nothing is asked of a run any more, and why.
pub(crate) fn is_over(ended: Option<&Outcome>, is_abandoned: bool) -> Result<(), String> {
    match ended {
        Some(outcome) => Err(format!("it has ended: {outcome}")),
        None if is_abandoned => {
            Err("it is abandoned, and ends once what is being called has an answer".to_owned())
        }
        None => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) records: Vec<Record>,
    pub(crate) calls: Vec<Call>,
    until: Option<Timestamp>,
}

impl Look {
    /// It is looked again at this time, if not before.
    pub(crate) fn waits(&mut self, until: Timestamp) {
        self.until = Some(self.until.map_or(until, |other| other.min(until)));
    }

    pub(crate) fn next(self) -> Next {
        match self.records.is_empty() {
            false => Next::Append(self.records),
            true => Next::Act { calls: self.calls, until: self.until },
        }
    }

    /// What follows in a run that an operator has abandoned. What is under way is waited for: its answer is in the journal.
    pub(crate) fn abandoned((actor, reason): &(String, String), busy: &BTreeSet<Call>) -> Next {
        let mut look = Self::default();
        if busy.is_empty() {
            let outcome = Outcome::Abandoned { actor: actor.clone(), reason: reason.clone() };
            look.records.push(Record::Ended { outcome });
        }
        look.next()
    }
}
