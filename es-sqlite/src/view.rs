//! Rows of keyed views. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{StoreError, ViewRow, ViewStore};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::row::number;
use crate::{SqliteBackend, error};

const ROWS: &str = include_str!("sql/view_rows.sql");

#[async_trait]
impl ViewStore for SqliteBackend {
    async fn rows(&self, view: &str, keys: &[String]) -> Result<Vec<Option<ViewRow>>, StoreError> {
        let asked = serde_json::to_string(keys).expect("strings serialize");
        let query = sqlx::query(ROWS).bind(view).bind(asked);
        let found = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("reading a view", e))?;
        let by_key: HashMap<String, ViewRow> =
            found.iter().map(row).map(|row| (row.key.clone(), row)).collect();
        Ok(keys.iter().map(|key| by_key.get(key).cloned()).collect())
    }

    async fn scan(&self, view: &str, after: Option<&str>, limit: usize) -> Result<Vec<ViewRow>, StoreError> {
        let sql = "select key, rev, data from es_views where view = ? and key > ? order by key limit ?";
        // No key is empty, so the empty text is before all of them.
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = sqlx::query(sql).bind(view).bind(after.unwrap_or_default()).bind(limit);
        let found = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("scanning a view", e))?;
        Ok(found.iter().map(row).collect())
    }
}

fn row(row: &SqliteRow) -> ViewRow {
    ViewRow {
        key: row.get_unchecked(0),
        rev: number(row.get_unchecked(1)),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
    }
}
