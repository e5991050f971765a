//! TCCs in an app.

use std::any::type_name;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::{App, AppBuilder, Backend};

use super::builder::TccTransaction;
use super::protocol::TccProtocol;
use crate::overview;
use crate::saga::{SagaInput, SagaKind, Starter, WithDeadline};
use crate::transaction::{Destinations, Handle, Kind, Outcome, RunError, Runs};

/// `.tcc(..)` on the builder of an app.
pub trait TccApp<B: Backend>: Sized {
    /// A TCC: its runs begin on any node, and are shared out among those that have this definition.
    #[must_use]
    fn tcc<In: SagaInput>(self, tcc: TccTransaction<In, B::Tx>) -> Self;

    /// An older definition of a TCC, for the runs that began with it. None begins with it any more.
    #[must_use]
    fn earlier_tcc<In: SagaInput>(self, tcc: TccTransaction<In, B::Tx>) -> Self;
}

impl<B: Backend> TccApp<B> for AppBuilder<B> {
    fn tcc<In: SagaInput>(self, tcc: TccTransaction<In, B::Tx>) -> Self {
        add(self, &tcc, |app, kind| app.provide(TccStarter::<In>(Starter(kind))))
    }

    fn earlier_tcc<In: SagaInput>(self, tcc: TccTransaction<In, B::Tx>) -> Self {
        add(self, &tcc, |app, _| app)
    }
}

fn add<B: Backend, In: SagaInput>(
    app: AppBuilder<B>,
    tcc: &TccTransaction<In, B::Tx>,
    also: impl FnOnce(AppBuilder<B>, Arc<dyn SagaKind<In>>) -> AppBuilder<B>,
) -> AppBuilder<B> {
    let protocol = TccProtocol::new(tcc);
    let wrong = protocol.wrong();
    let app = app.check(move |_| wrong);
    match Kind::new(app.backend().clone(), &tcc.kind, tcc.version, protocol) {
        Ok(kind) => {
            let kind = Arc::new(WithDeadline { kind: Arc::new(kind), deadline: tcc.deadline });
            let app = app.provide_once::<Destinations>().engine(kind.kind.clone());
            let runs = Runs::of(kind.kind.clone());
            also(overview::add(app, |sources| sources.add_runs(runs)), kind)
        }
        Err(error) => {
            let kind = tcc.kind.clone();
            app.check(move |_| vec![format!("{kind}: {error}")])
        }
    }
}

/// Starts the TCC with this input. It is among the services of the app: a handler asks for `&TccStarter<Transfer>`. It starts
/// one as a [`Starter`] starts a saga: now, with a command's decision, or within a transaction.
pub struct TccStarter<In>(Starter<In>);

impl<In> fmt::Debug for TccStarter<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TccStarter").finish_non_exhaustive()
    }
}

impl<In> Deref for TccStarter<In> {
    type Target = Starter<In>;

    fn deref(&self) -> &Starter<In> {
        &self.0
    }
}

/// On a running app. Of all transactions, whatever their pattern: [`overview`](crate::overview).
#[async_trait]
pub trait Tccs {
    /// Starts a TCC under a key, or finds the run that was started under it with the same input.
    ///
    /// # Errors
    ///
    /// [`RunError`]: with [`ErrorKind::Transient`](es_core::ErrorKind::Transient) it may have been started, and can be asked
    /// for again.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was started: call it again with the same key and input.
    async fn start_tcc<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError>;

    /// The same, and waits for its end: [`Outcome::Completed`] if every branch is confirmed.
    ///
    /// # Errors
    ///
    /// As [`start_tcc`](Self::start_tcc).
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for a TCC that has started.
    async fn run_tcc<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError>;

    /// What an operator sees of the TCCs with this input, and has done to them. Of the verbs it knows `Cancel`, until it is
    /// decided; `Retry`; `Resolve`, which takes a branch for reserved, or for confirmed once it was decided to confirm;
    /// `Skip`, which takes one for cancelled; and `Abandon`.
    ///
    /// # Errors
    ///
    /// [`RunError::NoTcc`].
    fn tcc_runs<In: SagaInput>(&self) -> Result<Runs, RunError>;
}

fn starter<In: SagaInput>(app: &App) -> Result<&TccStarter<In>, RunError> {
    app.services().get().map_err(|_| RunError::NoTcc { input: type_name::<In>() })
}

#[async_trait]
impl Tccs for App {
    async fn start_tcc<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError> {
        starter::<In>(self)?.start(key, input).await
    }

    async fn run_tcc<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError> {
        let handle = self.start_tcc(key, &input).await?;
        drop(input);
        handle.outcome().await
    }

    fn tcc_runs<In: SagaInput>(&self) -> Result<Runs, RunError> {
        Ok(starter::<In>(self)?.0.0.runs().among(&overview::runs_of(self)))
    }
}
