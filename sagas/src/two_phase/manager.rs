//! The transaction manager: who takes part, what was decided, and how transactions begin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use es_core::id::Ids;
use es_core::store::{BranchId, Fate, Participant, StoreError};
use es_core::{Backend, ErrorKind, chain};
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;
use uuid::Uuid;

use super::erased::DynParticipant;
use super::error::{InDoubt, KnownBy, TwoPhaseError};
use super::global::GlobalTx;
use super::machine::Decision;
use super::recovery::Away;
use super::rows::{Open, Tables};
use crate::keeping::brief;
use crate::transaction::REMEMBER;

/// How often a row is read again because others write it.
pub(super) const TRIES: u32 = 20;
/// By this much the longest pause grows before a row is read again that others write.
const AGAIN: Duration = Duration::from_millis(20);
/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// For how long a participant that cannot be asked is waited for, before it is decided without it.
const OUTAGE: Duration = Duration::from_secs(30);
/// For so long an answer is waited for at least, however little patience there is.
const SOON: Duration = Duration::from_secs(1);

/// Commits transactions across several databases: all of a transaction, or nothing. Clones share it.
///
/// See the [module](super) for what it promises.
pub struct TwoPhase<B>(pub(super) Arc<Inner<B>>);

pub(super) struct Inner<B> {
    pub(super) backend: B,
    pub(super) participants: BTreeMap<String, Arc<dyn DynParticipant>>,
    pub(super) tables: Tables,
    pub(super) ids: Ids,
    /// Branches that have been prepared for less time are left to their coordinator.
    pub(super) grace: Duration,
    /// For how long a coordinator tries to hear what was decided.
    pub(super) patience: Duration,
    /// For how long a participant is waited for.
    pub(super) limit: Duration,
    /// For how long a participant that cannot be asked keeps others undecided.
    pub(super) outage: Duration,
    /// Those that cannot be asked.
    pub(super) away: Away,
    /// For how long a decision to commit is kept.
    pub(super) remember: Duration,
    /// How many looks of recovery there were.
    pub(super) looks: AtomicUsize,
}

impl<B> Clone for TwoPhase<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> fmt::Debug for TwoPhase<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let participants: Vec<_> = self.0.participants.keys().collect();
        f.debug_struct("TwoPhase").field("participants", &participants).finish_non_exhaustive()
    }
}

/// Puts a [`TwoPhase`] together.
pub struct TwoPhaseBuilder<B> {
    inner: Inner<B>,
    twice: BTreeSet<String>,
}

impl<B> fmt::Debug for TwoPhaseBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let participants: Vec<_> = self.inner.participants.keys().collect();
        f.debug_struct("TwoPhaseBuilder").field("participants", &participants).finish_non_exhaustive()
    }
}

impl<B> TwoPhaseBuilder<B> {
    /// A participant. Every program that uses the store has to know the participants of all: one that a decision waits for
    /// is not to be left out.
    #[must_use]
    pub fn participant(mut self, participant: impl Participant) -> Self {
        let name = participant.name().to_owned();
        if self.inner.participants.insert(name.clone(), Arc::new(participant)).is_some() {
            self.twice.insert(name);
        }
        self
    }

    /// For how long a branch is left prepared before recovery decides; 10 seconds by default. It is no matter of what is
    /// right: a coordinator that takes longer loses, and rolls back.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.inner.grace = grace;
        self
    }

    /// For how long a commit tries to hear what was decided, if it has lost the store; 10 seconds by default. Then it is
    /// [unknown](TwoPhaseError::Unknown).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.inner.patience = patience;
        self
    }

    /// For how long a participant that cannot be asked keeps what is undecided from being rolled back elsewhere; 30 seconds by
    /// default. It may be that it has committed its branch, by hand or by a decision that the store has lost; after this it is
    /// taken for one that has not, so that its outage does not hold the locks of all others. Each try in vain adds the time since
    /// the one before, 10 seconds at most, until one is answered.
    #[must_use]
    pub fn outage(mut self, outage: Duration) -> Self {
        self.inner.outage = outage;
        self
    }

    /// For how long an answer of a participant is waited for, by a commit and by recovery; 10 seconds by default. A branch
    /// that takes longer to be prepared is rolled back; one that takes longer to be committed is pending.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.inner.limit = limit;
        self
    }

    /// For how long after its beginning it is known what was decided about a transaction, if all of it is done by then; 30
    /// days by default, an hour at least. Whoever asks later is told that nobody can know, and what is prepared of one that is
    /// older and undecided waits for a person ([`TwoPhase::strays`]). Decisions to abort are kept for good: each is of something
    /// that had failed. Of nodes that remember for different times, the shortest one forgets for all.
    #[must_use]
    pub fn remember(mut self, remember: Duration) -> Self {
        self.inner.remember = remember;
        self
    }

    /// Where ids come from.
    #[must_use]
    pub fn ids(mut self, ids: Ids) -> Self {
        self.inner.ids = ids;
        self
    }

    /// # Errors
    ///
    /// [`StoreError::Misuse`] if two participants have one name, or decisions are to be kept for less than an hour;
    /// [`StoreError::Limit`] if a name cannot be one.
    pub fn build(self) -> Result<TwoPhase<B>, StoreError> {
        if let Some(brief) = brief("decisions are remembered", self.inner.remember) {
            return Err(StoreError::misuse(brief));
        }
        if let Some(name) = self.twice.first() {
            return Err(StoreError::misuse(format!("two participants have the name {name:?}")));
        }
        for name in self.inner.participants.keys() {
            BranchId::new(Uuid::nil(), Uuid::nil(), name.as_str())?;
        }
        Ok(TwoPhase(Arc::new(self.inner)))
    }
}

impl<B: Backend> TwoPhase<B> {
    /// With the decisions in this store, the journal.
    ///
    /// # Errors
    ///
    /// None that can be met: the names of its tables are good.
    pub fn on(backend: B) -> Result<TwoPhaseBuilder<B>, StoreError> {
        let seconds = Duration::from_secs(10);
        let inner = Inner {
            backend,
            participants: BTreeMap::new(),
            tables: Tables::new()?,
            ids: Ids::default(),
            grace: seconds,
            patience: seconds,
            limit: seconds,
            outage: OUTAGE,
            away: Away::default(),
            remember: REMEMBER,
            looks: AtomicUsize::new(0),
        };
        Ok(TwoPhaseBuilder { inner, twice: BTreeSet::new() })
    }

    /// Begins a transaction. Nothing is written anywhere for that.
    #[must_use]
    pub fn begin(&self) -> GlobalTx<B> {
        GlobalTx::new(self.0.clone())
    }

    /// Looks at every participant, and at what waits for one: to be called before transactions begin.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] with all that is in the way; an error of the store if that cannot be asked.
    pub async fn check(&self) -> Result<(), StoreError> {
        let wrong = self.0.wrong().await?;
        if wrong.is_empty() { Ok(()) } else { Err(StoreError::misuse(wrong.join("; "))) }
    }

    /// What became of a transaction of which nobody knew. If it was not committed, it never will be.
    ///
    /// # Errors
    ///
    /// [`TwoPhaseError::Store`] if it cannot be found out now, or never, since it is not
    /// [remembered](TwoPhaseBuilder::remember). [`TwoPhaseError::WithoutJournal`] if an operator has committed it, and the store
    /// itself had a part in it, which is not committed.
    pub async fn resolve(&self, doubt: &InDoubt) -> Result<Decision, TwoPhaseError> {
        let txn = doubt.txn;
        let decision = match &doubt.known_by {
            KnownBy::Store => self.0.asks_store(txn).await?,
            KnownBy::Participant(name) => self.0.asks_one(txn, name).await?,
            KnownBy::Any => self.0.asks_all(txn).await?,
        };
        // An operator has no part of the store to commit.
        let is_torn = doubt.journal && decision == Decision::Commit;
        match is_torn && self.0.decided(txn).await?.is_some_and(|decided| decided.adopted) {
            true => Err(TwoPhaseError::WithoutJournal { txn, branches: Vec::new() }),
            false => Ok(decision),
        }
    }
}

impl<B: Backend> Inner<B> {
    pub(super) fn branch(&self, txn: Uuid, name: &str) -> Result<BranchId, StoreError> {
        Ok(BranchId::new(self.backend.identity(), txn, name)?)
    }

    pub(super) fn named(&self, name: &str) -> Result<&Arc<dyn DynParticipant>, StoreError> {
        let missing =
            || StoreError::misuse(format!("no participant {name:?} is configured: add it to the builder"));
        self.participants.get(name).ok_or_else(missing)
    }

    /// What is in the way of a start, a line each.
    pub(super) async fn wrong(&self) -> Result<Vec<String>, StoreError> {
        let checks = self.participants.values().map(async |participant| {
            match self.in_time(participant.check()).await {
                Ok(()) => None,
                // It may be away for a while: its branches are tried again.
                Err(error) if error.kind() == ErrorKind::Transient => {
                    tracing::warn!(
                        participant = participant.named(),
                        error = chain(&error),
                        "a participant cannot be asked now"
                    );
                    None
                }
                Err(error) => Some(chain(&error)),
            }
        });
        let mut wrong: Vec<String> = join_all(checks).await.into_iter().flatten().collect();
        let missing = self.missed().await?;
        wrong.extend(missing.into_iter().map(|(name, n)| {
            format!(
                "participant {name:?} is not configured, and {n} transactions that were decided wait for it: configure it \
                 again, or say what became of its branches (`TwoPhase::accept`)"
            )
        }));
        Ok(wrong)
    }

    /// The participants that are not configured, and for how many transactions each is waited for.
    async fn missed(&self) -> Result<BTreeMap<String, usize>, StoreError> {
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for table in self.tables.lists() {
            for stored in table.stored(&self.backend).await? {
                // One that cannot be read is shown to people, and keeps nobody from starting.
                let Ok(row) = table.decode(stored) else { continue };
                let waits = row.value.branches.iter().filter(|(_, waits)| waits.odd.is_none());
                let names = waits.map(|(name, waits)| waits.participant(name).to_owned());
                let names: Vec<_> = names.filter(|name| !self.participants.contains_key(name)).collect();
                let is_abort = row.value.decision == Some(Decision::Abort);
                if is_abort && !names.is_empty() && self.is_abandoned(&row.value) {
                    tracing::warn!(
                        ?names,
                        txn = row.key,
                        "something may be prepared where nobody looks: to be rolled back"
                    );
                }
                // A node that knows more participants may be at it now. Nobody waits for an abort.
                if row.value.decision == Some(Decision::Commit) && !self.is_young(&row.value) {
                    names.into_iter().for_each(|name| *missing.entry(name).or_default() += 1);
                }
            }
        }
        Ok(missing)
    }

    /// Whether it was decided so lately that whoever has decided may be at it.
    pub(super) fn is_young(&self, open: &Open) -> bool {
        let age = |since| Duration::try_from(self.ids.clock().now().duration_since(since));
        // A clock that is ahead makes nothing young for longer than the grace.
        let is_young = |since| age(since).is_ok_and(|age| age < self.grace);
        open.since.is_some_and(is_young)
    }

    /// Commits a branch that is prepared, or takes it back.
    pub(super) async fn ends(
        &self,
        participant: &dyn DynParticipant,
        id: &BranchId,
        decision: Decision,
    ) -> Result<Fate, StoreError> {
        self.in_time(async {
            match decision {
                Decision::Commit => participant.commit(id).await,
                Decision::Abort => participant.abort(id).await,
            }
        })
        .await
    }

    pub(super) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        in_time(self.limit, asked).await
    }

    /// Between two tries to write what others write as well: of all who try, not the same ones are late each time.
    pub(super) async fn pause(&self, tries: u32) {
        tokio::time::sleep(AGAIN.mul_f64(f64::from(tries) * self.ids.fraction())).await;
    }

    /// Asks until there is an answer, or for as long as it is patient.
    pub(super) async fn patiently<'a, T>(
        &self,
        ask: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (until, (mut pause, longest)) = (Instant::now() + self.patience, PAUSES);
        loop {
            // It is asked once at least.
            let asked = in_time((until - Instant::now()).max(self.limit.min(SOON)), ask());
            let error = match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_pass = matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown);
            if !may_pass || Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// Waits for an answer for so long.
pub(super) async fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer,
        Err(late) => Err(StoreError::transient("waiting for an answer", late)),
    }
}
