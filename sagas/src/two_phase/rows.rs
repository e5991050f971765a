//! What is stored of transactions across databases. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `two-phase.decisions` | transaction | what was decided: a [`Decided`]. It is inserted once, and never changed |
//! | `two-phase.resolved` | transaction, branch | what an operator has said of a branch, or of all of it: a [`Resolved`] |
//! | `two-phase.floor` | `floor-` and a digit | below it decisions to commit may have been forgotten: a [`Floor`]. Whoever decides to abort writes that of its transaction's last digit too, as it was read, so that few meet there; all of them are raised together. `floor` is that of earlier programs, which nobody writes any more |
//! | `hot.two-phase.open` | transaction | branches that are not committed yet, as their coordinator has decided: an [`Open`]. It comes with the decision, and goes when all is done |
//! | `hot.two-phase.aside` | transaction | the same, of what was decided to abort, or by an operator; without a decision, that the transaction is torn. Earlier programs commit whatever is on a list, and do not know this one. Whoever decides to abort writes here, and so does who finds a transaction torn: one of them is first |

use std::collections::BTreeMap;

use es_core::Timestamp;
use es_core::limits::LimitError;
use es_core::store::keys::Key;
use es_core::store::{RowWrite, StoreError, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::machine::{Decision, Odd};

#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) decisions: Table<Decided>,
    pub(super) open: Table<Open>,
    pub(super) aside: Table<Open>,
    pub(super) resolved: Table<Resolved>,
    pub(super) floor: Table<Floor>,
}

/// The floor of earlier programs.
pub(super) const FLOOR: &str = "floor";
/// How many rows stand for the floor.
pub(super) const FLOORS: u128 = 16;

/// Stands for a branch where an operator has said something of the whole transaction.
pub(super) const WHOLE: &str = "";

/// From which transaction on no decision was forgotten. Stored: change by adding fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Floor {
    pub(super) floor: Uuid,
}

/// What was decided. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    /// The branches that it is about; of an abort, nobody knows them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) branches: Vec<String>,
    /// Whether an operator has decided: then what the store itself had of it is not committed with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) adopted: bool,
}

/// Branches that are not what was decided, or not yet. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    /// None: it is torn, and an operator has to decide. Then the branches are those that were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<Decision>,
    /// By their names, which are those of their participants, if these were not renamed.
    pub(super) branches: BTreeMap<String, Waits>,
    /// When it was decided, by the clock of whoever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    /// The store that it was begun with, if that is another: an operator has adopted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<Uuid>,
}

impl Open {
    pub(super) fn new(decision: Decision, names: impl IntoIterator<Item = String>, since: Timestamp) -> Self {
        let branches = names.into_iter().map(|name| (name, Waits::default())).collect();
        Self { decision: Some(decision), ..Self::torn(branches, since) }
    }

    /// That an operator has to decide.
    pub(super) const fn torn(branches: BTreeMap<String, Waits>, since: Timestamp) -> Self {
        Self { decision: None, branches, since: Some(since), cluster: None }
    }
}

/// Why a branch is not what was decided. Stored: change by adding fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waits {
    /// What it is instead: then a person has to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) odd: Option<Odd>,
    /// What its participant said to the last try, if that never goes away by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// The participant where it was found, if that has another name than the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
    /// Whether its participant could not be asked before it was decided to abort: it may have committed it under another name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unasked: bool,
}

impl Waits {
    /// A branch of this name that was found at this participant.
    pub(super) fn found(branch: &str, participant: &str) -> Self {
        let at = (branch != participant).then(|| participant.to_owned());
        Self { at, ..Self::default() }
    }

    /// Of a participant that could not be asked.
    pub(super) fn unasked() -> Self {
        Self { unasked: true, ..Self::default() }
    }

    /// The participant of a branch of this name.
    pub(super) fn participant<'a>(&'a self, branch: &'a str) -> &'a str {
        self.at.as_deref().unwrap_or(branch)
    }
}

/// That an operator has seen to a branch that is not what was decided, or has decided. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolved {
    /// None if the row that said so could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<Decision>,
    /// None of one whose participant is no more, or that the operator has decided about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) odd: Option<Odd>,
    pub(super) actor: String,
    pub(super) reason: String,
    /// What others had said of it before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) before: Vec<Said>,
}

/// Who has said something, and why. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) actor: String,
    pub(super) reason: String,
}

impl Tables {
    pub(super) fn new() -> Result<Self, LimitError> {
        let (decisions, open) = (Table::new("two-phase.decisions")?, Table::new("hot.two-phase.open")?);
        let (resolved, floor) = (Table::new("two-phase.resolved")?, Table::new("two-phase.floor")?);
        Ok(Self { decisions, open, aside: Table::new("hot.two-phase.aside")?, resolved, floor })
    }

    /// Where what is decided and not done can be: of a transaction in one of them.
    pub(super) const fn lists(&self) -> [&Table<Open>; 2] {
        [&self.open, &self.aside]
    }

    /// The decision to commit, with its branches on the list.
    pub(super) fn to_commit(
        &self,
        txn: Uuid,
        branches: Vec<String>,
        now: Timestamp,
    ) -> Result<Vec<RowWrite>, StoreError> {
        let key = key(txn)?;
        let mut rows = Vec::new();
        if !branches.is_empty() {
            let open = Open::new(Decision::Commit, branches.iter().cloned(), now);
            rows.push(self.open.insert(key.clone(), open)?);
        }
        rows.push(
            self.decisions.insert(key, Decided { decision: Decision::Commit, branches, adopted: false })?,
        );
        Ok(rows)
    }

    /// Whether a row of this table is written with a decision: then another one was there.
    pub(super) fn is_of_decision(&self, table: &str) -> bool {
        [self.decisions.name(), self.open.name()].into_iter().any(|own| **own == *table)
    }
}

/// Of both tables: transactions sort by when they were begun.
pub(super) fn key(txn: Uuid) -> Result<String, StoreError> {
    Ok(Key::default().id(txn).build()?)
}

/// The row that stands for the floor to a transaction, by its last digit.
pub(super) fn floor_key(digit: u128) -> String {
    format!("{FLOOR}-{:x}", digit % FLOORS)
}

/// Of what was said of a branch.
pub(super) fn branch_key(txn: Uuid, branch: &str) -> Result<String, StoreError> {
    Ok(Key::default().id(txn).text(branch).build()?)
}

/// The transaction of a key.
pub(super) fn txn_of(key: &str) -> Result<Uuid, StoreError> {
    let corrupt =
        |_| StoreError::Corrupt { what: format!("{key:?} is no key of a transaction across databases") };
    Uuid::try_parse(key).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        decisions: Decided = ["two-phase-decision", "two-phase-decision-abort", "two-phase-decision-adopted"];
        those_that_are_resolved: Resolved = ["two-phase-resolved", "two-phase-resolved-again"];
        those_that_are_open: Open =
            ["two-phase-open", "two-phase-open-odd", "two-phase-open-since", "two-phase-open-adopted", "two-phase-open-torn", "two-phase-open-renamed", "two-phase-open-unasked"];
        the_floor: Floor = ["two-phase-floor"];
    }

    #[test]
    fn a_key_is_that_of_its_transaction() {
        let txn = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let key = key(txn).expect("a key");
        assert_eq!(key, "01900000000070008000000000000001");
        assert_eq!(txn_of(&key).expect("an id"), txn);
        assert!(txn_of("x").is_err());
        assert_eq!((floor_key(txn.as_u128()), floor_key(0xaf)), ("floor-1".to_owned(), "floor-f".to_owned()));
    }
}
