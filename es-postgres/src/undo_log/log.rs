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
use super::sql::{FORMAT, make, upgrade};
use super::{MendTx, Refusal, UndoTx};
use crate::{PgGuarded, guarded, schema};

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
/// What all statements of a call come to is undone in one transaction, each row once it is seen to be as the call has left it.
/// An UPDATE is undone in the columns that had changed. If a row has changed since, or the database refuses, nothing of the
/// call is undone, and the error is [`StoreError::Blocked`]: [`rows`](Self::rows) shows each row as it was before, after, and
/// as it is. [`mend`](Self::mend) it and undo again, or [`accept`](Self::accept) the rows as they are. A sequence does not go
/// back, and what a trigger of yours does elsewhere is not undone.
///
/// A call whose rows a later call of its run refers to, or whose unique values that one has, is undone after it: until then
/// the error is transient.
///
/// # What it does not protect
///
/// What a call frees is kept for it where that is a value of a primary key, or of a unique constraint or index over columns:
/// others are refused it as they are the row. That is not so for unique indexes over expressions or of some rows, for those of
/// types with equal values that are written differently (`double precision`, `jsonb`, types of extensions), and for exclusion
/// constraints. Nor is a row of another table kept that the call has referred to: it can be deleted. If somebody takes such a
/// value, or deletes such a row, the undo is blocked until that is set right.
///
/// The columns of a table are to stay as they are while calls that have changed it are undecided: their undo is blocked
/// otherwise. Changes of a table that is tracked are noted by its triggers. A table that becomes a partition or a child, gets
/// row security or rules, has its triggers switched off, or is made again, is not noted, or not by all ways; such tables are
/// found when a program starts, and refused by name ([`es_core::guard::check`]).
///
/// Your own triggers on a tracked table would fire again during an undo, as new business. PostgreSQL lets only superusers
/// switch that off for a session, so such a trigger says itself that it does not want that, and the table cannot be tracked
/// if it does not: `create trigger .. for each row when (not es_undo.undoing()) execute ..`. What it writes to tables that are
/// tracked is noted, and undone.
///
/// # Privileges
///
/// The account of the pool needs what [`PgGuarded`] asks for, `usage` on the schema `es_undo`, `select` on `about` and
/// `tables`, `select`, `insert`, `update` and `delete` on `images` and `locks`, `select`, `insert` and `delete` on `acts`, and
/// its own on the tables. Other writers need
/// nothing more than they have: the triggers note for them, with the privileges of the account that has made the log.
/// A session that sets `es_undo.mode` by itself gets around the locks: this is for programs that mean well.
/// Tracking needs ownership of the table, `create` on `es_undo`, and `select`, `insert`, `update` and `delete` on `tables`;
/// make the log, and track, with the same account.
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
    /// As it is; `None` if it is not there, or its table is gone or has other columns by now.
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

    /// The SQL that [`install`](Self::install) runs where the log is that of the program before this one, in a transaction.
    #[must_use]
    pub fn upgrade_sql() -> String {
        upgrade(FORMAT - 1)
    }

    /// Makes the tables and functions of guard rows and of the log, if they are not there or are those of an earlier program.
    /// Those keep what is noted; while they are made anew, writers of tracked tables wait, and earlier programs make no calls
    /// from then on. Two at once: one waits for the other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the account may not, a newer program has made them, or a table that is tracked is not noted as it is
    /// now. [`StoreError::Transient`] if somebody has written to a tracked table for five seconds and does not end: nothing is
    /// made anew then, and nobody waits for it any more; try again.
    pub async fn install(&self) -> Result<(), StoreError> {
        self.guarded.install().await?;
        if let Some(mut there) = guarded::make(self.pool(), "es_undo", "es-postgres undo log", make()).await?
        {
            let failed = |e| failed("making an undo log anew", e);
            let format = sqlx::query_scalar("select format from es_undo.about").fetch_one(&mut *there).await;
            let format: i32 = format.map_err(failed)?;
            if format < FORMAT {
                sqlx::raw_sql(schema::sql(upgrade(format))).execute(&mut *there).await.map_err(failed)?;
                there.commit().await.map_err(failed)?;
            }
        }
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

    /// Ends that changes of a table are noted. One that is gone is named as it was.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if there are calls that have changed it and are not decided, or it is changed with rows of a table that
    /// is tracked.
    pub async fn untrack(&self, table: &str) -> Result<(), StoreError> {
        let untrack = sqlx::query("select es_undo.untrack(to_regclass($1), $1)").bind(table);
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
            "select run, call, count(*) filter (where key like '(%') from es_undo.locks, unnest(calls) call
            group by 1, 2 order by 1, 2";
        let calls = sqlx::query(calls).fetch_all(self.pool()).await.map_err(failed)?;
        let read = |row: &PgRow| {
            Ok(UndecidedCall { run: row.try_get(0)?, call: row.try_get(1)?, rows: row.try_get(2)? })
        };
        calls.iter().map(|row| read(row).map_err(failed)).collect()
    }

    /// Opens a transaction in which rows of a call can be set right by SQL: those that it has changed, and no others that are
    /// tracked. A row that is as it was before the call or as the call has left it is in the way of its undo no more. This is
    /// for an operator, of a call whose undo is blocked. `actor` and `reason` are kept, in `es_undo.acts`, until the run is
    /// forgotten.
    ///
    /// `select es_undo.mend(run, call, actor, reason)` does the same from here to the end of a transaction of psql. As in an
    /// undo, triggers of your own with `when (not es_undo.undoing())` do not fire.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the call has no rows that are undecided; another one: ask again. Dropped, it changes nothing.
    pub async fn mend(&self, run: Uuid, call: &str, actor: &str, reason: &str) -> Result<MendTx, StoreError> {
        tracing::warn!(%run, call, actor, reason, "rows that a call has changed are set right");
        let mut tx = self.guarded.begin().await?;
        let mend = sqlx::query("select es_undo.mend($1, $2, $3, $4)").bind(run).bind(call);
        let mend = mend.bind(actor).bind(reason).execute(&mut *tx).await;
        mend.map_err(|e| failed("setting rows right that a call has changed", e))?;
        Ok(MendTx(tx))
    }

    /// Takes what a call has changed as it is: nothing of it can be undone any more, and its rows are free. An undo of the
    /// call has nothing left to do then, and succeeds. This is for an operator: of a call whose undo is blocked, before it is
    /// tried again; or of one that a journal does not know any more, or has skipped. How many rows that were. `actor` and
    /// `reason` are kept, in `es_undo.acts`, until the run is forgotten.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the call has no rows that are undecided: it says who has accepted them, if somebody has.
    /// Another one: it may have been done, and can be done again.
    pub async fn accept(&self, run: Uuid, call: &str, actor: &str, reason: &str) -> Result<i64, StoreError> {
        let accept = sqlx::query_scalar("select es_undo.accept($1, $2, $3, $4)").bind(run).bind(call);
        let rows = accept.bind(actor).bind(reason).fetch_one(self.pool()).await;
        let rows = rows.map_err(|e| failed("accepting what a call has changed", e))?;
        tracing::warn!(%run, call, actor, reason, rows, "what a call has changed is taken as it is");
        Ok(rows)
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
