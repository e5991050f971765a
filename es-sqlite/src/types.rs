//! Event types as numbers: known ones in memory, all of them in `es_types`.

use es_core::store::kinds::{Kind, Kinds, KnownKinds};
use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, Row as _, Sqlite};

/// The rows of `es_types` that this process has seen committed.
pub(crate) type Types = Kinds<i64>;
pub(crate) type Known = KnownKinds<i64>;

/// Reads what other processes have added.
pub(crate) async fn reload(
    types: &Types,
    db: impl Executor<'_, Database = Sqlite>,
) -> Result<(), sqlx::Error> {
    all(db).await?.into_iter().for_each(|(id, kind)| types.learn(id, kind));
    Ok(())
}

/// Forgets what was known, and reads what is there: in another history of the store a number may stand for another type.
pub(crate) async fn read_anew(
    types: &Types,
    db: impl Executor<'_, Database = Sqlite>,
) -> Result<(), sqlx::Error> {
    types.replace(all(db).await?);
    Ok(())
}

async fn all(db: impl Executor<'_, Database = Sqlite>) -> Result<Vec<(i64, Kind)>, sqlx::Error> {
    let rows = sqlx::query("select id, name, schema, codec from es_types").fetch_all(db).await?;
    let kind = |row: &SqliteRow| {
        let (name, codec): (String, String) = (row.try_get(1)?, row.try_get(3)?);
        Ok((row.try_get(0)?, Kind { name: name.into(), schema: row.try_get(2)?, codec: codec.into() }))
    };
    rows.iter().map(kind).collect()
}
