//! Queries: typed questions to the read side.
//!
//! Point-to-point: each query type names the one handler that answers it.

use crate::codec::DecodeError;
use crate::command::{FromServices, MissingService, Scope, Services};
use crate::projection::{View, Views};
use crate::store::StoreError;
use crate::{App, BoxError, ErrorKind};

/// A question. `#[queries]` writes this impl beside the handler, so one without does not compile.
#[diagnostic::on_unimplemented(
    message = "nothing answers `{Self}`",
    label = "this is not a query",
    note = "add a method that takes `{Self}` to a `#[queries]` block"
)]
pub trait Query: Send + Sync + 'static {
    /// What is answered.
    type Answer: Send + 'static;
    /// Who answers.
    type Handler: Answer<Self>;
}

/// One answer. `#[queries]` writes an impl per method.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer `{Q}`",
    note = "add `async fn name(&self, q: {Q}, ..) -> Result<.., ..>` to its `#[queries]` block"
)]
pub trait Answer<Q: Query + ?Sized>: Send + Sync + 'static {
    /// What it asks for: `()` or a tuple of references to services.
    type Env<'e>: FromServices<'e>;
    /// Answers.
    fn answer<'a>(
        &'a self,
        query: Q,
        env: Self::Env<'a>,
    ) -> impl Future<Output = Result<Q::Answer, BoxError>> + Send;
}

/// Written by `#[queries]`: lets `.queries(handler)` check at start what the methods ask for.
#[diagnostic::on_unimplemented(
    message = "`{Self}` answers no queries",
    note = "put `#[queries]` on an `impl {Self}` block, or write `impl Queries for {Self}`"
)]
pub trait Queries: Send + Sync + 'static {
    /// A line for each service that a query asks for and nobody provided.
    fn missing(services: &Services) -> Vec<String>;
}

/// What the handler of `Q` asks for and nobody provided, a line each.
#[must_use]
pub fn missing_for<Q: Query>(services: &Services) -> Vec<String> {
    let mut missing = Vec::new();
    <<Q::Handler as Answer<Q>>::Env<'_>>::missing(services, &mut missing);
    missing.into_iter().map(|m| format!("query {}: {m}", std::any::type_name::<Q>())).collect()
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Its handler, or something it asks for, was not provided: fix the wiring.
    #[error("query {query} has no answer")]
    Missing {
        /// The query's type.
        query: &'static str,
        /// What is missing.
        #[source]
        source: MissingService,
    },
    /// The handler failed.
    #[error("query {query} failed")]
    Handler {
        /// The query's type.
        query: &'static str,
        /// What it said.
        #[source]
        source: BoxError,
    },
}

/// A read of one aggregate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The id cannot be stored.
    #[error(transparent)]
    Limit(#[from] crate::limits::LimitError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// `apply` panicked: mend it, the events are as they are.
    #[error("`apply` of {aggregate} panicked: {panic}")]
    Panicked {
        /// The aggregate.
        aggregate: &'static str,
        /// The text of the panic.
        panic: String,
    },
}

impl QueryError {
    /// What the caller can do: fix the wiring, or look at the handler's own error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Misuse,
            Self::Handler { source, .. } => {
                source.downcast_ref::<StoreError>().map_or(ErrorKind::Transient, StoreError::kind)
            }
        }
    }
}

impl LoadError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Limit(_) | Self::Panicked { .. } => ErrorKind::Misuse,
            Self::Store(e) => e.kind(),
            Self::Decode(_) => ErrorKind::Corrupt,
        }
    }
}

impl App {
    /// One row of a keyed view.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if this app runs no view, or the row cannot be read.
    pub async fn view<V: View>(&self, key: &V::Key) -> Result<Option<V>, QueryError> {
        let name = std::any::type_name::<V>();
        let views = self.services().get::<Views>();
        let views = views.map_err(|source| QueryError::Missing { query: name, source })?;
        views.get(key).await.map_err(|source| QueryError::Handler { query: name, source })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the handler failed, or nobody provided it.
    pub async fn query<Q: Query>(&self, query: Q) -> Result<Q::Answer, QueryError> {
        let name = std::any::type_name::<Q>();
        let missing = |source| QueryError::Missing { query: name, source };
        let handler = self.services().get::<Q::Handler>().map_err(missing)?;
        let env = FromServices::from_services(Scope::new(self.services())).map_err(missing)?;
        handler.answer(query, env).await.map_err(|source| QueryError::Handler { query: name, source })
    }
}
