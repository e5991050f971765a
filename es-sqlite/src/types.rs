//! Event types as numbers: known ones in memory, all of them in `es_types`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use es_core::store::Name;
use sqlx::{Executor, Row as _, Sqlite};

/// A stored name, its schema version and its codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: Name,
    pub(crate) schema: u32,
    pub(crate) codec: Name,
}

/// The rows of `es_types` that this process has seen committed. They never change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
pub(crate) struct Known {
    kinds: HashMap<i64, Kind>,
    ids: HashMap<String, Vec<(u32, Name, i64)>>,
}

impl Known {
    pub(crate) fn kind(&self, id: i64) -> Option<&Kind> {
        self.kinds.get(&id)
    }
}

impl Types {
    /// What is known now; held for as long as a page is decoded, and not across an await.
    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self, name: &str, schema: u32, codec: &str) -> Option<i64> {
        let known = self.known();
        let found = known.ids.get(name)?.iter().find(|(s, c, _)| *s == schema && *c == *codec)?;
        Some(found.2)
    }

    pub(crate) fn learn(&self, id: i64, kind: Kind) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.kinds.insert(id, kind.clone()).is_none() {
            known.ids.entry(kind.name.to_string()).or_default().push((kind.schema, kind.codec, id));
        }
    }

    /// Reads what other processes have added.
    pub(crate) async fn reload(&self, db: impl Executor<'_, Database = Sqlite>) -> Result<(), sqlx::Error> {
        for row in sqlx::query("select id, name, schema, codec from es_types").fetch_all(db).await? {
            let (name, codec): (String, String) = (row.try_get(1)?, row.try_get(3)?);
            self.learn(
                row.try_get(0)?,
                Kind { name: name.into(), schema: row.try_get(2)?, codec: codec.into() },
            );
        }
        Ok(())
    }
}
