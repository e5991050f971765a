//! Rows that cannot be read: they are of a newer program, or damaged. They stop what they belong to, and nothing else.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use es_core::store::{Row, StoredRow, Table};
use es_core::{BoxError, chain};
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

/// Why something of an instance cannot be read: what comes to it waits.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    what: String,
    why: Arc<dyn Error + Send + Sync>,
}

impl Error for Unread {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Not the `Arc`, which is an error, too: nobody would find in it what it is.
        Some(&*self.why)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read", self.what)
    }
}

impl Unread {
    pub(crate) fn new(what: String, why: impl Into<BoxError>) -> Self {
        Self { what, why: Arc::from(why.into()) }
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
