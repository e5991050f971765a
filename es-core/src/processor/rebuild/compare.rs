//! How the rows of two builds of a keyed view differ: both are walked side by side, in the order of their keys.

use std::collections::VecDeque;

use crate::projection::fold::GONE;
use crate::store::{Difference, Generation, RowStore, Sample, StoreError, StoredRow, Tables};

/// Rows of one table, one after another.
struct Scan<'s> {
    store: &'s dyn RowStore,
    table: String,
    page: VecDeque<StoredRow>,
    after: Option<String>,
    ended: bool,
}

impl Scan<'_> {
    async fn next(&mut self) -> Result<Option<StoredRow>, StoreError> {
        while self.page.is_empty() && !self.ended {
            let page = self.store.scan(&self.table, self.after.as_deref(), 1_000).await?;
            self.ended = page.len() < 1_000;
            self.after = page.last().map(|row| row.key.clone());
            self.page = page.into_iter().filter(|row| row.data != GONE).collect();
        }
        Ok(self.page.pop_front())
    }
}

/// How the rows of two generations of a keyed view differ; `None` if there are none.
pub(super) async fn compare_rows(
    store: &dyn RowStore,
    tables: &Tables,
    old: Generation,
    new: Generation,
    samples: usize,
) -> Result<Option<Difference>, StoreError> {
    let scan = |generation| Scan {
        store,
        table: tables.rows(generation),
        page: VecDeque::new(),
        after: None,
        ended: false,
    };
    let (mut olds, mut news) = (scan(old), scan(new));
    let (mut was, mut is) = (olds.next().await?, news.next().await?);
    if was.is_none() && is.is_none() {
        return Ok(None);
    }
    let mut difference = Difference { table: tables.stored_name(), ..Difference::default() };
    let text = |row: &StoredRow| format!("{}: {}", row.key, String::from_utf8_lossy(&row.data));
    loop {
        let (take_old, take_new) = match (&was, &is) {
            (None, None) => return Ok(Some(difference)),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some(a), Some(b)) => (a.key <= b.key, b.key <= a.key),
        };
        let (a, b) = (was.as_ref().filter(|_| take_old), is.as_ref().filter(|_| take_new));
        let differs = match (a, b) {
            (Some(a), Some(b)) => !same(&a.data, &b.data),
            _ => true,
        };
        if differs {
            match (a, b) {
                (Some(_), Some(_)) => difference.changed += 1,
                (Some(_), None) => difference.removed += 1,
                _ => difference.added += 1,
            }
            if difference.samples.len() < samples {
                difference.samples.push(Sample { old: a.map(text), new: b.map(text) });
            }
        }
        if take_old {
            was = olds.next().await?;
        }
        if take_new {
            is = news.next().await?;
        }
    }
}

/// Whether two rows hold the same: a map has no order that means anything.
fn same(a: &[u8], b: &[u8]) -> bool {
    let value = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).ok();
    a == b || value(a).is_some_and(|a| value(b) == Some(a))
}
