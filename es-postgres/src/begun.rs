//! A transaction on a connection of a pool that is the user's own.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgTransactionManager;
use sqlx::{PgConnection, PgPool, Postgres, Row as _};
use sqlx_core::transaction::TransactionManager as _;
use tokio::runtime::Handle;

use crate::schema;

/// For how long one is begun at most, with what the pool takes for a connection.
const LONGEST: Duration = Duration::from_secs(60);
/// For how long the server may take to roll back one that is dropped, before its connection is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A transaction that is never left to whoever gets its connection next: one that is dropped is rolled back, and a server that
/// does not answer to that keeps no place in the pool.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Taken by what ends it, and by `drop`.
    conn: Option<PoolConnection<Postgres>>,
    runtime: Handle,
}

impl Begun {
    /// Begins by these statements, the first of which begins it. What they return is not read.
    pub(crate) async fn begin(pool: &PgPool, begin: String) -> Result<Self, sqlx::Error> {
        let begin = async move {
            // Whatever keeps it from beginning, it is left as any other one.
            let mut begun = Self { conn: Some(pool.acquire().await?), runtime: Handle::current() };
            PgTransactionManager::begin(&mut begun, Some(schema::sql(begin))).await?;
            Ok(begun)
        };
        // On a network that swallows what is sent, nobody would answer.
        tokio::time::timeout(LONGEST, begin).await.map_err(io::Error::from)?
    }

    /// Commits.
    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        PgTransactionManager::commit(&mut self).await?;
        self.conn = None;
        Ok(())
    }

    /// Rolls back.
    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let writes = roll_back(&mut self).await?;
        let conn = self.conn.take();
        if !writes {
            drop(conn.map(PoolConnection::detach));
        }
        Ok(())
    }

    /// Ends it by these statements, the last of which ends it: in one message. If the server refuses one, it is rolled back.
    pub(crate) async fn end(mut self, statements: String) -> Result<(), sqlx::Error> {
        // The driver rolls back what it believes to be open. Without a transaction, the server would warn each time.
        let end = schema::sql(format!("{statements}; begin"));
        sqlx::raw_sql(end).execute(&mut *self).await?;
        PgTransactionManager::start_rollback(&mut self);
        self.conn = None;
        Ok(())
    }
}

impl Deref for Begun {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only by what ends it")
    }
}

impl DerefMut for Begun {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn.as_mut().expect("taken only by what ends it")
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        // The pool takes a connection back in a task.
        let _entered = self.runtime.enter();
        drop(self.runtime.spawn(async move {
            match tokio::time::timeout(PATIENCE, roll_back(&mut conn)).await {
                Ok(Ok(true)) => drop(conn),
                // Of a server that does not answer, the pool would ask it whether it is well, for as long as it takes.
                _ => drop(conn.detach()),
            }
        }));
    }
}

/// Rolls back whatever is open, also what the driver does not know to be. Says whether the connection may be used again: one of
/// a standby, or of a server that was read-only when it was made, stays so.
async fn roll_back(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    while PgTransactionManager::get_transaction_depth(conn) > 0 {
        PgTransactionManager::rollback(conn).await?;
    }
    // Without a transaction, the server would warn of a ROLLBACK alone each time.
    let roll_back = "begin; rollback; select current_setting('transaction_read_only') = 'off'";
    sqlx::raw_sql(roll_back).fetch_one(conn).await?.try_get(0)
}
