//! A TCC whose calls go past a probe, and what a test of crashes has to know of its definition.

use std::any::TypeId;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::Transaction;
use es_core::{App, AppBuilder, Backend, BoxError, Timestamp};
use uuid::Uuid;

use super::app::{TccApp as _, Tccs as _};
use super::builder::TccTransaction;
use super::erased::DynBranch;
use super::machine::BranchShape;
use super::protocol::TccProtocol;
use crate::data::Data;
use crate::saga::{At, Does, Outline, OutlineStep, SagaInput, again};
use crate::testing::crash::{Fault, PointKind, Probe, Tried, confirming};
use crate::transaction::{Answer, Handle, Protocol as _, RunError, RunStatus, Runs, Site, Written};

/// The reservations come first, then the confirmations, which nothing undoes.
fn steps_of(shape: &BranchShape) -> [OutlineStep; 2] {
    let BranchShape { name, is_local, is_staged, refuses_for_good, .. } = *shape;
    let is_lock = false;
    let step = |stage, name| OutlineStep { name, stage, is_local, is_staged, refuses_for_good, is_lock };
    [step(0, name.to_owned()), step(1, confirming(name))]
}

impl<In: SagaInput, T: Transaction> Tried for TccTransaction<In, T> {
    type Input = In;
    type Tx = T;

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn outline(&self) -> Outline {
        let steps = self.branches.iter().flat_map(|branch| steps_of(&branch.shape())).collect();
        let (title, kind, version) = (self.kind.clone(), self.kind.clone(), self.version);
        Outline { title, kind, version, steps, within: Vec::new() }
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn folded(&self, run: Uuid, records: &[Written], now: Timestamp) -> Result<RunStatus, String> {
        let protocol = TccProtocol::new(self);
        let mut state = protocol.begin();
        records.iter().try_for_each(|written| protocol.fold(&mut state, written))?;
        Ok(protocol.status(run, &state, now).0)
    }

    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn wired<B: Backend<Tx = T>>(mut self, app: AppBuilder<B>, probe: &Probe) -> AppBuilder<B> {
        for branch in &mut self.branches {
            let (inner, probe) = (branch.clone(), probe.clone());
            *branch = Arc::new(Probed { inner, probe });
        }
        app.tcc(self)
    }

    async fn start(app: &App, key: &str, input: &In) -> Result<Handle, RunError> {
        app.start_tcc(key, input).await
    }

    fn runs(app: &App) -> Result<Runs, RunError> {
        app.tcc_runs::<In>()
    }
}

struct Probed<In, T> {
    inner: Arc<dyn DynBranch<In, T>>,
    probe: Probe,
}

#[async_trait]
impl<In: SagaInput, T: Transaction> DynBranch<In, T> for Probed<In, T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn shape(&self) -> BranchShape {
        self.inner.shape()
    }

    fn reads(&self, held: &Data) -> Result<(), String> {
        self.inner.reads(held)
    }

    fn guards(&self) -> Option<TypeId> {
        self.inner.guards()
    }

    async fn check(&self, services: &Services) -> Result<(), BoxError> {
        self.inner.check(services).await
    }

    async fn call(
        &self,
        does: Does,
        input: &In,
        held: Option<&Data>,
        site: &Site,
        mut at: At<'_, T>,
    ) -> Answer {
        let tries = self.inner.shape().retry.tries;
        let kind = match &at {
            At::Tx(_) | At::Staged(_) => PointKind::Local { tries },
            At::Outside(_) => PointKind::Remote { tries },
        };
        let name = match does {
            Does::Confirm => confirming(self.name()),
            Does::Run | Does::Undo => self.name().to_owned(),
        };
        let of = (&*name, does == Does::Undo);
        let fault = match self.probe.before(of, kind).await {
            Ok(fault) => fault,
            Err(answer) => return answer,
        };
        let call = self.inner.call(does, input, held, site, again(&mut at));
        let answer = self.probe.make(fault, of, kind, call).await;
        if fault == Some(Fault::Duplicate) {
            let call = self.inner.call(does, input, held, site, at);
            drop(self.probe.make(None, of, kind, call).await);
        }
        self.probe.after(fault, answer).await
    }
}
