//! Questions to the read side.

use std::any::type_name;
use std::time::Duration;

use super::App;
use crate::projection::{View, Views, tables_of};
use crate::query::{self, Gather, Query, QueryError};

impl App {
    /// One row of a keyed view.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if this app runs no view, or the row cannot be read.
    pub async fn view<V: View>(&self, key: &V::Key) -> Result<Option<V>, QueryError> {
        self.admit(type_name::<V>(), Some(&tables_of::<V>().stored_name())).await?;
        let views = self.services().get::<Views>();
        let views = views.map_err(|source| QueryError::Missing { query: type_name::<V>(), source })?;
        query::answered::<V, Views, _>(views.get(key)).await
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the handler failed or panicked, or nobody provided it.
    pub async fn query<Q: Query>(&self, query: Q) -> Result<Q::Answer, QueryError> {
        self.admit(type_name::<Q>(), self.0.queries.projection_of::<Q::Handler>()).await?;
        query::ask(self.services(), query).await
    }

    /// Asks every handler that has a method with `#[gather]` for this question, all at the same time. Their answers come
    /// in the order in which the handlers were given to the app. One that fails, panics or takes longer than `limit` has
    /// an error in its place, and holds up nobody. Without a handler there is no answer.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use es_core::prelude::*;
    /// use es_core::query::Gather;
    ///
    /// #[derive(Clone)]
    /// struct Quote { weight: u32 }
    ///
    /// impl Gather for Quote {
    ///     type Answer = u32;
    /// }
    ///
    /// struct Post;
    ///
    /// #[queries]
    /// impl Post {
    ///     #[gather]
    ///     async fn quote(&self, q: Quote) -> Result<u32, BoxError> {
    ///         Ok(q.weight * 3)
    ///     }
    /// }
    ///
    /// struct Courier;
    ///
    /// #[queries]
    /// impl Courier {
    ///     #[gather]
    ///     async fn quote(&self, q: Quote) -> Result<u32, BoxError> {
    ///         if q.weight > 20 { Err("too heavy".into()) } else { Ok(25) }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let app = App::on(es_core::memory::MemoryBackend::new()).queries(Post).queries(Courier).start().await?;
    /// let quotes = app.gather(Quote { weight: 10 }, Duration::from_secs(1)).await;
    /// assert_eq!(quotes.into_iter().flatten().min(), Some(25));
    /// let quotes = app.gather(Quote { weight: 30 }, Duration::from_secs(1)).await;
    /// assert!(matches!(quotes[..], [Ok(90), Err(_)]));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn gather<Q: Gather>(&self, query: Q, limit: Duration) -> Vec<Result<Q::Answer, QueryError>> {
        self.0.queries.gathering.ask(self.services(), query, limit).await
    }
}
