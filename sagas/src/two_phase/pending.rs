//! Branches that are not what was decided, for people.

use es_core::store::{Row, RowWrite, StoreError, StoredRow, Table, write_rows};
use es_core::{Backend, chain};
use uuid::Uuid;

use super::machine::{Decision, Odd};
use super::manager::{Inner, TwoPhase};
use super::rows::{self, Open, Resolved, Said, Waits};
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
    /// decided to abort, only what somebody has to look at: what is not what was decided, and after a minute what no participant
    /// that is configured looks after.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn pending(&self) -> Result<Vec<PendingBranch>, StoreError> {
        let mut stored = Vec::new();
        for table in self.0.tables.lists() {
            let rows = table.stored(&self.0.backend).await?;
            stored.extend(rows.into_iter().map(|row| (table, row)));
        }
        stored.sort_by(|(_, one), (_, other)| one.key.cmp(&other.key));
        Ok(stored.into_iter().flat_map(|(table, row)| self.0.shown(table, row)).collect())
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
        let (write, decision, odd) = self.0.taken_off(txn, branch).await?;
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        let said = Resolved { decision, odd, actor, reason, before: Vec::new() };
        let said = self.0.says(txn, branch, said).await?;
        match write_rows(&self.0.backend, vec![write, said]).await?.is_yes() {
            true => Ok(()),
            false => Err(StoreError::transient(
                "taking a branch off the list",
                std::io::Error::other("it has changed"),
            )),
        }
    }
}

/// What takes a branch off the list, what was decided, and what the branch is.
type TakenOff = (RowWrite, Option<Decision>, Option<Odd>);

impl<B: Backend> Inner<B> {
    /// Whatever list it is on.
    async fn taken_off(&self, txn: Uuid, branch: &str) -> Result<TakenOff, StoreError> {
        let key = rows::key(txn)?;
        for table in self.tables.lists() {
            let found = self.backend.rows(table.name(), std::slice::from_ref(&key)).await?.pop().flatten();
            let Some(stored) = found else { continue };
            match table.decode(stored.clone()) {
                Ok(row) if row.value.decision.is_some() && row.value.branches.contains_key(branch) => {
                    return self.without(table, txn, branch, row);
                }
                Ok(_) => {}
                Err(_) => return Ok((table.delete_at(stored.key, stored.rev), None, None)),
            }
        }
        Err(StoreError::misuse(format!("branch {branch:?} of transaction {txn} is not on the list")))
    }

    /// Every branch of a transaction that is on a list.
    pub(super) async fn undone_of(&self, txn: Uuid) -> Result<Vec<PendingBranch>, StoreError> {
        let (key, mut all) = (rows::key(txn)?, Vec::new());
        for table in self.tables.lists() {
            let found = self.backend.rows(table.name(), std::slice::from_ref(&key)).await?;
            let branches = found.into_iter().flatten().flat_map(|row| self.branches(table, row));
            all.extend(branches.map(|(branch, _)| branch));
        }
        Ok(all)
    }

    /// What a row of the list says to people.
    pub(super) fn shown(&self, table: &Table<Open>, stored: StoredRow) -> Vec<PendingBranch> {
        let branches = self.branches(table, stored).into_iter();
        branches.filter(|(_, is_shown)| *is_shown).map(|(branch, _)| branch).collect()
    }

    /// The branches of a row, and whether somebody is to look at each.
    fn branches(&self, table: &Table<Open>, stored: StoredRow) -> Vec<(PendingBranch, bool)> {
        let txn = rows::txn_of(&stored.key);
        let read = match (&txn, table.decode(stored)) {
            (Ok(_), Ok(row)) => Ok(row.value),
            (Err(error), _) => Err(chain(error)),
            (_, Err(error)) => Err(chain(&error)),
        };
        let txn = txn.unwrap_or_default();
        let open = match read {
            Ok(open) => open,
            Err(why) => {
                let (branch, state) = (String::new(), PendingState::Unread);
                return vec![(PendingBranch { txn, branch, decision: None, state, why: Some(why) }, true)];
            }
        };
        // What is not decided is a stray.
        let Some(decision) = open.decision else { return Vec::new() };
        let is_known = |name: &str, waits: &Waits| self.participants.contains_key(waits.participant(name));
        let is_abandoned = self.is_abandoned(&open);
        let is_shown = |name: &str, waits: &Waits| {
            let is_left = !is_known(name, waits) && is_abandoned;
            decision == Decision::Commit || waits.odd.is_some() || waits.why.is_some() || is_left
        };
        let of = |(branch, waits): (String, Waits)| {
            let (is_known, is_shown) = (is_known(&branch, &waits), is_shown(&branch, &waits));
            let waiting = if is_known { PendingState::Waits } else { PendingState::Missing };
            let state = waits.odd.map_or(waiting, PendingState::Parked);
            (PendingBranch { txn, branch, decision: Some(decision), state, why: waits.why }, is_shown)
        };
        open.branches.into_iter().map(of).collect()
    }

    /// The row without a branch; with what was decided, and what the branch is.
    fn without(
        &self,
        table: &Table<Open>,
        txn: Uuid,
        branch: &str,
        row: Row<Open>,
    ) -> Result<TakenOff, StoreError> {
        let mut open = row.value.clone();
        let waits = open.branches.remove(branch).unwrap_or_default();
        let odd = waits.odd;
        if odd.is_none() && self.participants.contains_key(waits.participant(branch)) {
            let what =
                format!("branch {branch:?} of transaction {txn} is ended as soon as its participant answers");
            return Err(StoreError::misuse(what));
        }
        let decision = open.decision;
        let write = match open.branches.is_empty() {
            true => table.delete(&row),
            false => table.put(&Row { value: open, ..row })?,
        };
        Ok((write, decision, odd))
    }

    /// Writes down what an operator has said of a branch, beside what others have.
    pub(super) async fn says(
        &self,
        txn: Uuid,
        branch: &str,
        mut said: Resolved,
    ) -> Result<RowWrite, StoreError> {
        let (key, table) = (rows::branch_key(txn, branch)?, &self.tables.resolved);
        let found = table.get(&self.backend, &key).await?;
        let rev = found.as_ref().map_or(0, |row| row.rev);
        if let Some(Resolved { actor, reason, before, .. }) = found.map(|row| row.value) {
            said.before = before;
            said.before.push(Said { actor, reason });
        }
        table.put(&Row { key, rev, value: said })
    }
}
