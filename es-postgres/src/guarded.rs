//! Guard rows in a database of the user's own: calls to it act once.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Locked, Standing};
use es_core::store::StoreError;
use sqlx::{PgConnection, PgPool, Row as _};
use uuid::Uuid;

use crate::begun::Begun;
use crate::error;

/// The form of the tables that this program knows.
const FORMAT: i32 = 1;
const MAKE: &str = include_str!("sql/guards.sql");
/// `undefined_table` and `invalid_schema_name`.
const MISSING: [&str; 2] = ["42P01", "3F000"];
/// `lock_not_available`: somebody has had it for longer than it is waited for.
const NOT_AVAILABLE: &str = "55P03";

/// A database of your own in which calls act once: see [`es_core::guard`]. It need not have a store in it.
///
/// The rows are in the schema `es_guard`, which [`install`](Self::install) makes. The account of the pool needs `usage` on
/// it, `select`, `insert`, `update` and `delete` on `guards`, and `select` on `about`; whoever
/// [forgets](es_core::guard::forget) needs `update` on that.
#[derive(Clone, Debug)]
pub struct PgGuarded {
    pool: PgPool,
    lock_timeout: Duration,
}

impl PgGuarded {
    /// Through this pool.
    #[must_use]
    pub const fn new(pool: PgPool) -> Self {
        Self { pool, lock_timeout: Duration::from_secs(5) }
    }

    /// For how long a transaction waits for a lock, of another call under the same key for example; 5 seconds by default.
    #[must_use]
    pub const fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The SQL that [`install`](Self::install) runs, to read or to print: for an account that may.
    #[must_use]
    pub fn install_sql() -> String {
        format!("create schema es_guard;\n{MAKE}")
    }

    /// Makes the tables, if they are not there. Two at once: one waits for the other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the account may not, or a newer program has made them.
    pub async fn install(&self) -> Result<(), StoreError> {
        let failed = |e| error::store("making the tables of guard rows", e);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let lock = "select pg_advisory_xact_lock(hashtextextended('es-postgres guards', 0))";
        sqlx::query(lock).execute(&mut *tx).await.map_err(failed)?;
        let made =
            "select to_regclass('es_guard.about') is not null, to_regnamespace('es_guard') is not null";
        let made = sqlx::query(made).fetch_one(&mut *tx).await.map_err(failed)?;
        let (about, space): (bool, bool) =
            (made.try_get(0).map_err(failed)?, made.try_get(1).map_err(failed)?);
        if about {
            return floor(&mut tx).await.map(drop);
        }
        // Even `if not exists` asks for the privilege to make one.
        if !space {
            sqlx::raw_sql("create schema es_guard").execute(&mut *tx).await.map_err(failed)?;
        }
        sqlx::raw_sql(MAKE).execute(&mut *tx).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }
}

impl GuardedDatabase for PgGuarded {
    type Tx = GuardedTx;

    async fn begin(&self) -> Result<GuardedTx, StoreError> {
        let lock = i32::try_from(self.lock_timeout.as_millis()).unwrap_or(i32::MAX).max(1);
        // What was committed before a statement is seen by it, whatever the database has for a default. A client that hangs
        // does not keep its locks for ever.
        let begin = format!(
            "begin isolation level read committed; set local lock_timeout = {lock}; \
             set local idle_in_transaction_session_timeout = '2min'"
        );
        Ok(GuardedTx(Begun::begin(&self.pool, "opening a guarded transaction", begin).await?))
    }
}

/// A transaction of a guarded call. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **tx)`.
///
/// It ends with the call: do not commit it, or roll it back, by SQL.
#[derive(Debug)]
pub struct GuardedTx(Begun);

impl Deref for GuardedTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for GuardedTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl GuardRows for GuardedTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        let (state, result) = row.standing.stored();
        let insert = "insert into es_guard.guards (run, call, state, fingerprint, result)
            values ($1, $2, $3, $4, $5) on conflict (run, call) do nothing";
        let insert = sqlx::query(insert).bind(key.run()).bind(key.call()).bind(state);
        let insert = insert.bind(row.fingerprint.to_be_bytes()).bind(result);
        let done = insert.execute(&mut **self).await.map_err(|e| locked("inserting a guard row", e))?;
        Ok(done.rows_affected() == 1)
    }

    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        let failed = |e| error::store("reading a guard row", e);
        let find =
            "select state, result, fingerprint from es_guard.guards where run = $1 and call = $2 for update";
        let found = sqlx::query(find).bind(key.run()).bind(key.call()).fetch_optional(&mut **self).await;
        let found = found.map_err(|e| locked("reading a guard row", e))?;
        let Some(row) = found else { return Ok(None) };
        let (state, result): (String, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let fingerprint: [u8; 16] = row.try_get(2).map_err(failed)?;
        let standing = Standing::read(&state, result)?;
        Ok(Some(GuardRow { fingerprint: u128::from_be_bytes(fingerprint), standing }))
    }

    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        let (state, result) = standing.stored();
        let change = "update es_guard.guards set state = $3, result = $4, changed = clock_timestamp()
            where run = $1 and call = $2";
        let change = sqlx::query(change).bind(key.run()).bind(key.call()).bind(state).bind(result);
        let done = change.execute(&mut **self).await.map_err(|e| error::store("changing a guard row", e))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(left()) }
    }

    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        floor(&mut self.0).await
    }

    async fn forget(&mut self, to: Uuid) -> Result<u64, StoreError> {
        let failed = |e| missing_tables("forgetting guard rows", e);
        let raise = "update es_guard.about set floor = greatest(floor, $1)";
        sqlx::query(raise).bind(to).execute(&mut **self).await.map_err(failed)?;
        let forget = sqlx::query("delete from es_guard.guards where run < $1").bind(to);
        Ok(forget.execute(&mut **self).await.map_err(failed)?.rows_affected())
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.0.commit("committing a guarded call").await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.0.rollback("rolling back a guarded call").await
    }
}

pub(crate) async fn floor(conn: &mut PgConnection) -> Result<Uuid, StoreError> {
    let found = sqlx::query("select format, floor from es_guard.about").fetch_optional(conn).await;
    let found = found.map_err(|e| missing_tables("reading the floor of guard rows", e))?;
    let row = found.ok_or_else(|| missing("es_guard.about has no row"))?;
    let failed = |e| error::store("reading the floor of guard rows", e);
    let (format, floor): (i32, Uuid) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if format > FORMAT {
        let what =
            format!("the guard rows have format {format}, this program knows {FORMAT}: use a newer program");
        return Err(StoreError::misuse(what));
    }
    Ok(floor)
}

/// An error of a statement that needs the tables of guard rows.
pub(crate) fn missing_tables(what: &'static str, error: sqlx::Error) -> StoreError {
    match error::code(&error) {
        Some(code) if MISSING.contains(&code) => missing(&error.to_string()),
        _ => error::store(what, error),
    }
}

/// An error of a statement that may wait for another transaction.
fn locked(what: &'static str, error: sqlx::Error) -> StoreError {
    match error::code(&error) {
        Some(NOT_AVAILABLE) => StoreError::transient(what, Locked(error.into())),
        _ => missing_tables(what, error),
    }
}

fn missing(why: &str) -> StoreError {
    StoreError::misuse(format!(
        "the database has no tables for guard rows: call `PgGuarded::install` ({why})"
    ))
}

fn left() -> StoreError {
    StoreError::misuse("the transaction of a guarded call was ended before its end, by its SQL")
}
