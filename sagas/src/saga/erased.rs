//! Steps without their types: inputs and outputs are data.

use async_trait::async_trait;
use es_core::store::Transaction;
use serde::de::DeserializeOwned;

use super::machine::{Doable, StepShape};
use super::step::{At, Call, Cx, Needs, Outputs, PlaceOn, Ran, SagaInput, Step, StepError, Undo};
use crate::data::Data;
use crate::transaction::{Answer, Site};

/// A step whose types are known to itself only.
#[async_trait]
pub(super) trait DynStep<In, T>: Send + Sync {
    fn name(&self) -> &'static str;

    /// What the protocol knows of it.
    fn shape(&self) -> StepShape;

    /// Whether this can be read as its output.
    fn reads(&self, output: &Data) -> Result<(), String>;

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer;

    async fn undo(
        &self,
        input: &In,
        outputs: &Outputs,
        ran: Option<&Data>,
        site: &Site,
        at: At<'_, T>,
    ) -> Answer;
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
        place: if <S::Place as PlaceOn<T>>::LOCAL { Doable::Here } else { Doable::Elsewhere },
        retry: step.retry(),
        limit: step.limit(),
        unknown: step.unknown(),
        refuses_for_good: step.refuses_for_good(),
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
) -> Answer {
    let needs = match S::Needs::read(outputs) {
        Ok(needs) => needs,
        Err(error) => return Answer::Failed(error),
    };
    let Some(at) = <S::Place as PlaceOn<T>>::at(at) else { return Answer::Failed(elsewhere()) };
    let cx = Cx::new(input, needs, &site.key, site.run, &site.sender);
    match step.run(cx, at).await {
        Ok(output) => match Data::of(&output) {
            Ok(output) => Answer::Done(output),
            Err(error) => Answer::Failed(format!("its output cannot be stored: {error}").into()),
        },
        Err(StepError::Refused(why)) => Answer::Refused(why.to_string()),
        Err(StepError::Retry(error)) => Answer::Failed(error),
    }
}

async fn backward<In: SagaInput, T: Transaction, S: Undo<In, Place: PlaceOn<T>>>(
    step: &S,
    input: &In,
    outputs: &Outputs,
    ran: Option<&Data>,
    site: &Site,
    at: At<'_, T>,
) -> Result<Data, es_core::BoxError> {
    let needs = S::Needs::read(outputs)?;
    let ran = match ran {
        Some(output) => {
            Ran::Yes(output.read().map_err(|error| format!("its output cannot be read: {error}"))?)
        }
        None => Ran::Maybe,
    };
    let at = <S::Place as PlaceOn<T>>::at(at).ok_or_else(elsewhere)?;
    step.undo(Cx::new(input, needs, &site.key, site.run, &site.sender), ran, at).await?;
    Data::of(&())
}

fn elsewhere() -> es_core::BoxError {
    "it was called where it does not live: a mistake of the engine".into()
}

/// A call to somewhere else, under its key.
pub(super) fn call(kind: &str, site: &Site, step: &str, undo: bool) -> Call {
    let undo = if undo { "/undo" } else { "" };
    Call::new(format!("{kind}/{}/{step}{undo}", site.run.simple()))
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

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer {
        forward(&self.0, input, outputs, site, at).await
    }

    async fn undo(&self, _: &In, _: &Outputs, _: Option<&Data>, _: &Site, _: At<'_, T>) -> Answer {
        Answer::Failed("it has no undo: a mistake of the engine".into())
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

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, at: At<'_, T>) -> Answer {
        forward(&self.0, input, outputs, site, at).await
    }

    async fn undo(
        &self,
        input: &In,
        outputs: &Outputs,
        ran: Option<&Data>,
        site: &Site,
        at: At<'_, T>,
    ) -> Answer {
        match backward(&self.0, input, outputs, ran, site, at).await {
            Ok(done) => Answer::Done(done),
            Err(error) => Answer::Failed(error),
        }
    }
}
