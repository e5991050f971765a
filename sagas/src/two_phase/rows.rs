//! What is stored of transactions across databases. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `two-phase.decisions` | transaction | what was decided: a [`Decided`]. It is inserted once, and never changed |
//! | `two-phase.resolved` | transaction, branch | what an operator has said of a branch: a [`Resolved`] |
//! | `hot.two-phase.open` | transaction | branches that are not what was decided, or not yet: an [`Open`]. It comes with a decision to commit, and goes when all is done |

use std::collections::BTreeMap;

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
    pub(super) resolved: Table<Resolved>,
}

/// What was decided. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    /// The branches that it is about; of an abort, nobody knows them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) branches: Vec<String>,
}

/// Branches that are not what was decided, or not yet. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) decision: Decision,
    /// By the names of their participants.
    pub(super) branches: BTreeMap<String, Waits>,
}

/// Why a branch is not what was decided. Stored: change by adding fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waits {
    /// What it is instead: then a person has to look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) odd: Option<Odd>,
}

/// That an operator has seen to a branch that is not what was decided. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolved {
    pub(super) decision: Decision,
    /// None of one whose participant is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) odd: Option<Odd>,
    pub(super) actor: String,
    pub(super) reason: String,
}

impl Tables {
    pub(super) fn new() -> Result<Self, LimitError> {
        let (decisions, open) = (Table::new("two-phase.decisions")?, Table::new("hot.two-phase.open")?);
        Ok(Self { decisions, open, resolved: Table::new("two-phase.resolved")? })
    }

    /// The decision to commit, with its branches on the list.
    pub(super) fn to_commit(&self, txn: Uuid, branches: Vec<String>) -> Result<Vec<RowWrite>, StoreError> {
        let key = key(txn)?;
        let mut rows = Vec::new();
        if !branches.is_empty() {
            let waits = branches.iter().map(|name| (name.clone(), Waits::default())).collect();
            rows.push(self.open.insert(key.clone(), Open { decision: Decision::Commit, branches: waits })?);
        }
        rows.push(self.decisions.insert(key, Decided { decision: Decision::Commit, branches })?);
        Ok(rows)
    }

    pub(super) fn to_abort(&self, txn: Uuid) -> Result<RowWrite, StoreError> {
        self.decisions.insert(key(txn)?, Decided { decision: Decision::Abort, branches: Vec::new() })
    }
}

/// Of both tables: transactions sort by when they were begun.
pub(super) fn key(txn: Uuid) -> Result<String, StoreError> {
    Ok(Key::default().id(txn).build()?)
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
        decisions: Decided = ["two-phase-decision", "two-phase-decision-abort"];
        those_that_are_resolved: Resolved = ["two-phase-resolved"];
        those_that_are_open: Open = ["two-phase-open", "two-phase-open-odd"];
    }

    #[test]
    fn a_key_is_that_of_its_transaction() {
        let txn = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let key = key(txn).expect("a key");
        assert_eq!(key, "01900000000070008000000000000001");
        assert_eq!(txn_of(&key).expect("an id"), txn);
        assert!(txn_of("x").is_err());
    }
}
