//! Runs that cannot go on as they are stored: they are shown to people like those that wait for one.

use es_core::chain;
use es_core::store::{Row, RowWrite, StoreError, StoredRow, write_rows};
use es_core::{Backend, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::instance::one;
use super::rows::{Attention, Head, Tables, head_key};

/// Notes that a run cannot go on. The head is written as it is: whoever has the run meanwhile is fenced, and reads it again.
pub(crate) async fn note<B: Backend>(
    backend: &B,
    tables: &Tables,
    run: Uuid,
    why: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = head_key(run)?;
    let Some(head) = one(backend, tables.heads.name(), &key).await? else { return Ok(()) };
    let known = About::of(tables, &head);
    if known.ended {
        return Ok(());
    }
    let before = one(backend, tables.attention.name(), &key).await?;
    let rev = before.as_ref().map_or(0, |row| row.rev);
    let before = before.and_then(|row| tables.attention.decode(row).ok()).map(|row| row.value);
    if before.is_some_and(|before| before.damaged && before.why == why) {
        return Ok(());
    }
    let value =
        Attention { key: known.key, version: known.version, since: now, why: why.to_owned(), damaged: true };
    let attention = tables.attention.put(&Row { key, rev, value })?;
    // If another writer was faster, it knows better.
    let _won = write_rows(backend, vec![as_it_is(tables, head), attention]).await?;
    Ok(())
}

fn as_it_is(tables: &Tables, head: StoredRow) -> RowWrite {
    RowWrite { table: tables.heads.name().clone(), key: head.key, rev: head.rev, row: Some(head.data) }
}

/// What can be read of a head, whatever is wrong with it.
pub(crate) struct About {
    pub(crate) key: String,
    pub(crate) version: u32,
    pub(crate) begun: Option<Timestamp>,
    pub(crate) ended: bool,
}

impl About {
    pub(crate) fn of(tables: &Tables, head: &StoredRow) -> Self {
        let value: Value = serde_json::from_slice(&head.data).unwrap_or_default();
        let text = |name| value.get(name).and_then(Value::as_str);
        let version =
            value.get("version").and_then(Value::as_u64).and_then(|version| version.try_into().ok());
        Self {
            key: text("key").unwrap_or_default().to_owned(),
            version: version.unwrap_or(tables.version),
            begun: text("begun").and_then(|begun| begun.parse().ok()),
            ended: text("status") == Some("ended"),
        }
    }
}

/// A head, or why it cannot be read.
pub(crate) fn head_of(tables: &Tables, stored: StoredRow) -> Result<Row<Head>, String> {
    tables.heads.decode(stored).map_err(|error| chain(&error))
}
