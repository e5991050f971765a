//! Branches that are not what was decided, for people.

use es_core::store::{Row, RowWrite, StoreError, StoredRow, write_rows};
use es_core::{Backend, chain};
use uuid::Uuid;

use super::machine::{Decision, Odd};
use super::manager::{Inner, TwoPhase};
use super::rows::{self, Open, Resolved, Waits};
use crate::By;

/// A branch that is not what was decided, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingBranch {
    /// Its transaction.
    pub txn: Uuid,
    /// Its participant. Empty, if the row of its transaction cannot be read.
    pub branch: String,
    /// What was decided, if that can be read.
    pub decision: Option<Decision>,
    /// What it is.
    pub state: PendingState,
    /// Why it cannot be ended or read, if that does not go away by itself.
    pub why: Option<String>,
}

/// What a branch is that is not what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PendingState {
    /// It is ended as soon as its participant answers.
    Waits,
    /// No participant of its name is configured in this program.
    Missing,
    /// An operator has to look: nothing that is done here makes it what was decided.
    Parked(Odd),
    /// What is stored of its transaction cannot be read: a newer program has written it, or it is damaged.
    Unread,
}

impl<B: Backend> TwoPhase<B> {
    /// Every branch that is not what was decided, or not yet: the transactions that began first come first. Of those that were
    /// decided to abort, only what somebody has to look at.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn pending(&self) -> Result<Vec<PendingBranch>, StoreError> {
        let stored = self.0.tables.open.stored(&self.0.backend).await?;
        Ok(stored.into_iter().flat_map(|row| self.0.shown(row)).collect())
    }

    /// Takes a branch off the list: an operator has seen to it, or the database that it was in is no more. Who said so, and
    /// why, stays in the store. Nothing else is done with the branch. If what is stored of its transaction cannot be read, all
    /// of that is taken off.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is not on the list, waits for a participant that is configured here, or it is not said
    /// who and why; [`StoreError::Transient`] if another node has changed it at this moment.
    pub async fn accept(&self, txn: Uuid, branch: &str, actor: &str, reason: &str) -> Result<(), StoreError> {
        By::check(actor, reason).map_err(StoreError::misuse)?;
        let (store, tables, key) = (&self.0.backend, &self.0.tables, rows::key(txn)?);
        let found = store.rows(tables.open.name(), &[key]).await?.pop().flatten();
        let none =
            || StoreError::misuse(format!("branch {branch:?} of transaction {txn} is not on the list"));
        let stored = found.ok_or_else(none)?;
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        let (write, decision, odd) = match tables.open.decode(stored.clone()) {
            Ok(row) if row.value.branches.contains_key(branch) => self.0.without(txn, branch, row)?,
            Ok(_) => return Err(none()),
            Err(_) => (tables.open.delete_at(stored.key, stored.rev), None, None),
        };
        let said = self.0.says(txn, branch, Resolved { decision, odd, actor, reason }).await?;
        match write_rows(store, vec![write, said]).await?.is_yes() {
            true => Ok(()),
            false => Err(StoreError::transient(
                "taking a branch off the list",
                std::io::Error::other("it has changed"),
            )),
        }
    }
}

impl<B: Backend> Inner<B> {
    /// What a row of the list says to people.
    fn shown(&self, stored: StoredRow) -> Vec<PendingBranch> {
        let txn = rows::txn_of(&stored.key);
        let read = match (&txn, self.tables.open.decode(stored)) {
            (Ok(_), Ok(row)) => Ok(row.value),
            (Err(error), _) => Err(chain(error)),
            (_, Err(error)) => Err(chain(&error)),
        };
        let txn = txn.unwrap_or_default();
        let Open { decision, branches, .. } = match read {
            Ok(open) => open,
            Err(why) => {
                let (branch, state) = (String::new(), PendingState::Unread);
                return vec![PendingBranch { txn, branch, decision: None, state, why: Some(why) }];
            }
        };
        let is_shown =
            |waits: &Waits| decision == Decision::Commit || waits.odd.is_some() || waits.why.is_some();
        let shown = branches.into_iter().filter(|(_, waits)| is_shown(waits));
        let of = |(branch, Waits { odd, why }): (String, Waits)| {
            let is_known = self.participants.contains_key(&branch);
            let waits = if is_known { PendingState::Waits } else { PendingState::Missing };
            let state = odd.map_or(waits, PendingState::Parked);
            PendingBranch { txn, branch, decision: Some(decision), state, why }
        };
        shown.map(of).collect()
    }

    /// The row without a branch; with what was decided, and what the branch is.
    fn without(
        &self,
        txn: Uuid,
        branch: &str,
        row: Row<Open>,
    ) -> Result<(RowWrite, Option<Decision>, Option<Odd>), StoreError> {
        let mut open = row.value.clone();
        let odd = open.branches.remove(branch).and_then(|waits| waits.odd);
        if odd.is_none() && self.participants.contains_key(branch) {
            let what =
                format!("branch {branch:?} of transaction {txn} is ended as soon as its participant answers");
            return Err(StoreError::misuse(what));
        }
        let decision = Some(open.decision);
        let write = match open.branches.is_empty() {
            true => self.tables.open.delete(&row),
            false => self.tables.open.put(&Row { value: open, ..row })?,
        };
        Ok((write, decision, odd))
    }

    /// Writes down what an operator has said of a branch.
    pub(super) async fn says(&self, txn: Uuid, branch: &str, said: Resolved) -> Result<RowWrite, StoreError> {
        let (key, table) = (rows::branch_key(txn, branch)?, &self.tables.resolved);
        let before = table.get(&self.backend, &key).await?;
        table.put(&Row { key, rev: before.map_or(0, |row| row.rev), value: said })
    }
}
