//! Event types as numbers: known ones in memory, all of them in the table `event_types`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use es_core::store::{Commit, Name, NewEvent, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::readers::Readers;

/// A stored name, its schema version and its codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: Name,
    pub(crate) schema: u32,
    pub(crate) codec: Name,
}

/// The rows of `event_types` that this process has seen committed. They never change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
pub(crate) struct Known {
    kinds: HashMap<i32, Kind>,
    ids: HashMap<String, Vec<(u32, Name, i32)>>,
}

impl Known {
    pub(crate) fn kind(&self, id: i32) -> Option<&Kind> {
        self.kinds.get(&id)
    }

    pub(crate) fn id(&self, event: &NewEvent) -> Option<i32> {
        let same = |(schema, codec, _): &&(u32, Name, i32)| *schema == event.schema && *codec == event.codec;
        Some(self.ids.get(&*event.name)?.iter().find(same)?.2)
    }
}

impl Types {
    /// What is known now; held for as long as a page is decoded, and not across an await.
    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, id: i32, kind: Kind) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.kinds.insert(id, kind.clone()).is_none() {
            known.ids.entry(kind.name.to_string()).or_default().push((kind.schema, kind.codec, id));
        }
    }

    /// Takes in rows of [`SELECT`](Self::SELECT).
    pub(crate) fn learn_all(&self, rows: &[PgRow]) -> Result<(), sqlx::Error> {
        for row in rows {
            // All 32 bits of it are stored.
            let schema = row.try_get::<i32, _>(2)?.cast_unsigned();
            let (name, codec): (String, String) = (row.try_get(1)?, row.try_get(3)?);
            self.learn(row.try_get(0)?, Kind { name: name.into(), schema, codec: codec.into() });
        }
        Ok(())
    }

    pub(crate) const SELECT: &str = "select type_id, name, schema, codec from event_types";

    /// Numbers for the types of these commits, made where they are new. Committed by itself: a type without events
    /// harms nobody.
    pub(crate) async fn provide(&self, readers: &Readers, commits: &[&Commit]) -> Result<(), StoreError> {
        let missing = self.missing(commits);
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
        ids.into_iter().zip(&missing).for_each(|(id, kind)| self.learn(id, kind.clone()));
        Ok(())
    }

    fn missing(&self, commits: &[&Commit]) -> Vec<Kind> {
        let known = self.known();
        let mut missing: Vec<Kind> = Vec::new();
        let events = commits.iter().flat_map(|c| &c.appends).flat_map(|a| &a.events);
        for event in events.filter(|event| known.id(event).is_none()) {
            let kind = Kind { name: event.name.clone(), schema: event.schema, codec: event.codec.clone() };
            if !missing.contains(&kind) {
                missing.push(kind);
            }
        }
        missing
    }
}
