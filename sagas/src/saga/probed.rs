//! A saga whose calls go past a probe, and what a test of crashes has to know of its definition.

use std::any::TypeId;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::Transaction;
use es_core::{App, AppBuilder, Backend, BoxError, Timestamp};
use uuid::Uuid;

use super::app::{SagaApp as _, Sagas as _};
use super::builder::Saga;
use super::child::Begets;
use super::erased::DynStep;
use super::lock::Claims;
use super::machine::{Doable, StepShape};
use super::place::{At, Outside};
use super::protocol::SagaProtocol;
use super::step::{Outputs, SagaInput};
use crate::data::Data;
use crate::testing::crash::{Fault, PointKind, Probe, Tried};
use crate::transaction::{Answer, Handle, Protocol as _, RunError, RunStatus, Runs, Site, Traces, Written};

/// A definition, as a test of crashes sees it.
#[derive(Debug)]
pub(crate) struct Outline {
    /// What it is, for people.
    pub(crate) title: String,
    /// The name of its kind.
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) steps: Vec<OutlineStep>,
    /// The names and versions of the sagas that are steps of it.
    pub(crate) within: Vec<(String, u32)>,
}

/// A step of it.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is so of a step, each by itself")]
pub(crate) struct OutlineStep {
    pub(crate) name: String,
    pub(crate) stage: usize,
    pub(crate) is_local: bool,
    pub(crate) is_staged: bool,
    pub(crate) refuses_for_good: bool,
    /// Whether it takes locks: they are left at the end, and there is no undo.
    pub(crate) is_lock: bool,
}

impl<In: SagaInput, T: Transaction> Saga<In, T> {
    pub(crate) fn outline(&self) -> Outline {
        let of = |(stage, step): (usize, &Arc<dyn DynStep<In, T>>)| {
            let StepShape { name, place, is_staged, refuses_for_good, .. } = step.shape();
            let (name, is_local, is_lock) = (name.to_owned(), place == Doable::Here, place == Doable::Locked);
            OutlineStep { name, stage, is_local, is_staged, refuses_for_good, is_lock }
        };
        let all = self.stages.iter().enumerate();
        let steps =
            all.flat_map(|(stage, steps)| steps.iter().map(move |step| (stage, step))).map(of).collect();
        Outline {
            title: format!("saga {}", self.name),
            kind: self.name.to_owned(),
            version: self.version,
            steps,
            within: Vec::new(),
        }
    }

    /// What the records of a run come to.
    pub(crate) fn folded(&self, run: Uuid, records: &[Written], now: Timestamp) -> Result<RunStatus, String> {
        let protocol = SagaProtocol::new(self);
        let mut state = protocol.begin();
        records.iter().try_for_each(|written| protocol.fold(&mut state, written))?;
        Ok(protocol.status(run, &state, now).0)
    }

    /// The same saga, whose calls go past a probe.
    pub(crate) fn probed(self, probe: &Probe) -> Self {
        self.probed_as(probe, "")
    }

    /// The same; the names of its calls begin with this.
    fn probed_as(mut self, probe: &Probe, of: &str) -> Self {
        for step in self.stages.iter_mut().flatten() {
            let (inner, probe) = (step.clone(), probe.clone());
            let named = format!("{of}{}", inner.name());
            *step = Arc::new(Probed { inner, probe, named });
        }
        self
    }
}

impl<In: SagaInput, T: Transaction> Tried for Saga<In, T> {
    type Input = In;
    type Tx = T;

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn outline(&self) -> Outline {
        self.outline()
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn folded(&self, run: Uuid, records: &[Written], now: Timestamp) -> Result<RunStatus, String> {
        self.folded(run, records, now)
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn wired<B: Backend<Tx = T>>(self, app: AppBuilder<B>, probe: &Probe) -> AppBuilder<B> {
        app.saga(self.probed(probe))
    }

    async fn start(app: &App, key: &str, input: &In) -> Result<Handle, RunError> {
        app.start_saga(key, input).await
    }

    fn runs(app: &App) -> Result<Runs, RunError> {
        app.saga_runs::<In>()
    }
}

/// A saga, and one that is a step of it. What goes wrong in either is tried; what has to be true is asked of the first.
impl<In: SagaInput, Sub: SagaInput, T: Transaction> Tried for (Saga<In, T>, Saga<Sub, T>) {
    type Input = In;
    type Tx = T;

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn outline(&self) -> Outline {
        let (saga, within) = self;
        Outline { within: vec![(within.name.to_owned(), within.version)], ..saga.outline() }
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn folded(&self, run: Uuid, records: &[Written], now: Timestamp) -> Result<RunStatus, String> {
        self.0.folded(run, records, now)
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn wired<B: Backend<Tx = T>>(self, app: AppBuilder<B>, probe: &Probe) -> AppBuilder<B> {
        let (saga, within) = self;
        let of = format!("{}/", within.name);
        app.saga(saga.probed(probe)).saga(within.probed_as(probe, &of))
    }

    async fn start(app: &App, key: &str, input: &In) -> Result<Handle, RunError> {
        app.start_saga(key, input).await
    }

    fn runs(app: &App) -> Result<Runs, RunError> {
        app.saga_runs::<In>()
    }
}

struct Probed<In, T> {
    inner: Arc<dyn DynStep<In, T>>,
    probe: Probe,
    /// What its calls are named.
    named: String,
}

impl<In, T> Probed<In, T> {
    fn kind(&self, at: &At<'_, T>) -> PointKind {
        let tries = self.inner.shape().retry.tries;
        match at {
            At::Tx(_) | At::Staged(_) => PointKind::Local { tries },
            At::Outside(_) => PointKind::Remote { tries },
        }
    }
}

/// The same place once more, for a call that arrives twice.
pub(crate) fn again<'a, T>(at: &'a mut At<'_, T>) -> At<'a, T> {
    match at {
        At::Tx(tx) => At::Tx(tx),
        At::Staged(staging) => At::Staged(staging),
        At::Outside(Outside { run, name, fingerprint, does, services }) => At::Outside(Outside {
            run: *run,
            name: name.clone(),
            fingerprint: *fingerprint,
            does: *does,
            services,
        }),
    }
}

#[async_trait]
impl<In: SagaInput, T: Transaction> DynStep<In, T> for Probed<In, T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn shape(&self) -> StepShape {
        self.inner.shape()
    }

    fn reads(&self, output: &Data) -> Result<(), String> {
        self.inner.reads(output)
    }

    fn child(&self) -> Option<&dyn Begets<In>> {
        self.inner.child()
    }

    fn locks(&self) -> Option<&dyn Claims<In>> {
        self.inner.locks()
    }

    async fn run(&self, input: &In, outputs: &Outputs, site: &Site, mut at: At<'_, T>) -> Answer {
        let (of, kind) = ((&*self.named, false), self.kind(&at));
        let fault = match self.probe.before(of, kind).await {
            Ok(fault) => fault,
            Err(answer) => return answer,
        };
        let answer =
            self.probe.make(fault, of, kind, self.inner.run(input, outputs, site, again(&mut at))).await;
        if fault == Some(Fault::Duplicate) {
            drop(self.probe.make(None, of, kind, self.inner.run(input, outputs, site, at)).await);
        }
        self.probe.after(fault, answer).await
    }

    fn guards(&self) -> Option<TypeId> {
        self.inner.guards()
    }

    fn traces(&self) -> Option<Arc<dyn Traces>> {
        self.inner.traces()
    }

    async fn check(&self, services: &Services) -> Result<(), BoxError> {
        self.inner.check(services).await
    }

    async fn undo(&self, input: &In, outputs: &Outputs, site: &Site, mut at: At<'_, T>) -> Answer {
        let (of, kind) = ((&*self.named, true), self.kind(&at));
        let fault = match self.probe.before(of, kind).await {
            Ok(fault) => fault,
            Err(answer) => return answer,
        };
        let call = self.inner.undo(input, outputs, site, again(&mut at));
        let answer = self.probe.make(fault, of, kind, call).await;
        if fault == Some(Fault::Duplicate) {
            drop(self.probe.make(None, of, kind, self.inner.undo(input, outputs, site, at)).await);
        }
        self.probe.after(fault, answer).await
    }
}
