//! The tables of SQL projections: made once for each generation, emptied by making them again.
//!
//! The current generation's tables have the plain names that the DDL gives them. Those of the others stand beside them,
//! as `balances~2`, and have the plain names only within a transaction that writes them: see [`generations`].

mod builds;
mod compare;
mod generations;
mod names;
mod scratch;

use es_core::store::{Commit, CommitError, Committed, Generation, StoreError, Tables, Transaction as _};
use sqlx::{Row as _, SqliteConnection};

use self::builds::{Build, Object};
pub(crate) use self::compare::compare;
pub(crate) use self::generations::{begin_at, switch};
use crate::{Tx, error, schema};

/// Makes a generation, if it is not there; with the first one, what other versions left goes.
pub(crate) async fn install(mut tx: Tx, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
    let builds = builds::read(&mut tx, tables.name).await?;
    let (ours, others): (Vec<Build>, Vec<Build>) =
        builds.into_iter().partition(|build| build.version == i64::from(tables.version));
    unchanged(tables, &ours)?;
    let there = ours.iter().any(|build| build.generation == generation);
    if there && (generation > 1 || others.is_empty()) {
        return tx.rollback().await;
    }
    if generation == 1 {
        remove(&mut tx, &others)
            .await
            .map_err(|e| error::store("removing another version of a projection", e))?;
    }
    if !there {
        let current = generation == 1 && !ours.iter().any(|build| build.current);
        let objects = make(&mut tx, tables, generation, current).await?;
        if ours.iter().any(|build| !same(&build.objects, &objects)) {
            return Err(StoreError::misuse(format!(
                "the schema of projection {} makes other tables when it runs alone: a second generation needs tables \
                 of its own, so leave `if not exists` and what belongs to somebody else out of it",
                tables.name
            )));
        }
        builds::insert(&mut tx, tables, generation, current, &objects).await?;
    }
    match tx.commit().await {
        Ok(_) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("installing a projection", other)),
    }
}

/// Empties a generation, by making its tables again, and applies a commit.
pub(crate) async fn clear(
    mut tx: Tx,
    tables: &Tables,
    generation: Generation,
    commit: Commit,
) -> Result<Committed, CommitError> {
    let ours = builds::of_version(&mut tx, tables).await?;
    unchanged(tables, &ours)?;
    if let Some(build) = ours.iter().find(|build| build.generation == generation) {
        drop_objects(&mut tx, build).await.map_err(|e| error::store("emptying a projection", e))?;
        make(&mut tx, tables, generation, build.current).await?;
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
    let ours = builds::of_version(&mut tx, tables).await?;
    let failed = |e| error::store("removing a generation", e);
    if let Some(build) = ours.iter().find(|build| build.generation == generation) {
        if build.current {
            let name = tables.stored_name();
            return Err(StoreError::misuse(format!(
                "generation {generation} of {name} is the one that queries read: switch to another one first"
            ))
            .into());
        }
        drop_objects(&mut tx, build).await.map_err(failed)?;
        builds::delete(&mut tx, build).await.map_err(failed)?;
    }
    delete_rows(&mut tx, &tables.rows(generation)).await.map_err(failed)?;
    *tx.staged() = commit;
    tx.commit().await
}

fn unchanged(tables: &Tables, ours: &[Build]) -> Result<(), StoreError> {
    if ours.iter().all(|build| build.schema == tables.schema) {
        return Ok(());
    }
    let Tables { name, version, .. } = tables;
    Err(StoreError::misuse(format!(
        "the schema of projection {name} is not the one that made the tables of its version {version}: \
         raise `version`, and it is built anew"
    )))
}

fn same(one: &[Object], other: &[Object]) -> bool {
    one.len() == other.len() && one.iter().all(|object| other.contains(object))
}

/// Runs the DDL for one generation; gives the tables and views it made.
///
/// Only the first generation, under the plain names, is the user's text as it stands: so it may make anything.
async fn make(
    tx: &mut Tx,
    tables: &Tables,
    generation: Generation,
    current: bool,
) -> Result<Vec<Object>, StoreError> {
    if tables.schema.trim().is_empty() {
        return Ok(Vec::new());
    }
    let refused = |e| {
        let say = |e| format!("the schema of projection {} does not run: {e}", tables.name);
        error::of_user("installing a projection", e, say)
    };
    if generation > 1 || !current {
        let made = scratch::learn(tables, generation, !current).await?;
        for statement in made.statements {
            sqlx::raw_sql(schema::sql(statement)).execute(&mut **tx).await.map_err(refused)?;
        }
        return Ok(made.objects);
    }
    let failed = |e| error::store("installing a projection", e);
    let before = objects(tx).await.map_err(failed)?;
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

/// The tables and views of a database. Which of them a schema makes is seen by comparing before and after it runs, so a
/// projection names nothing but its DDL.
async fn objects(conn: &mut SqliteConnection) -> Result<Vec<Object>, sqlx::Error> {
    let sql = "select type, name from sqlite_schema
               where type in ('table', 'view') and name not glob 'sqlite_*' order by rowid";
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    Ok(rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect())
}

/// Removes whole versions of a projection: all that their generations have. What the framework noted about them stays: it
/// fences their workers, also once a version has come back.
async fn remove(conn: &mut SqliteConnection, builds: &[Build]) -> Result<(), sqlx::Error> {
    for build in builds {
        drop_objects(conn, build).await?;
        builds::delete(conn, build).await?;
        let version = format!("{}/{}", build.name, build.version);
        // Of all generations: `~` and what comes after it.
        let sql = "delete from es_rows where tbl > ?1 || '~' and tbl < ?1 || char(127)";
        sqlx::query(sql).bind(&version).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn drop_objects(conn: &mut SqliteConnection, build: &Build) -> Result<(), sqlx::Error> {
    // Views first: they may read the tables.
    for kind in ["view", "table"] {
        for (_, name) in build.objects.iter().filter(|(k, _)| k == kind) {
            let drop = format!("drop {kind} if exists {}", schema::quoted(&build.stored(name)));
            sqlx::raw_sql(schema::sql(drop)).execute(&mut *conn).await?;
        }
    }
    Ok(())
}

/// Deletes the rows of a table and of those below its name: `/` and what comes after it, up to `0`.
async fn delete_rows(conn: &mut SqliteConnection, table: &str) -> Result<(), sqlx::Error> {
    let sql = "delete from es_rows where tbl = ?1 or (tbl > ?1 || '/' and tbl < ?1 || '0')";
    sqlx::query(sql).bind(table).execute(conn).await?;
    Ok(())
}
