//! What starts a saga: for code that is given it, and within commits of others.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::{RowWrite, StoreError, Transaction};
use es_core::{Backend, BoxError, Context};
use uuid::Uuid;

use super::signal::SagaSignal;
use super::step::SagaInput;
use crate::data::Data;
use crate::transaction::{Acts, AnyKind, Handle, Kin, Kind, Parent, RunError, Runs};

/// Starts the saga with this input. It is among the services of the app: a handler asks for `&Starter<PlaceOrder>`.
pub struct Starter<In>(pub(crate) Arc<dyn SagaKind<In>>);

impl<In> fmt::Debug for Starter<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starter").finish_non_exhaustive()
    }
}

impl<In: SagaInput> Starter<In> {
    /// Starts it now, in a commit of its own: as [`Sagas::start_saga`](super::Sagas::start_saga).
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn start(&self, key: &str, input: &In) -> Result<Handle, RunError> {
        self.0.begin(key, input).await
    }

    /// Sends a run what a step of it waits for: as [`Sagas::signal_saga`](super::Sagas::signal_saga).
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn signal<S: SagaSignal<Saga = In>>(
        &self,
        key: &str,
        id: &str,
        signal: &S,
    ) -> Result<(), RunError> {
        let runs = self.0.runs();
        let unfit = |why: BoxError| RunError::Input { kind: runs.name().to_owned(), why: why.to_string() };
        let value = Data::of(signal).map_err(unfit)?;
        runs.0.signal(key, S::NAME, id, value).await
    }

    /// Starts it in the commit of a command's decision: both are stored, or neither is. If the command is refused, or is the
    /// repetition of one that was decided, nothing starts; a handler that decides again starts it again.
    ///
    /// ```
    /// # use sagas::es_core::{Context, Failure};
    /// # use sagas::saga::{SagaInput, Starter};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct PlaceOrder { item: String }
    /// # impl SagaInput for PlaceOrder {}
    /// # struct Placed;
    /// # async fn place(item: String, ctx: &Context, orders: &Starter<PlaceOrder>) -> Result<Placed, Failure<std::fmt::Error>> {
    /// let key = ctx.stream().to_string();
    /// orders.with(ctx, &key, &PlaceOrder { item }).await.map_err(Failure::service)?;
    /// Ok(Placed)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn with(&self, context: &Context, key: &str, input: &In) -> Result<Handle, RunError> {
        let (handle, rows) = self.0.stage(&context.rows(), key, input).await?;
        context.also(rows);
        Ok(handle)
    }

    /// Starts it in the caller's own transaction, of the database that the app runs on. If that stays open for more than some
    /// seconds after this, the run may be taken up as late as a minute after the commit.
    ///
    /// # Errors
    ///
    /// [`RunError`]. If another one is started under the key before the transaction commits, the commit is refused: whoever
    /// tries again finds that one here.
    pub async fn within<T: Transaction>(
        &self,
        tx: &mut T,
        key: &str,
        input: &In,
    ) -> Result<Handle, RunError> {
        if tx.identity() != self.0.identity() {
            let what =
                "the transaction belongs to another store than the app; take it from the app's backend";
            return Err(StoreError::misuse(what).into());
        }
        let (handle, rows) = self.0.stage(&tx.staged().rows, key, input).await?;
        tx.staged().rows.extend(rows);
        Ok(handle)
    }
}

/// A saga, whatever the backend.
#[async_trait]
pub(crate) trait SagaKind<In>: Send + Sync {
    async fn begin(&self, key: &str, input: &In) -> Result<Handle, RunError>;

    /// The rows of a start, for a commit that has these already.
    async fn stage(
        &self,
        beside: &[RowWrite],
        key: &str,
        input: &In,
    ) -> Result<(Handle, Vec<RowWrite>), RunError>;

    /// A run that is a step of another one, and its rows.
    async fn stage_child(
        &self,
        parent: Parent,
        key: &str,
        input: &In,
    ) -> Result<(Kin, Vec<RowWrite>), RunError>;

    fn name(&self) -> &str;

    /// Whether a step of it is that saga, or leads to it.
    fn leads_to(&self, saga: &str, services: &Services, seen: &mut BTreeSet<String>) -> bool;

    fn has_pivot(&self) -> bool;

    fn has_step(&self, step: &str) -> bool;

    fn identity(&self) -> Uuid;

    fn runs(&self) -> Runs;
}

pub(crate) struct WithDeadline<B: Backend, P: Acts<B>> {
    pub(crate) kind: Arc<Kind<B, P>>,
    pub(crate) deadline: Option<Duration>,
}

impl<B: Backend, P: Acts<B>> WithDeadline<B, P> {
    fn data<In: SagaInput>(&self, input: &In) -> Result<Data, RunError> {
        let kind = || self.kind.name.to_string();
        Data::of(input).map_err(|error| RunError::Input { kind: kind(), why: error.to_string() })
    }
}

#[async_trait]
impl<B: Backend, P: Acts<B>, In: SagaInput> SagaKind<In> for WithDeadline<B, P> {
    async fn begin(&self, key: &str, input: &In) -> Result<Handle, RunError> {
        self.kind.start(key, self.data(input)?, self.deadline).await
    }

    async fn stage(
        &self,
        beside: &[RowWrite],
        key: &str,
        input: &In,
    ) -> Result<(Handle, Vec<RowWrite>), RunError> {
        self.kind.stage(beside, key, &self.data(input)?, self.deadline).await
    }

    async fn stage_child(
        &self,
        parent: Parent,
        key: &str,
        input: &In,
    ) -> Result<(Kin, Vec<RowWrite>), RunError> {
        self.kind.stage_child(parent, key, &self.data(input)?, self.deadline).await
    }

    fn name(&self) -> &str {
        &self.kind.name
    }

    fn leads_to(&self, saga: &str, services: &Services, seen: &mut BTreeSet<String>) -> bool {
        self.kind.protocol.leads_to(saga, services, seen)
    }

    fn has_pivot(&self) -> bool {
        self.kind.protocol.has_pivot()
    }

    fn has_step(&self, step: &str) -> bool {
        let protocol = &self.kind.protocol;
        protocol.show(&protocol.begin()).iter().any(|own| own.name == step)
    }

    fn identity(&self) -> Uuid {
        self.kind.backend.identity()
    }

    fn runs(&self) -> Runs {
        let kind: Arc<dyn AnyKind> = self.kind.clone();
        Runs::of(kind)
    }
}
