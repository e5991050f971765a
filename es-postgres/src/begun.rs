//! A transaction on a connection of a pool that is the user's own.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use es_core::store::StoreError;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::runtime::Handle;

use crate::{error, schema};

/// For how long one is begun at most, with what the pool takes for a connection.
const LONGEST: Duration = Duration::from_secs(60);

/// A transaction that is never left to whoever gets its connection next: the driver rolls it back when this is dropped.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Taken by what ends it, and by `drop`.
    tx: Option<Transaction<'static, Postgres>>,
    runtime: Handle,
}

impl Begun {
    /// Begins by this statement.
    pub(crate) async fn begin(pool: &PgPool, what: &'static str, begin: String) -> Result<Self, StoreError> {
        let (pool, begin) = (pool.clone(), schema::sql(begin));
        // In a task, which nobody drops half way: there the driver forgets that a transaction has begun, and gives the
        // connection back with it. It ends all the same: on a network that swallows what is sent, nobody would answer.
        let begin = async move { tokio::time::timeout(LONGEST, pool.begin_with(begin)).await };
        let begun = tokio::spawn(begin).await.map_err(|e| StoreError::transient(what, e))?;
        let tx = begun.map_err(|e| StoreError::transient(what, e))?.map_err(|e| error::store(what, e))?;
        Ok(Self { tx: Some(tx), runtime: Handle::current() })
    }

    fn take(&mut self) -> Transaction<'static, Postgres> {
        self.tx.take().expect("it is ended once")
    }

    /// Commits.
    pub(crate) async fn commit(mut self, what: &'static str) -> Result<(), StoreError> {
        self.take().commit().await.map_err(|e| error::store(what, e))
    }

    /// Rolls back.
    pub(crate) async fn rollback(mut self, what: &'static str) -> Result<(), StoreError> {
        self.take().rollback().await.map_err(|e| error::store(what, e))
    }

    /// Prepares it, by this statement. If the server refuses, it is rolled back.
    pub(crate) async fn prepare(mut self, what: &'static str, prepare: String) -> Result<(), StoreError> {
        // The driver rolls back what it believes to be open. Without a transaction, the server would warn each time.
        let prepare = schema::sql(format!("{prepare}; begin"));
        sqlx::raw_sql(prepare).execute(&mut *self).await.map(drop).map_err(|e| error::store(what, e))
    }
}

impl Deref for Begun {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.tx.as_ref().expect("taken only by what ends it")
    }
}

impl DerefMut for Begun {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.tx.as_mut().expect("taken only by what ends it")
    }
}

impl Drop for Begun {
    /// The pool takes the connection back in a task.
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        drop(self.tx.take());
    }
}
