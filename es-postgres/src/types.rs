//! Event types as numbers: known ones in memory, all of them in the table `event_types`.

use es_core::store::kinds::{Kind, Kinds, KnownKinds};
use es_core::store::{Commit, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::readers::Readers;

/// The rows of `event_types` that this process has seen committed.
pub(crate) type Types = Kinds<i32>;
pub(crate) type Known = KnownKinds<i32>;

/// All of them: [`learn_all`] takes in the rows.
pub(crate) const SELECT: &str = "select type_id, name, schema, codec from event_types";

/// Takes in rows of [`SELECT`]. What was known and is not among them is of another history.
pub(crate) fn learn_all(types: &Types, rows: &[PgRow]) -> Result<(), sqlx::Error> {
    let kind = |row: &PgRow| {
        // All 32 bits of it are stored.
        let schema = row.try_get::<i32, _>(2)?.cast_unsigned();
        let (name, codec): (String, String) = (row.try_get(1)?, row.try_get(3)?);
        Ok((row.try_get(0)?, Kind { name: name.into(), schema, codec: codec.into() }))
    };
    types.replace(rows.iter().map(kind).collect::<Result<Vec<_>, sqlx::Error>>()?);
    Ok(())
}

/// Numbers for the types of these commits, made where they are new. Committed by itself: a type without events harms
/// nobody.
pub(crate) async fn provide(types: &Types, readers: &Readers, commits: &[&Commit]) -> Result<(), StoreError> {
    let missing = missing(&types.known(), commits);
    if missing.is_empty() {
        return Ok(());
    }
    let query = || {
        let names: Vec<String> = missing.iter().map(|kind| kind.name.to_string()).collect();
        let schemas: Vec<i32> = missing.iter().map(|kind| kind.schema.cast_signed()).collect();
        let codecs: Vec<String> = missing.iter().map(|kind| kind.codec.to_string()).collect();
        sqlx::query("select type_ids($1, $2, $3)").bind(names).bind(schemas).bind(codecs)
    };
    let rows = readers.rows("numbering event types", query).await?;
    let ids: Vec<i32> = rows.first().map(|row| row.get_unchecked(0)).unwrap_or_default();
    ids.into_iter().zip(&missing).for_each(|(id, kind)| types.learn(id, kind.clone()));
    Ok(())
}

/// Of the types of these commits, those that are not known.
pub(crate) fn missing(known: &Known, commits: &[&Commit]) -> Vec<Kind> {
    let mut missing = Vec::new();
    let events = commits.iter().flat_map(|c| &c.appends).flat_map(|a| &a.events);
    for kind in events.filter(|event| known.id(event).is_none()).map(Kind::of) {
        if !missing.contains(&kind) {
            missing.push(kind);
        }
    }
    missing
}
