//! What is stored of locks, and under which keys. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `hot.txn.locks` | slice, resource | who has it and who waits, in order: a [`Lock`]. It goes with the last of them |
//! | `hot.txn.locks.held` | slice, resource, run | a run that has it: an [`Owner`] |
//! | `hot.txn.locks.waits` | slice, resource, run | a run that waits for it: an [`Owner`] |
//!
//! The slice is that of the resource, which stands in the key as a hash (xxh3, 128 bits).
//!
//! The row of a lock goes when nobody has it, and its revisions begin again. So no commit goes by its revision alone: it also
//! writes, or deletes, the row of one that had the lock or waited when it was read. A run has a lock once, and waits for it
//! once, so such a row is never there a second time.

use es_core::Timestamp;
use es_core::limits::{self, LimitError};
use es_core::processor::slice_of;
use es_core::store::keys::{Key, digest};
use es_core::store::{StoreError, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::row::{Entry, Lock, LockMode};
use crate::transaction::Kin;

/// The tables of all locks of a store.
#[derive(Clone, Debug)]
pub(crate) struct LockTables {
    pub(crate) locks: Table<Lock>,
    pub(crate) held: Table<Owner>,
    pub(crate) waits: Table<Owner>,
}

/// One that has a lock, or waits for it. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) resource: String,
    pub(crate) of: Kin,
    pub(crate) mode: LockMode,
    pub(crate) since: Timestamp,
}

impl Owner {
    pub(super) fn of(resource: &str, entry: &Entry) -> Self {
        let Entry { of, mode, since, .. } = entry.clone();
        Self { resource: resource.to_owned(), of, mode, since }
    }
}

impl LockTables {
    pub(crate) fn new() -> Result<Self, LimitError> {
        Ok(Self {
            locks: Table::new("hot.txn.locks")?,
            held: Table::new("hot.txn.locks.held")?,
            waits: Table::new("hot.txn.locks.waits")?,
        })
    }

    /// Whether a table is one of these.
    pub(crate) fn has(table: &str) -> bool {
        matches!(table, "hot.txn.locks" | "hot.txn.locks.held" | "hot.txn.locks.waits")
    }
}

fn of_lock(resource: &str) -> Key {
    Key::in_slice(slice_of(resource)).id(Uuid::from_u128(digest([resource.as_bytes()])))
}

/// The key of the row of a lock.
pub(super) fn lock_key(resource: &str) -> Result<String, StoreError> {
    Ok(of_lock(resource).build()?)
}

/// The key of the row of one that has a lock, or waits for it.
pub(super) fn owner_key(resource: &str, run: Uuid) -> Result<String, StoreError> {
    Ok(of_lock(resource).id(run).build()?)
}

/// Whether this can be the name of what is locked.
pub(super) fn check(resource: &str) -> Result<(), LimitError> {
    limits::row_key(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        locks: Lock = ["txn-lock", "txn-lock-waited-for"];
        owners: Owner = ["txn-lock-owner"];
    }

    #[test]
    fn keys_are_pinned() {
        let run = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ab);
        let key = lock_key("seat/42").unwrap();
        assert_eq!(key, "0385:65060d0f305b3a7821fa64e3faecd00b");
        assert_eq!(owner_key("seat/42", run).unwrap(), format!("{key}:{}", run.simple()));
    }

    #[test]
    fn all_tables_are_known() {
        let LockTables { locks, held, waits } = LockTables::new().unwrap();
        assert!([locks.name(), held.name(), waits.name()].iter().all(|name| LockTables::has(name)));
    }
}
