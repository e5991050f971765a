//! The transaction of a participant, before it is prepared.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::{Branch, BranchId, StoreError};
use sqlx::{PgConnection, PgPool, Row as _};

use crate::args::quote;
use crate::begun::Begun;
use crate::error;
use crate::guarded::missing_tables;
use crate::participant::marker;

/// A branch of a transaction across databases. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **branch)`.
///
/// It ends with its transaction: do not commit it, or roll it back, by SQL. PostgreSQL prepares no transaction that has used
/// `LISTEN` or `NOTIFY`, temporary tables, or cursors `WITH HOLD`: then all of it is rolled back. One that has only notified
/// counts as one that has written nothing, and notifies whatever is decided. It is `read committed`, unless its first
/// statement is `SET TRANSACTION`.
#[derive(Debug)]
pub struct PgBranch {
    session: Begun,
    id: BranchId,
    gid: String,
}

impl PgBranch {
    pub(crate) async fn begin(
        pool: &PgPool,
        id: &BranchId,
        gid: String,
        lock: Duration,
        idle: Duration,
    ) -> Result<Self, StoreError> {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
        // The setting names the transaction to itself: one that the user's SQL has ended is not mistaken for it.
        let begin = format!(
            "begin isolation level read committed; set local es.branch = {}; set local lock_timeout = {}; \
             set local idle_in_transaction_session_timeout = {}",
            quote(&gid),
            millis(lock),
            millis(idle)
        );
        let session = Begun::begin(pool, "beginning a branch", begin).await?;
        Ok(Self { session, id: id.clone(), gid })
    }

    /// Writes what says later that it was committed. Fails if a statement before it has failed: `PREPARE` and `COMMIT` would
    /// roll back without an error.
    async fn mark(&mut self) -> Result<(), StoreError> {
        let mark = "insert into es_guard.guards (run, call, state, fingerprint, result)
            select $1, $2, 'done', $3, 'null' where current_setting('es.branch', true) = $4";
        let mark = sqlx::query(mark).bind(self.id.txn()).bind(marker(&self.id)).bind([0_u8; 16]);
        let mark = mark.bind(self.gid.clone());
        let done = mark.execute(&mut **self).await.map_err(|e| missing_tables("marking a branch", e))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(left()) }
    }
}

impl Deref for PgBranch {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.session
    }
}

impl DerefMut for PgBranch {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.session
    }
}

#[async_trait]
impl Branch for PgBranch {
    async fn has_written(&mut self) -> Result<bool, StoreError> {
        let failed = |e| error::store("looking at a branch", e);
        // A transaction has an id once it has written, or locked, anything.
        let look = "select pg_current_xact_id_if_assigned() is not null,
            current_setting('es.branch', true) is not distinct from $1";
        let row = sqlx::query(look).bind(self.gid.clone()).fetch_one(&mut **self).await.map_err(failed)?;
        let (wrote, own): (bool, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if own { Ok(wrote) } else { Err(left()) }
    }

    async fn end(self) -> Result<(), StoreError> {
        self.session.commit("ending a branch that has written nothing").await
    }

    async fn prepare(mut self) -> Result<(), StoreError> {
        self.mark().await?;
        let prepare = format!("prepare transaction {}", quote(&self.gid));
        self.session.prepare("preparing a branch", prepare).await
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        self.mark().await?;
        self.session.commit("committing a branch").await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.session.rollback("rolling back a branch").await
    }
}

fn left() -> StoreError {
    StoreError::misuse(
        "the transaction of a branch was ended before its end, by its SQL: part of it may be committed",
    )
}
