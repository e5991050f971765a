//! The list of what was decided and is not done, or is not what was decided.

use std::collections::BTreeMap;

use es_core::store::{BranchId, Fate, Row, StoreError, Won, write_rows};
use es_core::{Backend, ErrorKind, chain};
use futures::FutureExt as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::machine::{Decision, Odd, judge};
use super::manager::{Inner, TRIES};
use super::recovery::{Failing, Recovered};
use super::rows::{self, Open, Waits};

/// How many rows may fail to be written before a look takes the store for one that takes no writes.
const MOST_FAILED: u32 = 3;

impl<B: Backend> Inner<B> {
    /// What was decided, and is not done.
    pub(super) async fn work_off(&self, all: &mut Recovered, failing: &Failing) -> Result<(), StoreError> {
        let mut failed = 0;
        for stored in self.tables.open.stored(&self.backend).await? {
            let key = stored.key.clone();
            let read = rows::txn_of(&key).and_then(|txn| Ok((txn, self.tables.open.decode(stored)?)));
            let (txn, row) = match read {
                Ok(read) => read,
                Err(error) => {
                    all.unread.insert(key, chain(&error));
                    continue;
                }
            };
            let (before, is_young) = (row.value.clone(), self.is_young(&row.value));
            let left = match is_young {
                true => Ok(Some(row.value)),
                false => self.settle_row(txn, row, failing).await,
            };
            let left = left.or_else(|error| {
                tracing::warn!(%txn, error = chain(&error), "what became of a transaction could not be noted");
                failed += 1;
                if failed == MOST_FAILED { Err(error) } else { Ok(Some(before.clone())) }
            })?;
            let left = left.map_or_else(BTreeMap::new, |open| open.branches);
            self.count(all, &before, is_young, left);
        }
        Ok(())
    }

    fn count(&self, all: &mut Recovered, before: &Open, is_young: bool, left: BTreeMap<String, Waits>) {
        // Nobody waits for an abort, but for what is odd.
        let is_commit = before.decision == Decision::Commit;
        if is_commit {
            let settled = before.branches.len().saturating_sub(left.len());
            all.settled += u64::try_from(settled).unwrap_or_default();
        }
        for (name, Waits { odd, why }) in left {
            if odd.is_some() {
                *all.parked.entry(name).or_default() += 1;
            } else if why.is_some() || is_commit && !is_young {
                if !self.participants.contains_key(&name) {
                    all.missing.insert(name.clone());
                }
                *all.unfinished.entry(name).or_default() += 1;
            }
        }
    }

    /// Ends what can be of a transaction that was decided. What is left of it.
    pub(super) async fn settle(&self, txn: Uuid) -> Result<Option<Open>, StoreError> {
        match self.tables.open.get(&self.backend, &rows::key(txn)?).await? {
            Some(row) => self.settle_row(txn, row, &Failing::default()).await,
            None => Ok(None),
        }
    }

    /// The same, for one whose row was read.
    async fn settle_row(
        &self,
        txn: Uuid,
        row: Row<Open>,
        failing: &Failing,
    ) -> Result<Option<Open>, StoreError> {
        let mut open = row.value.clone();
        for (name, waits) in row.value.branches.iter().filter(|(_, waits)| waits.odd.is_none()) {
            if failing.is_silent(name) || !self.participants.contains_key(name) {
                continue;
            }
            let begun = Instant::now();
            match self.settle_branch(txn, name, &row.value).await {
                Ok(fate) => note(&mut open, txn, name, judge(row.value.decision, fate)),
                Err(error) => {
                    failing.add(name, &error, begun, self.limit);
                    let lasts = error.kind() == ErrorKind::Misuse;
                    let why = if lasts { Some(chain(&error)) } else { waits.why.clone() };
                    open.branches.entry(name.clone()).or_default().why = why;
                }
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

    async fn settle_branch(&self, txn: Uuid, name: &str, open: &Open) -> Result<Fate, StoreError> {
        let id = BranchId::new(open.cluster.unwrap_or_else(|| self.backend.identity()), txn, name)?;
        self.ends(self.named(name)?.as_ref(), &id, open.decision).await
    }

    /// Puts a branch on the list that is not what was decided.
    pub(super) async fn park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) {
        tracing::error!(%txn, branch = name, ?decision, ?odd, "a branch is not what was decided: an operator has to look");
        if let Err(error) = self.patiently(|| self.try_park(txn, name, decision, odd).boxed()).await {
            tracing::error!(%txn, branch = name, error = chain(&error), "that could not be noted");
        }
    }

    async fn try_park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let key = rows::key(txn)?;
            let found = self.tables.open.get(&self.backend, &key).await?;
            let new = || Row::new(key, Open::new(decision, [], self.ids.clock().now()));
            let mut row = found.unwrap_or_else(new);
            row.value.branches.entry(name.to_owned()).or_default().odd = Some(odd);
            if write_rows(&self.backend, vec![self.tables.open.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
        }
        Err(StoreError::transient("noting a branch", std::io::Error::other("others write its row")))
    }

    /// Takes away the list of a transaction all of whose branches are ended, as it was stored with the decision. If that
    /// fails, recovery does it.
    pub(super) async fn forget_open(&self, txn: Uuid) {
        let forget = async {
            let write = self.tables.open.delete_at(rows::key(txn)?, 1);
            write_rows(&self.backend, vec![write]).await
        };
        if let Err(error) = forget.await {
            tracing::debug!(%txn, error = chain(&error), "what is ended is left on the list for recovery");
        }
    }

    /// Those of the branches that an operator has said something of.
    pub(super) async fn resolved(&self, txn: Uuid, branches: &[String]) -> Result<Vec<String>, StoreError> {
        let mut resolved = Vec::new();
        for name in branches {
            let key = rows::branch_key(txn, name)?;
            if self.tables.resolved.get(&self.backend, &key).await?.is_some() {
                resolved.push(name.clone());
            }
        }
        Ok(resolved)
    }
}

/// What is left of a transaction once a branch was ended, or found not to be.
fn note(open: &mut Open, txn: Uuid, name: &str, odd: Option<Odd>) {
    match odd {
        None => drop(open.branches.remove(name)),
        Some(odd) => {
            tracing::error!(%txn, branch = name, ?odd, "a branch is not what was decided: an operator has to look");
            open.branches.entry(name.to_owned()).or_default().odd = Some(odd);
        }
    }
}
