//! Rows of keyed views. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{StoreError, ViewRow, ViewStore};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::PgBackend;
use crate::row::number;

const ROWS: &str = "select key, rev, data from views where view = $1 and key = any ($2)";
const SCAN: &str = "select key, rev, data from views where view = $1 and key > $2 order by key limit $3";

#[async_trait]
impl ViewStore for PgBackend {
    async fn rows(&self, view: &str, keys: &[String]) -> Result<Vec<Option<ViewRow>>, StoreError> {
        let query = || sqlx::query(ROWS).bind(view.to_owned()).bind(keys.to_vec());
        let found = self.0.shared.readers.rows("reading a view", query).await?;
        let by_key: HashMap<String, ViewRow> =
            found.iter().map(row).map(|row| (row.key.clone(), row)).collect();
        Ok(keys.iter().map(|key| by_key.get(key).cloned()).collect())
    }

    async fn scan(&self, view: &str, after: Option<&str>, limit: usize) -> Result<Vec<ViewRow>, StoreError> {
        // No key is empty, so the empty text is before all of them.
        let after = after.unwrap_or_default();
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = || sqlx::query(SCAN).bind(view.to_owned()).bind(after.to_owned()).bind(limit);
        let found = self.0.shared.readers.rows("scanning a view", query).await?;
        Ok(found.iter().map(row).collect())
    }
}

fn row(row: &PgRow) -> ViewRow {
    ViewRow {
        key: row.get_unchecked(0),
        rev: number(row.get_unchecked(1)),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
    }
}
