//! Steps without their types: inputs and outputs are data.

use std::any::TypeId;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::BoxError;
use es_core::services::Services;
use es_core::store::Transaction;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3Default;

use super::child::Begets;
use super::lock::Claims;
use super::machine::{Doable, StepShape};
use super::place::{At, Does, Outside, PlaceOn, Told, Visit as _};
use super::step::{Cx, Needs, Outputs, Ran, SagaInput, Step, StepError, Undo};
use crate::data::Data;
use crate::transaction::{Answer, OwnFault, Site, Traces};

/// A step whose types are known to itself only.
#[async_trait]
pub(super) trait DynStep<In, T>: Send + Sync {
    fn name(&self) -> &'static str;

    /// What the protocol knows of it.
    fn shape(&self) -> StepShape;

    /// Whether this can be read as its output.
    fn reads(&self, output: &Data) -> Result<(), String>;

    /// Which database it lives in, if that has guard rows.
    fn guards(&self) -> Option<TypeId>;

    /// Whether the place is there that it lives in.
    async fn check(&self, services: &Services) -> Result<(), BoxError>;

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer;

    async fn undo(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer;

    /// The same, for a saga of its own.
    fn child(&self) -> Option<&dyn Begets<In>>;

    /// The same, for locks.
    fn locks(&self) -> Option<&dyn Claims<In>>;

    /// What it leaves in databases that only it knows.
    fn traces(&self) -> Option<Arc<dyn Traces>>;
}

/// A step that only goes forward.
pub(super) struct Forward<S>(pub(super) S);

/// A step that can be undone.
pub(super) struct Undoable<S>(pub(super) S);

fn shape_of<In: SagaInput, T: Transaction, S: Step<In, Place: PlaceOn<T>>>(step: &S) -> StepShape {
    StepShape {
        name: S::NAME,
        needs: S::Needs::names(),
        stage: 0,
        place: match step.awaits() {
            Some(awaits) => Doable::Sent(awaits),
            None if let Some(child) = step.child() => child.place(),
            None if step.locks().is_some() => Doable::Locked,
            None if <S::Place as PlaceOn<T>>::LOCAL => Doable::Here,
            None => Doable::Elsewhere,
        },
        retry: step.retry(),
        limit: step.limit(),
        unknown: step.unknown(),
        refuses_for_good: step.refuses_for_good(),
        acts_in_parts: step.acts_in_parts(),
        is_staged: <S::Place as PlaceOn<T>>::STAGED,
        destination: step.destination().map(str::to_owned),
    }
}

fn reads<T: DeserializeOwned>(step: &str, output: &Data) -> Result<(), String> {
    output.read::<T>().map(drop).map_err(|error| format!("the output of {step:?} cannot be read: {error}"))
}

async fn forward<In: SagaInput, T: Transaction, S: Step<In, Place: PlaceOn<T>>>(
    step: &S,
    input: &In,
    outputs: &Outputs,
    site: &Site,
    at: At<'_, T>,
) -> Told {
    let needs = S::Needs::read(outputs).map_err(own)?;
    let mut visit = match <S::Place as PlaceOn<T>>::enter(at, false).await {
        Ok(visit) => visit,
        Err(told) => return told,
    };
    let cx = Cx::new(input, needs, &site.key, site.run, &site.sender);
    let told = match step.run(cx, visit.at()).await {
        Ok(output) => Data::of(&output).map_err(|error| own(format!("its output cannot be stored: {error}"))),
        Err(StepError::Refused(why)) => Err(StepError::Refused(why.to_string())),
        Err(StepError::Retry(error)) => Err(StepError::Retry(error)),
    };
    visit.leave(told).await
}

async fn backward<In: SagaInput, T: Transaction, S: Undo<In, Place: PlaceOn<T>>>(
    step: &S,
    input: &In,
    outputs: &Outputs,
    site: &Site,
    at: At<'_, T>,
) -> Told {
    let (needs, heard) = (S::Needs::read(outputs).map_err(own)?, outputs.get(S::NAME));
    let mut visit = match <S::Place as PlaceOn<T>>::enter(at, heard.is_some()).await {
        Ok(visit) => visit,
        Err(told) => return told,
    };
    let cx = Cx::new(input, needs, &site.key, site.run, &site.sender);
    let told = match ran(visit.ran(heard.cloned())) {
        Ok(ran) => step.undo(cx, ran, visit.at()).await.map_err(StepError::Retry),
        Err(error) => Err(own(error)),
    };
    visit.leave(told.map(|()| Data::null())).await
}

/// It fails, and whoever is called has nothing to do with that.
fn own(error: impl Into<BoxError>) -> StepError<String> {
    StepError::Retry(OwnFault::boxed(error))
}

fn ran<O: DeserializeOwned>(output: Option<Data>) -> Result<Ran<O>, BoxError> {
    let Some(output) = output else { return Ok(Ran::Maybe) };
    let output = output.read().map_err(|error| format!("its output cannot be read: {error}"))?;
    Ok(Ran::Yes(output))
}

/// A call to somewhere else, which is made with this.
pub(super) fn outside<'a>(
    saga: &str,
    site: &'a Site,
    step: &StepShape,
    undo: bool,
    input: &Data,
    outputs: &Outputs,
) -> Outside<'a> {
    let mut with = Xxh3Default::new();
    let needed = step.needs.iter().filter_map(|needed| outputs.get(needed));
    for text in std::iter::once(input).chain(needed).map(Data::text) {
        with.update(&(text.len() as u64).to_be_bytes());
        with.update(text.as_bytes());
    }
    let name = format!("{saga}/{}", step.name);
    let does = if undo { Does::Undo } else { Does::Run };
    Outside { run: site.run, name, fingerprint: with.digest128(), does, services: &site.services }
}

#[async_trait]
impl<In: SagaInput, T: Transaction, S: Step<In, Place: PlaceOn<T>>> DynStep<In, T> for Forward<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn shape(&self) -> StepShape {
        shape_of::<In, T, S>(&self.0)
    }

    fn reads(&self, output: &Data) -> Result<(), String> {
        reads::<S::Output>(S::NAME, output)
    }

    fn guards(&self) -> Option<TypeId> {
        <S::Place as PlaceOn<T>>::guards()
    }

    async fn check(&self, services: &Services) -> Result<(), BoxError> {
        <S::Place as PlaceOn<T>>::check(services).await?;
        self.0.check().await
    }

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer {
        forward(&self.0, input, outputs, site, at).await.into()
    }

    async fn undo(&self, _: &In, _: &Outputs, _: &Site, _: At<'_, T>) -> Answer {
        Answer::Failed("it has no undo: a mistake of the engine".into())
    }

    fn child(&self) -> Option<&dyn Begets<In>> {
        self.0.child()
    }

    fn locks(&self) -> Option<&dyn Claims<In>> {
        self.0.locks()
    }

    fn traces(&self) -> Option<Arc<dyn Traces>> {
        self.0.traces()
    }
}

#[async_trait]
impl<In: SagaInput, T: Transaction, S: Undo<In, Place: PlaceOn<T>>> DynStep<In, T> for Undoable<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn shape(&self) -> StepShape {
        shape_of::<In, T, S>(&self.0)
    }

    fn reads(&self, output: &Data) -> Result<(), String> {
        reads::<S::Output>(S::NAME, output)
    }

    fn guards(&self) -> Option<TypeId> {
        <S::Place as PlaceOn<T>>::guards()
    }

    async fn check(&self, services: &Services) -> Result<(), BoxError> {
        <S::Place as PlaceOn<T>>::check(services).await?;
        self.0.check().await
    }

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer {
        forward(&self.0, input, outputs, site, at).await.into()
    }

    async fn undo(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer {
        backward(&self.0, input, outputs, site, at).await.into()
    }

    fn child(&self) -> Option<&dyn Begets<In>> {
        self.0.child()
    }

    fn locks(&self) -> Option<&dyn Claims<In>> {
        self.0.locks()
    }

    fn traces(&self) -> Option<Arc<dyn Traces>> {
        self.0.traces()
    }
}
