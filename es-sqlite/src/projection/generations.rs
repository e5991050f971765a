//! Which generation has the plain names: for one transaction, or for good.

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::{Row as _, SqliteConnection};

use super::builds::{self, Build, Builds};
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
    let builds = Builds::read(&mut tx, tables.name).await?;
    let build = builds.find(tables, generation)?;
    if build.plain || build.objects.is_empty() {
        return Ok(tx);
    }
    rename(&mut tx, names::swap(builds.plain(), Some(build)), tables.name).await?;
    tx.give_back(names::swap(Some(build), builds.plain()));
    Ok(tx)
}

/// Makes another generation the current one of its version, and applies a commit.
pub(crate) async fn switch(
    mut tx: Tx,
    tables: &Tables,
    to: Generation,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let builds = Builds::read(&mut tx, tables.name).await?;
    let build = builds.find(tables, to)?;
    if !build.current {
        if builds.published == Some(tables.version) {
            give_names(&mut tx, tables.name, builds.plain(), Some(build)).await?;
        }
        let marked = builds::make_current(&mut tx, tables, to).await;
        marked.map_err(|e| error::store("switching a projection", e))?;
    }
    *tx.staged() = commit;
    tx.commit().await
}

/// Gives the plain names to this version, and applies a commit.
pub(crate) async fn publish(mut tx: Tx, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
    let builds = Builds::read(&mut tx, tables.name).await?;
    let Tables { name, version, .. } = *tables;
    if builds.of_version(version).next().is_none() {
        let what = format!("version {version} of projection {name} is not installed: install it first");
        return Err(StoreError::misuse(what).into());
    }
    if builds.published != Some(version) {
        if builds.plain().is_some_and(Build::has_views) {
            let what = format!(
                "the version of projection {name} that has the plain names has a view, which SQLite cannot rename: \
                 remove that version (`drop_version`), then the next one has them"
            );
            return Err(StoreError::misuse(what).into());
        }
        give_names(&mut tx, name, builds.plain(), builds.current(version)).await?;
        let noted = builds::publish(&mut tx, name, Some(version)).await;
        noted.map_err(|e| error::store("publishing a projection", e))?;
    }
    *tx.staged() = commit;
    tx.commit().await
}

/// Another build gets the plain names for good.
pub(super) async fn give_names(
    tx: &mut Tx,
    name: &str,
    from: Option<&Build>,
    to: Option<&Build>,
) -> Result<(), StoreError> {
    let failed = |e| error::store("renaming the tables of a projection", e);
    let own: Vec<String> = [from, to]
        .into_iter()
        .flatten()
        .flat_map(|build| build.tables().flat_map(|table| [table.to_owned(), build.own(table)]))
        .collect();
    if own.is_empty() {
        return Ok(());
    }
    let before = others(tx, &own).await.map_err(failed)?;
    rename(tx, names::swap(from, to), name).await?;
    restore(tx, &own, before).await.map_err(failed)
}

async fn rename(conn: &mut SqliteConnection, renames: String, name: &str) -> Result<(), StoreError> {
    let say = |e| {
        format!(
            "the tables of projection {name} cannot be renamed, as each generation but the one with the plain names \
             needs: {e}; drop what is in the way (a view or trigger of yours that reads what is gone, a table with such \
             a name)"
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
