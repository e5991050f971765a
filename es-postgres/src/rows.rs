//! Rows of keyed views and of the framework itself. They are written by commits, and read here.

use std::collections::HashMap;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::processor::Slices;
use es_core::store::{Filling, RowStore, RowWrite, Span, StoreError, StoredRow, check, is_full, is_hot};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, SqlSafeStr as _};
use tokio::sync::watch;

use crate::readers::bounded;
use crate::row::number;
use crate::{PgBackend, spans};

/// Rows of a name that is hot or not, and so of the first table, or of the one that the name stands for. That one is
/// looked up in the snapshot that its rows are read from, and may be in the other table: where there is none, this is
/// null, and nothing is looked for.
macro_rules! from_table {
    ($own:literal, $other:literal, $rest:literal) => {
        concat!(
            "(select r.key, r.rev, r.data from ",
            $own,
            " r where r.tbl = coalesce(
                (select convert_from(c.data, 'UTF8') from rows c where c.tbl = 'current' and c.key = $1), $1) and ",
            $rest,
            ") union all (select r.key, r.rev, r.data from ",
            $other,
            " r where r.tbl = (select convert_from(c.data, 'UTF8') from rows c where c.tbl = 'current' and c.key = $1) and ",
            $rest,
            ")"
        )
    };
}

/// One look-up for each key, whatever the planner thinks of the table: it plans once, as a rule while the table is small,
/// and would read all rows of the name, as it does for `key = any ($2)`.
macro_rules! by_key {
    ($own:literal, $other:literal) => {
        concat!(
            "select k.key, r.rev, r.data from unnest($2::text[]) k (key) cross join lateral (",
            from_table!($own, $other, "r.key = k.key"),
            ") r"
        )
    };
}

const ROWS: &str = by_key!("rows", "hot_rows");
const HOT_ROWS: &str = by_key!("hot_rows", "rows");
const SCAN: &str = from_table!("rows", "hot_rows", "r.key > $2 order by r.key limit $3");
/// Of rows as they are written: by the names of their tables, not by what these stand for.
const REVISIONS: &str = "select coalesce((select r.rev from rows r where r.tbl = a.tbl and r.key = a.key),
    (select r.rev from hot_rows r where r.tbl = a.tbl and r.key = a.key), 0)
    from unnest($1::text[], $2::text[]) with ordinality a (tbl, key, i) order by a.i";

/// So many rows of several spans are asked for at most, once they are read in parts.
const WIDEST: usize = 50_000;

impl PgBackend {
    /// Rows after a key, of a table that is not hot.
    async fn scan_part(&self, table: &str, after: &str, limit: usize) -> Result<Vec<StoredRow>, StoreError> {
        let readers = &self.0.shared.readers;
        let sql = if readers.expects_large() { bounded(SCAN, "key") } else { SCAN.into_sql_str() };
        let query =
            || sqlx::query(sql.clone()).bind(table.to_owned()).bind(after.to_owned()).bind(most(limit));
        let mut filling = Filling::default();
        let found = readers.each("scanning rows", query, |i, found| {
            // A connection that was dead is asked again.
            if i == 0 {
                filling = Filling::default();
            }
            let row = row(&found);
            filling.takes(&row).then_some(row)
        });
        let found = found.await?;
        readers.saw(filling.is_full());
        Ok(found)
    }
}

#[async_trait]
impl RowStore for PgBackend {
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError> {
        check::rows(table, keys)?;
        let sql = if is_hot(table) { HOT_ROWS } else { ROWS };
        let query = || sqlx::query(sql).bind(table.to_owned()).bind(keys.to_vec());
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
        check::bounds(table, after)?;
        // No key is empty, so the empty text is before all of them.
        let after = after.unwrap_or_default().to_owned();
        // What is hot is planned for what has gone from it.
        if is_hot(table) {
            let spans = [Span { after, before: None, limit }];
            return Ok(self.scan_many(table, &spans).await?.pop().unwrap_or_default());
        }
        let (most, narrow) = (limit.min(MAX_PAGE), &self.0.shared.readers.narrow);
        let (mut rows, mut after): (Vec<StoredRow>, _) = (Vec::new(), after);
        let mut ask = narrow.ask();
        // As a stream is: in one part, as a rule.
        loop {
            let rest = most - rows.len();
            let part = ask.of(rest);
            let read = match self.scan_part(table, &after, part).await {
                Err(error) if narrow.outlasted(ask, rest, &error) => {
                    ask = narrow.after(ask);
                    continue;
                }
                read => read?,
            };
            narrow.came(ask);
            ask = narrow.ask();
            let is_last = part == rest || !is_full(&read, part);
            if let Some(last) = read.last() {
                after.clone_from(&last.key);
            }
            rows.extend(read);
            if is_last || is_full(&rows, most) {
                return Ok(rows);
            }
        }
    }

    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError> {
        if spans.is_empty() {
            return Ok(Vec::new());
        }
        check::bounds(table, spans.iter().flat_map(Span::bounds))?;
        let (readers, limits) = (&self.0.shared.readers, spans.iter().map(|span| span.limit.min(MAX_PAGE)));
        let most = WIDEST.min(limits.sum());
        let mut ask = readers.narrow.ask();
        loop {
            let read = match ask.is_whole() {
                true => spans::at_once(readers, table, spans).await,
                false => spans::in_parts(readers, table, spans, ask.of(most)).await,
            };
            match read {
                Err(error) if readers.narrow.outlasted(ask, most, &error) => ask = readers.narrow.after(ask),
                read => {
                    readers.narrow.came(ask);
                    return read;
                }
            }
        }
    }

    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        self.0.shared.row_wakes.watch(table, slices)
    }
}

pub(crate) fn most(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}

/// The revisions of the rows that these writes are about, in their order.
pub(crate) async fn revisions(backend: &PgBackend, writes: &[RowWrite]) -> Result<Vec<u64>, StoreError> {
    let tables: Vec<String> = writes.iter().map(|write| write.table.to_string()).collect();
    let keys: Vec<String> = writes.iter().map(|write| write.key.clone()).collect();
    let query = || sqlx::query(REVISIONS).bind(tables.clone()).bind(keys.clone());
    let found = backend.0.shared.readers.rows("reading revisions", query).await?;
    Ok(found.iter().map(|row| number(row.get_unchecked(0))).collect())
}

pub(crate) fn row(row: &PgRow) -> StoredRow {
    StoredRow {
        key: row.get_unchecked(0),
        rev: number(row.get_unchecked(1)),
        data: row.get_unchecked::<Vec<u8>, _>(2).into(),
    }
}
