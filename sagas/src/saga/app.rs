//! Sagas in an app.

use std::any::type_name;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::{App, AppBuilder, Backend};

use super::builder::Saga;
use super::protocol::SagaProtocol;
use super::signal::SagaSignal;
use super::starter::{SagaKind, Starter, WithDeadline};
use super::step::SagaInput;
use crate::lock::{LockDesk, LockLooks, Locks};
use crate::overview;
use crate::transaction::{Destinations, Handle, Kind, Outcome, RunError, Runs};

/// `.saga(..)` on the builder of an app.
pub trait SagaApp<B: Backend>: Sized {
    /// A saga: its runs begin on any node, and are shared out among those that have this definition.
    #[must_use]
    fn saga<In: SagaInput>(self, saga: Saga<In, B::Tx>) -> Self;

    /// An older definition of a saga, for the runs that began with it. None begins with it any more.
    #[must_use]
    fn earlier_saga<In: SagaInput>(self, saga: Saga<In, B::Tx>) -> Self;
}

impl<B: Backend> SagaApp<B> for AppBuilder<B> {
    fn saga<In: SagaInput>(self, saga: Saga<In, B::Tx>) -> Self {
        add(self, &saga, |app, kind| app.provide(Starter::<In>(kind)))
    }

    fn earlier_saga<In: SagaInput>(self, saga: Saga<In, B::Tx>) -> Self {
        add(self, &saga, |app, _| app)
    }
}

fn add<B: Backend, In: SagaInput>(
    app: AppBuilder<B>,
    saga: &Saga<In, B::Tx>,
    also: impl FnOnce(AppBuilder<B>, Arc<dyn SagaKind<In>>) -> AppBuilder<B>,
) -> AppBuilder<B> {
    let (protocol, has_locks) = (SagaProtocol::new(saga), saga.has_locks());
    let wrong = protocol.wrong();
    let app = app.check(move |_| wrong);
    match Kind::new(app.backend().clone(), saga.name, saga.version, protocol) {
        Ok(kind) => {
            let app = match has_locks {
                true => {
                    let looks = LockLooks::new(app.backend().clone());
                    app.provide_once::<LockDesk>().engine(Arc::new(looks))
                }
                false => app,
            };
            let kind = Arc::new(WithDeadline { kind: Arc::new(kind), deadline: saga.deadline });
            let app = app.provide_once::<Destinations>().engine(kind.kind.clone());
            let runs = Runs::of(kind.kind.clone());
            also(overview::add(app, |sources| sources.add_runs(runs)), kind)
        }
        Err(error) => {
            let name = saga.name;
            app.check(move |_| vec![format!("saga {name}: {error}")])
        }
    }
}

/// On a running app.
#[async_trait]
pub trait Sagas {
    /// Starts a saga under a key, or finds the run that was started under it with the same input.
    ///
    /// The first steps that are [`Staged`](super::Staged) may run here, before it is known that the run begins: of two starts at
    /// the same time, the steps of one run in vain, and nothing of them stays.
    ///
    /// # Errors
    ///
    /// [`RunError`]: with [`ErrorKind::Transient`](es_core::ErrorKind::Transient) it may have been started, and can be asked
    /// for again.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was started: call it again with the same key and input.
    async fn start_saga<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError>;

    /// The same, and waits for its end.
    ///
    /// # Errors
    ///
    /// As [`start_saga`](Self::start_saga).
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for a saga that has started.
    async fn run_saga<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError>;

    /// Sends a run what a step of it waits for, from any node, and returns once the run has taken it. `id` is the sender's
    /// own name of it: what was taken under an id is not taken again, so it can be sent again under the same one.
    ///
    /// # Errors
    ///
    /// [`RunError::Unknown`]: there is no such run. [`RunError::Ended`]: it came too late. [`RunError::Declined`]: the run
    /// is being undone, or has what it waits for, or waits for nothing of this name; or something else was sent under this
    /// id, or it is larger than its part of [`Signals`](super::Signals). [`RunError::Store`] with
    /// [`ErrorKind::Transient`](es_core::ErrorKind::Transient), also if nobody takes it within 30 seconds, or the program
    /// that works on the run cannot read it: it may yet be taken, and can be sent again. [`RunError::By`]: the id is empty,
    /// or has more than 255 bytes. [`RunError::Input`]: it is larger than 256 KiB as JSON, or cannot be written as that.
    /// [`RunError::NotStarted`]; [`RunError::NotRegistered`].
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was sent: send it again under the same id.
    async fn signal_saga<S: SagaSignal>(&self, key: &str, id: &str, signal: &S) -> Result<(), RunError>;

    /// What an operator sees of the sagas with this input, and has done to them.
    ///
    /// # Errors
    ///
    /// [`RunError::NotRegistered`].
    fn saga_runs<In: SagaInput>(&self) -> Result<Runs, RunError>;

    /// What an operator sees of [locks](super::SagaLock): those of all sagas of the store.
    ///
    /// # Errors
    ///
    /// [`RunError::NoLocks`].
    fn saga_locks(&self) -> Result<Locks, RunError>;
}

fn starter<In: SagaInput>(app: &App) -> Result<&Starter<In>, RunError> {
    app.services().get().map_err(|_| RunError::NotRegistered { input: type_name::<In>() })
}

#[async_trait]
impl Sagas for App {
    async fn start_saga<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError> {
        starter::<In>(self)?.start(key, input).await
    }

    async fn run_saga<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError> {
        let handle = self.start_saga(key, &input).await?;
        drop(input);
        handle.outcome().await
    }

    async fn signal_saga<S: SagaSignal>(&self, key: &str, id: &str, signal: &S) -> Result<(), RunError> {
        starter::<S::Saga>(self)?.signal(key, id, signal).await
    }

    fn saga_runs<In: SagaInput>(&self) -> Result<Runs, RunError> {
        Ok(starter::<In>(self)?.0.runs().among(&overview::runs_of(self)))
    }

    fn saga_locks(&self) -> Result<Locks, RunError> {
        let handles = self.engines().iter().filter_map(|engine| engine.clone().handle());
        let locks = handles.filter_map(|handle| handle.downcast_ref::<Locks>().cloned()).next();
        locks.ok_or(RunError::NoLocks)
    }
}
