//! What is stored of reconciliations. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `reconcile.runs` | name | when it ran last, and what it has found: a [`Ran`] |
//! | `reconcile.accepted` | name, hash of the key | a difference that a person has accepted: an [`Accepted`] |

use std::collections::BTreeMap;

use es_core::Timestamp;
use es_core::limits::LimitError;
use es_core::store::Table;
use es_core::store::keys::Key;
use serde::{Deserialize, Serialize};

use super::report::Report;

#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) runs: Table<Ran>,
    pub(super) accepted: Table<Accepted>,
}

impl Tables {
    pub(super) fn new() -> Result<Self, LimitError> {
        Ok(Self { runs: Table::new("reconcile.runs")?, accepted: Table::new("reconcile.accepted")? })
    }
}

/// The runs of a reconciliation. Stored: change by adding fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ran {
    /// When the last one began that a schedule has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<Timestamp>,
    /// What the last one has found that came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<Report>,
    /// Why the last one came to none, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<(Timestamp, String)>,
    /// When a schedule has begun the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    /// In how many runs in a row a key has differed and was young, or moved.
    #[serde(default, skip_serializing_if = "Unsettled::is_empty")]
    pub(super) unsettled: Unsettled,
}

/// By the hash of the key.
pub(super) type Unsettled = BTreeMap<String, u32>;

impl Ran {
    /// A run has come to its end. One that began before the last one is not the last one.
    pub(super) fn takes(&mut self, report: &Report, unsettled: &Unsettled) {
        if self.report.as_ref().is_none_or(|last| last.began <= report.began) {
            (self.report, self.unsettled) = (Some(report.clone()), unsettled.clone());
        }
        self.failed.take_if(|(at, _)| *at <= report.began);
    }
}

/// A difference that a person has accepted. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) key: String,
    /// Of what both sides said. Another one is another difference.
    pub(super) fingerprint: String,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) at: Timestamp,
}

pub(super) fn run_key(name: &str) -> Result<String, LimitError> {
    Key::default().text(name).build()
}

pub(super) fn accepted_key(name: &str, key: &str) -> Result<String, LimitError> {
    Key::default().text(name).hash(key).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        runs: Ran = ["reconcile-run"];
        what_is_accepted: Accepted = ["reconcile-accepted"];
    }

    #[test]
    fn keys_are_pinned() {
        assert_eq!(run_key("a:b").unwrap(), "a%3Ab");
        assert_eq!(
            accepted_key("a", "o-1").unwrap(),
            format!("a:{:016x}", xxhash_rust::xxh3::xxh3_64(b"o-1"))
        );
    }
}
