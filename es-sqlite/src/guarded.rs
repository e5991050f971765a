//! Guard rows in a file of the user's own: calls to it act once.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Locked, Standing};
use es_core::store::StoreError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::error;
use crate::guard::Guard;

/// The form of the tables that this program knows.
const FORMAT: i64 = 1;
const MAKE: &str = include_str!("sql/guards.sql");

/// A file of your own in which calls act once: see [`es_core::guard`]. It need not have a store in it.
///
/// The rows are in the tables `es_guards` and `es_guard_about`, which [`install`](Self::install) makes. One guarded
/// transaction at a time has the file for writing; others wait as long as the `busy_timeout` of the pool says. Where a power
/// cut must not take back what a saga believes, the pool needs `synchronous = full`, which is sqlx's default.
#[derive(Clone, Debug)]
pub struct SqliteGuarded {
    pool: SqlitePool,
}

impl SqliteGuarded {
    /// Through this pool.
    #[must_use]
    pub const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The SQL that [`install`](Self::install) runs, to read or to print.
    #[must_use]
    pub const fn install_sql() -> &'static str {
        MAKE
    }

    /// Makes the tables, if they are not there. Two at once: one waits for the other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the file cannot be written, or a newer program has made them.
    pub async fn install(&self) -> Result<(), StoreError> {
        let failed = |e| error::store("making the tables of guard rows", e);
        let mut tx = self.begin().await?;
        let made = "select 1 from sqlite_schema where type = 'table' and name = 'es_guard_about'";
        if sqlx::query(made).fetch_optional(&mut *tx).await.map_err(failed)?.is_some() {
            return tx.floor().await.map(drop);
        }
        sqlx::raw_sql(MAKE).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await
    }
}

impl GuardedDatabase for SqliteGuarded {
    type Tx = GuardedTx;

    async fn begin(&self) -> Result<GuardedTx, StoreError> {
        let failed = |e| error::store("opening a guarded transaction", e);
        let conn = self.pool.acquire().await.map_err(failed)?;
        let mut tx = GuardedTx { conn: Some(conn), watch: Arc::default() };
        if let Err(error) = sqlx::query("begin immediate").execute(&mut *tx).await {
            // There is no transaction: others may use the connection.
            drop(tx.conn.take());
            return Err(match error::is_busy(&error) {
                true => StoreError::transient("opening a guarded transaction", Locked(error.into())),
                false => failed(error),
            });
        }
        let watch = tx.watch.clone();
        watch.install(&mut tx).await.map_err(failed)?;
        watch.watch(true);
        Ok(tx)
    }
}

/// A transaction of a guarded call. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **tx)`.
///
/// It ends with the call: do not commit it, or roll it back, by SQL. Savepoints are plain SQL. It has hooks on the
/// connection for commits and rollbacks: if SQLite ends it (a full disk, `insert or rollback`), what follows is refused, and
/// nothing of it is kept. If it is dropped, its connection is closed.
#[derive(Debug)]
pub struct GuardedTx {
    /// Taken only by its end.
    conn: Option<PoolConnection<Sqlite>>,
    watch: Arc<Guard>,
}

impl GuardedTx {
    /// Runs its last statement. After an error the connection is not used again: whatever state it is in.
    async fn end(mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(statement).execute(&mut *self).await?;
        self.watch.watch(false);
        drop(self.conn.take());
        Ok(())
    }
}

impl Drop for GuardedTx {
    fn drop(&mut self) {
        // Closing it rolls back, and what is still under way on it is watched until then.
        drop(self.conn.take().map(PoolConnection::detach));
    }
}

impl Deref for GuardedTx {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        self.conn.as_ref().expect("taken only by its end")
    }
}

impl DerefMut for GuardedTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect("taken only by its end")
    }
}

impl GuardRows for GuardedTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        let (state, result) = row.standing.stored();
        let insert =
            "insert into es_guards (run, call, state, fingerprint, result) values (?1, ?2, ?3, ?4, ?5)
            on conflict (run, call) do nothing";
        let insert = sqlx::query(insert).bind(bytes(key.run())).bind(key.call()).bind(state);
        let insert = insert.bind(row.fingerprint.to_be_bytes().to_vec()).bind(result);
        let done = insert.execute(&mut **self).await.map_err(|e| failed("inserting a guard row", e))?;
        Ok(done.rows_affected() == 1)
    }

    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        let failed = |e| error::store("reading a guard row", e);
        let find = "select state, result, fingerprint from es_guards where run = ?1 and call = ?2";
        let found = sqlx::query(find).bind(bytes(key.run())).bind(key.call());
        let found = found.fetch_optional(&mut **self).await.map_err(failed)?;
        found.as_ref().map(guard_row).transpose()
    }

    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        let (state, result) = standing.stored();
        let change = "update es_guards set state = ?3, result = ?4 where run = ?1 and call = ?2";
        let change = sqlx::query(change).bind(bytes(key.run())).bind(key.call()).bind(state).bind(result);
        let done = change.execute(&mut **self).await.map_err(|e| error::store("changing a guard row", e))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(left()) }
    }

    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        let found = sqlx::query("select format, floor from es_guard_about").fetch_optional(&mut **self).await;
        let found = found.map_err(|e| failed("reading the floor of guard rows", e))?;
        let row = found.ok_or_else(|| missing("es_guard_about has no row"))?;
        let failed = |e| error::store("reading the floor of guard rows", e);
        let format: i64 = row.try_get(0).map_err(failed)?;
        if format > FORMAT {
            let what = format!(
                "the guard rows have format {format}, this program knows {FORMAT}: use a newer program"
            );
            return Err(StoreError::misuse(what));
        }
        let floor: Vec<u8> = row.try_get(1).map_err(failed)?;
        Uuid::from_slice(&floor).map_err(|e| failed(sqlx::Error::Decode(e.into())))
    }

    async fn forget(&mut self, to: Uuid) -> Result<u64, StoreError> {
        let failed = |e| failed("forgetting guard rows", e);
        let raise = sqlx::query("update es_guard_about set floor = max(floor, ?1)").bind(bytes(to));
        raise.execute(&mut **self).await.map_err(failed)?;
        let forget = sqlx::query("delete from es_guards where run < ?1").bind(bytes(to));
        Ok(forget.execute(&mut **self).await.map_err(failed)?.rows_affected())
    }

    async fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> Result<Vec<(GuardKey, GuardRow)>, StoreError> {
        let page = "select state, result, fingerprint, run, call from es_guards
            where (run, call) > (?1, ?2) order by run, call limit ?3";
        let (run, call) = after.map_or((Uuid::nil(), ""), |key| (key.run(), key.call()));
        let page = sqlx::query(page).bind(bytes(run)).bind(call);
        let page = page.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = page.fetch_all(&mut **self).await.map_err(|e| failed("listing guard rows", e))?;
        let wrong = |e| error::store("listing guard rows", e);
        let read = |row: SqliteRow| {
            let (run, call): (Vec<u8>, String) =
                (row.try_get(3).map_err(wrong)?, row.try_get(4).map_err(wrong)?);
            let run = Uuid::from_slice(&run).map_err(|e| wrong(sqlx::Error::Decode(e.into())))?;
            let key = GuardKey::new(run, call).map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
            Ok((key, guard_row(&row)?))
        };
        rows.into_iter().map(read).collect()
    }

    async fn commit(self) -> Result<(), StoreError> {
        if self.watch.is_lost() {
            return Err(left());
        }
        self.end("commit").await.map_err(|e| error::store("committing a guarded call", e))
    }

    async fn rollback(self) -> Result<(), StoreError> {
        // SQLite has done that by itself, after a statement that failed. The connection is closed.
        if self.watch.is_lost() {
            return Ok(());
        }
        self.watch.watch(false);
        self.end("rollback").await.map_err(|e| error::store("rolling back a guarded call", e))
    }
}

/// State, result and fingerprint.
fn guard_row(row: &SqliteRow) -> Result<GuardRow, StoreError> {
    let failed = |e| error::store("reading a guard row", e);
    let (state, result): (String, String) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let fingerprint: Vec<u8> = row.try_get(2).map_err(failed)?;
    let fingerprint =
        <[u8; 16]>::try_from(fingerprint).map_err(|_| failed(sqlx::Error::Decode("16 bytes".into())))?;
    let standing = Standing::read(&state, result)?;
    Ok(GuardRow { fingerprint: u128::from_be_bytes(fingerprint), standing })
}

fn bytes(run: Uuid) -> Vec<u8> {
    run.as_bytes().to_vec()
}

fn failed(what: &'static str, error: sqlx::Error) -> StoreError {
    let is_missing =
        error.as_database_error().is_some_and(|error| error.message().contains("no such table: es_guard"));
    if is_missing { missing(&error.to_string()) } else { error::store(what, error) }
}

fn missing(why: &str) -> StoreError {
    StoreError::misuse(format!(
        "the file has no tables for guard rows: call `SqliteGuarded::install` ({why})"
    ))
}

fn left() -> StoreError {
    StoreError::misuse(
        "the transaction of a guarded call was ended before its end, by its SQL or after an error",
    )
}
