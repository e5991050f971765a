//! Branches without their types: inputs, and what is reserved, are data.

use std::any::TypeId;

use async_trait::async_trait;
use es_core::BoxError;
use es_core::services::Services;
use es_core::store::Transaction;
use xxhash_rust::xxh3::Xxh3Default;

use super::branch::Tcc;
use super::machine::BranchShape;
use crate::data::Data;
use crate::saga::{At, Cx, Does, Outside, PlaceOn, Ran, SagaInput, StepError, Told, Visit as _};
use crate::transaction::{Answer, OwnFault, Site};

/// A branch whose types are known to itself only.
#[async_trait]
pub(super) trait DynBranch<In, T>: Send + Sync {
    fn name(&self) -> &'static str;

    /// What the protocol knows of it.
    fn shape(&self) -> BranchShape;

    /// Whether this can be read as what it reserves.
    fn reads(&self, held: &Data) -> Result<(), String>;

    /// Which database it lives in, if that has guard rows.
    fn guards(&self) -> Option<TypeId>;

    /// Whether the place is there that it lives in.
    async fn check(&self, services: &Services) -> Result<(), BoxError>;

    /// Makes a call. `held`: what is known to be reserved.
    async fn call(&self, does: Does, input: &In, held: Option<&Data>, site: &Site, at: At<'_, T>) -> Answer;
}

/// A branch, as it is written.
pub(super) struct Typed<B>(pub(super) B);

/// It fails, and whoever is called has nothing to do with that.
fn own(error: impl Into<BoxError>) -> StepError<String> {
    StepError::Retry(OwnFault::boxed(error))
}

/// What is reserved, read.
fn read<In: SagaInput, B: Tcc<In>>(held: &Data) -> Result<B::Held, String> {
    held.read().map_err(|error| format!("what {:?} has reserved cannot be read: {error}", B::NAME))
}

async fn reserve<In: SagaInput, B: Tcc<In>>(
    branch: &B,
    cx: Cx<'_, In>,
    at: &mut <B::Place as crate::saga::Place>::At,
) -> Told {
    match branch.reserve(cx, at).await {
        Ok(held) => {
            Data::of(&held).map_err(|error| own(format!("what it reserves cannot be stored: {error}")))
        }
        Err(StepError::Refused(why)) => Err(StepError::Refused(why.to_string())),
        Err(StepError::Retry(error)) => Err(StepError::Retry(error)),
    }
}

async fn confirm<In: SagaInput, B: Tcc<In>>(
    branch: &B,
    cx: Cx<'_, In>,
    held: Option<Data>,
    at: &mut <B::Place as crate::saga::Place>::At,
) -> Told {
    let held = held.ok_or_else(|| own("it has reserved nothing: a mistake of the engine"))?;
    let held = read::<In, B>(&held).map_err(own)?;
    branch.confirm(cx, held, at).await.map_err(StepError::Retry).map(|()| Data::null())
}

async fn cancel<In: SagaInput, B: Tcc<In>>(
    branch: &B,
    cx: Cx<'_, In>,
    held: Option<Data>,
    at: &mut <B::Place as crate::saga::Place>::At,
) -> Told {
    let held = match held {
        Some(held) => Ran::Yes(read::<In, B>(&held).map_err(own)?),
        None => Ran::Maybe,
    };
    branch.cancel(cx, held, at).await.map_err(StepError::Retry).map(|()| Data::null())
}

/// A call to somewhere else, which is made with this.
pub(super) fn outside<'a>(kind: &str, branch: &str, does: Does, input: &Data, site: &'a Site) -> Outside<'a> {
    let mut with = Xxh3Default::new();
    with.update(input.text().as_bytes());
    let (run, name, fingerprint) = (site.run, format!("{kind}/{branch}"), with.digest128());
    Outside { run, name, fingerprint, does, services: &site.services }
}

#[async_trait]
impl<In: SagaInput, T: Transaction, B: Tcc<In, Place: PlaceOn<T>>> DynBranch<In, T> for Typed<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn shape(&self) -> BranchShape {
        let Self(branch) = self;
        BranchShape {
            name: B::NAME,
            is_local: <B::Place as PlaceOn<T>>::LOCAL,
            is_staged: <B::Place as PlaceOn<T>>::STAGED,
            retry: branch.retry(),
            limit: branch.limit(),
            refuses_for_good: branch.refuses_for_good(),
            destination: branch.destination().map(str::to_owned),
        }
    }

    fn reads(&self, held: &Data) -> Result<(), String> {
        read::<In, B>(held).map(drop)
    }

    fn guards(&self) -> Option<TypeId> {
        <B::Place as PlaceOn<T>>::guards()
    }

    async fn check(&self, services: &Services) -> Result<(), BoxError> {
        <B::Place as PlaceOn<T>>::check(services).await
    }

    async fn call(&self, does: Does, input: &In, held: Option<&Data>, site: &Site, at: At<'_, T>) -> Answer {
        let mut visit = match <B::Place as PlaceOn<T>>::enter(at, held.is_some()).await {
            Ok(visit) => visit,
            Err(told) => return told.into(),
        };
        let cx = Cx::new(input, (), &site.key, site.run, &site.sender);
        let held = visit.ran(held.cloned());
        let told = match does {
            Does::Run => reserve(&self.0, cx, visit.at()).await,
            Does::Undo => cancel(&self.0, cx, held, visit.at()).await,
            Does::Confirm => confirm(&self.0, cx, held, visit.at()).await,
        };
        visit.leave(told).await.into()
    }
}
