//! Migrations, and the one place where SQL is put together at run time.

use std::fmt;
use std::sync::Arc;

use es_core::store::StoreError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqlSafeStr as _, SqlStr};
use xxhash_rust::xxh3::xxh3_64;

use crate::error;

/// The name of the schema that a store lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaName(Arc<str>);

impl Default for SchemaName {
    fn default() -> Self {
        Self("es".into())
    }
}

impl SchemaName {
    pub(crate) fn new(name: &str) -> Result<Self, StoreError> {
        let first = name.bytes().next();
        let plain = first.is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !plain || name.len() > 40 || name.starts_with("pg_") {
            let what = format!(
                "the schema name {:?} is refused: take [a-z_][a-z0-9_]*, at most 40 bytes, not `pg_*`",
                es_core::limits::cut(name)
            );
            return Err(StoreError::misuse(what));
        }
        Ok(Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A table of the store, as SQL names it.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("{}.{name}", quoted(&self.0))
    }

    /// The key of the store's advisory lock: whoever appends holds it.
    pub(crate) fn gate(&self) -> i64 {
        i64::from_be_bytes(xxh3_64(format!("es-postgres gate of {}", self.0).as_bytes()).to_be_bytes())
    }

    /// Text with this schema in the place of `{es}`, and its gate in the place of `{gate}`.
    pub(crate) fn fill(&self, text: &str) -> String {
        text.replace("{es}", &quoted(&self.0)).replace("{gate}", &self.gate().to_string())
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One step of the schema. Steps are only ever added.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Counts from 1.
    pub number: i32,
    /// What it is about.
    pub name: &'static str,
    /// The SQL, for the schema it was asked for.
    pub sql: String,
}

const MIGRATIONS: &[(&str, &str)] = &[
    ("store", include_str!("../migrations/0001_store.sql")),
    ("append", include_str!("../migrations/0002_append.sql")),
    ("operate", include_str!("../migrations/0003_operate.sql")),
    ("generations", include_str!("../migrations/0004_generations.sql")),
    ("witnesses", include_str!("../migrations/0005_witnesses.sql")),
    ("versions", include_str!("../migrations/0006_versions.sql")),
    ("archive", include_str!("../migrations/0007_archive.sql")),
    ("missing versions", include_str!("../migrations/0008_missing_versions.sql")),
    ("staged rows", include_str!("../migrations/0009_staged_rows.sql")),
    ("history", include_str!("../migrations/0010_history.sql")),
    ("generation", include_str!("../migrations/0011_generation.sql")),
    ("gate", include_str!("../migrations/0012_gate.sql")),
    ("age", include_str!("../migrations/0013_age.sql")),
    ("waited", include_str!("../migrations/0014_waited.sql")),
    ("standing", include_str!("../migrations/0015_standing.sql")),
    ("long", include_str!("../migrations/0016_long.sql")),
];

/// The number of the last migration that this program knows.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub(crate) const KNOWN: i32 = MIGRATIONS.len() as i32;

/// Every step of the schema of this name, to read or to print.
///
/// # Errors
///
/// [`StoreError::Misuse`] if it is no name of a schema.
pub fn migrations(schema: &str) -> Result<Vec<Migration>, StoreError> {
    Ok(steps(&SchemaName::new(schema)?))
}

/// The script that makes the roles of a store, `<schema>_owner`, `<schema>_writer` and `<schema>_reader`, and gives them
/// the least that each needs. A superuser runs it, before the first migration and after each one.
///
/// # Errors
///
/// [`StoreError::Misuse`] if it is no name of a schema.
pub fn roles(schema: &str) -> Result<String, StoreError> {
    let name = SchemaName::new(schema)?;
    Ok(name.fill(&include_str!("sql/roles.sql").replace("{schema}", schema)))
}

fn steps(schema: &SchemaName) -> Vec<Migration> {
    let step = |(number, (name, sql)): (i32, &(&'static str, &str))| Migration {
        number,
        name,
        sql: schema.fill(sql),
    };
    (1..).zip(MIGRATIONS).map(step).collect()
}

/// What is stored about the store: its last migration and its identity.
type Current = Option<(i32, uuid::Uuid)>;

/// Brings the schema up to date, or says that it is not; gives the identity of the store.
///
/// Two at once: one waits for the other.
pub(crate) async fn prepare(
    conn: &mut PgConnection,
    schema: &SchemaName,
    migrate: bool,
) -> Result<uuid::Uuid, StoreError> {
    let failed = |e| error::store("migrating the schema", e);
    let found = current(conn, schema).await.map_err(failed)?;
    match found {
        Some((KNOWN, identity)) => return Ok(identity),
        Some((stored, _)) if stored > KNOWN => return Err(newer(schema, stored)),
        _ if !migrate => return Err(behind(schema, found.map_or(0, |(stored, _)| stored))),
        _ => {}
    }
    let mut tx = conn.begin().await.map_err(failed)?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(schema.gate())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    // Again, now that nobody else can be migrating.
    let (stored, identity) = match current(&mut tx, schema).await.map_err(failed)? {
        Some((stored, _)) if stored > KNOWN => return Err(newer(schema, stored)),
        Some(found) => found,
        None => (0, es_core::id::Ids::default().next()),
    };
    if stored == 0 {
        // Even `if not exists` asks for the privilege to make one.
        let there =
            sqlx::query("select 1 from pg_catalog.pg_namespace where nspname = $1").bind(schema.as_str());
        if there.fetch_optional(&mut *tx).await.map_err(failed)?.is_none() {
            let create = sql(schema.fill("create schema {es}"));
            sqlx::raw_sql(create).execute(&mut *tx).await.map_err(failed)?;
        }
    }
    for step in steps(schema).into_iter().filter(|step| step.number > stored) {
        sqlx::raw_sql(sql(step.sql)).execute(&mut *tx).await.map_err(failed)?;
    }
    let note = schema.fill(
        "insert into {es}.store (identity, schema) values ($1, $2)
         on conflict (one) do update set schema = excluded.schema",
    );
    sqlx::query(sql(note)).bind(identity).bind(KNOWN).execute(&mut *tx).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(identity)
}

/// The migrations that a database lacks: what [`prepare`] would run.
pub(crate) async fn pending(
    conn: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Vec<Migration>, StoreError> {
    let found = current(conn, schema).await.map_err(|e| error::store("reading the schema", e))?;
    let stored = found.map_or(0, |(stored, _)| stored);
    if stored > KNOWN {
        return Err(newer(schema, stored));
    }
    Ok(steps(schema).into_iter().filter(|step| step.number > stored).collect())
}

fn newer(schema: &SchemaName, stored: i32) -> StoreError {
    StoreError::misuse(format!(
        "schema {schema} is at migration {stored}, this program knows {KNOWN}: use a newer program"
    ))
}

fn behind(schema: &SchemaName, stored: i32) -> StoreError {
    StoreError::misuse(format!(
        "schema {schema} is at migration {stored}, this program needs {KNOWN}: run the migrations with an account \
         that may, or connect with `with_migrate(true)`"
    ))
}

async fn current(conn: &mut PgConnection, schema: &SchemaName) -> Result<Current, sqlx::Error> {
    let made = "select 1 from pg_catalog.pg_tables where schemaname = $1 and tablename = 'store'";
    if sqlx::query(made).bind(schema.as_str()).fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    let row =
        sqlx::query(sql(schema.fill("select schema, identity from {es}.store"))).fetch_one(conn).await?;
    Ok(Some((row.try_get(0)?, row.try_get(1)?)))
}

/// SQL that was put together from this crate's own text, names that were checked or quoted, and placeholders.
pub(crate) fn sql(text: String) -> SqlStr {
    AssertSqlSafe(text).into_sql_str()
}

/// A name as SQL quotes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_name_is_plain() {
        for good in ["es", "_x", "shop_2"] {
            assert!(SchemaName::new(good).is_ok());
        }
        for bad in ["", "Es", "2x", "pg_es", "a b", "a\"b", "a;drop", "ä", &"x".repeat(41)] {
            assert!(SchemaName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stores_of_two_schemas_have_two_gates() {
        let (a, b) = (SchemaName::new("a").unwrap(), SchemaName::new("b").unwrap());
        assert_ne!(a.gate(), b.gate());
        // Stored in functions: programs of every version take the same lock.
        assert_eq!(SchemaName::default().gate(), SchemaName::new("es").unwrap().gate());
    }

    #[test]
    fn migrations_can_be_printed_for_any_schema() {
        let all = migrations("shop").unwrap();
        assert_eq!(all.len(), MIGRATIONS.len());
        assert!(all.iter().all(|step| !step.sql.contains("{es}") && !step.sql.contains("{gate}")));
        assert!(all[0].sql.contains("create table \"shop\".events"));
    }
}
