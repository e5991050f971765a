//! A schema for other names than its own, learned by running it in a database that is thrown away.

use es_core::store::{StoreError, Tables};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};

use super::builds::{Build, Object};
use super::names;
use crate::error;
use crate::schema::{quoted, sql};

const DOING: &str = "running a schema for another generation";

/// What a schema makes.
pub(super) struct Made {
    /// Its tables, by their plain names.
    pub(super) objects: Vec<Object>,
    /// What makes them, and the rows that the schema puts in, under the names of the build.
    pub(super) statements: Vec<String>,
}

/// How a build is made in a file where some names are taken.
pub(super) async fn learn(
    tables: &Tables,
    build: &Build,
    is_taken: impl Fn(&str) -> bool,
) -> Result<Made, StoreError> {
    let failed = |e| error::store(DOING, e);
    let say = |e| {
        format!(
            "the schema of projection {} does not run by itself, as it must for a second generation: {e}; \
             let it refer to its own tables only",
            tables.name
        )
    };
    let refused = |e| error::of_user(DOING, e, say);
    let mut conn =
        SqliteConnectOptions::new().in_memory(true).foreign_keys(false).connect().await.map_err(failed)?;
    sqlx::raw_sql(tables.schema).execute(&mut conn).await.map_err(refused)?;
    let objects = super::objects(&mut conn).await.map_err(failed)?;
    renameable(&mut conn, tables).await?;
    let stored_names: Vec<String> = objects.iter().map(|(_, name)| build.stored(name)).collect();
    if !build.plain {
        let renames = objects.iter().zip(&stored_names).map(|((_, from), to)| names::rename(from, to));
        sqlx::raw_sql(sql(renames.collect())).execute(&mut conn).await.map_err(refused)?;
    }
    let mut statements = stored(&mut conn, "table").await.map_err(failed)?;
    for name in &stored_names {
        statements.extend(rows(&mut conn, name).await.map_err(failed)?);
    }
    for kind in ["index", "trigger"] {
        // Triggers last: they have acted on the rows already.
        let name = |name: String| if is_taken(&name) { build.own(&name) } else { name };
        statements.extend(other(&mut conn, kind, name).await?);
    }
    Ok(Made { objects, statements })
}

/// Refuses what SQLite cannot rename.
async fn renameable(conn: &mut SqliteConnection, tables: &Tables) -> Result<(), StoreError> {
    let sql = "select name from sqlite_schema where type = 'view' or sql like 'create virtual %' limit 1";
    let found = sqlx::query_scalar::<_, String>(sql).fetch_optional(conn).await;
    match found.map_err(|e| error::store(DOING, e))? {
        None => Ok(()),
        Some(name) => Err(StoreError::misuse(format!(
            "{name} is a view or a virtual table, so projection {} cannot have a second generation, or another \
             version next to it: SQLite cannot rename it. Make it outside of the projection's schema",
            tables.name
        ))),
    }
}

async fn stored(conn: &mut SqliteConnection, kind: &str) -> Result<Vec<String>, sqlx::Error> {
    let sql = "select sql from sqlite_schema where type = ? and name not glob 'sqlite_*' order by rowid";
    sqlx::query_scalar(sql).bind(kind).fetch_all(conn).await
}

/// The indexes or triggers, under other names.
async fn other(
    conn: &mut SqliteConnection,
    kind: &str,
    rename: impl Fn(String) -> String,
) -> Result<Vec<String>, StoreError> {
    let sql = "select name, sql from sqlite_schema where type = ? and sql is not null order by rowid";
    let rows = sqlx::query(sql).bind(kind).fetch_all(conn).await;
    let rows = rows.map_err(|e| error::store(DOING, e))?;
    let create = |row: &SqliteRow| {
        let (name, stored): (String, String) = (row.get_unchecked(0), row.get_unchecked(1));
        names::create_as(&stored, &rename(name)).ok_or_else(|| {
            StoreError::misuse(format!(
                "the schema has an {kind} that cannot be made under another name: {stored}"
            ))
        })
    };
    rows.iter().map(create).collect()
}

/// The rows that the schema has put into a table, as statements. Generated columns generate themselves.
async fn rows(conn: &mut SqliteConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    let columns = "select name from pragma_table_xinfo(?) where hidden = 0";
    let columns: Vec<String> = sqlx::query_scalar(columns).bind(table).fetch_all(&mut *conn).await?;
    let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let table = quoted(table);
    let values =
        columns.iter().map(|column| format!("quote({column})")).collect::<Vec<_>>().join(" || ', ' || ");
    let select = sql(format!("select {values} from {table}"));
    let rows: Vec<String> = sqlx::query_scalar(select).fetch_all(conn).await?;
    let columns = columns.join(", ");
    let insert = |values| format!("insert into {table} ({columns}) values ({values})");
    Ok(rows.into_iter().map(insert).collect())
}
