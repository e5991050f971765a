//! The list of what was decided and is not done, or is not what was decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::store::{BranchId, Fate, Marked, Row, StoreError, StoredRow, Table, Won, write_rows};
use es_core::{Backend, ErrorKind, chain};
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::machine::{Decision, Odd, judge};
use super::manager::{Inner, TRIES};
use super::recovery::{Failing, LIST, Recovered};
use super::rows::{self, Open, Waits};

/// How many rows may fail to be written before a look takes the store for one that takes no writes.
const MOST_FAILED: u32 = 3;
/// What was decided to abort, and waits for a participant that is not configured, is shown to people after this.
pub(super) const ABANDONED: Duration = Duration::from_mins(1);

/// What became of a branch that was to be ended.
struct Ended {
    fate: Fate,
    /// What else there is committed of the transaction in its database, by a participant that was renamed.
    others: BTreeSet<String>,
}

impl<B: Backend> Inner<B> {
    /// What was decided, and is not done.
    pub(super) async fn work_off(
        &self,
        all: &mut Recovered,
        n: usize,
        failing: &Failing,
    ) -> Result<(), StoreError> {
        let mut failed = 0;
        for table in self.tables.lists() {
            let mut rows = table.stored(&self.backend).await?;
            // One that hangs is not the first each time.
            let first = n.checked_rem(rows.len()).unwrap_or_default();
            rows.rotate_left(first);
            for stored in rows {
                if let Err(error) = self.work_off_one(table, stored, all, failing).await {
                    failed += 1;
                    if failed == MOST_FAILED {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// A row of the list. An error is one of the store.
    async fn work_off_one(
        &self,
        table: &Table<Open>,
        stored: StoredRow,
        all: &mut Recovered,
        failing: &Failing,
    ) -> Result<(), StoreError> {
        let key = stored.key.clone();
        let read = rows::txn_of(&key).and_then(|txn| Ok((txn, table.decode(stored)?)));
        let (txn, row) = match read {
            Ok(read) => read,
            Err(error) => {
                all.unread.insert(key, chain(&error));
                return Ok(());
            }
        };
        let Some(decision) = row.value.decision else {
            return self.work_off_torn(table, txn, &row, all, failing).await;
        };
        let before = row.value.clone();
        let left = match self.is_young(&before) || failing.is_store_spent(LIST, self.limit) {
            true => Ok(Some(row.value)),
            false => self.settle_row(table, txn, row, failing).await,
        };
        let (left, error) = match left {
            Ok(left) => (left, None),
            Err(error) => {
                tracing::warn!(%txn, error = chain(&error), "what became of a transaction could not be noted");
                (Some(before.clone()), Some(error))
            }
        };
        let left = left.map_or_else(BTreeMap::new, |open| open.branches);
        self.count(all, decision, &before, left);
        error.map_or(Ok(()), Err)
    }

    /// A transaction that an operator has to decide about. Its coordinator may have decided since; where nobody can say so, it is
    /// shown as before.
    async fn work_off_torn(
        &self,
        table: &Table<Open>,
        txn: Uuid,
        row: &Row<Open>,
        all: &mut Recovered,
        failing: &Failing,
    ) -> Result<(), StoreError> {
        all.torn.insert(txn);
        if failing.is_store_spent(LIST, self.limit) {
            return Ok(());
        }
        match self.of_store(LIST, failing, self.decided(txn)).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                all.torn.remove(&txn);
                let delete = write_rows(&self.backend, vec![table.delete(row)]);
                self.of_store(LIST, failing, delete).await.map(drop)
            }
            Err(error) => {
                tracing::warn!(%txn, error = chain(&error), "what was decided about a torn transaction cannot be read");
                // The store is well where one row is not.
                if matches!(error, StoreError::Corrupt { .. }) { Ok(()) } else { Err(error) }
            }
        }
    }

    fn count(&self, all: &mut Recovered, decision: Decision, before: &Open, left: BTreeMap<String, Waits>) {
        // Nobody waits for an abort, but for what is odd.
        let is_commit = decision == Decision::Commit;
        if is_commit {
            let settled = before.branches.len().saturating_sub(left.len());
            all.settled += u64::try_from(settled).unwrap_or_default();
        }
        let is_young = self.is_young(before);
        for (name, waits) in left {
            let name = waits.participant(&name).to_owned();
            let is_missing = !self.participants.contains_key(&name);
            if waits.odd.is_some() {
                *all.parked.entry(name).or_default() += 1;
            } else if waits.why.is_some() || is_commit && !is_young {
                if is_missing {
                    all.missing.insert(name.clone());
                }
                *all.unfinished.entry(name).or_default() += 1;
            } else if is_missing && self.is_abandoned(before) {
                all.abandoned.insert(name);
            }
        }
    }

    /// Whether it was decided so long ago that whoever knows the participant would have seen to it.
    pub(super) fn is_abandoned(&self, open: &Open) -> bool {
        let age = |since| Duration::try_from(self.ids.clock().now().duration_since(since));
        open.since.is_none_or(|since| age(since).is_ok_and(|age| age >= ABANDONED.max(self.grace)))
    }

    /// The list of a transaction, if it is decided.
    async fn listed(&self, txn: Uuid) -> Result<Option<(&Table<Open>, Row<Open>)>, StoreError> {
        let key = rows::key(txn)?;
        for table in self.tables.lists() {
            let found = table.get(&self.backend, &key).await?;
            if let Some(row) = found.filter(|row| row.value.decision.is_some()) {
                return Ok(Some((table, row)));
            }
        }
        Ok(None)
    }

    /// Ends what can be of a transaction that was decided. What is left of it.
    pub(super) async fn settle(&self, txn: Uuid, failing: &Failing) -> Result<Option<Open>, StoreError> {
        match self.listed(txn).await? {
            Some((table, row)) => self.settle_row(table, txn, row, failing).await,
            None => Ok(None),
        }
    }

    /// The same, for one whose row was read.
    async fn settle_row(
        &self,
        table: &Table<Open>,
        txn: Uuid,
        row: Row<Open>,
        failing: &Failing,
    ) -> Result<Option<Open>, StoreError> {
        let Some(decision) = row.value.decision else { return Ok(None) };
        let mut open = row.value.clone();
        let is_asked = |name: &str| !self.is_left(name, failing) && self.participants.contains_key(name);
        let waits = row.value.branches.iter().filter(|(_, waits)| waits.odd.is_none());
        let asked = waits.filter(|(name, waits)| is_asked(waits.participant(name)));
        let ends = asked.map(async |(name, waits)| {
            let begun = Instant::now();
            let ended = self.settle_branch(txn, name, waits, decision, row.value.cluster).await;
            failing.took(waits.participant(name), ended.as_ref().err(), begun, self.limit);
            (name, waits, ended)
        });
        let mut others = Vec::new();
        for (name, waits, ended) in join_all(ends).await {
            match ended {
                Ok(ended) => {
                    note(&mut open, txn, name, judge(decision, ended.fate));
                    others.extend(ended.others.into_iter().map(|other| (other, waits.participant(name))));
                }
                Err(error) => {
                    let lasts = error.kind() == ErrorKind::Misuse;
                    let why = if lasts { Some(chain(&error)) } else { waits.why.clone() };
                    open.branches.entry(name.clone()).or_default().why = why;
                }
            }
        }
        for (other, at) in others {
            open.branches.entry(other.clone()).or_insert_with(|| Waits::found(&other, at));
            note(&mut open, txn, &other, judge(decision, Fate::Committed));
        }
        if open == row.value && !open.branches.is_empty() {
            return Ok(Some(open));
        }
        let write = match open.branches.is_empty() {
            true => table.delete(&row),
            false => table.put(&Row { value: open.clone(), ..row })?,
        };
        match self.of_store(LIST, failing, write_rows(&self.backend, vec![write])).await? {
            Won::Yes(_) => Ok(Some(open).filter(|open| !open.branches.is_empty())),
            // Another node has seen to it, or does.
            Won::No(_) => Ok(table.get(&self.backend, &rows::key(txn)?).await?.map(|row| row.value)),
        }
    }

    async fn settle_branch(
        &self,
        txn: Uuid,
        name: &str,
        waits: &Waits,
        decision: Decision,
        cluster: Option<Uuid>,
    ) -> Result<Ended, StoreError> {
        let id = BranchId::new(cluster.unwrap_or_else(|| self.backend.identity()), txn, name)?;
        let participant = self.named(waits.participant(name))?;
        let fate = self.ends(participant.as_ref(), &id, decision).await?;
        if !waits.unasked || decision == Decision::Commit || fate != Fate::Aborted {
            return Ok(Ended { fate, others: BTreeSet::new() });
        }
        let others = match self.in_time(participant.was_committed(&id)).await? {
            Marked::Committed(others) => others,
            Marked::Forgotten => BTreeSet::new(),
        };
        Ok(Ended { fate, others })
    }

    /// Puts branches on the list of a transaction that an operator has decided to commit: those that are not there.
    pub(super) async fn adds(&self, txn: Uuid, names: &[String]) -> Result<(), StoreError> {
        for n in 0..TRIES {
            let (table, key) = (&self.tables.aside, rows::key(txn)?);
            let found = table.get(&self.backend, &key).await?;
            let new = || Row::new(key, self.empty(Decision::Commit));
            let mut row = found.unwrap_or_else(new);
            let before: BTreeSet<_> = row.value.branches.keys().cloned().collect();
            let added: Vec<_> = names.iter().filter(|name| !before.contains(*name)).collect();
            if added.is_empty() {
                return Ok(());
            }
            row.value.branches.extend(added.into_iter().map(|name| (name.clone(), Waits::default())));
            if write_rows(&self.backend, vec![table.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
            self.pause(n).await;
        }
        Err(busy())
    }

    /// Puts a branch on the list that is not what was decided.
    pub(super) async fn park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) {
        tracing::error!(%txn, branch = name, ?decision, ?odd, "a branch is not what was decided: an operator has to look");
        if let Err(error) = self.patiently(|| self.try_park(txn, name, decision, odd).boxed()).await {
            tracing::error!(%txn, branch = name, error = chain(&error), "that could not be noted");
        }
    }

    async fn try_park(&self, txn: Uuid, name: &str, decision: Decision, odd: Odd) -> Result<(), StoreError> {
        for n in 0..TRIES {
            let (table, mut row) = match self.listed(txn).await? {
                Some(found) => found,
                None if decision == Decision::Commit => {
                    (&self.tables.open, Row::new(rows::key(txn)?, self.empty(decision)))
                }
                // A row that says that an operator has to decide is in its place: the decision was lost.
                None => {
                    let found = self.tables.aside.get(&self.backend, &rows::key(txn)?).await?;
                    let rev = found.map_or(0, |row| row.rev);
                    (&self.tables.aside, Row { rev, ..Row::new(rows::key(txn)?, self.empty(decision)) })
                }
            };
            row.value.branches.entry(name.to_owned()).or_default().odd = Some(odd);
            if write_rows(&self.backend, vec![table.put(&row)?]).await?.is_yes() {
                return Ok(());
            }
            self.pause(n).await;
        }
        Err(busy())
    }

    fn empty(&self, decision: Decision) -> Open {
        Open::new(decision, [], self.ids.clock().now())
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

fn busy() -> StoreError {
    StoreError::transient("noting a branch", std::io::Error::other("others write its row"))
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
