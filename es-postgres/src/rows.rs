//! Rows of keyed views and of the framework itself. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{RowStore, RowWrite, StoreError, StoredRow};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::PgBackend;
use crate::row::number;

/// The table that a name stands for is looked up in the snapshot that its rows are read from.
const ROWS: &str = "select key, rev, data from rows where key = any ($2) and tbl = coalesce(
    (select convert_from(c.data, 'UTF8') from rows c where c.tbl = 'current' and c.key = $1), $1)";
const SCAN: &str = "select key, rev, data from rows where key > $2 and tbl = coalesce(
    (select convert_from(c.data, 'UTF8') from rows c where c.tbl = 'current' and c.key = $1), $1)
    order by key limit $3";
/// Of rows as they are written: by the names of their tables, not by what these stand for.
const REVISIONS: &str = "select coalesce((select r.rev from rows r where r.tbl = a.tbl and r.key = a.key), 0)
    from unnest($1::text[], $2::text[]) with ordinality a (tbl, key, i) order by a.i";

#[async_trait]
impl RowStore for PgBackend {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        let query = || sqlx::query(ROWS).bind(table.to_owned()).bind(keys.to_vec());
        let found = self.0.shared.readers.rows("reading rows", query).await?;
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
        let after = after.unwrap_or_default();
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = || sqlx::query(SCAN).bind(table.to_owned()).bind(after.to_owned()).bind(limit);
        let found = self.0.shared.readers.rows("scanning rows", query).await?;
        Ok(found.iter().map(row).collect())
    }
}

/// The revisions of the rows that these writes are about, in their order.
pub(crate) async fn revisions(backend: &PgBackend, writes: &[RowWrite]) -> Result<Vec<u64>, StoreError> {
    let tables: Vec<String> = writes.iter().map(|write| write.table.to_string()).collect();
    let keys: Vec<String> = writes.iter().map(|write| write.key.clone()).collect();
    let query = || sqlx::query(REVISIONS).bind(tables.clone()).bind(keys.clone());
    let found = backend.0.shared.readers.rows("reading revisions", query).await?;
    Ok(found.iter().map(|row| number(row.get_unchecked(0))).collect())
}

fn row(row: &PgRow) -> StoredRow {
    StoredRow {
        key: row.get_unchecked(0),
        rev: number(row.get_unchecked(1)),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
    }
}
