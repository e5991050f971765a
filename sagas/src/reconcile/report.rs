//! What a reconciliation has found: for people as text, for machines as JSON.

use std::collections::BTreeMap;
use std::fmt;

use es_core::Timestamp;
use serde::{Deserialize, Serialize};

/// How two sides differ in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// The left side has not got it.
    MissingLeft,
    /// The right side has not got it.
    MissingRight,
    /// Both have it, and say something else.
    Mismatch,
    /// A side has it more than once.
    Duplicate,
    /// It differs, and was young or has moved while it was looked at, in three runs in a row: nobody can say that it settles.
    Unsettled,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MissingLeft, Self::MissingRight, Self::Mismatch, Self::Duplicate, Self::Unsettled];

    /// Its name, as metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MissingLeft => "missing_left",
            Self::MissingRight => "missing_right",
            Self::Mismatch => "mismatch",
            Self::Duplicate => "duplicate",
            Self::Unsettled => "unsettled",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingLeft => "missing left",
            Self::MissingRight => "missing right",
            Self::Mismatch => "mismatch",
            Self::Duplicate => "duplicate",
            Self::Unsettled => "unsettled",
        })
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// How both sides differ.
    pub class: Class,
    /// In which key.
    pub key: String,
    /// What the left side says, as text, cut where it is long.
    pub left: Option<String>,
    /// What the right side says.
    pub right: Option<String>,
    /// Stands for the key and what both sides say, in full: what is [accepted](super::Reconciliation::accept) is this.
    pub fingerprint: String,
    /// What came of the action for its class, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redriven: Option<Redriven>,
}

/// What came of an action for a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "done, or not")]
pub enum Redriven {
    /// It was done. Whether the difference is gone is seen by the next run.
    Done,
    /// It failed, or was not tried, for this reason.
    Failed(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, key, left, right, redriven, .. } = self;
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{class}: {key}: left {}, right {}", side(left), side(right))?;
        match redriven {
            None => Ok(()),
            Some(Redriven::Done) => f.write_str("; redriven"),
            Some(Redriven::Failed(why)) => write!(f, "; not redriven: {why}"),
        }
    }
}

/// What a run of a reconciliation has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The name of the reconciliation.
    pub name: String,
    /// When it began, by the clock of its store.
    pub began: Timestamp,
    /// When it had ended.
    pub ended: Timestamp,
    /// How many keys there are.
    pub keys: u64,
    /// How many differences, by class; a class without any is left out.
    pub counts: BTreeMap<Class, u64>,
    /// The first of each class.
    pub first: Vec<Difference>,
    /// Keys that a transaction that goes on may change, or that have changed a moment ago: they are looked at by the next run.
    pub pending: u64,
    /// Differences that a person has accepted.
    pub accepted: u64,
    /// Keys that seemed to differ, and were too many to be looked at again: the run is not [clean](Self::is_clean).
    pub unconfirmed: u64,
    /// Differences of which the action was done.
    pub redriven: u64,
    /// Differences of which the action failed, or was not tried: there are [too
    /// many](super::Reconciliation::redrive_at_most), or nobody has said whether they are
    /// [pending](super::Reconciliation::pending_if).
    pub failed: u64,
}

impl Report {
    pub(crate) const fn new(name: String, began: Timestamp) -> Self {
        Self {
            name,
            began,
            ended: began,
            keys: 0,
            counts: BTreeMap::new(),
            first: Vec::new(),
            pending: 0,
            accepted: 0,
            unconfirmed: 0,
            redriven: 0,
            failed: 0,
        }
    }

    /// Whether both sides say the same, but for what is pending or accepted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.differences() == 0 && self.unconfirmed == 0
    }

    /// How many differences there are, of all classes.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many of a class.
    #[must_use]
    pub fn of(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or_default()
    }

    /// Counts one; it is kept if it is one of the first.
    pub(super) fn add(&mut self, difference: Difference, most: usize) {
        match difference.redriven {
            Some(Redriven::Done) => self.redriven += 1,
            Some(Redriven::Failed(_)) => self.failed += 1,
            None => {}
        }
        let n = self.counts.entry(difference.class).or_default();
        *n += 1;
        if usize::try_from(*n).is_ok_and(|n| n <= most) {
            self.first.push(difference);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ended, keys, pending, accepted, unconfirmed, redriven, failed, .. } = self;
        let verdict = match self.is_clean() {
            true if *pending > 0 => "both sides agree but for what is pending",
            true => "both sides agree",
            false => "the sides differ",
        };
        write!(f, "{name}: {verdict} at {ended}: {keys} keys")?;
        for (class, n) in &self.counts {
            write!(f, ", {n} {class}")?;
        }
        let more = [
            (pending, "pending"),
            (accepted, "accepted"),
            (unconfirmed, "unconfirmed"),
            (redriven, "redriven"),
        ];
        for (n, what) in more.into_iter().chain([(failed, "not redriven")]).filter(|(n, _)| **n > 0) {
            write!(f, ", {n} {what}")?;
        }
        for difference in &self.first {
            write!(f, "\n  {difference}")?;
        }
        match self.differences().saturating_sub(u64::try_from(self.first.len()).unwrap_or_default()) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well_and_comes_back_from_json() {
        let mut report = Report::new("orders".to_owned(), Timestamp::UNIX_EPOCH);
        report.keys = 7;
        assert!(report.is_clean());
        assert_eq!(report.to_string(), "orders: both sides agree at 1970-01-01T00:00:00Z: 7 keys");
        report.pending = 2;
        let text =
            "orders: both sides agree but for what is pending at 1970-01-01T00:00:00Z: 7 keys, 2 pending";
        assert_eq!(report.to_string(), text);
        let of = |class, redriven| Difference {
            class,
            key: "o-1".to_owned(),
            left: Some("3".to_owned()),
            right: None,
            fingerprint: "ab".to_owned(),
            redriven,
        };
        for redriven in [Some(Redriven::Done), Some(Redriven::Failed("it is closed".to_owned())), None] {
            report.add(of(Class::MissingRight, redriven), 2);
        }
        report.add(of(Class::Mismatch, None), 2);
        report.pending = 1;
        let text = "orders: the sides differ at 1970-01-01T00:00:00Z: 7 keys, 3 missing right, 1 mismatch, 1 pending, \
                    1 redriven, 1 not redriven
  missing right: o-1: left 3, right nothing; redriven
  missing right: o-1: left 3, right nothing; not redriven: it is closed
  mismatch: o-1: left 3, right nothing
  and 1 more";
        assert_eq!(report.to_string(), text);
        assert!(
            !report.is_clean() && report.of(Class::MissingRight) == 3 && report.of(Class::Duplicate) == 0
        );
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains("\"missing_right\":3"), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
