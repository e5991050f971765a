//! Why there is no answer.

use std::time::Duration;

use crate::services::MissingService;
use crate::store::StoreError;
use crate::{BoxError, ErrorKind};

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
    #[error("query {query} failed in {handler}")]
    Handler {
        /// The query's type.
        query: &'static str,
        /// The type that answers it.
        handler: &'static str,
        /// What it said.
        #[source]
        source: BoxError,
    },
    /// The handler panicked: mend it.
    #[error("query {query} panicked in {handler}: {panic}")]
    Panicked {
        /// The query's type.
        query: &'static str,
        /// The type that answers it.
        handler: &'static str,
        /// The text of the panic.
        panic: String,
    },
    /// What it is about is not [ready](crate::App::ready), and the app was told not to answer then
    /// ([`BeforeReady`](crate::BeforeReady)): ask again later.
    #[error("query {query} has no answer yet: {what}")]
    NotReady {
        /// The query's type.
        query: &'static str,
        /// What is not ready, and why.
        what: String,
    },
    /// The handler took longer than a [gathering](crate::App::gather) waits.
    #[error("query {query} was not answered by {handler} within {limit:?}")]
    TimedOut {
        /// The query's type.
        query: &'static str,
        /// The type that answers it.
        handler: &'static str,
        /// How long it had.
        limit: Duration,
    },
}

impl QueryError {
    /// What the caller can do: fix the wiring, or look at the handler's own error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Panicked { .. } => ErrorKind::Misuse,
            Self::TimedOut { .. } | Self::NotReady { .. } => ErrorKind::Transient,
            Self::Handler { source, .. } => {
                source.downcast_ref::<StoreError>().map_or(ErrorKind::Transient, StoreError::kind)
            }
        }
    }
}
