//! Connections that the store reads with.
//!
//! Not the driver's pool: that one asks the server after each use whether the connection is alive, which costs a read
//! a second round trip. Here, a connection whose statement failed or was dropped half way is thrown away, so none is
//! ever handed on in a state that nobody knows.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use es_core::store::StoreError;
use futures::TryStreamExt as _;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, PgConnection, Postgres};
use tokio::sync::Semaphore;

use crate::error;

/// How long an answer is waited for: somewhat longer than the server works on it. A server that says nothing at all,
/// or a network that swallows what it says, would be waited for until the system gives up the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(Option<Duration>);

impl Patience {
    /// Beside a statement timeout; zero is none.
    pub(crate) fn beside(timeout: Duration) -> Self {
        const MORE: Duration = Duration::from_secs(5);
        Self((!timeout.is_zero()).then(|| timeout.saturating_add(MORE)))
    }

    pub(crate) async fn within<T>(
        self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let Some(limit) = self.0 else { return work.await };
        let silent =
            |_| sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
        tokio::time::timeout(limit, work).await.map_err(silent)?
    }
}

pub(crate) type PgQuery = Query<'static, Postgres, PgArguments>;

pub(crate) struct Readers {
    connect: PgConnectOptions,
    patience: Patience,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
    opened: AtomicU64,
}

/// Without the driver's options: they show the password.
impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("permits", &self.permits).finish_non_exhaustive()
    }
}

impl Readers {
    pub(crate) fn new(connect: PgConnectOptions, connections: usize, patience: Patience) -> Self {
        let (permits, idle) = (Semaphore::new(connections), Mutex::default());
        Self { connect, patience, permits, idle, opened: AtomicU64::new(0) }
    }

    /// How many connections have been opened: another history comes with a new one.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// How long any connection of the store is waited for.
    pub(crate) const fn patience(&self) -> Patience {
        self.patience
    }

    /// All rows of a statement that only reads.
    pub(crate) async fn rows(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.each(what, query, |_, row| row).await
    }

    /// What `decode` makes of each row, by its number, as it comes in.
    pub(crate) async fn each<T: Send>(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
        decode: impl FnMut(usize, PgRow) -> T + Send,
    ) -> Result<Vec<T>, StoreError> {
        self.try_each(query, decode).await.map_err(|e| error::store(what, e))
    }

    async fn try_each<T: Send>(
        &self,
        query: impl Fn() -> PgQuery + Send + Sync,
        mut decode: impl FnMut(usize, PgRow) -> T + Send,
    ) -> Result<Vec<T>, sqlx::Error> {
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // A connection may have died while it was idle: then a fresh one is asked, once.
        if let Some(mut conn) = self.take() {
            match self.patience.within(all(query(), &mut conn, &mut decode)).await {
                Err(e) if error::breaks_connection(&e) => self.forget(),
                outcome => {
                    self.put(conn);
                    return outcome;
                }
            }
        }
        let mut conn = self.patience.within(self.connect.connect()).await?;
        self.opened.fetch_add(1, Ordering::AcqRel);
        let outcome = self.patience.within(all(query(), &mut conn, &mut decode)).await;
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

async fn all<T: Send>(
    query: PgQuery,
    conn: &mut PgConnection,
    decode: &mut (impl FnMut(usize, PgRow) -> T + Send),
) -> Result<Vec<T>, sqlx::Error> {
    let mut rows = query.fetch(conn);
    let mut all = Vec::new();
    while let Some(row) = rows.try_next().await? {
        all.push(decode(all.len(), row));
    }
    Ok(all)
}
