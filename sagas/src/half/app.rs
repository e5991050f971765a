//! Half messages in an app.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::guard::{GuardError, GuardKey};
use es_core::store::Transaction;
use es_core::{App, AppBuilder, Backend, BoxError, Context, chain};

use super::caller::Half;
use super::definition::{BY_CALLER, BY_ENGINE, HalfMessages};
use super::erased::named;
use super::local::ByCaller;
use super::message::{HalfMessage, Prepared};
use super::protocol::HalfProtocol;
use crate::data::Data;
use crate::overview;
use crate::saga::{SagaInput, SagaKind, Starter, WithDeadline};
use crate::transaction::{Handle, Kind, Outcome, RunError, Runs};

/// `.half_messages(..)` on the builder of an app.
pub trait HalfApp<B: Backend>: Sized {
    /// Half messages with this input: they begin on any node, and are shared out among those that have this definition.
    #[must_use]
    fn half_messages<In: SagaInput>(self, of: HalfMessages<In>) -> Self;

    /// An older definition, for the half messages that began with it. None begins with it any more.
    #[must_use]
    fn earlier_half_messages<In: SagaInput>(self, of: HalfMessages<In>) -> Self;
}

impl<B: Backend> HalfApp<B> for AppBuilder<B> {
    fn half_messages<In: SagaInput>(self, of: HalfMessages<In>) -> Self {
        let run_by = of.run_by();
        add(self, &of, |app, kind| app.provide(HalfStarter::<In> { starter: Starter(kind), run_by }))
    }

    fn earlier_half_messages<In: SagaInput>(self, of: HalfMessages<In>) -> Self {
        add(self, &of, |app, _| app)
    }
}

fn add<B: Backend, In: SagaInput>(
    app: AppBuilder<B>,
    of: &HalfMessages<In>,
    also: impl FnOnce(AppBuilder<B>, Arc<dyn SagaKind<Prepared<In>>>) -> AppBuilder<B>,
) -> AppBuilder<B> {
    let protocol = HalfProtocol::new(of);
    let wrong = protocol.wrong();
    let app = app.check(move |_| wrong);
    match Kind::new(app.backend().clone(), &of.kind, of.version, protocol) {
        Ok(kind) => {
            let kind = Arc::new(WithDeadline { kind: Arc::new(kind), deadline: None });
            let (app, runs) = (app.engine(kind.kind.clone()), Runs::of(kind.kind.clone()));
            also(overview::add(app, |sources| sources.add_runs(runs)), kind)
        }
        Err(error) => {
            let kind = of.kind.clone();
            app.check(move |_| vec![format!("{kind}: {error}")])
        }
    }
}

/// Starts half messages with this input. It is among the services of the app: a handler asks for `&HalfStarter<Pay>`.
pub struct HalfStarter<In> {
    starter: Starter<Prepared<In>>,
    run_by: &'static str,
}

impl<In> fmt::Debug for HalfStarter<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfStarter").finish_non_exhaustive()
    }
}

impl<In: SagaInput> HalfStarter<In> {
    /// Starts it now: as [`Halves::send_in_transaction`].
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn start(&self, key: &str, message: HalfMessage, input: In) -> Result<Handle, RunError> {
        let starter = self.of(BY_ENGINE)?;
        starter.start(key, &prepared(starter, message, input)?).await
    }

    /// Starts it in the commit of a command's decision, as [`Starter::with`] starts a saga.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn with(
        &self,
        context: &Context,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Handle, RunError> {
        let starter = self.of(BY_ENGINE)?;
        starter.with(context, key, &prepared(starter, message, input)?).await
    }

    /// Starts it in the caller's own transaction, of the database that the app runs on, as [`Starter::within`] starts a saga.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn within<T: Transaction>(
        &self,
        tx: &mut T,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Handle, RunError> {
        let starter = self.of(BY_ENGINE)?;
        starter.within(tx, key, &prepared(starter, message, input)?).await
    }

    /// Those whose local transaction is run by this one.
    fn of(&self, run_by: &'static str) -> Result<&Starter<Prepared<In>>, RunError> {
        if self.run_by == run_by { Ok(&self.starter) } else { Err(none::<In>(run_by)) }
    }
}

/// What a run begins with, if its message can be sent.
fn prepared<In: SagaInput>(
    starter: &Starter<Prepared<In>>,
    message: HalfMessage,
    input: In,
) -> Result<Prepared<In>, RunError> {
    let unfit =
        |why: BoxError| RunError::Input { kind: starter.0.runs().name().to_owned(), why: chain(&*why) };
    message.fits().map_err(unfit)?;
    Ok(Prepared { message, input })
}

fn none<In>(run_by: &'static str) -> RunError {
    RunError::NoHalf { input: type_name::<In>(), run_by }
}

/// On a running app. Of all transactions, whatever their pattern: [`overview`](crate::overview).
#[async_trait]
pub trait Halves {
    /// Prepares a message under a key, and has its local transaction run by the engine; or finds the one that was prepared under
    /// that key with the same message and input.
    ///
    /// # Errors
    ///
    /// [`RunError`]: with [`ErrorKind::Transient`](es_core::ErrorKind::Transient) it may have been prepared, and can be asked for
    /// again; [`RunError::Input`] if no log would take the message.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it was prepared: call it again with the same key, message and input.
    async fn send_in_transaction<In: SagaInput>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Handle, RunError>;

    /// The same, and waits for its end: [`Outcome::Completed`] if the local transaction has committed, and the message stands in
    /// the log.
    ///
    /// # Errors
    ///
    /// As [`send_in_transaction`](Self::send_in_transaction).
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for a message that was prepared.
    async fn run_in_transaction<In: SagaInput>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Outcome, RunError>;

    /// Prepares a message under a key, and leaves its local transaction to the caller; or finds the one that was prepared under
    /// that key with the same message and input.
    ///
    /// # Errors
    ///
    /// As [`send_in_transaction`](Self::send_in_transaction).
    ///
    /// # Cancellation
    ///
    /// As [`send_in_transaction`](Self::send_in_transaction). One that is prepared and never begun is rolled back by a check.
    async fn send_half<In: ByCaller>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Half<In::Database>, RunError>;

    /// What an operator sees of the half messages with this input, and has done to them. Of the verbs it knows `Retry`, which
    /// checks now; once one is parked `Resolve` and `Skip` of its step `local`, which take its local transaction for committed or
    /// for rolled back, and `Resolve` of its step `message`, which takes that for sent; and `Abandon`.
    ///
    /// # Errors
    ///
    /// [`RunError::NoHalf`].
    fn half_runs<In: SagaInput>(&self) -> Result<Runs, RunError>;
}

fn starter<'a, In: SagaInput>(app: &'a App, run_by: &'static str) -> Result<&'a HalfStarter<In>, RunError> {
    app.services().get().map_err(|_| none::<In>(run_by))
}

#[async_trait]
impl Halves for App {
    async fn send_in_transaction<In: SagaInput>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Handle, RunError> {
        starter::<In>(self, BY_ENGINE)?.start(key, message, input).await
    }

    async fn run_in_transaction<In: SagaInput>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Outcome, RunError> {
        self.send_in_transaction(key, message, input).await?.outcome().await
    }

    async fn send_half<In: ByCaller>(
        &self,
        key: &str,
        message: HalfMessage,
        input: In,
    ) -> Result<Half<In::Database>, RunError> {
        let starter = starter::<In>(self, BY_CALLER)?.of(BY_CALLER)?;
        let (prepared, runs) = (prepared(starter, message, input)?, starter.0.runs());
        let unfit = |why: String| RunError::Input { kind: runs.name().to_owned(), why };
        let data = Data::of(&prepared).map_err(|error: BoxError| unfit(error.to_string()))?;
        let handle = starter.start(key, &prepared).await?;
        // Whoever asks again may write the same in another order.
        let before = match handle.was_started_before() {
            true => runs.0.begun_with(handle.run()).await?,
            false => None,
        };
        let data = before.unwrap_or(data);
        let (name, fingerprint) = named(runs.name(), &data);
        let key = GuardKey::new(handle.run(), name).map_err(|error: GuardError| unfit(error.to_string()))?;
        let services = runs.0.services().ok_or(RunError::NotStarted)?;
        Ok(Half { handle, key, fingerprint, runs, services, database: PhantomData })
    }

    fn half_runs<In: SagaInput>(&self) -> Result<Runs, RunError> {
        Ok(starter::<In>(self, BY_ENGINE)?.starter.0.runs().among(&overview::runs_of(self)))
    }
}
