//! Queries: typed questions to the read side.
//!
//! | to have | write | ask |
//! | --- | --- | --- |
//! | one answer, of the one handler there is | a method in a `#[queries]` block | [`App::query`](crate::App::query) |
//! | an answer now, and another after each change | the same | [`App::watch`](crate::App::watch) |
//! | an answer that is too large for memory | a method that returns [`Rows`] | [`App::query`](crate::App::query) |
//! | the answers of many handlers | methods with `#[gather]`, and a [`Gather`] impl for the question | [`App::gather`](crate::App::gather) |

mod answers;
mod error;
mod gather;
mod rows;

use std::any::type_name;

pub use self::answers::Answers;
#[doc(hidden)]
pub use self::answers::{Answering, AnswersNothing};
pub use self::error::QueryError;
pub use self::gather::{Gather, Gathering, Gathers, missing_for_gather};
pub use self::rows::Rows;
use crate::BoxError;
use crate::guarded::caught;
use crate::services::{FromServices, Scope, Services};

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

/// Written by `#[queries]`: what an app has to know of a handler at start.
#[diagnostic::on_unimplemented(
    message = "`{Self}` answers no queries",
    note = "put `#[queries]` on an `impl {Self}` block, or write `impl Queries for {Self}`"
)]
pub trait Queries: Send + Sync + 'static {
    /// A line for each service that a query asks for and nobody provided.
    fn missing(services: &Services) -> Vec<String>;

    /// Adds the handler to those of each question that it answers beside others, see [`Gathers`]. Nothing by default.
    fn gather(to: &mut Gathering) {
        let _ = to;
    }
}

/// What the handler of `Q` asks for and nobody provided, a line each.
#[must_use]
pub fn missing_for<Q: Query>(services: &Services) -> Vec<String> {
    missing_in::<Q, <Q::Handler as Answer<Q>>::Env<'_>>(services)
}

fn missing_in<'s, Q, Env: FromServices<'s>>(services: &Services) -> Vec<String> {
    let mut missing = Vec::new();
    Env::missing(services, &mut missing);
    missing.into_iter().map(|m| format!("query {}: {m}", type_name::<Q>())).collect()
}

/// The answer of `H` to `Q`, or why there is none. A panic is an error of this query alone.
pub(crate) async fn answered<Q, H, A>(
    answer: impl Future<Output = Result<A, BoxError>>,
) -> Result<A, QueryError> {
    let (query, handler) = (type_name::<Q>(), type_name::<H>());
    match caught(answer).await {
        Ok(answer) => answer.map_err(|source| QueryError::Handler { query, handler, source }),
        Err(panic) => Err(QueryError::Panicked { query, handler, panic: panic.0 }),
    }
}

/// Asks the handler of a query, which is among the services.
///
/// # Errors
///
/// [`QueryError`] if the handler failed or panicked, or nobody provided it.
pub(crate) async fn ask<Q: Query>(services: &Services, query: Q) -> Result<Q::Answer, QueryError> {
    let missing = |source| QueryError::Missing { query: type_name::<Q>(), source };
    let handler = services.get::<Q::Handler>().map_err(missing)?;
    let env = FromServices::from_services(Scope::new(services)).map_err(missing)?;
    answered::<Q, Q::Handler, _>(handler.answer(query, env)).await
}
