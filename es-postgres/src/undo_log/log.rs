//! The log: which tables it tracks, and what it has of calls that are not decided.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use es_core::guard::{GuardedDatabase, UndoLog};
use es_core::store::StoreError;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use super::refusal::failed;
use super::sql::make;
use super::{Refusal, UndoTx};
use crate::{PgGuarded, guarded};

/// A database of your own in which calls act once, and are undone by themselves: what they change in tables that are tracked
/// is noted by triggers, as row text before and after. See [`es_core::guard`] and [`UndoLog`]. It need not have a store in it.
///
/// ```no_run
/// use es_core::guard::{Guard, GuardKey, Guarded, Undoing};
/// use es_postgres::PgUndoLog;
///
/// # async fn example(pool: sqlx::PgPool, run: uuid::Uuid) -> Result<(), Box<dyn std::error::Error>> {
/// let stock = PgUndoLog::new(pool);
/// stock.install().await?;
/// stock.track(&["public.items", "public.orders"]).await?;
///
/// // The crate `sagas` makes these calls: see its `tcc::Undoable`.
/// let call = Guard::new(&stock, GuardKey::new(run, "order/reserve")?, 0);
/// if let Guarded::Run(mut tx) = call.forward().await? {
///     sqlx::query("update items set left_over = left_over - 1 where name = 'tea'").execute(&mut *tx).await?;
///     call.done(tx, "null".to_owned()).await?;
/// }
/// // Later, in whichever process: the row is as it was.
/// if let Undoing::Run(tx, _) = call.undo(true).await? {
///     call.undone(tx).await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # What is locked, and who sees what
///
/// A row that a call has changed is locked for other runs until the call is confirmed or undone, by a row in `es_undo.locks`:
/// their statements fail at once with [`Refusal::Busy`](crate::Refusal::Busy). Whoever writes without a run writes as ever to
/// rows that are not locked, and is refused ([`Refusal::Locked`](crate::Refusal::Locked)) at those that are. Readers are not
/// kept from anything: they see what a call has written as soon as that is committed, and may see it taken back.
///
/// # What an undo does
///
/// Statements are undone in the reverse of their order, in one transaction, each row once it is seen to be as the call has
/// left it. An UPDATE is undone in the columns that had changed. If a row has changed since, or the database refuses, nothing
/// of the call is undone, and the error is [`StoreError::Blocked`]: [`rows`](Self::rows) shows each row as it was before,
/// after, and as it is. Set it right and undo again, or [`accept`](Self::accept) the rows as they are. A sequence does not
/// go back, and what a trigger of yours does elsewhere is not undone.
///
/// Your own triggers on a tracked table would fire again during an undo, as new business. PostgreSQL lets only superusers
/// switch that off for a session, so such a trigger says itself that it does not want that, and the table cannot be tracked
/// if it does not: `create trigger .. for each row when (not es_undo.undoing()) execute ..`. What it writes to tables that are
/// tracked is noted, and undone.
///
/// # Privileges
///
/// The account of the pool needs what [`PgGuarded`] asks for, `usage` on the schema `es_undo`, `select` on `about` and
/// `tables`, `select`, `insert`, `update` and `delete` on `images` and `locks`, and its own on the tables. Other writers need
/// nothing more than they have: the triggers note for them, with the privileges of the account that has made the log.
/// A session that sets `es_undo.mode` by itself gets around the locks: this is for programs that mean well.
/// Tracking needs ownership of the table, `create` on `es_undo`, and `select`, `insert` and `delete` on `tables`; make the
/// log, and track, with the same account.
#[derive(Clone, Debug)]
pub struct PgUndoLog {
    guarded: PgGuarded,
}

/// A row that a call has changed, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "three versions of a row, and where it is")]
pub struct TrackedRow {
    /// Its table, with the schema.
    pub table: String,
    /// Its primary key.
    pub key: String,
    /// As it was before the call; `None` if it was not there.
    pub before: Option<String>,
    /// As the call has left it; `None` if it has deleted it.
    pub after: Option<String>,
    /// As it is; `None` if it is not there.
    pub now: Option<String>,
    /// Whether something else has changed it since.
    pub has_changed: bool,
}

/// A call that is neither confirmed nor undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a name, and how much it holds")]
pub struct UndecidedCall {
    /// Its run.
    pub run: Uuid,
    /// Its name in it.
    pub call: String,
    /// Rows that it keeps from other runs.
    pub rows: i64,
}

impl PgUndoLog {
    /// Through this pool.
    #[must_use]
    pub const fn new(pool: PgPool) -> Self {
        Self { guarded: PgGuarded::new(pool) }
    }

    /// For how long a transaction waits for a lock, of a call that is not committed for example; 5 seconds by default.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.guarded = self.guarded.with_lock_timeout(timeout);
        self
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        self.guarded.pool()
    }

    /// The SQL that [`install`](Self::install) runs, to read or to print: for an account that may.
    #[must_use]
    pub fn install_sql() -> String {
        format!("{}\ncreate schema es_undo;\n{}", PgGuarded::install_sql(), make())
    }

    /// Makes the tables and functions of guard rows and of the log, if they are not there. Two at once: one waits for the
    /// other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the account may not, or a newer program has made them.
    pub async fn install(&self) -> Result<(), StoreError> {
        self.guarded.install().await?;
        drop(guarded::make(self.pool(), "es_undo", "es-postgres undo log", make()).await?);
        es_core::guard::check(self).await
    }

    /// Notes changes of these tables from now on; `schema.table`, quoted as in SQL. All of them or none; one that is tracked
    /// already stays so, and its triggers are made again. While it is at work, writers wait.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with the names of what cannot be restored: a table without a primary key, or whose key is of a type
    /// with equal values that are written differently; partitions, partitioned tables and those that inherit; tables with
    /// rules, with row security, that are temporary or unlogged; tables whose rows take rows of tables with them that are
    /// not tracked; tables with triggers that would fire again.
    pub async fn track(&self, tables: &[&str]) -> Result<(), StoreError> {
        let track = sqlx::query("select es_undo.track($1::text[]::regclass[])").bind(tables);
        track.execute(self.pool()).await.map(drop).map_err(|e| failed("tracking tables", e))
    }

    /// Ends that changes of a table are noted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if there are calls that have changed it and are not decided, or it is changed with rows of a table that
    /// is tracked.
    pub async fn untrack(&self, table: &str) -> Result<(), StoreError> {
        let untrack = sqlx::query("select es_undo.untrack($1::text::regclass)").bind(table);
        untrack.execute(self.pool()).await.map(drop).map_err(|e| failed("untracking a table", e))
    }

    /// The rows that a call has changed, those of a call that is not decided: before, after, and now.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: ask again.
    pub async fn rows(&self, run: Uuid, call: &str) -> Result<Vec<TrackedRow>, StoreError> {
        let failed = |e| failed("reading what a call has changed", e);
        let rows = "select tab, key, before, after, now, has_changed from es_undo.rows_of($1, $2)
            order by has_changed desc, tab, key";
        let rows = sqlx::query(rows).bind(run).bind(call).fetch_all(self.pool()).await.map_err(failed)?;
        rows.iter().map(|row| tracked(row).map_err(failed)).collect()
    }

    /// The calls that are neither confirmed nor undone, those of the oldest runs first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: ask again.
    pub async fn undecided(&self) -> Result<Vec<UndecidedCall>, StoreError> {
        let failed = |e| failed("reading which calls are undecided", e);
        let calls =
            "select run, call, count(*) from es_undo.locks, unnest(calls) call group by 1, 2 order by 1, 2";
        let calls = sqlx::query(calls).fetch_all(self.pool()).await.map_err(failed)?;
        let read = |row: &PgRow| {
            Ok(UndecidedCall { run: row.try_get(0)?, call: row.try_get(1)?, rows: row.try_get(2)? })
        };
        calls.iter().map(|row| read(row).map_err(failed)).collect()
    }

    /// Takes what a call has changed as it is: nothing of it can be undone any more, and its rows are free. An undo of the
    /// call has nothing left to do then, and succeeds. This is for an operator: of a call whose undo is blocked, before it is
    /// tried again; or of one that a journal does not know any more, or has skipped.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it may have been done, and can be done again.
    pub async fn accept(&self, run: Uuid, call: &str) -> Result<(), StoreError> {
        tracing::warn!(%run, call, "what a call has changed is taken as it is");
        let release = sqlx::query("select es_undo.release($1, $2)").bind(run).bind(call);
        release
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(|e| failed("accepting what a call has changed", e))
    }
}

fn tracked(row: &PgRow) -> Result<TrackedRow, sqlx::Error> {
    Ok(TrackedRow {
        table: row.try_get(0)?,
        key: row.try_get(1)?,
        before: row.try_get(2)?,
        after: row.try_get(3)?,
        now: row.try_get(4)?,
        has_changed: row.try_get(5)?,
    })
}

impl GuardedDatabase for PgUndoLog {
    type Tx = UndoTx;

    async fn begin(&self) -> Result<UndoTx, StoreError> {
        self.guarded.begin().await.map(UndoTx)
    }
}

impl UndoLog for PgUndoLog {
    fn is_taken(error: &(dyn Error + 'static)) -> bool {
        // What is shared stands for itself among the causes, and not for what is in it.
        if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            return Self::is_taken(&**shared);
        }
        let refusal = error.downcast_ref().and_then(Refusal::of);
        matches!(refusal, Some(Refusal::Busy { .. })) || error.source().is_some_and(Self::is_taken)
    }
}
