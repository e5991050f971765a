//! Scatter-gather: one question, the answers of several handlers.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use super::{QueryError, answered, missing_in};
use crate::BoxError;
use crate::services::{FromServices, Scope, Services};

/// A question to several handlers. Written by hand, beside the question: `impl Gather for Quote { type Answer = Price; }`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no question to several handlers",
    note = "write `impl Gather for {Self} {{ type Answer = ..; }}` beside it"
)]
pub trait Gather: Clone + Send + Sync + 'static {
    /// What each of them answers.
    type Answer: Send + 'static;
}

/// One handler of such a question. `#[queries]` writes this impl for each method with `#[gather]`.
pub trait Gathers<Q: Gather>: Send + Sync + 'static {
    /// What it asks for: `()` or a tuple of references to services.
    type Env<'e>: FromServices<'e>;
    /// Answers.
    fn answer<'a>(
        &'a self,
        query: Q,
        env: Self::Env<'a>,
    ) -> impl Future<Output = Result<Q::Answer, BoxError>> + Send;
}

/// What `H` asks for to answer `Q`, and nobody provided, a line each.
#[must_use]
pub fn missing_for_gather<Q: Gather, H: Gathers<Q>>(services: &Services) -> Vec<String> {
    missing_in::<Q, H::Env<'_>>(services)
}

/// The handlers of each question, in the order in which they were given to the app.
#[derive(Default)]
pub struct Gathering(HashMap<TypeId, Question>);

/// The handlers of one question: a `Vec<Member<Q>>`.
struct Question {
    name: &'static str,
    members: Box<dyn Any + Send + Sync>,
}

/// One of them: what calls it.
struct Member<Q: Gather> {
    handler: TypeId,
    ask: for<'a> fn(&'a Services, Q, Duration) -> BoxFuture<'a, Result<Q::Answer, QueryError>>,
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values().map(|question| question.name)).finish()
    }
}

impl Gathering {
    /// Adds `H` to the handlers of `Q`, once.
    pub fn add<Q: Gather, H: Gathers<Q>>(&mut self) {
        let empty = || Question { name: type_name::<Q>(), members: Box::new(Vec::<Member<Q>>::new()) };
        let question = self.0.entry(TypeId::of::<Q>()).or_insert_with(empty);
        let handler = TypeId::of::<H>();
        if let Some(members) = question.members.downcast_mut::<Vec<Member<Q>>>()
            && members.iter().all(|member| member.handler != handler)
        {
            members.push(Member { handler, ask: ask::<Q, H> });
        }
    }

    /// The answers of all handlers of `Q`, in their order.
    pub(crate) async fn ask<Q: Gather>(
        &self,
        services: &Services,
        query: Q,
        limit: Duration,
    ) -> Vec<Result<Q::Answer, QueryError>> {
        join_all(self.of::<Q>().iter().map(|member| (member.ask)(services, query.clone(), limit))).await
    }

    fn of<Q: Gather>(&self) -> &[Member<Q>] {
        let question = self.0.get(&TypeId::of::<Q>());
        question
            .and_then(|question| question.members.downcast_ref::<Vec<Member<Q>>>())
            .map_or(&[], Vec::as_slice)
    }
}

fn ask<Q: Gather, H: Gathers<Q>>(
    services: &Services,
    query: Q,
    limit: Duration,
) -> BoxFuture<'_, Result<Q::Answer, QueryError>> {
    let late = move || QueryError::TimedOut { query: type_name::<Q>(), handler: type_name::<H>(), limit };
    async move {
        let missing = |source| QueryError::Missing { query: type_name::<Q>(), source };
        let handler = services.get::<H>().map_err(missing)?;
        let env = FromServices::from_services(Scope::new(services)).map_err(missing)?;
        let answer = answered::<Q, H, _>(handler.answer(query, env));
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
    }
    .boxed()
}
