//! How the rows of two builds of a keyed view differ: both are walked side by side, in the order of their keys.

use std::collections::VecDeque;

use crate::processor::parked;
use crate::projection::fold::GONE;
use crate::store::{Difference, RowSnapshot, Sample, StoreError, StoredRow, Tables, is_full};

/// Rows read at once.
const PAGE: usize = 1_000;

/// Rows of one table, one after another.
struct Scan {
    table: String,
    page: VecDeque<StoredRow>,
    after: Option<String>,
    ended: bool,
}

impl Scan {
    fn new(table: String) -> Self {
        Self { table, page: VecDeque::new(), after: None, ended: false }
    }

    async fn next(&mut self, store: &mut dyn RowSnapshot) -> Result<Option<StoredRow>, StoreError> {
        while self.page.is_empty() && !self.ended {
            let page = store.scan(&self.table, self.after.as_deref(), PAGE).await?;
            self.ended = !is_full(&page, PAGE);
            self.after = page.last().map(|row| row.key.clone());
            self.page = page.into_iter().filter(|row| row.data != GONE).collect();
        }
        Ok(self.page.pop_front())
    }
}

/// How the rows of a keyed view in two tables differ; `None` if there are none.
pub(super) async fn compare_rows(
    store: &mut dyn RowSnapshot,
    tables: &Tables,
    [old, new]: [String; 2],
    samples: usize,
) -> Result<Option<Difference>, StoreError> {
    let (mut olds, mut news) = (Scan::new(old), Scan::new(new));
    let (mut was, mut is) = (olds.next(store).await?, news.next(store).await?);
    if was.is_none() && is.is_none() {
        return Ok(None);
    }
    let mut difference = Difference { table: tables.stored_name(), ..Difference::default() };
    let text = |row: &StoredRow| parked::cut(&format!("{}: {}", row.key, String::from_utf8_lossy(&row.data)));
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
            was = olds.next(store).await?;
        }
        if take_new {
            is = news.next(store).await?;
        }
    }
}

/// Whether two rows hold the same: a map has no order that means anything.
fn same(a: &[u8], b: &[u8]) -> bool {
    let value = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).ok();
    // A value rounds what is larger than a word: the digits say whether it is the same number.
    a == b || numbers(a) == numbers(b) && value(a).is_some_and(|a| value(b) == Some(a))
}

/// The numbers in a text, whatever their order.
fn numbers(data: &[u8]) -> Vec<&[u8]> {
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let tokens = data.split(|byte| !is_of_number(byte));
    let mut numbers: Vec<&[u8]> = tokens.filter(|token| token.iter().any(u8::is_ascii_digit)).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn rows_are_the_same_whatever_the_order_of_a_map_and_not_if_a_large_number_differs() {
        let same = |a: &str, b: &str| same(a.as_bytes(), b.as_bytes());
        assert!(same(r#"{"a":1,"b":[2,3]}"#, r#"{"b":[2,3],"a":1}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":2}"#));
        assert!(!same("[2,3]", "[3,2]"));
        assert!(!same("18446744073709551617", "18446744073709551618"), "beyond 64 bits");
        assert!(!same("18446744073709551612", "18446744073709551621"), "the same digits");
    }
}
