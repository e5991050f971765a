//! What queries read through.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Error, Execute, Executor, PgPool, Postgres, SqlStr};

use crate::address::Address;
use crate::readers::Patience;
use crate::{PgOptions, connect, error};

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
    limits: Limits,
}

/// How long a query waits, and for whom.
#[derive(Clone)]
pub(crate) struct Limits {
    /// For a connection.
    wait: Duration,
    /// For the answer, or the next part of it.
    patience: Patience,
    /// Where connections lead to.
    address: Address,
}

/// Without the address: it shows the password.
impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wait, patience, address: _ } = self;
        f.debug_struct("Limits").field("wait", wait).field("patience", patience).finish_non_exhaustive()
    }
}

impl Limits {
    pub(crate) fn of(options: &PgOptions) -> Self {
        // Beside zero, which is no limit, it is none.
        let wait = if options.statement_timeout.is_zero() { Duration::ZERO } else { options.query_wait };
        let patience = Patience::beside(options.statement_timeout.saturating_add(wait));
        Self { wait: options.query_wait, patience, address: options.connect.clone() }
    }

    /// Says where no connection was to be had.
    fn explain(&self, error: Error) -> Error {
        let (wait, place) = (self.wait, connect::place(&self.address.driver()));
        match error {
            Error::PoolTimedOut => {}
            Error::Io(source) => return connect::lost(&place, source),
            error => return error,
        }
        let what = format!(
            "no connection to {place} within {wait:?}: all are in use, or the server does not answer"
        );
        Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
    }
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
    pub(crate) const fn new(pool: PgPool, stale: Stale, limits: Limits) -> Self {
        Self { pool, stale, limits }
    }

    fn met(&self, error: Error) -> Error {
        self.stale.note(&error);
        self.limits.explain(error)
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
        let (patience, rows) = (self.limits.patience, self.pool.fetch_many(query));
        let next = move |rows: Option<BoxStream<'e, Result<_, _>>>| async move {
            let mut rows = rows?;
            match patience.within(rows.try_next()).await {
                Ok(row) => row.map(|row| (Ok(row), Some(rows))),
                Err(error) => Some((Err(self.met(error)), None)),
            }
        };
        futures::stream::unfold(Some(rows), next).boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let row = self.limits.patience.within(self.pool.fetch_optional(query));
        Box::pin(row.map_err(|error| self.met(error)))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(self.pool.prepare_with(sql, parameters).map_err(|error| self.met(error)))
    }
}
