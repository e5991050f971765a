//! The tables of SQL projections: made once for each version, dropped and made again by a reset.
//!
//! Which tables a schema makes is seen by comparing `sqlite_schema` before and after it runs, so a
//! projection names nothing but its DDL.

use es_core::store::{StoreError, Tables, Transaction as _};
use sqlx::Row as _;

use crate::{Tx, error, schema};

/// A table or view that a projection made: its kind and its name.
type Object = (String, String);

/// Makes the tables of this version, if they are not there; those of other versions go.
pub(crate) async fn install(mut tx: Tx, tables: &Tables) -> Result<(), StoreError> {
    let failed = |e| error::store("installing a projection", e);
    let sql = "select version, schema from es_projections where name = ?";
    let rows = sqlx::query(sql).bind(tables.name).fetch_all(&mut *tx).await.map_err(failed)?;
    let known: Vec<(i64, String)> =
        rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect();
    if let [(version, schema)] = &known[..]
        && *version == i64::from(tables.version)
    {
        tx.rollback().await?;
        return if schema == tables.schema { Ok(()) } else { Err(changed(tables)) };
    }
    for (version, _) in known.into_iter().filter(|(version, _)| *version != i64::from(tables.version)) {
        remove(&mut tx, tables.name, version).await.map_err(failed)?;
    }
    create(&mut tx, tables).await?;
    commit(tx).await
}

fn changed(tables: &Tables) -> StoreError {
    let Tables { name, version, .. } = tables;
    StoreError::misuse(format!(
        "the schema of projection {name} is not the one that made the tables of its version {version}: \
         raise `version`, and it is built anew"
    ))
}

/// Empties a projection: its tables are made anew, its rows and its checkpoint go.
pub(crate) async fn reset(mut tx: Tx, tables: &Tables) -> Result<(), StoreError> {
    let removed = remove(&mut tx, tables.name, i64::from(tables.version)).await;
    removed.map_err(|e| error::store("resetting a projection", e))?;
    create(&mut tx, tables).await?;
    commit(tx).await
}

async fn commit(tx: Tx) -> Result<(), StoreError> {
    match tx.commit().await {
        Ok(_) => Ok(()),
        Err(es_core::store::CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("installing a projection", other)),
    }
}

async fn create(tx: &mut Tx, tables: &Tables) -> Result<(), StoreError> {
    let failed = |e| error::store("installing a projection", e);
    let before = objects(tx).await.map_err(failed)?;
    if !tables.schema.is_empty() {
        let made = sqlx::raw_sql(tables.schema).execute(&mut **tx).await;
        made.map_err(|e| {
            StoreError::misuse(format!("the schema of projection {} does not run: {e}", tables.name))
        })?;
    }
    let after = objects(tx).await.map_err(failed)?;
    let made: Vec<&Object> = after.iter().filter(|object| !before.contains(object)).collect();
    if made.is_empty() && !tables.schema.trim().is_empty() {
        let what = format!(
            "the schema of projection {} makes no table: what it names is there already, and belongs to \
             somebody else (was the projection renamed? then drop the old tables)",
            tables.name
        );
        return Err(StoreError::misuse(what));
    }
    let objects = serde_json::to_string(&made).expect("strings serialize");
    let sql = "insert or replace into es_projections (name, version, schema, objects) values (?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(tables.name).bind(tables.version).bind(tables.schema).bind(objects);
    query.execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}

/// Drops what one version of a projection made, with its rows and its checkpoint.
async fn remove(tx: &mut Tx, name: &str, version: i64) -> Result<(), sqlx::Error> {
    let sql = "select objects from es_projections where name = ? and version = ?";
    let objects: Option<String> =
        sqlx::query_scalar(sql).bind(name).bind(version).fetch_optional(&mut **tx).await?;
    let objects: Vec<Object> = match objects {
        Some(json) => serde_json::from_str(&json).map_err(|e| sqlx::Error::Decode(e.into()))?,
        None => Vec::new(),
    };
    // Views first: they may read the tables.
    for kind in ["view", "table"] {
        for (_, object) in objects.iter().filter(|(k, _)| k == kind) {
            let drop = format!("drop {kind} if exists {}", schema::quoted(object));
            sqlx::raw_sql(schema::sql(drop)).execute(&mut **tx).await?;
        }
    }
    let stored_name = format!("{name}/{version}");
    sqlx::query("delete from es_views where view = ?").bind(&stored_name).execute(&mut **tx).await?;
    sqlx::query("delete from es_checkpoints where name = ?").bind(&stored_name).execute(&mut **tx).await?;
    let sql = "delete from es_projections where name = ? and version = ?";
    sqlx::query(sql).bind(name).bind(version).execute(&mut **tx).await?;
    Ok(())
}

async fn objects(tx: &mut Tx) -> Result<Vec<Object>, sqlx::Error> {
    let sql =
        "select type, name from sqlite_schema where type in ('table', 'view') and name not like 'sqlite_%'";
    let rows = sqlx::query(sql).fetch_all(&mut **tx).await?;
    Ok(rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect())
}
