//! Branches that are not what was decided, for people.

use es_core::Backend;
use es_core::store::{Row, StoreError, write_rows};
use uuid::Uuid;

use super::machine::{Decision, Odd};
use super::manager::TwoPhase;
use super::rows::{self, Resolved};
use crate::By;

/// A branch that is not what was decided, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingBranch {
    /// Its transaction.
    pub txn: Uuid,
    /// Its participant.
    pub branch: String,
    /// What was decided.
    pub decision: Decision,
    /// What it is.
    pub state: PendingState,
}

/// What a branch is that is not what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PendingState {
    /// It is committed as soon as its participant answers.
    Waits,
    /// No participant of its name is configured in this program.
    Missing,
    /// An operator has to look: nothing that is done here makes it what was decided.
    Parked(Odd),
}

impl<B: Backend> TwoPhase<B> {
    /// Every branch that is not what was decided, or not yet: the transactions that began first come first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn pending(&self) -> Result<Vec<PendingBranch>, StoreError> {
        let mut all = Vec::new();
        for row in self.0.tables.open.all(&self.0.backend).await? {
            let (txn, decision) = (rows::txn_of(&row.key)?, row.value.decision);
            all.extend(row.value.branches.into_iter().map(|(branch, waits)| {
                let is_known = self.0.participants.contains_key(&branch);
                let waits_as = if is_known { PendingState::Waits } else { PendingState::Missing };
                let state = waits.odd.map_or(waits_as, PendingState::Parked);
                PendingBranch { txn, branch, decision, state }
            }));
        }
        Ok(all)
    }

    /// Takes a branch off the list: an operator has seen to it, or the database that it was in is no more. Who said so, and
    /// why, stays in the store. Nothing else is done with the branch.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is not on the list, waits for a participant that is configured here, or it is not said
    /// who and why; [`StoreError::Transient`] if another node has changed it at this moment.
    pub async fn accept(&self, txn: Uuid, branch: &str, actor: &str, reason: &str) -> Result<(), StoreError> {
        By::check(actor, reason).map_err(StoreError::misuse)?;
        let (store, tables, key) = (&self.0.backend, &self.0.tables, rows::key(txn)?);
        let found = tables.open.get(store, &key).await?;
        let none =
            || StoreError::misuse(format!("branch {branch:?} of transaction {txn} is not on the list"));
        let row = found.filter(|row| row.value.branches.contains_key(branch)).ok_or_else(none)?;
        let mut open = row.value.clone();
        let odd = open.branches.remove(branch).and_then(|waits| waits.odd);
        if odd.is_none() && self.0.participants.contains_key(branch) {
            let what = format!(
                "branch {branch:?} of transaction {txn} is committed as soon as its participant answers"
            );
            return Err(StoreError::misuse(what));
        }
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        let said = Resolved { decision: open.decision, odd, actor, reason };
        let write = match open.branches.is_empty() {
            true => tables.open.delete(&row),
            false => tables.open.put(&Row { value: open, ..row })?,
        };
        let mut writes = vec![write];
        let key = rows::branch_key(txn, branch)?;
        let before = tables.resolved.get(store, &key).await?;
        writes.push(tables.resolved.put(&Row { key, rev: before.map_or(0, |row| row.rev), value: said })?);
        match write_rows(store, writes).await?.is_yes() {
            true => Ok(()),
            false => Err(StoreError::transient(
                "taking a branch off the list",
                std::io::Error::other("it has changed"),
            )),
        }
    }
}
