//! Participants and branches without their types.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;
use es_core::store::{Branch, BranchId, Fate, Marked, Participant, Prepared, StoreError};
use uuid::Uuid;

/// A [`Participant`] without the type of its branches.
#[async_trait]
pub(super) trait DynParticipant: fmt::Debug + Send + Sync {
    fn named(&self) -> &str;
    async fn check(&self) -> Result<(), StoreError>;
    async fn begin(&self, id: &BranchId) -> Result<Box<dyn DynBranch>, StoreError>;
    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError>;
    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError>;
    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError>;
    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError>;
    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError>;
    async fn of_others(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError>;
}

#[async_trait]
impl<P: Participant> DynParticipant for P {
    fn named(&self) -> &str {
        self.name()
    }
    async fn check(&self) -> Result<(), StoreError> {
        Participant::check(self).await
    }
    async fn begin(&self, id: &BranchId) -> Result<Box<dyn DynBranch>, StoreError> {
        Ok(Box::new(Participant::begin(self, id).await?))
    }
    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError> {
        Participant::commit(self, id).await
    }
    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError> {
        Participant::abort(self, id).await
    }
    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError> {
        Participant::was_committed(self, id).await
    }
    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError> {
        Participant::outcome(self, id).await
    }
    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        Participant::prepared(self, cluster).await
    }
    async fn of_others(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        Participant::of_others(self, cluster).await
    }
}

/// A [`Branch`], whatever its type.
#[async_trait]
pub(super) trait DynBranch: Send {
    fn typed(&mut self) -> &mut dyn Any;
    async fn has_written(&mut self) -> Result<bool, StoreError>;
    async fn end(self: Box<Self>) -> Result<(), StoreError>;
    async fn prepare(self: Box<Self>) -> Result<(), StoreError>;
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
}

#[async_trait]
impl<T: Branch> DynBranch for T {
    fn typed(&mut self) -> &mut dyn Any {
        self
    }
    async fn has_written(&mut self) -> Result<bool, StoreError> {
        Branch::has_written(self).await
    }
    async fn end(self: Box<Self>) -> Result<(), StoreError> {
        Branch::end(*self).await
    }
    async fn prepare(self: Box<Self>) -> Result<(), StoreError> {
        Branch::prepare(*self).await
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Branch::commit(*self).await
    }
    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Branch::rollback(*self).await
    }
}
