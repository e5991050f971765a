//! What queries read through.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Error, Execute, Executor, PgPool, Postgres, SqlStr};

use crate::error;

/// Connections that read. A query of the app asks for `&Db` and hands it to sqlx:
/// `sqlx::query(..).fetch_all(db)`.
///
/// Every statement sees everything that was committed before it began, and the tables of the projections' current
/// generations: of the app's own versions, and for other projections of the version that has the plain names. Their
/// schemas come first in the search path of each connection that is taken. So a table of your own is made with its
/// schema before its name, or elsewhere.
#[derive(Clone, Debug)]
pub struct Db {
    pool: PgPool,
    stale: Stale,
}

/// When a statement last met a table that had changed under its plan: a connection keeps such plans for good, so those
/// that are older are closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stale(Arc<Mutex<Option<Instant>>>);

impl Stale {
    pub(crate) fn note(&self, error: &Error) {
        if error::code(error) == Some(error::STALE_PLAN) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Whether a connection of this age may have such plans.
    pub(crate) fn has_met(&self, age: Duration) -> bool {
        let met = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        met.is_some_and(|met| met.elapsed() <= age)
    }
}

impl Db {
    pub(crate) const fn new(pool: PgPool, stale: Stale) -> Self {
        Self { pool, stale }
    }

    /// The pool itself, for what needs a connection of its own. What is current when a connection is taken stays so as
    /// long as it is kept.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl<'c> Executor<'c> for &'c Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let stale = self.stale.clone();
        self.pool.fetch_many(query).inspect_err(move |e| stale.note(e)).boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        Box::pin(self.pool.fetch_optional(query).inspect_err(|e| self.stale.note(e)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
