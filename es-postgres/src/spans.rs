//! Rows of many spans, in one snapshot: by one statement, or by as many as it takes where one outlasts its time.

use es_core::limits::MAX_PAGE;
use es_core::store::{Filling, Span, StoreError, StoredRow};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::readers::{PgQuery, Readers};
use crate::rows::{most, row};

const SCAN_MANY: &str = "select key, rev, data, span from scan_rows($1, $2, $3, $4)";
const WHAT: &str = "scanning rows";

/// All of them by one statement.
pub(crate) async fn at_once(
    readers: &Readers,
    table: &str,
    spans: &[Span],
) -> Result<Vec<Vec<StoredRow>>, StoreError> {
    let query = || scan(table, spans);
    let mut fillings = vec![Filling::shared(spans.len()); spans.len()];
    // Each span is read to its end: another one may come behind it.
    let found = readers.each(WHAT, query, |i, found| {
        if i == 0 {
            fillings.fill(Filling::shared(spans.len()));
        }
        let span = number_of(&found);
        let row = row(&found);
        Some((span, fillings.get_mut(span).map(|filling| filling.takes(&row).then_some(row))))
    });
    let mut all = vec![Vec::new(); spans.len()];
    for (span, row) in found.await? {
        let wrong = || StoreError::Corrupt {
            what: format!("a scan of {} spans answers for number {span}", spans.len()),
        };
        all.get_mut(span).ok_or_else(wrong)?.extend(row.flatten());
    }
    Ok(all)
}

/// The same by statements that ask for so many rows each, in one transaction.
pub(crate) async fn in_parts(
    readers: &Readers,
    table: &str,
    spans: &[Span],
    most: usize,
) -> Result<Vec<Vec<StoredRow>>, StoreError> {
    let mut snapshot = readers.snapshot(WHAT).await?;
    let mut walk = Walk::new(spans);
    while let Some(part) = walk.next(most) {
        let rows = snapshot.rows(WHAT, scan(table, &part.spans)).await?;
        walk.take(&part, rows.iter().map(|found| (number_of(found), row(found))))?;
    }
    Ok(walk.all)
}

fn scan(table: &str, spans: &[Span]) -> PgQuery {
    let end = last_key();
    let afters: Vec<String> = spans.iter().map(|span| span.after.clone()).collect();
    let befores: Vec<String> =
        spans.iter().map(|span| span.before.clone().unwrap_or_else(|| end.clone())).collect();
    let limits: Vec<i64> = spans.iter().map(|span| most(span.limit)).collect();
    sqlx::query(SCAN_MANY).bind(table.to_owned()).bind(afters).bind(befores).bind(limits)
}

/// Of which span a row is, from 0.
fn number_of(found: &PgRow) -> usize {
    usize::try_from(found.get_unchecked::<i64, _>(3) - 1).unwrap_or(usize::MAX)
}

/// Behind every key: longer than a key may be, of the last character there is.
fn last_key() -> String {
    String::from_iter([char::MAX; 64])
}

/// How far spans have been read that are read in parts.
struct Walk {
    /// What is left of each; `None` of one that is read.
    left: Vec<Option<Span>>,
    fillings: Vec<Filling>,
    all: Vec<Vec<StoredRow>>,
}

/// What is asked for together, and of which spans that is.
struct Part {
    numbers: Vec<usize>,
    spans: Vec<Span>,
}

impl Walk {
    fn new(spans: &[Span]) -> Self {
        let whole = |span: &Span| Span { limit: span.limit.min(MAX_PAGE), ..span.clone() };
        let left = spans.iter().map(|span| Some(whole(span)).filter(|span| span.limit > 0)).collect();
        let fillings = vec![Filling::shared(spans.len()); spans.len()];
        Self { left, fillings, all: vec![Vec::new(); spans.len()] }
    }

    /// The next rows, so many at most; `None` at the end.
    fn next(&self, most: usize) -> Option<Part> {
        let (mut part, mut room) = (Part { numbers: Vec::new(), spans: Vec::new() }, most.max(1));
        let left = self.left.iter().enumerate().filter_map(|(number, span)| Some((number, span.as_ref()?)));
        for (number, span) in left {
            if room == 0 {
                break;
            }
            let limit = span.limit.min(room);
            room -= limit;
            part.numbers.push(number);
            part.spans.push(Span { limit, ..span.clone() });
        }
        (!part.numbers.is_empty()).then_some(part)
    }

    /// Rows of a part, by their places in it.
    fn take(
        &mut self,
        part: &Part,
        rows: impl Iterator<Item = (usize, StoredRow)>,
    ) -> Result<(), StoreError> {
        let mut came = vec![0; part.spans.len()];
        for (place, row) in rows {
            let wrong = || StoreError::Corrupt {
                what: format!("a scan of {} spans answers for number {place}", part.spans.len()),
            };
            let number = *part.numbers.get(place).ok_or_else(wrong)?;
            came[place] += 1;
            if let Some(span) = &mut self.left[number] {
                span.after.clone_from(&row.key);
            }
            if self.fillings[number].takes(&row) {
                self.all[number].push(row);
            }
        }
        for ((number, asked), came) in part.numbers.iter().zip(&part.spans).zip(came) {
            let is_full = self.fillings[*number].is_full();
            let left = &mut self.left[*number];
            let rest = left.as_ref().map_or(0, |span| span.limit - asked.limit);
            // One that has fewer rows than were asked for has no more.
            *left = left.take().filter(|_| came == asked.limit && rest > 0 && !is_full);
            left.iter_mut().for_each(|span| span.limit = rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> String {
        format!("{n:04}")
    }

    fn span(after: u32, before: u32, limit: usize) -> Span {
        Span { after: key(after), before: Some(key(before)), limit }
    }

    /// Keys from 1 to 99.
    fn scanned(spans: &[Span]) -> Vec<(usize, StoredRow)> {
        let row = |n| StoredRow { key: key(n), rev: 1, data: "1".into() };
        let of = |span: &Span| {
            let bounds =
                (span.after.parse::<u32>().unwrap(), span.before.as_ref().unwrap().parse::<u32>().unwrap());
            (bounds.0 + 1..bounds.1.min(100)).take(span.limit).map(row).collect::<Vec<_>>()
        };
        spans.iter().enumerate().flat_map(|(i, span)| of(span).into_iter().map(move |row| (i, row))).collect()
    }

    #[test]
    fn spans_read_in_parts_of_any_size_are_what_they_are_at_once() {
        let spans = [span(0, 20, 100), span(10, 11, 5), span(30, 90, 7), span(0, 100, 0), span(95, 200, 50)];
        let mut whole = vec![Vec::new(); spans.len()];
        scanned(&spans).into_iter().for_each(|(i, row)| whole[i].push(row));
        for most in 1..=120 {
            let (mut walk, mut parts) = (Walk::new(&spans), 0);
            while let Some(part) = walk.next(most) {
                assert!(part.spans.iter().map(|span| span.limit).sum::<usize>() <= most);
                walk.take(&part, scanned(&part.spans).into_iter()).unwrap();
                parts += 1;
                assert!(parts <= 200, "it comes to an end");
            }
            assert_eq!(walk.all, whole, "{most} at a time");
        }
    }

    #[test]
    fn a_span_whose_bytes_are_full_asks_for_no_more() {
        let spans = [span(0, 100, 50), span(0, 100, 3)];
        let mut walk = Walk::new(&spans);
        let part = walk.next(1).unwrap();
        let large = StoredRow { key: key(1), rev: 1, data: vec![0; es_core::limits::PAGE_BYTES].into() };
        walk.take(&part, [(0, large)].into_iter()).unwrap();
        assert_eq!((walk.next(100).unwrap().numbers, walk.all[0].len()), (vec![1], 1));
        assert!(
            walk.take(&part, [(7, walk.all[0][0].clone())].into_iter()).is_err(),
            "there is no such span"
        );
    }
}
