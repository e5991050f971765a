//! Connections that the store reads with.
//!
//! Not the driver's pool: that one asks the server after each use whether the connection is alive, which costs a read
//! a second round trip. Here, a connection whose statement failed or was dropped half way is thrown away, so none is
//! ever handed on in a state that nobody knows.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use es_core::limits::PAGE_BYTES;
use es_core::store::StoreError;
use futures::TryStreamExt as _;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _, SqlStr};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::address::Address;
use crate::history::{self, Histories};
use crate::narrow::Narrow;
use crate::{error, schema};

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

/// After one page that was full by its bytes, so many are expected to be.
const WARY: u32 = 64;

pub(crate) type PgQuery = Query<'static, Postgres, PgArguments>;

pub(crate) struct Readers {
    connect: Address,
    patience: Patience,
    permits: Semaphore,
    idle: Mutex<Vec<Reader>>,
    histories: Arc<Histories>,
    /// For how many more reads large events or rows are expected.
    large: AtomicU32,
    /// How much of a page is asked for.
    pub(crate) narrow: Narrow,
}

/// A connection, and the history that it leads to.
struct Reader {
    conn: PgConnection,
    history: u64,
}

/// Without the driver's options: they show the password.
impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("permits", &self.permits).finish_non_exhaustive()
    }
}

impl Readers {
    pub(crate) fn new(
        connect: Address,
        connections: usize,
        patience: Patience,
        histories: Arc<Histories>,
    ) -> Self {
        let (permits, idle) = (Semaphore::new(connections), Mutex::default());
        let (large, narrow) = (AtomicU32::new(0), Narrow::default());
        Self { connect, patience, permits, idle, histories, large, narrow }
    }

    /// The histories that connections have led to.
    pub(crate) fn histories(&self) -> &Histories {
        &self.histories
    }

    /// How long any connection of the store is waited for.
    pub(crate) const fn patience(&self) -> Patience {
        self.patience
    }

    /// Whether a page is likely to be full before it has as many rows as are asked for: then the statement is to
    /// [end with it](bounded).
    pub(crate) fn expects_large(&self) -> bool {
        self.large.load(Ordering::Relaxed) > 0
    }

    /// A page was full by its bytes, or was not.
    pub(crate) fn saw(&self, is_large: bool) {
        let reads = self.large.load(Ordering::Relaxed);
        if is_large || reads > 0 {
            self.large.store(if is_large { WARY } else { reads.saturating_sub(1) }, Ordering::Relaxed);
        }
    }

    /// All rows of a statement that only reads.
    pub(crate) async fn rows(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.each(what, query, |_, row| Some(row)).await
    }

    /// What `decode` makes of each row, by its number, as it comes in. With `None` it wants no more: then the connection is
    /// closed, since the server would send the rest.
    ///
    /// A connection that dies half way is asked again from the beginning: of what `decode` has seen, only what is given here
    /// counts. A fresh one may find no row at all.
    pub(crate) async fn each<T: Send>(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
        decode: impl FnMut(usize, PgRow) -> Option<T> + Send,
    ) -> Result<Vec<T>, StoreError> {
        self.try_each(query, decode).await.map_err(|e| error::store(what, e))
    }

    async fn try_each<T: Send>(
        &self,
        query: impl Fn() -> PgQuery + Send + Sync,
        mut decode: impl FnMut(usize, PgRow) -> Option<T> + Send,
    ) -> Result<Vec<T>, sqlx::Error> {
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // A connection may have died while it was idle, or lead to a history that is gone: then a fresh one is asked, once.
        if let Some(mut reader) = self.take() {
            match self.patience.within(self.all(query(), &mut reader, &mut decode)).await {
                Err(e) if error::breaks_connection(&e) => self.forget(),
                _ if !self.is_current(&reader) => {}
                outcome => return self.put_after(reader, outcome),
            }
        }
        let mut conn = self.patience.within(self.connect.connect()).await?;
        let history = self.patience.within(self.histories.meet(&mut conn)).await?;
        let mut reader = Reader { conn, history };
        let outcome = self.patience.within(self.all(query(), &mut reader, &mut decode)).await;
        match outcome {
            Err(e) if error::breaks_connection(&e) => Err(e),
            _ if !self.is_current(&reader) => {
                Err(sqlx::Error::Io(io::Error::other("meanwhile the store has got another history")))
            }
            outcome => self.put_after(reader, outcome),
        }
    }

    async fn all<T: Send>(
        &self,
        query: PgQuery,
        reader: &mut Reader,
        decode: &mut (impl FnMut(usize, PgRow) -> Option<T> + Send),
    ) -> Result<Read<T>, sqlx::Error> {
        let Reader { conn, history } = reader;
        let mut rows = query.fetch(conn);
        let mut found = Vec::new();
        while let Some(row) = rows.try_next().await? {
            if found.is_empty()
                && let Ok(token) = row.try_get(history::COLUMN)
            {
                self.histories.shows(history, token);
            }
            match decode(found.len(), row) {
                Some(item) => found.push(item),
                None => return Ok(Read { found, ended: false }),
            }
        }
        Ok(Read { found, ended: true })
    }

    /// A transaction in which all statements see the same. Whoever drops it closes its connection.
    pub(crate) async fn snapshot(&self, what: &'static str) -> Result<ReadSnapshot<'_>, StoreError> {
        let begun = async {
            let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let mut conn = self.patience.within(self.connect.connect()).await?;
            let history = self.patience.within(self.histories.meet(&mut conn)).await?;
            let begin = sqlx::raw_sql("begin isolation level repeatable read read only").execute(&mut conn);
            self.patience.within(begin).await?;
            Ok(ReadSnapshot { readers: self, reader: Reader { conn, history }, _permit: permit })
        };
        begun.await.map_err(|e| error::store(what, e))
    }

    fn is_current(&self, reader: &Reader) -> bool {
        reader.history == self.histories.changes()
    }

    /// Keeps a connection that has nothing more to say.
    fn put_after<T>(
        &self,
        reader: Reader,
        outcome: Result<Read<T>, sqlx::Error>,
    ) -> Result<Vec<T>, sqlx::Error> {
        if outcome.as_ref().is_ok_and(|read| !read.ended) {
            return outcome.map(|read| read.found);
        }
        self.put(reader);
        outcome.map(|read| read.found)
    }

    fn take(&self) -> Option<Reader> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|reader| self.is_current(reader));
        idle.pop()
    }

    fn put(&self, reader: Reader) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }

    /// One was dead, so the others that were idle meanwhile likely are.
    fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One state of the store, read by several statements.
pub(crate) struct ReadSnapshot<'r> {
    readers: &'r Readers,
    reader: Reader,
    _permit: SemaphorePermit<'r>,
}

impl ReadSnapshot<'_> {
    /// All rows of a statement.
    pub(crate) async fn rows(
        &mut self,
        what: &'static str,
        query: PgQuery,
    ) -> Result<Vec<PgRow>, StoreError> {
        let rows = self.readers.patience.within(query.fetch_all(&mut self.reader.conn)).await;
        if !self.readers.is_current(&self.reader) {
            let moved = io::Error::other("meanwhile the store has got another history");
            return Err(StoreError::transient(what, moved));
        }
        rows.map_err(|e| error::store(what, e))
    }
}

/// What was read, and whether the statement came to its end.
struct Read<T> {
    found: Vec<T>,
    ended: bool,
}

/// A statement whose rows have a column `data`, as one that ends with the row by which its data reach the bytes of a page,
/// in the order of `key`. The server looks at sizes only, and reads no data that it does not send. It costs half as much
/// again for small rows, so it is for large ones: see [`Readers::expects_large`].
pub(crate) fn bounded(sql: &str, key: &str) -> SqlStr {
    schema::sql(format!(
        "select p.* from (select p.*, sum(octet_length(p.data)) over (order by p.{key} rows unbounded preceding) as bytes
         from ({sql}) p) p where p.bytes is null or p.bytes - octet_length(p.data) < {PAGE_BYTES} order by p.{key}"
    ))
}
