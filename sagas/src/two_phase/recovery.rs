//! Recovery: whatever node has begun a transaction, any node brings it to its end.
//!
//! What is prepared at a participant, under the name of this store, is committed or rolled back as was decided; if nothing was
//! decided, recovery decides to roll back, by the same insert that the coordinator would have to make. What was decided and is
//! not done is on a list in the store. Whether a branch that is not prepared was committed is known by its marker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::store::{BranchId, Row, StoreError, Won, write_rows};
use es_core::{Backend, chain};
use futures::future::join_all;
use uuid::Uuid;

use super::erased::DynParticipant;
use super::machine::{Act, Decision, Odd, judge, recover};
use super::manager::{Inner, TwoPhase};
use super::rows::{self, Open};

/// How often a row is read again because others write it.
const TRIES: u32 = 5;

/// What one look of recovery has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// How many branches that were prepared it has committed.
    pub committed: u64,
    /// How many branches that were prepared it has rolled back.
    pub aborted: u64,
    /// How many branches it has taken off the list: they are committed, as was decided.
    pub settled: u64,
    /// What is prepared still, by participant: of those that could be asked.
    pub in_doubt: BTreeMap<String, Waiting>,
    /// Why a participant could not be asked, or a branch not ended; by participant. What is prepared there is not known.
    pub failed: BTreeMap<String, String>,
    /// Branches that are decided, and not committed yet, by participant.
    pub unfinished: BTreeMap<String, u64>,
    /// Those participants of them that are not configured here.
    pub missing: BTreeSet<String>,
    /// Branches that wait for an operator, by participant.
    pub parked: BTreeMap<String, u64>,
}

/// Branches that are prepared, and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// How many.
    pub branches: u64,
    /// For how long the oldest has.
    pub oldest: Duration,
}

impl Waiting {
    fn add(&mut self, age: Duration) {
        self.branches += 1;
        self.oldest = self.oldest.max(age);
    }
}

/// What recovery has found at a participant.
#[derive(Debug, Default)]
struct AtOne {
    committed: u64,
    aborted: u64,
    /// None if it could not be asked.
    waiting: Option<Waiting>,
    failed: Option<String>,
}

impl<B: Backend> TwoPhase<B> {
    /// Looks once at every participant and at what is on the list, and ends what can be. An app does so by itself.
    ///
    /// Any number of nodes may do so at the same time. A participant that cannot be asked keeps no other from being looked
    /// at, and is never taken for one where nothing is prepared.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the list cannot be read: participants were looked at all the same.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let inner = &self.0;
        let looks = inner.participants.values().map(|participant| inner.recover_at(participant.as_ref()));
        let mut all = Recovered::default();
        for (name, found) in inner.participants.keys().zip(join_all(looks).await) {
            all.committed += found.committed;
            all.aborted += found.aborted;
            all.failed.extend(found.failed.map(|why| (name.clone(), why)));
            all.in_doubt.extend(found.waiting.map(|waiting| (name.clone(), waiting)));
        }
        inner.work_off(&mut all).await?;
        Ok(all)
    }
}

impl<B: Backend> Inner<B> {
    async fn recover_at(&self, participant: &dyn DynParticipant) -> AtOne {
        let mut all = AtOne::default();
        let found = match self.in_time(participant.prepared(self.backend.identity())).await {
            Ok(found) => found,
            Err(error) => return AtOne { failed: Some(chain(&error)), ..all },
        };
        let waiting = all.waiting.insert(Waiting::default());
        for prepared in found {
            if prepared.age < self.grace {
                waiting.add(prepared.age);
                continue;
            }
            match self.end(participant, &prepared.id).await {
                Ok(Decision::Commit) => all.committed += 1,
                Ok(Decision::Abort) => all.aborted += 1,
                Err(error) => {
                    waiting.add(prepared.age);
                    tracing::warn!(branch = %prepared.id, error = chain(&error), "a branch could not be ended");
                    all.failed = Some(chain(&error));
                }
            }
        }
        all
    }

    /// Ends a branch that is prepared, as was decided, or is now.
    async fn end(&self, participant: &dyn DynParticipant, id: &BranchId) -> Result<Decision, StoreError> {
        let decision = self.decision(id.txn()).await?;
        let fate = match recover(0, Some(decision)) {
            Act::Commit(_) => self.in_time(participant.commit(id)).await?,
            _ => self.in_time(participant.abort(id)).await?,
        };
        if let Some(odd) = judge(decision, fate) {
            self.park(id.txn(), id.name(), decision, odd).await;
        }
        Ok(decision)
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.limit, asked).await {
            Ok(answer) => answer,
            Err(late) => Err(StoreError::transient("asking a participant", late)),
        }
    }

    /// What was decided, and is not done.
    async fn work_off(&self, all: &mut Recovered) -> Result<(), StoreError> {
        for row in self.tables.open.all(&self.backend).await? {
            let txn = rows::txn_of(&row.key)?;
            let before = row.value.branches.len();
            let left = self.settle_row(txn, row, &mut all.failed).await?;
            let left = left.map_or_else(BTreeMap::new, |open| open.branches);
            all.settled += u64::try_from(before.saturating_sub(left.len())).unwrap_or_default();
            for (name, waits) in left {
                if waits.odd.is_some() {
                    *all.parked.entry(name).or_default() += 1;
                    continue;
                }
                if !self.participants.contains_key(&name) {
                    all.missing.insert(name.clone());
                }
                *all.unfinished.entry(name).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Commits what can be of a transaction that was decided. What is left of it.
    pub(super) async fn settle(&self, txn: Uuid) -> Result<Option<Open>, StoreError> {
        match self.tables.open.get(&self.backend, &rows::key(txn)?).await? {
            Some(row) => self.settle_row(txn, row, &mut BTreeMap::new()).await,
            None => Ok(None),
        }
    }

    /// The same, for one whose row was read. A participant that has failed is not asked again.
    async fn settle_row(
        &self,
        txn: Uuid,
        row: Row<Open>,
        failed: &mut BTreeMap<String, String>,
    ) -> Result<Option<Open>, StoreError> {
        let mut open = row.value.clone();
        for (name, waits) in &row.value.branches {
            let Some(participant) = self.participants.get(name).filter(|_| !failed.contains_key(name)) else {
                continue;
            };
            if waits.odd.is_some() {
                continue;
            }
            match self.in_time(participant.commit(&self.branch(txn, name)?)).await {
                Ok(fate) => note(&mut open, txn, name, judge(row.value.decision, fate)),
                Err(error) => drop(failed.insert(name.clone(), chain(&error))),
            }
        }
        if open == row.value {
            return Ok(Some(open));
        }
        let write = match open.branches.is_empty() {
            true => self.tables.open.delete(&row),
            false => self.tables.open.put(&Row { value: open.clone(), ..row })?,
        };
        match write_rows(&self.backend, vec![write]).await? {
            Won::Yes(_) => Ok(Some(open).filter(|open| !open.branches.is_empty())),
            // Another node has seen to it, or does.
            Won::No(_) => {
                Ok(self.tables.open.get(&self.backend, &rows::key(txn)?).await?.map(|row| row.value))
            }
        }
    }

    /// Puts a branch on the list that is not what was decided.
    pub(super) async fn park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) {
        tracing::error!(%txn, branch = name, ?decision, ?odd, "a branch is not what was decided: an operator has to look");
        if let Err(error) = self.try_park(txn, name, decision, odd).await {
            tracing::error!(%txn, branch = name, error = chain(&error), "that could not be noted");
        }
    }

    async fn try_park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let key = rows::key(txn)?;
            let found = self.tables.open.get(&self.backend, &key).await?;
            let new = || Row::new(key, Open { decision, branches: BTreeMap::new() });
            let mut row = found.unwrap_or_else(new);
            row.value.branches.entry(name.to_owned()).or_default().odd = Some(odd);
            if write_rows(&self.backend, vec![self.tables.open.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
        }
        Err(StoreError::transient("noting a branch", std::io::Error::other("others write its row")))
    }

    /// Takes away the list of a transaction all of whose branches are committed, as it was stored with the decision. If that
    /// fails, recovery does it.
    pub(super) async fn forget_open(&self, txn: Uuid) {
        let forget = async {
            let write = self.tables.open.delete_at(rows::key(txn)?, 1);
            write_rows(&self.backend, vec![write]).await
        };
        if let Err(error) = forget.await {
            tracing::debug!(%txn, error = chain(&error), "what is committed is left on the list for recovery");
        }
    }
}

/// What is left of a transaction once a branch was committed, or found not to be.
fn note(open: &mut Open, txn: Uuid, name: &str, odd: Option<Odd>) {
    match odd {
        None => drop(open.branches.remove(name)),
        Some(odd) => {
            tracing::error!(%txn, branch = name, ?odd, "a branch is not what was decided: an operator has to look");
            open.branches.entry(name.to_owned()).or_default().odd = Some(odd);
        }
    }
}
