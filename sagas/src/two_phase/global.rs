//! A transaction across databases, before it is committed.

use std::fmt;
use std::sync::Arc;

use es_core::Backend;
use es_core::store::{BranchId, Participant, StoreError};
use uuid::Uuid;

use super::committed::Committed;
use super::drive::Drive;
use super::erased::{DynBranch, DynParticipant};
use super::error::{InDoubt, KnownBy, TwoPhaseError};
use super::manager::Inner;

/// A transaction across databases: what its branches do is committed together, or not at all.
///
/// Dropping it takes all of it back. So does dropping the future of [`commit`](Self::commit), unless it was decided by then:
/// recovery brings it to its end.
pub struct GlobalTx<B: Backend> {
    pub(super) inner: Arc<Inner<B>>,
    pub(super) txn: Uuid,
    pub(super) journal: Option<B::Tx>,
    pub(super) branches: Vec<Held>,
}

/// A branch that has begun.
pub(super) struct Held {
    pub(super) id: BranchId,
    pub(super) participant: Arc<dyn DynParticipant>,
    /// Taken by what ends it.
    pub(super) branch: Option<Box<dyn DynBranch>>,
}

impl<B: Backend> fmt::Debug for GlobalTx<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches: Vec<_> = self.branches.iter().map(|held| held.id.name()).collect();
        f.debug_struct("GlobalTx")
            .field("txn", &self.txn)
            .field("branches", &branches)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> GlobalTx<B> {
    pub(super) fn new(inner: Arc<Inner<B>>) -> Self {
        let txn = inner.ids.next();
        Self { inner, txn, journal: None, branches: Vec::new() }
    }

    /// Its id. It sorts by when it was begun.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.txn
    }

    /// What to ask [`TwoPhase::resolve`](super::TwoPhase::resolve) with, should the future of [`commit`](Self::commit) be
    /// dropped. Who asks decides: if it is not committed by then, it never will be. Take it once all parts have begun.
    #[must_use]
    pub const fn doubt(&self) -> InDoubt {
        InDoubt { txn: self.txn, known_by: KnownBy::Any, journal: self.journal.is_some() }
    }

    /// The branch of a participant: it begins when it is first asked for, at the participant of this name that is configured,
    /// for that is the one that ends it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if none of this name is configured, or one with branches of another type;
    /// [`StoreError::Transient`] if it takes longer than the [limit](super::TwoPhaseBuilder::limit); else as
    /// [`Participant::begin`].
    pub async fn branch<P: Participant>(&mut self, participant: &P) -> Result<&mut P::Branch, StoreError> {
        let name = participant.name();
        // Before the match: what it looks through would be held across the wait, and the future not be `Send`.
        let found = self.branches.iter().position(|held| held.id.name() == name);
        let at = match found {
            Some(at) => at,
            None => {
                let (own, id) = (self.inner.named(name)?.clone(), self.inner.branch(self.txn, name)?);
                let branch = self.inner.in_time(own.begin(&id)).await?;
                self.branches.push(Held { id, participant: own, branch: Some(branch) });
                self.branches.len() - 1
            }
        };
        let branch = self.branches[at].branch.as_mut();
        let other = || StoreError::misuse(format!("participant {name:?} has branches of another type"));
        branch.and_then(|branch| (**branch).typed().downcast_mut()).ok_or_else(other)
    }

    /// The part of the journal's database: your own statements, and commands by `.within(..)`. It begins when it is first
    /// asked for, is committed together with the decision, and never prepared.
    ///
    /// # Errors
    ///
    /// [`StoreError`] as [`Backend::begin`].
    pub async fn journal(&mut self) -> Result<&mut B::Tx, StoreError> {
        let tx = match self.journal.take() {
            Some(tx) => tx,
            None => self.inner.backend.begin().await?,
        };
        Ok(self.journal.insert(tx))
    }

    /// Commits all of it, or nothing.
    ///
    /// Once it is decided, a branch may still not be committed, if its database has gone away in between:
    /// [`Committed::pending`] names it, and recovery commits it.
    ///
    /// # Errors
    ///
    /// [`TwoPhaseError::Aborted`] if nothing of it is committed. [`TwoPhaseError::Parked`] and
    /// [`TwoPhaseError::WithoutJournal`] if an operator has committed a part of it. [`TwoPhaseError::Unknown`] if it could not
    /// be found out whether it is committed. The same holds if the future is dropped: [`doubt`](Self::doubt).
    pub async fn commit(self) -> Result<Committed<B>, TwoPhaseError> {
        Drive::new(self).run().await
    }

    /// Takes all of it back.
    pub async fn rollback(self) {
        Drive::new(self).roll_back().await;
    }
}

#[cfg(test)]
mod tests {
    use es_core::memory::MemoryBackend;

    use super::*;

    fn is_send<T: Send>(_: T) {}

    /// It compiles: a transaction can be brought to its end in a task of its own.
    #[expect(dead_code, reason = "a test of types, which is not run")]
    fn a_transaction_can_be_spawned<P: Participant>(mut tx: GlobalTx<MemoryBackend>, participant: &P) {
        is_send(tx.branch(participant));
        is_send(tx.journal());
        is_send(tx.commit());
    }
}
