//! The transaction of a participant, before it is prepared.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::{Branch, BranchId, StoreError};
use sqlx::{PgConnection, Row as _};

use crate::args::quote;
use crate::begun::Begun;
use crate::error;
use crate::guarded::missing_tables;
use crate::participant::{PgParticipant, alone, marker};

/// What a marker says that cannot be written, since somebody has barred it.
const BARRED: &str = "the branch is barred";
/// What one says where the transaction of the branch is another one by now.
const LEFT: &str = "the branch was ended before its end";

/// A branch of a transaction across databases. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **branch)`.
///
/// It ends with its transaction: do not commit it, or roll it back, by SQL. PostgreSQL prepares no transaction that has used
/// `LISTEN` or `NOTIFY`, temporary tables, or cursors `WITH HOLD`, or has written to a foreign table, nor one that has another
/// role at its end than at its beginning (`SET LOCAL ROLE`; `RESET ROLE` before the commit): then all of it is rolled back.
/// One that has only notified counts as one that has written nothing, and notifies whatever is decided; so does one that has
/// written elsewhere by a function, as those of `dblink`. It is `read committed`, unless its first statement is
/// `SET TRANSACTION`.
#[derive(Debug)]
pub struct PgBranch {
    session: Begun,
    of: PgParticipant,
    id: BranchId,
    gid: String,
    /// Its role, once it was looked at, and whether that is the one of its connection.
    role: Option<(String, bool)>,
}

impl PgBranch {
    pub(crate) async fn begin(of: &PgParticipant, id: &BranchId) -> Result<Self, StoreError> {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
        let (gid, [lock, idle]) = (of.gid(id), of.timeouts());
        // The setting names the transaction to itself: one that the user's SQL has ended is not mistaken for it.
        let begin = format!(
            "begin isolation level read committed; set local es.branch = {}; set local lock_timeout = {}; \
             set local idle_in_transaction_session_timeout = {}",
            quote(&gid),
            millis(lock),
            millis(idle)
        );
        let begun = Begun::begin(of.pool(), begin).await;
        let session = begun.map_err(|e| error::store("beginning a branch", e))?;
        Ok(Self { session, of: of.clone(), id: id.clone(), gid, role: None })
    }

    /// Whether whoever ends branches can end what it prepares now.
    async fn can_be_ended(&self) -> Result<(), StoreError> {
        let Some((own, is_of_connection)) = &self.role else { return Ok(()) };
        let ends = self.of.role().await?;
        match is_of_connection {
            _ if ends.is_super || ends.name == *own => Ok(()),
            true => Err(older(own, &ends.name)),
            false => Err(taken(own)),
        }
    }

    /// Writes what says later that it was committed, under this name, and ends it by a statement: in one message. If a
    /// statement before has failed, so does the first one here, and the second, which would roll back without an error, is not
    /// reached.
    async fn end_marked(self, what: &'static str, call: &str, end: &str) -> Result<(), StoreError> {
        let (run, call, gid) = (self.id.txn(), quote(call), quote(&self.gid));
        let mark = format!(
            "with marked as (
                 insert into es_guard.guards (run, call, state, fingerprint, result)
                 select '{run}'::uuid, {call}, 'done', decode(repeat('00', 16), 'hex'), 'null'
                 where current_setting('es.branch', true) = {gid}
                 on conflict do nothing returning 1)
             select case when count(*) = 1 then 1
                 when current_setting('es.branch', true) = {gid} then ({} || count(*))::int
                 else ({} || count(*))::int end from marked; {end}",
            quote(BARRED),
            quote(LEFT)
        );
        match self.session.end(mark).await {
            Err(e) if error::says(&e, BARRED) => Err(barred()),
            Err(e) if error::says(&e, LEFT) => Err(left()),
            ended => ended.map_err(|e| missing_tables(what, e)),
        }
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
        // A transaction has an id once it has written, or locked, anything. A foreign table is written to in a transaction
        // of its own server, which `commit` would commit: such a branch is to be prepared, and PostgreSQL refuses that.
        let look = "select pg_current_xact_id_if_assigned() is not null
                or exists (select from pg_foreign_server) and exists (
                    select from pg_locks l join pg_class c on c.oid = l.relation
                    where l.pid = pg_backend_pid() and l.locktype = 'relation' and l.mode <> 'AccessShareLock'
                        and l.database = (select oid from pg_database where datname = current_database())
                        and c.relkind = 'f'),
            current_setting('es.branch', true) is not distinct from $1,
            current_user::text, current_user = session_user";
        let look = sqlx::query(look).bind(self.gid.clone());
        let row = look.fetch_one(&mut **self).await.map_err(failed)?;
        let (wrote, own): (bool, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        self.role = Some((row.try_get(2).map_err(failed)?, row.try_get(3).map_err(failed)?));
        if own { Ok(wrote) } else { Err(left()) }
    }

    async fn end(self) -> Result<(), StoreError> {
        let ended = self.session.commit().await;
        ended.map_err(|e| error::store("ending a branch that has written nothing", e))
    }

    async fn prepare(self) -> Result<(), StoreError> {
        self.can_be_ended().await?;
        let prepare = format!("prepare transaction {}", quote(&self.gid));
        let call = marker(&self.id);
        self.end_marked("preparing a branch", &call, &prepare).await
    }

    async fn commit(self) -> Result<(), StoreError> {
        let call = alone(&self.id);
        self.end_marked("committing a branch", &call, "commit").await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.session.rollback().await.map_err(|e| error::store("rolling back a branch", e))
    }
}

fn left() -> StoreError {
    StoreError::misuse(
        "the transaction of a branch was ended before its end, by its SQL: part of it may be committed",
    )
}

fn taken(role: &str) -> StoreError {
    StoreError::misuse(format!(
        "the branch has taken the role {role:?}, and what a role has prepared no other can end: `reset role` before the commit"
    ))
}

/// A connection that was opened before its pool was given another user.
fn older(own: &str, ends: &str) -> StoreError {
    let why = format!(
        "its connection is of the role {own:?}, and what ends branches is of {ends:?}, which is no superuser: the pool was given \
         another user, and still has connections of the one before"
    );
    StoreError::transient("preparing a branch", std::io::Error::other(why))
}

fn barred() -> StoreError {
    let why = "somebody has asked what became of it, and was told that it never will be committed";
    StoreError::transient("marking a branch", std::io::Error::other(why))
}
