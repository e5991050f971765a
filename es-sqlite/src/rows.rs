//! Rows by table and key: those of keyed views, and the framework's own. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{RowStore, StoreError, StoredRow};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::row::number;
use crate::{SqliteBackend, error};

const ROWS: &str = include_str!("sql/rows.sql");
const SCAN: &str = include_str!("sql/scan.sql");

#[async_trait]
impl RowStore for SqliteBackend {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        let asked = serde_json::to_string(keys).expect("strings serialize");
        let query = sqlx::query(ROWS).bind(table).bind(asked);
        let found = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("reading rows", e))?;
        let by_key: HashMap<String, StoredRow> =
            found.iter().map(row).map(|row| (row.key.clone(), row)).collect();
        Ok(keys.iter().map(|key| by_key.get(key).cloned()).collect())
    }

    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        // No key is empty, so the empty text is before all of them.
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = sqlx::query(SCAN).bind(table).bind(after.unwrap_or_default()).bind(limit);
        let found = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("scanning rows", e))?;
        Ok(found.iter().map(row).collect())
    }
}

fn row(row: &SqliteRow) -> StoredRow {
    StoredRow {
        key: row.get_unchecked(0),
        rev: number(row.get_unchecked(1)),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
    }
}
