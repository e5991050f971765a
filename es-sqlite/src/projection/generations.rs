//! Which generation has the plain names: for one transaction, or for good.

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::{Row as _, SqliteConnection};

use super::builds::{self, Build};
use super::names;
use crate::{Tx, error, schema};

/// An object of `sqlite_schema`: its kind, its name, its SQL.
type Stored = (String, String, String);

/// The SQL of objects, as it was: [kind, name, sql].
const RESTORE: &str = "pragma writable_schema = on;
    update sqlite_schema as s set sql = was.value ->> 2 from json_each(?) was
    where s.type = was.value ->> 0 and s.name = was.value ->> 1;
    pragma writable_schema = reset";

/// The names of a projection's tables mean those of one generation, until the transaction ends. Nobody else ever sees
/// that: it gives the names back before it commits.
pub(crate) async fn begin_at(mut tx: Tx, tables: &Tables, generation: Generation) -> Result<Tx, StoreError> {
    let ours = builds::of_version(&mut tx, tables).await?;
    let build = builds::find(&ours, tables, generation)?;
    if build.current || build.objects.is_empty() {
        return Ok(tx);
    }
    let current = current(&ours);
    let there = names::swap(build.tables(), current, Some(generation));
    rename(&mut tx, there, tables).await?;
    tx.give_back(names::swap(build.tables(), Some(generation), current));
    Ok(tx)
}

/// Gives the plain names to another generation for good, and applies a commit.
pub(crate) async fn switch(
    mut tx: Tx,
    tables: &Tables,
    to: Generation,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let ours = builds::of_version(&mut tx, tables).await?;
    let build = builds::find(&ours, tables, to)?;
    if !build.current {
        let failed = |e| error::store("switching a projection", e);
        let own: Vec<String> =
            build.tables().flat_map(|name| [name.to_owned(), names::beside(name, to)]).collect();
        let before = others(&mut tx, &own).await.map_err(failed)?;
        rename(&mut tx, names::swap(build.tables(), current(&ours), Some(to)), tables).await?;
        restore(&mut tx, &own, before).await.map_err(failed)?;
        mark(&mut tx, tables, to).await.map_err(failed)?;
    }
    *tx.staged() = commit;
    tx.commit().await
}

fn current(builds: &[Build]) -> Option<Generation> {
    builds.iter().find(|build| build.current).map(|build| build.generation)
}

async fn rename(conn: &mut SqliteConnection, renames: String, tables: &Tables) -> Result<(), StoreError> {
    let say = |e| {
        format!(
            "the tables of projection {} cannot be renamed, as each generation but the current one needs: {e}; \
             drop what is in the way (a view or trigger of yours that reads what is gone, a table with such a name)",
            tables.name
        )
    };
    // A switch that was dropped midway may have left the schema writable: renames would then overlook what they cannot
    // rewrite.
    let renames = format!("pragma writable_schema = off; {renames}");
    let renamed = sqlx::raw_sql(schema::sql(renames)).execute(conn).await;
    renamed.map_err(|e| error::of_user("renaming the tables of a projection", e, say))?;
    Ok(())
}

/// Whatever in the file is not of these tables.
async fn others(conn: &mut SqliteConnection, own: &[String]) -> Result<Vec<Stored>, sqlx::Error> {
    let sql = "select type, name, sql from sqlite_schema
               where sql is not null and tbl_name not in (select value from json_each(?))";
    let own = serde_json::to_string(own).expect("strings serialize");
    let rows = sqlx::query(sql).bind(own).fetch_all(conn).await?;
    Ok(rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1), row.get_unchecked(2))).collect())
}

/// Views, triggers and foreign keys of the user's own mean the name, not the table that had it: the renames made them
/// follow the table, so they get their text back.
async fn restore(
    conn: &mut SqliteConnection,
    own: &[String],
    before: Vec<Stored>,
) -> Result<(), sqlx::Error> {
    let after = others(conn, own).await?;
    let changed: Vec<Stored> = before.into_iter().filter(|stored| !after.contains(stored)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let changed = serde_json::to_string(&changed).expect("strings serialize");
    sqlx::query(RESTORE).bind(changed).persistent(false).execute(conn).await?;
    Ok(())
}

async fn mark(conn: &mut SqliteConnection, tables: &Tables, to: Generation) -> Result<(), sqlx::Error> {
    // In two steps, since only one may be current at any time.
    for (sql, generation) in [
        ("update es_projections set current = 0 where name = ? and version = ? and generation <> ?", to),
        ("update es_projections set current = 1 where name = ? and version = ? and generation = ?", to),
    ] {
        sqlx::query(sql).bind(tables.name).bind(tables.version).bind(generation).execute(&mut *conn).await?;
    }
    Ok(())
}
