//! Event types as numbers: known ones in memory, all of them in the table `event_types`.

use std::sync::{Mutex, PoisonError, RwLockReadGuard};

use es_core::store::kinds::{Kind, Kinds, KnownKinds};
use es_core::store::{Commit, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::readers::Readers;

pub(crate) type Known = KnownKinds<i32>;

/// All of them: [`kinds`] reads the rows.
pub(crate) const SELECT: &str = "select type_id, name, schema, codec from event_types";

/// The rows of `event_types` that this process has seen committed.
#[derive(Debug, Default)]
pub(crate) struct Types {
    kinds: Kinds<i32>,
    /// Of which history they are. Held while they change.
    history: Mutex<u64>,
}

impl Types {
    /// What is known now: hold it for as long as a page is decoded, and not across an await.
    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.kinds.known()
    }

    /// Of which history they are.
    pub(crate) fn history(&self) -> u64 {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that there are in a history. Those of a later one stay.
    pub(crate) fn replace(&self, history: u64, kinds: impl IntoIterator<Item = (i32, Kind)>) {
        let mut of = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if *of <= history {
            self.kinds.replace(kinds);
            *of = history;
        }
    }

    /// Some of a history. Those of an earlier one go; those of a later one stay, and these are not taken in.
    fn learn(&self, history: u64, kinds: impl IntoIterator<Item = (i32, Kind)>) {
        let mut of = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if *of < history {
            self.kinds.replace([]);
            *of = history;
        }
        if *of == history {
            kinds.into_iter().for_each(|(id, kind)| self.kinds.learn(id, kind));
        }
    }

    /// They are not what they seemed.
    pub(crate) fn forget(&self) {
        let _of = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        self.kinds.replace([]);
    }
}

/// What rows of [`SELECT`] say.
pub(crate) fn kinds(rows: &[PgRow]) -> Result<Vec<(i32, Kind)>, sqlx::Error> {
    let kind = |row: &PgRow| {
        // All 32 bits of it are stored.
        let schema = row.try_get::<i32, _>(2)?.cast_unsigned();
        let (name, codec): (String, String) = (row.try_get(1)?, row.try_get(3)?);
        Ok((row.try_get(0)?, Kind { name: name.into(), schema, codec: codec.into() }))
    };
    rows.iter().map(kind).collect()
}

/// Numbers for the types of these commits, made where they are new. Committed by itself: a type without events harms
/// nobody. They may be missing still, if the store has got another history meanwhile.
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
    let history = readers.histories().changes();
    let rows = readers.rows("numbering event types", query).await?;
    let ids: Vec<i32> = rows.first().map(|row| row.get_unchecked(0)).unwrap_or_default();
    if readers.histories().changes() == history {
        types.learn(history, ids.into_iter().zip(missing.iter().cloned()));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &'static str) -> Kind {
        Kind { name: name.into(), schema: 1, codec: "json".into() }
    }

    fn first(types: &Types) -> Option<Kind> {
        types.known().kind(1).cloned()
    }

    #[test]
    fn numbers_that_come_late_are_not_those_of_the_next_history() {
        let types = Types::default();
        types.replace(0, [(1, kind("before"))]);
        types.replace(1, [(1, kind("after"))]);
        types.replace(0, [(1, kind("before"))]);
        types.learn(0, [(1, kind("before"))]);
        assert_eq!((first(&types), types.history()), (Some(kind("after")), 1));
        // Whoever only writes learns of the next one by what it has numbered there.
        types.learn(2, [(7, kind("new"))]);
        assert_eq!((first(&types), types.known().count(), types.history()), (None, 1, 2));
        types.forget();
        assert_eq!((types.known().count(), types.history()), (0, 2));
    }
}
