//! Rows that cannot be read: they are of a newer program, or damaged. They stop what they belong to, and nothing else.

use es_core::chain;
use es_core::store::{Row, StoredRow, Table};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

/// A row that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    /// The key of the row.
    pub(crate) row: String,
    /// The key of its instance, if that much can be read.
    pub(crate) of: Option<String>,
    pub(crate) why: String,
}

impl Damaged {
    /// The id of its instance, where rows are found by slice and id.
    pub(crate) fn id(&self) -> Option<Uuid> {
        self.row.split(':').nth(1)?.parse().ok()
    }
}

/// A row of a table, if it can be read.
pub(crate) fn read<T: DeserializeOwned>(table: &Table<T>, stored: StoredRow) -> Result<Row<T>, Damaged> {
    let (key, data) = (stored.key.clone(), stored.data.clone());
    table.decode(stored).map_err(|error| {
        let value = serde_json::from_slice::<Value>(&data).unwrap_or_default();
        let of = value.get("key").and_then(Value::as_str).map(str::to_owned);
        let why = chain(&error);
        tracing::warn!(error = why, "what a row belongs to waits for an operator, or for a newer program");
        Damaged { row: key, of, why }
    })
}
