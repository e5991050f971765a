//! The transaction of a participant, before it is prepared.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::{Branch, BranchId, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres, Row as _};
use tokio::runtime::Handle;

use crate::args::quote;
use crate::guarded::missing_tables;
use crate::participant::marker;
use crate::{error, schema};

/// A branch of a transaction across databases. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **branch)`.
///
/// It ends with its transaction: do not commit it, or roll it back, by SQL. PostgreSQL prepares no transaction that has used
/// `LISTEN` or `NOTIFY`, temporary tables, or cursors `WITH HOLD`: then all of it is rolled back. One that has only notified
/// counts as one that has written nothing, and notifies whatever is decided. It is `read committed`, unless its first
/// statement is `SET TRANSACTION`.
#[derive(Debug)]
pub struct PgBranch {
    /// Taken only by `drop`.
    conn: Option<PoolConnection<Postgres>>,
    id: BranchId,
    gid: String,
    /// Whether the connection has no transaction any more.
    over: bool,
    runtime: Handle,
}

impl PgBranch {
    pub(crate) async fn begin(
        pool: &PgPool,
        id: &BranchId,
        gid: String,
        lock: Duration,
        idle: Duration,
    ) -> Result<Self, StoreError> {
        let failed = |e| error::store("beginning a branch", e);
        let conn = pool.acquire().await.map_err(failed)?;
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
        // The setting names the transaction to itself: one that the user's SQL has ended is not mistaken for it.
        let begin = format!(
            "begin isolation level read committed; set local es.branch = {}; set local lock_timeout = {}; \
             set local idle_in_transaction_session_timeout = {}",
            quote(&gid),
            millis(lock),
            millis(idle)
        );
        let mut branch =
            Self { conn: Some(conn), id: id.clone(), gid, over: false, runtime: Handle::current() };
        sqlx::raw_sql(schema::sql(begin)).execute(&mut **branch.conn()).await.map_err(failed)?;
        Ok(branch)
    }

    fn conn(&mut self) -> &mut PoolConnection<Postgres> {
        self.conn.as_mut().expect("taken only by drop")
    }

    /// Writes what says later that it was committed. Fails if a statement before it has failed: `PREPARE` and `COMMIT` would
    /// roll back without an error.
    async fn mark(&mut self) -> Result<(), StoreError> {
        let mark = "insert into es_guard.guards (run, call, state, fingerprint, result)
            select $1, $2, 'done', $3, 'null' where current_setting('es.branch', true) = $4";
        let mark = sqlx::query(mark).bind(self.id.txn()).bind(marker(&self.id)).bind([0_u8; 16]);
        let mark = mark.bind(self.gid.clone());
        let done =
            mark.execute(&mut **self.conn()).await.map_err(|e| missing_tables("marking a branch", e))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(left()) }
    }

    /// The statement that ends it. If the server refuses, the transaction is rolled back.
    async fn last(&mut self, what: &'static str, statement: String) -> Result<(), StoreError> {
        let done = sqlx::raw_sql(schema::sql(statement)).execute(&mut **self.conn()).await;
        self.over = done.as_ref().map_or_else(|e| !error::breaks_connection(e), |_| true);
        done.map(drop).map_err(|e| error::store(what, e))
    }
}

impl Deref for PgBranch {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.conn.as_ref().expect("taken only by drop")
    }
}

impl DerefMut for PgBranch {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.conn()
    }
}

impl Drop for PgBranch {
    /// A connection with a transaction in it is closed: the pool is the user's, and would give it to the next.
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        let Some(mut conn) = self.conn.take() else { return };
        if !self.over {
            conn.close_on_drop();
        }
    }
}

#[async_trait]
impl Branch for PgBranch {
    async fn has_written(&mut self) -> Result<bool, StoreError> {
        let failed = |e| error::store("looking at a branch", e);
        // A transaction has an id once it has written, or locked, anything.
        let look = "select pg_current_xact_id_if_assigned() is not null,
            current_setting('es.branch', true) is not distinct from $1";
        let row =
            sqlx::query(look).bind(self.gid.clone()).fetch_one(&mut **self.conn()).await.map_err(failed)?;
        let (wrote, own): (bool, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if own { Ok(wrote) } else { Err(left()) }
    }

    async fn end(mut self) -> Result<(), StoreError> {
        self.last("ending a branch that has written nothing", "commit".to_owned()).await
    }

    async fn prepare(mut self) -> Result<(), StoreError> {
        self.mark().await?;
        let prepare = format!("prepare transaction {}", quote(&self.gid));
        self.last("preparing a branch", prepare).await
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        self.mark().await?;
        self.last("committing a branch", "commit".to_owned()).await
    }

    async fn rollback(mut self) -> Result<(), StoreError> {
        self.last("rolling back a branch", "rollback".to_owned()).await
    }
}

fn left() -> StoreError {
    StoreError::misuse(
        "the transaction of a branch was ended before its end, by its SQL: part of it may be committed",
    )
}
