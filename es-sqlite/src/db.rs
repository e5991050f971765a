//! What queries read through.

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo};
use sqlx::{Either, Error, Execute, Executor, SqlStr, Sqlite, SqlitePool};

use crate::projection::Seen;

/// Connections that read. A query of the app asks for `&Db` and hands it to sqlx:
/// `sqlx::query(..).fetch_all(db)`.
///
/// Every statement sees everything that was committed before it began. In the `Db` of an app the names of tables of SQL
/// projections mean those of the app's own versions, in the snapshot of each statement. Of a version that does not have
/// the plain names these are views, so `rowid` is not among their columns.
#[derive(Clone, Debug)]
pub struct Db {
    pool: SqlitePool,
    own: Option<Own>,
}

/// Connections on which each read is a transaction, so that what names mean is looked up in its snapshot.
#[derive(Clone, Debug)]
struct Own {
    /// Ends the transaction when a connection comes back, while nobody waits for that.
    pool: SqlitePool,
    seen: Seen,
}

impl Own {
    async fn acquire(&self) -> Result<PoolConnection<Sqlite>, Error> {
        let mut conn = self.pool.acquire().await?;
        match self.seen.begin(&mut conn).await {
            Ok(()) => Ok(conn),
            Err(error) => {
                // Whatever state it is in.
                drop(conn.detach());
                Err(error)
            }
        }
    }
}

impl Db {
    /// To which names mean what is in the file.
    pub(crate) const fn new(pool: SqlitePool) -> Self {
        Self { pool, own: None }
    }

    /// To which they mean the tables of an app's versions. The first pool looks when a connection is taken, the second one
    /// is for reads that look for themselves.
    pub(crate) const fn of(pool: SqlitePool, reads: SqlitePool, seen: Seen) -> Self {
        Self { pool, own: Some(Own { pool: reads, seen }) }
    }

    /// The pool itself, for what needs a connection of its own. What names of tables of projections mean is looked up when
    /// a connection is taken: one that is kept goes on with that.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

impl<'c> Executor<'c> for &'c Db {
    type Database = Sqlite;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<SqliteQueryResult, SqliteRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Sqlite>,
        'q: 'e,
        E: 'q,
    {
        let Some(own) = &self.own else { return self.pool.fetch_many(query) };
        let (mut sender, items) = futures::channel::mpsc::channel(64);
        // Runs while the stream is polled, and is dropped with it.
        let reading = async move {
            let mut conn = match own.acquire().await {
                Ok(conn) => conn,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            let mut rows = conn.fetch_many(query);
            while let Some(item) = rows.next().await {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        };
        let reading = stream::once(reading).filter_map(|()| futures::future::ready(None));
        stream::select(items, reading).boxed()
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<SqliteRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Sqlite>,
        'q: 'e,
        E: 'q,
    {
        let Some(own) = &self.own else { return self.pool.fetch_optional(query) };
        async move { own.acquire().await?.fetch_optional(query).await }.boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, Error>>
    where
        'c: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
