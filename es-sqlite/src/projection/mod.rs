//! The tables of SQL projections: made once for each generation of each version, emptied by making them again.
//!
//! One version has the plain names that the DDL gives: its current generation's tables are called so. All others are called
//! `balances~2.1`, by version and generation, and have the plain names only within a transaction that writes them: see
//! [`generations`]. An app of another version reads them through [`seen`].

mod builds;
mod compare;
mod generations;
mod names;
mod scratch;
mod seen;

use std::collections::HashSet;

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::{Row as _, SqliteConnection};

use self::builds::{Build, Builds, Object};
pub(crate) use self::compare::Snapshot;
pub(crate) use self::generations::{begin_at, publish, switch};
pub(crate) use self::seen::Seen;
use crate::{Tx, error, schema};

/// Makes a generation, if it is not there.
pub(crate) async fn install(mut tx: Tx, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
    if !add(&mut tx, tables, generation).await? {
        return tx.rollback().await;
    }
    match tx.commit().await {
        Ok(_) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("installing a projection", other)),
    }
}

/// Whether that would be refused: tried, and undone.
pub(crate) async fn check(mut tx: Tx, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
    let added = add(&mut tx, tables, generation).await;
    tx.rollback().await?;
    added.map(drop)
}

/// Makes a generation; `false` if it is there.
async fn add(tx: &mut Tx, tables: &Tables, generation: Generation) -> Result<bool, StoreError> {
    let builds = Builds::read(tx, tables.name).await?;
    unchanged(tables, &builds)?;
    if builds.get(tables.version, generation).is_some() {
        return Ok(false);
    }
    let current = generation == 1 && builds.current(tables.version).is_none();
    let mut build = Build {
        version: tables.version,
        generation,
        current,
        plain: current && builds.published.is_none_or(|version| version == tables.version),
        schema: tables.schema.to_owned(),
        objects: Vec::new(),
        suffix: builds::suffix(tables.version, generation),
    };
    build.objects = make(tx, tables, &builds, &build).await?;
    if builds.of_version(tables.version).any(|other| !same(&other.objects, &build.objects)) {
        return Err(StoreError::misuse(format!(
            "the schema of projection {} makes other tables when it runs alone: a second generation needs tables \
             of its own, so leave `if not exists` and what belongs to somebody else out of it",
            tables.name
        )));
    }
    builds::insert(tx, tables, &build).await?;
    Ok(true)
}

/// Empties a generation, by making its tables again, and applies a commit.
pub(crate) async fn clear(
    mut tx: Tx,
    tables: &Tables,
    generation: Generation,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let mut builds = Builds::read(&mut tx, tables.name).await?;
    unchanged(tables, &builds)?;
    let is_it = |build: &Build| build.version == tables.version && build.generation == generation;
    if let Some(at) = builds.all.iter().position(is_it) {
        let build = builds.all.remove(at);
        drop_objects(&mut tx, &build).await.map_err(|e| error::store("emptying a projection", e))?;
        make(&mut tx, tables, &builds, &build).await?;
    }
    delete_rows(&mut tx, &tables.rows(generation))
        .await
        .map_err(|e| error::store("emptying a projection", e))?;
    *tx.staged() = commit;
    tx.commit().await
}

/// Removes a generation that queries do not read, and applies a commit.
pub(crate) async fn uninstall(
    mut tx: Tx,
    tables: &Tables,
    generation: Generation,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let builds = Builds::read(&mut tx, tables.name).await?;
    let failed = |e| error::store("removing a generation", e);
    if let Some(build) = builds.get(tables.version, generation) {
        if build.current {
            let name = tables.stored_name();
            return Err(StoreError::misuse(format!(
                "generation {generation} of {name} is the one that queries read: switch to another one first"
            ))
            .into());
        }
        drop_objects(&mut tx, build).await.map_err(failed)?;
        builds::delete(&mut tx, tables.name, build).await.map_err(failed)?;
    }
    delete_rows(&mut tx, &tables.rows(generation)).await.map_err(failed)?;
    *tx.staged() = commit;
    tx.commit().await
}

/// Removes a version with all its generations, and applies a commit. What the framework noted about it stays: it fences
/// its workers, also once the version has come back.
pub(crate) async fn remove_version(
    mut tx: Tx,
    name: &str,
    version: u32,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let failed = |e| error::store("removing a version of a projection", e);
    let mut builds = Builds::read(&mut tx, name).await?;
    if builds.published == Some(version) {
        // SQLite cannot rename views; they go before the tables that they read.
        for build in builds.of_version(version) {
            drop_kind(&mut tx, build, "view").await.map_err(failed)?;
        }
        let left = builds.all.iter().map(|build| build.version).filter(|other| *other != version).max();
        let to = left.and_then(|left| builds.current(left));
        generations::give_names(&mut tx, name, builds.plain(), to).await?;
        builds::publish(&mut tx, name, left).await.map_err(failed)?;
        builds = Builds::read(&mut tx, name).await?;
    }
    for build in builds.of_version(version) {
        drop_objects(&mut tx, build).await.map_err(failed)?;
        builds::delete(&mut tx, name, build).await.map_err(failed)?;
    }
    // Of all generations: `~` and what comes after it.
    let sql = "delete from es_rows where tbl > ?1 || '~' and tbl < ?1 || char(127)";
    sqlx::query(sql).bind(format!("{name}/{version}")).execute(&mut *tx).await.map_err(failed)?;
    *tx.staged() = commit;
    tx.commit().await
}

fn unchanged(tables: &Tables, builds: &Builds) -> Result<(), StoreError> {
    let Tables { name, version, schema } = tables;
    if builds.of_version(*version).all(|build| build.schema == *schema) {
        return Ok(());
    }
    Err(StoreError::misuse(format!(
        "the schema of projection {name} is not the one that made the tables of its version {version}: \
         raise `version`, and it is built from the log"
    )))
}

fn same(one: &[Object], other: &[Object]) -> bool {
    one.len() == other.len() && one.iter().all(|object| other.contains(object))
}

/// Runs the DDL for one build; gives the tables and views it made.
///
/// Only where no other build is, under the plain names, it is the user's text as it stands: so it may make anything.
async fn make(
    tx: &mut Tx,
    tables: &Tables,
    others: &Builds,
    build: &Build,
) -> Result<Vec<Object>, StoreError> {
    if tables.schema.trim().is_empty() {
        return Ok(Vec::new());
    }
    let failed = |e| error::store("installing a projection", e);
    let before = objects(tx).await.map_err(failed)?;
    let refused = |e| {
        let say = |e| format!("the schema of projection {} does not run: {e}", tables.name);
        error::of_user("installing a projection", e, say)
    };
    if !build.plain || !others.all.is_empty() {
        let names = names(tx).await.map_err(failed)?;
        let made = scratch::learn(tables, build, |name| names.contains(&name.to_lowercase())).await?;
        let plain = others.plain().map_or(&[][..], |plain| &plain.objects);
        if let Some((_, name)) =
            made.objects.iter().find(|made| before.contains(made) && !plain.contains(made))
        {
            return Err(StoreError::misuse(format!(
                "the schema of projection {} makes {name}, which is there already and belongs to somebody else: another \
                 generation or version needs tables of its own, so leave `if not exists` and what is not its own out of it",
                tables.name
            )));
        }
        for statement in made.statements {
            sqlx::raw_sql(schema::sql(statement)).execute(&mut **tx).await.map_err(refused)?;
        }
        return Ok(made.objects);
    }
    sqlx::raw_sql(tables.schema).execute(&mut **tx).await.map_err(refused)?;
    let mut made = objects(tx).await.map_err(failed)?;
    made.retain(|object| !before.contains(object));
    if made.is_empty() {
        let what = format!(
            "the schema of projection {} makes no table: what it names is there already, and belongs to \
             somebody else (was the projection renamed? then drop the old tables)",
            tables.name
        );
        return Err(StoreError::misuse(what));
    }
    Ok(made)
}

/// Every name in a database, as SQLite compares them.
async fn names(conn: &mut SqliteConnection) -> Result<HashSet<String>, sqlx::Error> {
    let all = sqlx::query_scalar("select name from sqlite_schema").fetch_all(conn).await?;
    Ok(all.into_iter().map(|name: String| name.to_lowercase()).collect())
}

/// The tables and views of a database. Which of them a schema makes is seen by comparing before and after it runs, so a
/// projection names nothing but its DDL.
async fn objects(conn: &mut SqliteConnection) -> Result<Vec<Object>, sqlx::Error> {
    let sql = "select type, name from sqlite_schema
               where type in ('table', 'view') and name not glob 'sqlite_*' order by rowid";
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    Ok(rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect())
}

async fn drop_objects(conn: &mut SqliteConnection, build: &Build) -> Result<(), sqlx::Error> {
    // Views first: they may read the tables.
    drop_kind(conn, build, "view").await?;
    drop_kind(conn, build, "table").await
}

async fn drop_kind(conn: &mut SqliteConnection, build: &Build, kind: &str) -> Result<(), sqlx::Error> {
    for (_, name) in build.objects.iter().filter(|(k, _)| k == kind) {
        let drop = format!("drop {kind} if exists {}", schema::quoted(&build.stored(name)));
        sqlx::raw_sql(schema::sql(drop)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Deletes the rows of a table and of those below its name: `/` and what comes after it, up to `0`.
async fn delete_rows(conn: &mut SqliteConnection, table: &str) -> Result<(), sqlx::Error> {
    let sql = "delete from es_rows where tbl = ?1 or (tbl > ?1 || '/' and tbl < ?1 || '0')";
    sqlx::query(sql).bind(table).execute(conn).await?;
    Ok(())
}
