//! The transaction manager: who takes part, what was decided, and how transactions begin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::id::Ids;
use es_core::store::{BranchId, Fate, Participant, StoreError, Won, write_rows};
use es_core::{Backend, ErrorKind, chain};
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;
use uuid::Uuid;

use super::erased::DynParticipant;
use super::error::{InDoubt, KnownBy, TwoPhaseError};
use super::global::GlobalTx;
use super::machine::Decision;
use super::rows::{self, Tables};

/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

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
    /// For how long recovery waits for a participant.
    pub(super) limit: Duration,
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

    /// For how long recovery waits for an answer of a participant; 10 seconds by default.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.inner.limit = limit;
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
    /// [`StoreError::Misuse`] if two participants have one name; [`StoreError::Limit`] if a name cannot be one.
    pub fn build(self) -> Result<TwoPhase<B>, StoreError> {
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
    /// [`TwoPhaseError::Store`] if it cannot be found out now.
    pub async fn resolve(&self, doubt: &InDoubt) -> Result<Decision, TwoPhaseError> {
        match &doubt.known_by {
            KnownBy::Store => Ok(self.0.decision(doubt.txn).await?),
            KnownBy::Participant(name) => {
                let id = self.0.branch(doubt.txn, name)?;
                Ok(committed(&id, self.0.named(name)?.outcome(&id).await?)?)
            }
            KnownBy::Any => Ok(self.0.asks_all(doubt.txn).await?),
        }
    }
}

/// What the fate of the only writer says of its transaction.
fn committed(id: &BranchId, fate: Fate) -> Result<Decision, StoreError> {
    match fate {
        Fate::Committed => Ok(Decision::Commit),
        Fate::Aborted => Ok(Decision::Abort),
        Fate::Forgotten => Err(StoreError::misuse(format!(
            "participant {:?} does not go back to transaction {}: nobody can know",
            id.name(),
            id.txn()
        ))),
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
        let checks = self.participants.values().map(async |participant| match participant.check().await {
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
        });
        let mut wrong: Vec<String> = join_all(checks).await.into_iter().flatten().collect();
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for row in self.tables.open.all(&self.backend).await? {
            let waits = row.value.branches.into_iter().filter(|(_, waits)| waits.odd.is_none());
            for (name, _) in waits.filter(|(name, _)| !self.participants.contains_key(name)) {
                *missing.entry(name).or_default() += 1;
            }
        }
        wrong.extend(missing.into_iter().map(|(name, n)| {
            format!(
                "participant {name:?} is not configured, and {n} transactions that were decided wait for it: configure it \
                 again, or say what became of its branches (`TwoPhase::accept`)"
            )
        }));
        Ok(wrong)
    }

    /// What was decided about a transaction. If nothing was, it is now: to abort.
    pub(super) async fn decision(&self, txn: Uuid) -> Result<Decision, StoreError> {
        let (store, tables) = (&self.backend, &self.tables);
        if let Won::Yes(_) = write_rows(store, vec![tables.to_abort(txn)?]).await? {
            return Ok(Decision::Abort);
        }
        // In a statement behind that one: there it reads nothing.
        let row = tables.decisions.get(store, &rows::key(txn)?).await?;
        let gone = || StoreError::Corrupt { what: format!("the decision about transaction {txn} is gone") };
        Ok(row.ok_or_else(gone)?.value.decision)
    }

    /// What became of a transaction of which nothing is known: it is decided, or was the commit of one writer alone.
    async fn asks_all(&self, txn: Uuid) -> Result<Decision, StoreError> {
        if self.decision(txn).await? == Decision::Commit {
            return Ok(Decision::Commit);
        }
        for (name, participant) in &self.participants {
            let id = self.branch(txn, name)?;
            // What is prepared is ended first: it would keep its marker from being asked for.
            participant.abort(&id).await?;
            if committed(&id, participant.outcome(&id).await?)? == Decision::Commit {
                return Ok(Decision::Commit);
            }
        }
        Ok(Decision::Abort)
    }

    /// Asks until there is an answer, or for as long as it is patient.
    pub(super) async fn patiently<'a, T>(
        &self,
        ask: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (begun, (mut pause, longest)) = (Instant::now(), PAUSES);
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_pass = matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown);
            if !may_pass || begun.elapsed() >= self.patience {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}
