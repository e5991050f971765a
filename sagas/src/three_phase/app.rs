//! Three-phase commits in an app.

use std::any::type_name;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::{App, AppBuilder, Backend};

use super::builder::ThreePhaseTransaction;
use super::decisions::Rows;
use super::protocol::ThreePhaseProtocol;
use crate::overview;
use crate::saga::{SagaInput, SagaKind, Starter, WithDeadline};
use crate::transaction::{Destinations, Handle, Kind, Outcome, RunError, Runs};

/// `.three_phase(..)` on the builder of an app.
pub trait ThreePhaseApp: Sized {
    /// A three-phase commit: its runs begin on any node, and are shared out among those that have this definition. A
    /// coordinator that dies is followed by another node.
    #[must_use]
    fn three_phase<In: SagaInput>(self, transaction: ThreePhaseTransaction<In>) -> Self;

    /// An older definition, for the runs that began with it. None begins with it any more.
    #[must_use]
    fn earlier_three_phase<In: SagaInput>(self, transaction: ThreePhaseTransaction<In>) -> Self;
}

impl<B: Backend> ThreePhaseApp for AppBuilder<B> {
    fn three_phase<In: SagaInput>(self, transaction: ThreePhaseTransaction<In>) -> Self {
        add(self, &transaction, |app, kind| app.provide(ThreePhaseStarter::<In>(Starter(kind))))
    }

    fn earlier_three_phase<In: SagaInput>(self, transaction: ThreePhaseTransaction<In>) -> Self {
        add(self, &transaction, |app, _| app)
    }
}

fn add<B: Backend, In: SagaInput>(
    app: AppBuilder<B>,
    transaction: &ThreePhaseTransaction<In>,
    also: impl FnOnce(AppBuilder<B>, Arc<dyn SagaKind<In>>) -> AppBuilder<B>,
) -> AppBuilder<B> {
    let (name, version, deadline) = (&transaction.kind, transaction.version, transaction.deadline);
    let backend = app.backend().clone();
    let made = Rows::new().and_then(|rows| {
        let protocol = ThreePhaseProtocol::new(transaction, backend.clone(), rows);
        let wrong = protocol.wrong();
        Ok((Kind::new(backend, name, version, protocol)?, wrong))
    });
    match made {
        Ok((kind, wrong)) => {
            let kind = Arc::new(WithDeadline { kind: Arc::new(kind), deadline });
            let app = app.check(move |_| wrong);
            let app = app.provide_once::<Destinations>().engine(kind.kind.clone());
            let runs = Runs::of(kind.kind.clone());
            also(overview::add(app, |sources| sources.add_runs(runs)), kind)
        }
        Err(error) => {
            let kind = name.clone();
            app.check(move |_| vec![format!("{kind}: {error}")])
        }
    }
}

/// Starts the three-phase commit with this input. It is among the services of the app: a handler asks for
/// `&ThreePhaseStarter<Transfer>`. It starts one as a [`Starter`] starts a saga: now, with a command's decision, or within a
/// transaction.
pub struct ThreePhaseStarter<In>(Starter<In>);

impl<In> fmt::Debug for ThreePhaseStarter<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreePhaseStarter").finish_non_exhaustive()
    }
}

impl<In> Deref for ThreePhaseStarter<In> {
    type Target = Starter<In>;

    fn deref(&self) -> &Starter<In> {
        &self.0
    }
}

/// On a running app. Of all transactions, whatever their pattern: [`overview`](crate::overview).
#[async_trait]
pub trait ThreePhases {
    /// Starts one under a key, or finds the run that was started under it with the same input.
    ///
    /// # Errors
    ///
    /// [`RunError`]: with [`ErrorKind::Transient`](es_core::ErrorKind::Transient) it may have been started, and can be asked
    /// for again.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was started: call it again with the same key and input.
    async fn start_three_phase<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError>;

    /// The same, and waits for its end: [`Outcome::Completed`] if every participant has committed.
    ///
    /// # Errors
    ///
    /// As [`start_three_phase`](Self::start_three_phase).
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for one that has started.
    async fn run_three_phase<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError>;

    /// What an operator sees of those with this input, and has done to them. Of the verbs it knows `Cancel`, until it is
    /// decided: it then asks for the decision to abort, and goes by the one that stands; `Retry`; `Resolve`, which takes a
    /// participant for committed once it was decided to commit; `Skip`, which takes one for aborted once it was decided to
    /// abort; and `Abandon`, after which participants that are in doubt decide among themselves. An abandoned run has ended:
    /// [`guards_needed_since`](Runs::guards_needed_since) knows nothing of participants that are in doubt still. Whoever forgets
    /// a guard row of theirs leaves them with what they hold, for good: see to it before that all of them have ended it.
    ///
    /// # Errors
    ///
    /// [`RunError::NoThreePhase`].
    fn three_phase_runs<In: SagaInput>(&self) -> Result<Runs, RunError>;
}

fn starter<In: SagaInput>(app: &App) -> Result<&ThreePhaseStarter<In>, RunError> {
    app.services().get().map_err(|_| RunError::NoThreePhase { input: type_name::<In>() })
}

#[async_trait]
impl ThreePhases for App {
    async fn start_three_phase<In: SagaInput>(&self, key: &str, input: &In) -> Result<Handle, RunError> {
        starter::<In>(self)?.start(key, input).await
    }

    async fn run_three_phase<In: SagaInput>(&self, key: &str, input: In) -> Result<Outcome, RunError> {
        let handle = self.start_three_phase(key, &input).await?;
        drop(input);
        handle.outcome().await
    }

    fn three_phase_runs<In: SagaInput>(&self) -> Result<Runs, RunError> {
        Ok(starter::<In>(self)?.0.0.runs().among(&overview::runs_of(self)))
    }
}
