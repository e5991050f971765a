//! Rows by table and key: those of keyed views, and the framework's own. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::processor::Slices;
use es_core::store::{Filling, RowStore, Span, StoreError, StoredRow, check};
use futures::TryStreamExt as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokio::sync::watch;

use crate::row::number;
use crate::{SqliteBackend, error};

const ROWS: &str = include_str!("sql/rows.sql");
const SCAN: &str = include_str!("sql/scan.sql");
const SCAN_MANY: &str = include_str!("sql/scan_many.sql");

#[async_trait]
impl RowStore for SqliteBackend {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        check::rows(table, keys)?;
        let asked = serde_json::to_string(keys).expect("strings serialize");
        let query = sqlx::query(ROWS).bind(table).bind(asked);
        let found = query.fetch_all(self.readers()?).await.map_err(|e| error::store("reading rows", e))?;
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
        check::bounds(table, after)?;
        // No key is empty, so the empty text is before all of them.
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = sqlx::query(SCAN).bind(table).bind(after.unwrap_or_default()).bind(limit);
        let (mut all, mut filling) = (Vec::new(), Filling::default());
        let mut found = query.fetch(self.readers()?);
        while !filling.is_full()
            && let Some(found) = found.try_next().await.map_err(|e| error::store("scanning rows", e))?
        {
            let row = row(&found);
            filling.takes(&row);
            all.push(row);
        }
        Ok(all)
    }

    /// One statement has one limit, so each span is read up to the largest of them.
    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        check::bounds(table, spans.iter().flat_map(Span::bounds))?;
        let limit = spans.iter().map(|span| span.limit.min(MAX_PAGE)).max().unwrap_or_default();
        let mut all = vec![Vec::new(); spans.len()];
        let mut fillings = vec![Filling::shared(spans.len()); spans.len()];
        if limit == 0 {
            return Ok(all);
        }
        let ends: Vec<_> = spans.iter().map(|span| (&span.after, &span.before)).collect();
        let asked = serde_json::to_string(&ends).expect("strings serialize");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = sqlx::query(SCAN_MANY).bind(table).bind(asked).bind(limit);
        let failed = |e| error::store("scanning rows", e);
        let mut found = query.fetch(self.readers()?);
        while let Some(found) = found.try_next().await.map_err(failed)? {
            let span = usize::try_from(found.get_unchecked::<i64, _>(0)).unwrap_or_default();
            let row = row_at(&found, 1);
            if all[span].len() < spans[span].limit && fillings[span].takes(&row) {
                all[span].push(row);
            }
        }
        Ok(all)
    }

    /// Wakes for the commits of this process. For those of other processes on the file the caller's poll is there.
    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.0.shared.row_wakes.watch(table, slices)
    }
}

pub(crate) fn row(row: &SqliteRow) -> StoredRow {
    row_at(row, 0)
}

/// The row whose key stands in a column; revision and data follow.
fn row_at(row: &SqliteRow, key: usize) -> StoredRow {
    StoredRow {
        key: row.get_unchecked(key),
        rev: number(row.get_unchecked(key + 1)),
        data: row.get_unchecked::<Vec<u8>, _>(key + 2).into(),
    }
}
