//! Connections that the store reads with.
//!
//! Not the driver's pool: that one asks the server after each use whether the connection is alive, which costs a read
//! a second round trip. Here, a connection whose statement failed or was dropped half way is thrown away, so none is
//! ever handed on in a state that nobody knows.

use std::sync::{Mutex, PoisonError};

use es_core::store::StoreError;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, PgConnection, Postgres};
use tokio::sync::Semaphore;

use crate::error;

pub(crate) type PgQuery = Query<'static, Postgres, PgArguments>;

#[derive(Debug)]
pub(crate) struct Readers {
    connect: PgConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Readers {
    pub(crate) fn new(connect: PgConnectOptions, connections: usize) -> Self {
        Self { connect, permits: Semaphore::new(connections), idle: Mutex::default() }
    }

    /// All rows of a statement that only reads.
    pub(crate) async fn rows(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.try_rows(query).await.map_err(|e| error::store(what, e))
    }

    async fn try_rows(&self, query: impl Fn() -> PgQuery) -> Result<Vec<PgRow>, sqlx::Error> {
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // A connection may have died while it was idle: then a fresh one is asked, once.
        if let Some(mut conn) = self.take() {
            match query().fetch_all(&mut conn).await {
                Err(e) if error::breaks_connection(&e) => self.forget(),
                outcome => {
                    self.put(conn);
                    return outcome;
                }
            }
        }
        let mut conn = self.connect.connect().await?;
        let outcome = query().fetch_all(&mut conn).await;
        if outcome.as_ref().err().is_none_or(|e| !error::breaks_connection(e)) {
            self.put(conn);
        }
        outcome
    }

    fn take(&self) -> Option<PgConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, conn: PgConnection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }

    /// One was dead, so the others that were idle meanwhile likely are.
    fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
