//! Transactions with branches that are prepared, and that recovery leaves to a person.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::store::{Prepared, Row, StoreError, write_rows};
use es_core::{Backend, chain};
use futures::future::{join_all, try_join};
use futures::stream::{self, StreamExt as _};
use uuid::Uuid;

use super::machine::Decision;
use super::manager::{Inner, TRIES, TwoPhase};
use super::recovery::{Failing, Marks};
use super::rows::{self, Decided, Open, Resolved, Waits};
use crate::By;

/// Transactions that are looked at at the same time.
const AT_ONCE: usize = 8;

/// What is prepared, and recovery leaves to a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Strays {
    /// Those that were found.
    pub found: Vec<Stray>,
    /// Why a participant could not be asked, by its name: it is not known what is prepared there, or what is committed of some of
    /// what others have prepared, which may be left out.
    pub unasked: BTreeMap<String, String>,
}

/// A transaction with branches that are prepared, and that recovery leaves to a person: one of this store of which another
/// branch is committed, or was, or may be; or that is older than what it remembers, and nothing is known to be decided; or whose
/// decision cannot be read; or one of another store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stray {
    /// The store that it was begun with: this one, or another, which may be at it.
    pub cluster: Uuid,
    /// The transaction.
    pub txn: Uuid,
    /// Its branches that are prepared, and for how long. None, if they could not be asked for, or were ended by hand since.
    pub prepared: BTreeMap<String, Duration>,
    /// The participant where a branch was found, by the name of the branch, if it has another name: it had this one before.
    pub renamed: BTreeMap<String, String>,
    /// Its branches that are committed.
    pub committed: BTreeSet<String>,
    /// The participants where it may be: they could not be asked, or do not go back so far.
    pub unknown: BTreeSet<String>,
    /// What an operator has decided about it, if it is of another store: the same is to be said of what was found since.
    pub decision: Option<Decision>,
    /// Why what was decided about it cannot be read, if that is so: a newer program has written it, or it is damaged. Until it can
    /// be, the transaction cannot be adopted.
    pub unread: Option<String>,
}

impl Stray {
    fn new(cluster: Uuid, txn: Uuid) -> Self {
        let (prepared, renamed) = (BTreeMap::new(), BTreeMap::new());
        let (committed, unknown) = (BTreeSet::new(), BTreeSet::new());
        Self { cluster, txn, prepared, renamed, committed, unknown, decision: None, unread: None }
    }

    /// The participant of a branch.
    fn participant<'a>(&'a self, branch: &'a str) -> &'a str {
        self.renamed.get(branch).map_or(branch, String::as_str)
    }

    /// The list of it, once it is decided. What is prepared is to be ended, whatever was noted of it before.
    fn listed(&self, mut open: Open, decision: Decision, own: Uuid) -> Open {
        let waits = |name: &String| (name.clone(), Waits::found(name, self.participant(name)));
        open.branches.extend(self.prepared.keys().map(waits));
        for (name, waits) in self.committed.iter().map(waits) {
            open.branches.entry(name).or_insert(waits);
        }
        // Where it may be committed it is asked until that is known, or it would be missed for good.
        for name in self.unknown.iter().filter(|_| decision == Decision::Abort) {
            open.branches.entry(name.clone()).or_insert_with(Waits::unasked);
        }
        open.decision = Some(decision);
        open.cluster = Some(self.cluster).filter(|cluster| *cluster != own);
        open
    }
}

impl<B: Backend> TwoPhase<B> {
    /// What is prepared at a participant, and recovery leaves alone. A participant that cannot be asked hides nothing of the
    /// others.
    ///
    /// Of another store only branches are found whose participants have the same prefix here.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be asked.
    pub async fn strays(&self) -> Result<Strays, StoreError> {
        let (inner, failing) = (&self.0, Failing::patient());
        let (mut all, mut unasked) = inner.prepared(&failing).await;
        for (txn, open) in inner.torn().await? {
            let cluster = open.cluster.unwrap_or_else(|| inner.backend.identity());
            all.entry((cluster, txn)).or_insert_with(|| Stray::new(cluster, txn));
        }
        let looked = stream::iter(all.into_values()).map(|stray| inner.looked_at(stray, &failing));
        let looked: Vec<_> = looked.buffered(AT_ONCE).collect().await;
        let mut found = Vec::new();
        for stray in looked {
            found.extend(stray?);
        }
        unasked.extend(failing.whys());
        Ok(Strays { found, unasked })
    }

    /// Decides about a transaction that recovery leaves to a person: it is committed where it is prepared, or taken back. Who
    /// said so, and why, stays in the store. If it was decided the same way before, what was found since is ended as well.
    ///
    /// It is about what is prepared, and about nothing else. If the store itself had a part in the transaction, that part is not
    /// committed with it, and is to be done again by itself; so is a branch that was never prepared. A coordinator that still
    /// runs says so ([`TwoPhaseError::WithoutJournal`](super::TwoPhaseError::WithoutJournal),
    /// [`TwoPhaseError::Parked`](super::TwoPhaseError::Parked)); one that is gone cannot.
    ///
    /// For one of another store only if that store is gone for good, or has been stopped: else it decides as well. Where it is
    /// decided to abort, a branch that is committed is [parked](super::PendingState::Parked).
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it was decided the other way, or it is not said who and why; [`StoreError::Transient`] if
    /// others write its rows at this moment; else as for any write. What is decided is done by recovery, if not at once.
    pub async fn adopt(
        &self,
        stray: &Stray,
        decision: Decision,
        actor: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        By::check(actor, reason).map_err(StoreError::misuse)?;
        let inner = &self.0;
        for branch in stray.prepared.keys().chain(&stray.committed) {
            inner.named(stray.participant(branch))?;
        }
        for n in 0..TRIES {
            if inner.try_adopt(stray, decision, actor, reason).await? {
                return inner.settle(stray.txn, &Failing::default()).await.map(drop);
            }
            inner.pause(n).await;
        }
        Err(StoreError::transient("adopting a transaction", std::io::Error::other("others write its rows")))
    }
}

impl<B: Backend> Inner<B> {
    /// What is prepared, by store and transaction; and why a participant could not be asked.
    async fn prepared(&self, failing: &Failing) -> (BTreeMap<(Uuid, Uuid), Stray>, BTreeMap<String, String>) {
        let own = self.backend.identity();
        let scans = self.participants.iter().map(async |(name, participant)| {
            let (ours, theirs) = (participant.prepared(own), participant.of_others(own));
            (name, try_join(self.in_time(ours), self.in_time(theirs)).await)
        });
        let (mut all, mut unasked) = (BTreeMap::new(), BTreeMap::new());
        for (name, scan) in join_all(scans).await {
            let (mut ours, theirs) = match scan {
                Ok(found) => found,
                Err(error) => {
                    failing.silence(name);
                    unasked.insert(name.clone(), chain(&error));
                    continue;
                }
            };
            ours.retain(|prepared| prepared.age >= self.grace);
            for Prepared { id, age } in ours.into_iter().chain(theirs) {
                // Of two participants in one database, each has its own.
                if id.name() != name && self.participants.contains_key(id.name()) {
                    continue;
                }
                let new = || Stray::new(id.cluster(), id.txn());
                let stray = all.entry((id.cluster(), id.txn())).or_insert_with(new);
                stray.prepared.insert(id.name().to_owned(), age);
                if id.name() != name {
                    stray.renamed.insert(id.name().to_owned(), name.clone());
                }
            }
        }
        (all, unasked)
    }

    /// The transactions of which it is noted that an operator has to decide.
    async fn torn(&self) -> Result<Vec<(Uuid, Open)>, StoreError> {
        let mut torn = Vec::new();
        for stored in self.tables.aside.stored(&self.backend).await? {
            // One that cannot be read is among what is pending.
            let (Ok(txn), Ok(row)) = (rows::txn_of(&stored.key), self.tables.aside.decode(stored)) else {
                continue;
            };
            if row.value.decision.is_none() {
                torn.push((txn, row.value));
            }
        }
        Ok(torn)
    }

    /// The same with where it is committed, if it is left to a person.
    async fn looked_at(&self, mut stray: Stray, failing: &Failing) -> Result<Option<Stray>, StoreError> {
        let (txn, is_own) = (stray.txn, stray.cluster == self.backend.identity());
        self.reads_decision(&mut stray).await?;
        if is_own && stray.decision.is_some() {
            return Ok(None);
        }
        let is_asked = |name: &str| !stray.prepared.keys().any(|branch| stray.participant(branch) == name);
        let Marks { committed, forgotten, unasked, .. } =
            self.marks(stray.cluster, txn, is_asked, failing).await;
        let is_noted = async || {
            match self.in_time(self.tables.aside.get(&self.backend, &rows::key(txn)?)).await {
                Ok(row) => Ok(row.is_some_and(|row| row.value.decision.is_none())),
                // A newer program has written it, or it is damaged: a person has to look.
                Err(StoreError::Corrupt { .. }) => Ok(true),
                Err(error) => Err(error),
            }
        };
        let is_forgotten = txn < self.in_time(self.floor(txn)).await?.value.floor || !forgotten.is_empty();
        let is_odd = is_forgotten || stray.unread.is_some() || !committed.is_empty();
        let is_left = !is_own || is_odd || is_noted().await?;
        let renamed = committed.iter().filter(|(branch, at)| branch != at);
        stray.renamed.extend(renamed.map(|(branch, at)| (branch.clone(), at.clone())));
        stray.committed = committed.into_keys().collect();
        stray.unknown = forgotten.into_iter().chain(unasked).collect();
        if !is_left {
            return Ok(None);
        }
        // A decision is older than what was committed by it.
        self.reads_decision(&mut stray).await?;
        Ok(Some(stray).filter(|stray| !is_own || stray.decision.is_none()))
    }

    /// What was decided about it, or why that cannot be read.
    async fn reads_decision(&self, stray: &mut Stray) -> Result<(), StoreError> {
        (stray.decision, stray.unread) = match self.in_time(self.decided(stray.txn)).await {
            Ok(decided) => (decided.map(|decided| decided.decision), None),
            Err(error @ StoreError::Corrupt { .. }) => (None, Some(chain(&error))),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Whether a decision about it is stored, with what was found of it. Not if others write its rows.
    async fn try_adopt(
        &self,
        stray: &Stray,
        decision: Decision,
        actor: &str,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let (txn, tables, key) = (stray.txn, &self.tables, rows::key(stray.txn)?);
        let decided = self.decided(txn).await?.map(|decided| decided.decision);
        if decided.is_some_and(|decided| decided != decision) {
            return Err(StoreError::misuse(format!("transaction {txn}: it was decided the other way")));
        }
        let found = tables.aside.get(&self.backend, &key).await?;
        let rev = found.as_ref().map_or(0, |row| row.rev);
        let new = || Open::torn(BTreeMap::new(), self.ids.clock().now());
        let open = stray.listed(found.map_or_else(new, |row| row.value), decision, self.backend.identity());
        let mut writes = vec![tables.aside.put(&Row { key: key.clone(), rev, value: open })?];
        if decided.is_none() {
            let decided = Decided { decision, branches: Vec::new(), adopted: true };
            writes.push(tables.decisions.insert(key, decided)?);
        }
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        let said = Resolved { decision: Some(decision), odd: None, actor, reason, before: Vec::new() };
        writes.push(self.says(txn, rows::WHOLE, said).await?);
        Ok(write_rows(&self.backend, writes).await?.is_yes())
    }
}
