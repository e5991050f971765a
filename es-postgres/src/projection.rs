//! The tables of SQL projections: made once for each version, dropped and made again by a reset.
//!
//! Which tables a schema makes is seen in the catalogue after it ran, so a projection names nothing but its DDL.

use es_core::store::{CommitError, StoreError, Tables, Transaction as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::schema::{SchemaName, sql};
use crate::{Tx, error};

/// A table or view that a projection made: its kind and its quoted name.
type Object = (String, String);

/// Makes the tables of this version, if they are not there; those of other versions go.
pub(crate) async fn install(mut tx: Tx, schema: &SchemaName, tables: &Tables) -> Result<(), StoreError> {
    let failed = |e| error::store("installing a projection", e);
    alone(&mut tx, schema).await.map_err(failed)?;
    let known = schema.fill("select version, schema from {es}.projections where name = $1");
    let rows = sqlx::query(sql(known)).bind(tables.name).fetch_all(&mut *tx).await.map_err(failed)?;
    let known: Vec<(i32, String)> =
        rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect();
    if let [(version, made_by)] = &known[..]
        && *version == tables.version.cast_signed()
    {
        tx.rollback().await?;
        return if made_by == tables.schema { Ok(()) } else { Err(changed(tables)) };
    }
    for (version, _) in known.into_iter().filter(|(version, _)| *version != tables.version.cast_signed()) {
        remove(&mut tx, schema, tables.name, version).await.map_err(failed)?;
    }
    create(&mut tx, schema, tables).await?;
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
pub(crate) async fn reset(mut tx: Tx, schema: &SchemaName, tables: &Tables) -> Result<(), StoreError> {
    let failed = |e| error::store("resetting a projection", e);
    alone(&mut tx, schema).await.map_err(failed)?;
    remove(&mut tx, schema, tables.name, tables.version.cast_signed()).await.map_err(failed)?;
    create(&mut tx, schema, tables).await?;
    commit(tx).await
}

/// Two processes that start at once: one waits.
async fn alone(tx: &mut Tx, schema: &SchemaName) -> Result<(), sqlx::Error> {
    let lock = "select pg_advisory_xact_lock($1 # hashtextextended('projections', 0))";
    sqlx::query(lock).bind(schema.gate()).execute(&mut **tx).await.map(drop)
}

async fn commit(tx: Tx) -> Result<(), StoreError> {
    match tx.commit().await {
        Ok(_) => Ok(()),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("installing a projection", other)),
    }
}

async fn create(tx: &mut Tx, schema: &SchemaName, tables: &Tables) -> Result<(), StoreError> {
    let failed = |e| error::store("installing a projection", e);
    let before = "select array_agg(oid) from pg_class where relkind in ('r', 'p', 'v', 'm')";
    let before: Vec<sqlx::postgres::types::Oid> =
        sqlx::query_scalar(before).fetch_one(&mut **tx).await.map_err(failed)?;
    if !tables.schema.is_empty() {
        let made = sqlx::raw_sql(tables.schema).execute(&mut **tx).await;
        made.map_err(|e| {
            StoreError::misuse(format!("the schema of projection {} does not run: {e}", tables.name))
        })?;
    }
    // What is new, and was made by this very transaction: another one may be making tables at the same time.
    let made =
        "select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end,
                       format('%I.%I', n.nspname, c.relname)
                from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind in ('r', 'p', 'v', 'm') and c.oid <> all ($1)
                  and c.xmin = pg_current_xact_id()::xid and not c.relispartition
                  and n.nspname !~ '^pg_'
                order by c.oid desc";
    let rows = sqlx::query(made).bind(&before).fetch_all(&mut **tx).await.map_err(failed)?;
    let object = |row: &PgRow| -> Object { (row.get_unchecked(0), row.get_unchecked(1)) };
    let made: Vec<Object> = rows.iter().map(object).collect();
    if made.is_empty() && !tables.schema.trim().is_empty() {
        let what = format!(
            "the schema of projection {} makes no table: what it names is there already, and belongs to \
             somebody else (was the projection renamed? then drop the old tables)",
            tables.name
        );
        return Err(StoreError::misuse(what));
    }
    let objects = serde_json::to_string(&made).expect("strings serialize");
    let note = schema.fill(
        "insert into {es}.projections (name, version, schema, objects) values ($1, $2, $3, $4::jsonb)
         on conflict (name, version) do update set schema = excluded.schema, objects = excluded.objects",
    );
    let query = sqlx::query(sql(note)).bind(tables.name).bind(tables.version.cast_signed());
    query.bind(tables.schema).bind(objects).execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}

/// Drops what one version of a projection made, with its rows and its checkpoint.
async fn remove(tx: &mut Tx, schema: &SchemaName, name: &str, version: i32) -> Result<(), sqlx::Error> {
    let made = schema.fill("select objects::text from {es}.projections where name = $1 and version = $2");
    let objects: Option<String> =
        sqlx::query_scalar(sql(made)).bind(name).bind(version).fetch_optional(&mut **tx).await?;
    let objects: Vec<Object> = match objects {
        Some(json) => serde_json::from_str(&json).map_err(|e| sqlx::Error::Decode(e.into()))?,
        None => Vec::new(),
    };
    // Newest first: views after the tables they read, and tables after those they point to.
    for (kind, object) in objects {
        sqlx::raw_sql(sql(format!("drop {kind} if exists {object}"))).execute(&mut **tx).await?;
    }
    let stored_name = format!("{name}/{version}");
    for (table, column) in [("views", "view"), ("checkpoints", "name")] {
        let delete = schema.fill(&format!("delete from {{es}}.{table} where {column} = $1"));
        sqlx::query(sql(delete)).bind(&stored_name).execute(&mut **tx).await?;
    }
    let delete = schema.fill("delete from {es}.projections where name = $1 and version = $2");
    sqlx::query(sql(delete)).bind(name).bind(version).execute(&mut **tx).await?;
    Ok(())
}
