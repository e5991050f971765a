//! Recovery: whatever node has begun a transaction, any node brings it to its end.
//!
//! What is prepared at a participant, under the name of this store, is committed or rolled back as was decided; if nothing was
//! decided, recovery decides to roll back, by the same insert that the coordinator would have to make, unless another branch
//! is committed: that is left to a person. What was decided and is not done is on a list in the store. Whether a branch that
//! is not prepared was committed is known by its marker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use es_core::store::{BranchId, Prepared, StoreError};
use es_core::{Backend, chain};
use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::erased::DynParticipant;
use super::machine::{Decision, Knows, Step, judge, recover};
use super::manager::{Inner, TwoPhase};

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
    /// Why a participant could not be asked, or a branch not ended; by participant. If it is not in
    /// [`in_doubt`](Self::in_doubt), what is prepared there is not known.
    pub failed: BTreeMap<String, String>,
    /// Branches that are decided, and not committed yet, by participant.
    pub unfinished: BTreeMap<String, u64>,
    /// Those participants of them that are not configured here.
    pub missing: BTreeSet<String>,
    /// Branches that wait for an operator, by participant.
    pub parked: BTreeMap<String, u64>,
    /// Why a row of the list cannot be read, by its key.
    pub unread: BTreeMap<String, String>,
    /// Transactions of which a branch is committed and another one prepared, and nothing was decided:
    /// [`TwoPhase::strays`] says more.
    pub torn: BTreeSet<Uuid>,
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

    /// The same, if it was so for as long.
    pub(super) fn later(self, since: Duration) -> Self {
        Self { oldest: self.oldest.saturating_add(since), ..self }
    }
}

/// What recovery has found at a participant.
#[derive(Debug, Default)]
struct AtOne {
    committed: u64,
    aborted: u64,
    waiting: Waiting,
    torn: BTreeSet<Uuid>,
}

/// What failed in a look, and who is not asked any more in it. An answer that is late costs a look its time: a branch that
/// fails at once keeps no other.
#[derive(Debug, Default)]
pub(super) struct Failing(Mutex<Failed>);

#[derive(Debug, Default)]
struct Failed {
    whys: BTreeMap<String, String>,
    silent: BTreeSet<String>,
}

impl Failing {
    /// What was asked of a participant at this time has failed.
    pub(super) fn add(&self, name: &str, error: &StoreError, begun: Instant, limit: Duration) {
        if begun.elapsed() >= limit {
            self.silence(name);
        }
        self.lock().whys.insert(name.to_owned(), chain(error));
    }

    fn silence(&self, name: &str) {
        self.lock().silent.insert(name.to_owned());
    }

    pub(super) fn is_silent(&self, name: &str) -> bool {
        self.lock().silent.contains(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Failed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> TwoPhase<B> {
    /// Looks once at every participant and at what is on the list, and ends what can be. An app does so by itself.
    ///
    /// Any number of nodes may do so at the same time. A participant that cannot be asked keeps no other from being looked
    /// at, and is never taken for one where nothing is prepared.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the list cannot be read, or takes no writes: participants were looked at all the same.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let (found, failed) = self.0.look().await;
        failed.map_or(Ok(found), Err)
    }
}

impl<B: Backend> Inner<B> {
    /// What one look has found, also if the list could not be seen to: then with why.
    pub(super) async fn look(&self) -> (Recovered, Option<StoreError>) {
        let (mut all, failing) = (Recovered::default(), Failing::default());
        let scans = self
            .participants
            .iter()
            .map(|(name, participant)| self.scan(name, participant.as_ref(), &failing));
        let scans = join_all(scans).await;
        let n = self.looks.fetch_add(1, Ordering::Relaxed);
        let ends = self
            .participants
            .values()
            .zip(scans)
            .filter_map(|(participant, found)| Some((participant, found?)));
        let ends = ends.map(async |(participant, found)| {
            (participant.named(), self.end_all(participant.as_ref(), found, n, &failing).await)
        });
        for (name, at) in join_all(ends).await {
            all.committed += at.committed;
            all.aborted += at.aborted;
            all.in_doubt.insert(name.to_owned(), at.waiting);
            all.torn.extend(at.torn);
        }
        let listed = self.work_off(&mut all, &failing).await;
        all.failed = std::mem::take(&mut failing.lock().whys);
        (all, listed.err())
    }

    async fn scan(
        &self,
        name: &str,
        participant: &dyn DynParticipant,
        failing: &Failing,
    ) -> Option<Vec<Prepared>> {
        let begun = Instant::now();
        let found = self.in_time(participant.prepared(self.backend.identity())).await;
        // Whatever the reason, it is left alone in this look.
        let failed = |error: &StoreError| {
            failing.add(name, error, begun, self.limit);
            failing.silence(name);
        };
        found.inspect_err(failed).ok()
    }

    async fn end_all(
        &self,
        participant: &dyn DynParticipant,
        mut found: Vec<Prepared>,
        n: usize,
        failing: &Failing,
    ) -> AtOne {
        let (mut all, name) = (AtOne::default(), participant.named());
        // One that hangs is not the first each time.
        let first = n.checked_rem(found.len()).unwrap_or_default();
        found.rotate_left(first);
        for Prepared { id, age } in found {
            if age < self.grace || failing.is_silent(name) {
                all.waiting.add(age);
                continue;
            }
            let begun = Instant::now();
            match self.end(participant, &id, failing).await {
                Ok(Some(Decision::Commit)) => all.committed += 1,
                Ok(Some(Decision::Abort)) => all.aborted += 1,
                Ok(None) => {
                    all.waiting.add(age);
                    all.torn.insert(id.txn());
                }
                Err(error) => {
                    all.waiting.add(age);
                    tracing::warn!(branch = %id, error = chain(&error), "a branch could not be ended");
                    failing.add(name, &error, begun, self.limit);
                }
            }
        }
        all
    }

    /// Ends a branch that is prepared, as was decided, or is now. None: a person has to decide.
    async fn end(
        &self,
        participant: &dyn DynParticipant,
        id: &BranchId,
        failing: &Failing,
    ) -> Result<Option<Decision>, StoreError> {
        let Some(decision) = self.decides_with_care(id.txn(), Some(id.name()), failing).await? else {
            tracing::error!(branch = %id, "it is prepared, another branch is committed, and nothing was decided");
            return Ok(None);
        };
        let fate = self.ends(participant, id, decision).await?;
        if let Some(odd) = judge(decision, fate) {
            self.park(id.txn(), id.name(), decision, odd).await;
        }
        Ok(Some(decision))
    }

    /// What was decided, or is now, unless a branch is committed: one that is not this. None: a person has to decide.
    pub(super) async fn decides_with_care(
        &self,
        txn: Uuid,
        but: Option<&str>,
        failing: &Failing,
    ) -> Result<Option<Decision>, StoreError> {
        let mut knows = self.in_time(self.decided(txn)).await?.map_or(Knows::Nothing, Knows::Decided);
        loop {
            knows = match recover(knows) {
                Step::Trace => match self.is_marked(txn, but, failing).await {
                    true => Knows::Marked,
                    false => Knows::Unmarked,
                },
                Step::Read => self.in_time(self.decided(txn)).await?.map_or(Knows::Torn, Knows::Decided),
                Step::Ask => Knows::Decided(self.in_time(self.decision(txn)).await?),
                Step::End(decision) => return Ok(Some(decision)),
                Step::Leave => return Ok(None),
            }
        }
    }

    /// Whether a branch of a transaction is committed, of the participants that can be asked, but one.
    async fn is_marked(&self, txn: Uuid, but: Option<&str>, failing: &Failing) -> bool {
        let is_asked = |name: &str| Some(name) != but && !failing.is_silent(name);
        let others = self.participants.iter().filter(|(name, _)| is_asked(name));
        let asks = others.map(async |(name, participant)| {
            let begun = Instant::now();
            let asked = async { participant.was_committed(&self.branch(txn, name)?).await };
            let failed = |error: &StoreError| failing.add(name, error, begun, self.limit);
            self.in_time(asked).await.inspect_err(failed).unwrap_or_default()
        });
        join_all(asks).await.contains(&true)
    }
}
