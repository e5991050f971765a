//! Guard rows in a database of the user's own: calls to it act once.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Locked, Standing};
use es_core::store::StoreError;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Postgres, Row as _, Transaction};
use uuid::Uuid;

use crate::begun::Begun;
use crate::{error, schema};

/// The form of the tables that this program knows.
const FORMAT: i32 = 1;
const MAKE: &str = include_str!("sql/guards.sql");
/// Changes a row, and reads nothing.
const CHANGE: &str = "update es_guard.guards set state = $3, result = $4, changed = clock_timestamp()
    where run = $1 and call = $2 returning ''";
/// `undefined_table` and `invalid_schema_name`.
pub(crate) const MISSING: [&str; 2] = ["42P01", "3F000"];
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
        match make(&self.pool, "es_guard", "es-postgres guards", MAKE.to_owned()).await? {
            Some(mut there) => floor(&mut there).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Makes a schema of this name with these tables, unless its table `about` is there: then a transaction in which it is.
/// Two at once: one waits for the other.
pub(crate) async fn make(
    pool: &PgPool,
    name: &'static str,
    turn: &'static str,
    tables: String,
) -> Result<Option<Transaction<'static, Postgres>>, StoreError> {
    let failed = |e| error::store("making tables in a database of the user's own", e);
    let mut tx = pool.begin().await.map_err(failed)?;
    let lock = sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))").bind(turn);
    lock.execute(&mut *tx).await.map_err(failed)?;
    // In the catalogs themselves: what a session believes of a name may be older than what it has waited for.
    let made = "select exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relname = 'about'),
            n.oid is not null
        from (values (1)) one left join pg_catalog.pg_namespace n on n.nspname = $1";
    let made = sqlx::query(made).bind(name).fetch_one(&mut *tx).await.map_err(failed)?;
    let (about, space): (bool, bool) = (made.try_get(0).map_err(failed)?, made.try_get(1).map_err(failed)?);
    if about {
        return Ok(Some(tx));
    }
    // Even `if not exists` asks for the privilege to make one.
    if !space {
        let create = schema::sql(format!("create schema {name}"));
        sqlx::raw_sql(create).execute(&mut *tx).await.map_err(failed)?;
    }
    sqlx::raw_sql(schema::sql(tables)).execute(&mut *tx).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(None)
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
        let begun = Begun::begin(&self.pool, begin).await;
        begun.map(GuardedTx).map_err(|e| error::store("opening a guarded transaction", e))
    }
}

/// A transaction of a guarded call. Derefs to sqlx's connection: `sqlx::query(..).execute(&mut **tx)`.
///
/// It ends with the call: do not commit it, or roll it back, by SQL.
#[derive(Debug)]
pub struct GuardedTx(Begun);

impl GuardedTx {
    /// Changes a row that is there by this statement, and gives the text that it returns.
    pub(crate) async fn change_and_read(
        &mut self,
        key: &GuardKey,
        standing: &Standing,
        change: &'static str,
    ) -> Result<String, StoreError> {
        let failed = |e| error::store("changing a guard row", e);
        let (state, result) = standing.stored();
        let change = sqlx::query(change).bind(key.run()).bind(key.call()).bind(state).bind(result);
        let changed = change.fetch_optional(&mut **self).await.map_err(failed)?;
        changed.ok_or_else(left)?.try_get(0).map_err(failed)
    }
}

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
        let find =
            "select state, result, fingerprint from es_guard.guards where run = $1 and call = $2 for update";
        let found = sqlx::query(find).bind(key.run()).bind(key.call()).fetch_optional(&mut **self).await;
        let found = found.map_err(|e| locked("reading a guard row", e))?;
        found.as_ref().map(guard_row).transpose()
    }

    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        self.change_and_read(key, standing, CHANGE).await.map(drop)
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

    async fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> Result<Vec<(GuardKey, GuardRow)>, StoreError> {
        let failed = |e| error::store("listing guard rows", e);
        let page = "select state, result, fingerprint, run, call from es_guard.guards
            where (run, call) > ($1, $2) order by run, call limit $3";
        let (run, call) = after.map_or((Uuid::nil(), ""), |key| (key.run(), key.call()));
        let page = sqlx::query(page).bind(run).bind(call).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = page.fetch_all(&mut **self).await.map_err(|e| missing_tables("listing guard rows", e))?;
        let read = |row: PgRow| {
            let (run, call): (Uuid, String) =
                (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?);
            let key = GuardKey::new(run, call).map_err(|e| StoreError::Corrupt { what: e.to_string() })?;
            Ok((key, guard_row(&row)?))
        };
        rows.into_iter().map(read).collect()
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await.map_err(|e| error::store("committing a guarded call", e))
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.0.rollback().await.map_err(|e| error::store("rolling back a guarded call", e))
    }
}

/// State, result and fingerprint.
fn guard_row(row: &PgRow) -> Result<GuardRow, StoreError> {
    let failed = |e| error::store("reading a guard row", e);
    let (state, result): (String, String) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let fingerprint: [u8; 16] = row.try_get(2).map_err(failed)?;
    let standing = Standing::read(&state, result)?;
    Ok(GuardRow { fingerprint: u128::from_be_bytes(fingerprint), standing })
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
