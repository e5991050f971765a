//! Transactions with branches that are prepared, and that recovery leaves to a person.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::Backend;
use es_core::store::{BranchId, Prepared, StoreError, write_rows};
use uuid::Uuid;

use super::machine::Decision;
use super::manager::{Inner, TwoPhase};
use super::rows::{self, Open, Resolved};
use crate::By;

/// A transaction with branches that are prepared, and that recovery leaves to a person: one of this store of which another
/// branch is committed, or that is older than what it remembers, and nothing is known to be decided; or one of another store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stray {
    /// The store that it was begun with: this one, or another, which may be at it.
    pub cluster: Uuid,
    /// The transaction.
    pub txn: Uuid,
    /// The participants where it is prepared, and for how long.
    pub prepared: BTreeMap<String, Duration>,
    /// Those where it is committed.
    pub committed: BTreeSet<String>,
}

impl<B: Backend> TwoPhase<B> {
    /// What is prepared at a participant, and recovery leaves alone.
    ///
    /// Of another store only branches are found whose participants have the same names and prefix here.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store, or any participant, cannot be asked: then nobody knows all.
    pub async fn strays(&self) -> Result<Vec<Stray>, StoreError> {
        let inner = &self.0;
        let own = inner.backend.identity();
        let mut found: BTreeMap<(Uuid, Uuid), BTreeMap<String, Duration>> = BTreeMap::new();
        for (name, participant) in &inner.participants {
            let mut all = inner.in_time(participant.prepared(own)).await?;
            all.retain(|prepared| prepared.age >= inner.grace);
            all.extend(inner.in_time(participant.of_others(own)).await?);
            for Prepared { id, age } in all.into_iter().filter(|prepared| prepared.id.name() == name) {
                found.entry((id.cluster(), id.txn())).or_default().insert(name.clone(), age);
            }
        }
        let floor = inner.floor().await?.value.floor;
        let mut strays = Vec::new();
        for ((cluster, txn), prepared) in found {
            let committed = inner.committed(cluster, txn).await?;
            let is_left = cluster != own || !committed.is_empty() || txn < floor;
            // A decision is older than what was committed by it.
            if is_left && inner.decided(txn).await?.is_none() {
                strays.push(Stray { cluster, txn, prepared, committed });
            }
        }
        Ok(strays)
    }

    /// Decides about a transaction that recovery leaves to a person: it is committed where it is prepared, or taken back. Who
    /// said so, and why, stays in the store.
    ///
    /// For one of another store only if that store is gone for good, or has been stopped: else it decides as well. Where it is
    /// decided to abort, a branch that is committed is [parked](super::PendingState::Parked).
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it was decided the other way, or it is not said who and why; else as for any write. What is
    /// decided is done by recovery, if not at once.
    pub async fn adopt(
        &self,
        stray: &Stray,
        decision: Decision,
        actor: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        By::check(actor, reason).map_err(StoreError::misuse)?;
        let (inner, txn) = (&self.0, stray.txn);
        if let Some(wrong) =
            stray.prepared.keys().chain(&stray.committed).find(|name| inner.named(name).is_err())
        {
            return inner.named(wrong).map(drop);
        }
        let names: BTreeSet<_> = stray.prepared.keys().chain(&stray.committed).cloned().collect();
        let open = Open::new(decision, names, inner.ids.clock().now());
        let cluster = Some(stray.cluster).filter(|cluster| *cluster != inner.backend.identity());
        let mut writes = inner.decides(txn, Open { cluster, ..open }).await?;
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        let said = Resolved { decision: Some(decision), odd: None, actor, reason };
        writes.push(inner.says(txn, rows::WHOLE, said).await?);
        if !write_rows(&inner.backend, writes).await?.is_yes() {
            let found = inner.decided(txn).await?;
            if found != Some(decision) {
                let what = found
                    .map_or("it is not decided, for others write it", |_| "it was decided the other way");
                return Err(StoreError::misuse(format!("transaction {txn}: {what}")));
            }
        }
        inner.settle(txn).await.map(drop)
    }
}

impl<B: Backend> Inner<B> {
    /// The participants where a transaction is committed, after it was prepared.
    async fn committed(&self, cluster: Uuid, txn: Uuid) -> Result<BTreeSet<String>, StoreError> {
        let mut committed = BTreeSet::new();
        for (name, participant) in &self.participants {
            let id = BranchId::new(cluster, txn, name.as_str())?;
            if self.in_time(participant.was_committed(&id)).await? {
                committed.insert(name.clone());
            }
        }
        Ok(committed)
    }
}
