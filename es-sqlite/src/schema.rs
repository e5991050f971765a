//! Migrations, and the one place where SQL is put together at run time.

use es_core::store::StoreError;
use sqlx::SqlSafeStr as _;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlStr, SqliteConnection};

use crate::error;

/// One step of the schema. Steps are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Counts from 1.
    pub number: i64,
    /// The SQL.
    pub sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, sql: include_str!("../migrations/0001_store.sql") },
    Migration { number: 2, sql: include_str!("../migrations/0002_attempts.sql") },
    Migration { number: 3, sql: include_str!("../migrations/0003_versions.sql") },
    Migration { number: 4, sql: include_str!("../migrations/0004_forgotten.sql") },
    Migration { number: 5, sql: include_str!("../migrations/0005_history.sql") },
];

/// Every step of the schema, to read or to print.
#[must_use]
pub const fn migrations() -> &'static [Migration] {
    MIGRATIONS
}

/// Brings the schema up to date. Two openers at once: one waits.
///
/// # Errors
///
/// [`StoreError::Misuse`] if a newer program migrated the file, or it is not a database.
pub(crate) async fn migrate(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let failed = |e| error::store("opening the database", e);
    if let Some((schema, _)) = current(conn).await.map_err(failed)?
        && schema == MIGRATIONS.len() as i64
    {
        return Ok(());
    }
    let mut tx = conn.begin_with("begin immediate").await.map_err(failed)?;
    // Again, now that nobody else can be migrating.
    let (schema, identity) = match current(&mut tx).await.map_err(failed)? {
        Some(found) => found,
        None => (0, es_core::id::Ids::default().next()),
    };
    if schema > MIGRATIONS.len() as i64 {
        let known = MIGRATIONS.len();
        let what =
            format!("the database has schema {schema}, this program knows {known}: use a newer program");
        return Err(StoreError::misuse(what));
    }
    for step in MIGRATIONS.iter().filter(|step| step.number > schema) {
        sqlx::raw_sql(step.sql).execute(&mut *tx).await.map_err(failed)?;
        sqlx::query(
            "insert into es_store (one, identity, schema) values (1, ?1, ?2)
             on conflict (one) do update set schema = excluded.schema",
        )
        .bind(identity.as_bytes().as_slice())
        .bind(step.number)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

/// Whether there is a store in this file.
pub(crate) async fn is_store(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    Ok(current(conn).await?.is_some())
}

/// The schema and identity of the store; `None` if there is none in this file yet.
async fn current(conn: &mut SqliteConnection) -> Result<Option<(i64, uuid::Uuid)>, sqlx::Error> {
    let made = "select 1 from sqlite_schema where type = 'table' and name = 'es_store'";
    if sqlx::query(made).fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    let row = sqlx::query("select schema, identity from es_store").fetch_one(&mut *conn).await?;
    let identity = uuid::Uuid::from_slice(row.try_get(1)?).map_err(|e| sqlx::Error::Decode(e.into()))?;
    Ok(Some((row.try_get(0)?, identity)))
}

/// SQL that was put together from this crate's own text and placeholders; values are always bound.
pub(crate) fn sql(text: String) -> SqlStr {
    AssertSqlSafe(text).into_sql_str()
}

/// A name as SQLite quotes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
