//! Rows that wait for their time: a queue by slice and time, read from a low-water mark.
//!
//! A queue is written and emptied all the time. While another session holds a snapshot, an SQL database cannot remove
//! what has gone, and a scan from the beginning walks over all of it, slower and slower. So a reader remembers up to where
//! it has seen the queue empty and begins there. That is sound since nothing is put in before the present:
//! [`Queue::push`] moves a time that is over to now.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::limits::LimitError;
use crate::slices::Slices;
use crate::store::keys::{Key, behind};
use crate::store::table::{HOT, Row, Table};
use crate::store::{RowStore, RowWrite, Span, StoreError, StoredRow};

/// How long a commit may take between its look at the clock and the moment at which others see it. A queue is read again
/// from so long before the last look.
pub const MARGIN: Duration = Duration::from_secs(10);
/// How often a queue is read from its beginning all the same: what a writer with a wrong clock put in is found then.
pub const WHOLE: Duration = Duration::from_secs(60);

/// A queue of `T`, in a [hot](HOT) table of its own.
#[derive(Debug)]
pub struct Queue<T>(Table<T>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What waits, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a slice, a time and a row")]
pub struct Waiting<T> {
    /// The slice that it belongs to.
    pub slice: u16,
    /// When it is due.
    pub due: Timestamp,
    /// The row, to be deleted once it is done.
    pub row: Row<T>,
}

impl<T> Queue<T> {
    /// A queue of an extension: its table is `hot.{name}`.
    ///
    /// # Errors
    ///
    /// As [`Table::new`].
    pub fn new(name: &str) -> Result<Self, LimitError> {
        Table::new(format!("{HOT}{name}")).map(Self)
    }

    /// Its table, to be [watched](RowStore::watch_rows).
    #[must_use]
    pub const fn table(&self) -> &Table<T> {
        &self.0
    }

    /// Takes a row out, if it is as it was read.
    #[must_use]
    pub fn done(&self, row: &Row<T>) -> RowWrite {
        self.0.delete(row)
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts something in that is due at a time, or now if that is over. `now` is the time of the store's clock
    /// ([`EventStore::now`](crate::store::EventStore::now)), not older than half of [`MARGIN`] when it is committed;
    /// `id` is new.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the value cannot be written as JSON.
    pub fn push(
        &self,
        slice: u16,
        due: Timestamp,
        now: Timestamp,
        id: Uuid,
        value: T,
    ) -> Result<RowWrite, StoreError> {
        self.0.insert(Key::in_slice(slice).time(due.max(now)).id(id).build()?, value)
    }
}

/// Up to where a reader has seen a queue empty. Forget it when slices change hands: a new one begins at the beginning.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// By slice: what is due before this has gone for good.
    empty_until: BTreeMap<u16, Timestamp>,
    /// By slice: the key of a row that was passed.
    passed: BTreeMap<u16, String>,
    whole: Option<Timestamp>,
}

impl Marks {
    /// Nothing can be done about this row now, nor about those before it in its slice: what is due behind it comes first. It is
    /// read again with the whole queue, once every [`WHOLE`].
    pub fn pass(&mut self, key: &str) {
        if let Some(slice) = key.split(':').next().and_then(|slice| slice.parse().ok()) {
            self.passed.insert(slice, key.to_owned());
        }
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// What is due in some slices, in the order of slices and times, at most `limit` for each slice, in one statement.
    /// `now` is the time of the store's clock, read before this. It is due again until its row has gone.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read. A row that cannot be decoded is an error of its own, in its place:
    /// it stops what it belongs to, not its neighbours.
    pub async fn due(
        &self,
        rows: &dyn RowStore,
        slices: &[Slices],
        marks: &mut Marks,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Result<Waiting<T>, StoreError>>, StoreError> {
        let stored = self.stored_due(rows, slices, marks, now, limit).await?;
        let decode = |(slice, due, row)| self.0.decode(row).map(|row| Waiting { slice, due, row });
        Ok(stored.into_iter().map(decode).collect())
    }

    /// The same, as it is stored: the slice, the time and the row.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stored_due(
        &self,
        rows: &dyn RowStore,
        slices: &[Slices],
        marks: &mut Marks,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(u16, Timestamp, StoredRow)>, StoreError> {
        if marks.whole.is_none_or(|last| elapsed(last, now) >= WHOLE) {
            *marks = Marks { whole: Some(now), ..Marks::default() };
        }
        let all: Vec<u16> = slices.iter().flat_map(|slices| slices.first..=slices.last).collect();
        let after = |slice: u16| {
            let passed = marks.passed.get(&slice).cloned();
            passed.unwrap_or_else(|| match marks.empty_until.get(&slice) {
                Some(mark) => Key::in_slice(slice).time(*mark).prefix(),
                None => Key::in_slice(slice).prefix(),
            })
        };
        let before = |slice: u16| Some(behind(&Key::in_slice(slice).time(now).prefix()));
        let span = |slice: &u16| Span { after: after(*slice), before: before(*slice), limit };
        let spans: Vec<Span> = all.iter().map(span).collect();
        let found = rows.scan_many(self.0.name(), &spans).await?;
        let mut due = Vec::new();
        for (slice, rows) in all.into_iter().zip(found) {
            // What was passed holds the mark.
            if !marks.passed.contains_key(&slice) {
                let first = rows.first().and_then(|row| due_of(&row.key));
                let empty = first.map_or(now, |first| first.min(now)) - MARGIN;
                marks.empty_until.insert(slice, empty);
            }
            due.extend(rows.into_iter().map(|row| (slice, due_of(&row.key).unwrap_or(now), row)));
        }
        Ok(due)
    }

    /// When the next of it is due in some slices, at a time or later; `None` if nothing waits.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn next(
        &self,
        rows: &dyn RowStore,
        slices: &[Slices],
        from: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let all = slices.iter().flat_map(|slices| slices.first..=slices.last);
        let span = |slice| Span {
            after: Key::in_slice(slice).time(from).prefix(),
            before: Some(behind(&Key::in_slice(slice).prefix())),
            limit: 1,
        };
        let found = rows.scan_many(self.0.name(), &all.map(span).collect::<Vec<_>>()).await?;
        Ok(found.iter().flatten().filter_map(|row| due_of(&row.key)).min())
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now - since).unwrap_or_default()
}

/// The time in a key.
fn due_of(key: &str) -> Option<Timestamp> {
    let micros = key.split(':').nth(1)?.parse().ok()?;
    Timestamp::from_microsecond(micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;
    use crate::store::write_rows;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    async fn due(queue: &Queue<u32>, store: &MemoryBackend, marks: &mut Marks, now: i64) -> Vec<u32> {
        let found = queue.due(store, &[Slices { first: 3, last: 4 }], marks, at(now), 10).await.unwrap();
        found.into_iter().map(|waiting| waiting.unwrap().row.value).collect()
    }

    #[tokio::test]
    async fn what_is_due_comes_in_order_until_it_is_done() {
        let (store, queue, ids) =
            (MemoryBackend::new(), Queue::new("jobs").unwrap(), crate::id::Ids::default());
        let push = |slice, due, now, value| queue.push(slice, at(due), at(now), ids.next(), value).unwrap();
        let rows = vec![push(3, 5, 0, 1), push(3, -100, 0, 2), push(4, 1, 0, 3), push(5, 1, 0, 4)];
        assert!(write_rows(&store, rows).await.unwrap().is_yes());
        let mut marks = Marks::default();
        assert_eq!(due(&queue, &store, &mut marks, -1).await, [] as [u32; 0], "over is now, not before");
        assert_eq!(due(&queue, &store, &mut marks, 1).await, [2, 3]);
        assert_eq!(due(&queue, &store, &mut marks, 5).await, [2, 1, 3], "until they are done");
        let found = queue.due(&store, &[Slices::ALL], &mut marks, at(5), 10).await.unwrap();
        let gone = found.iter().map(|waiting| queue.done(&waiting.as_ref().unwrap().row)).collect();
        assert_eq!(queue.next(&store, &[Slices::ALL], at(1)).await.unwrap(), Some(at(1)));
        assert!(write_rows(&store, gone).await.unwrap().is_yes());
        assert_eq!(due(&queue, &store, &mut marks, 9).await, [] as [u32; 0]);
        assert_eq!(queue.next(&store, &[Slices::ALL], at(0)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_mark_passes_over_nothing_that_came_late() {
        let (store, queue, ids) =
            (MemoryBackend::new(), Queue::new("jobs").unwrap(), crate::id::Ids::default());
        let mut marks = Marks::default();
        assert!(due(&queue, &store, &mut marks, 100).await.is_empty());
        // Its writer looked at the clock before that scan, and was slow.
        let late = queue.push(3, at(0), at(95), ids.next(), 1).unwrap();
        assert!(write_rows(&store, vec![late]).await.unwrap().is_yes());
        assert_eq!(due(&queue, &store, &mut marks, 101).await, [1]);
        assert_eq!(due(&queue, &store, &mut marks, 130).await, [1], "what waits holds the mark");
        // One with a clock that is wrong is found when the whole queue is read.
        let wrong = queue.push(4, at(0), at(0), ids.next(), 2).unwrap();
        assert!(write_rows(&store, vec![wrong]).await.unwrap().is_yes());
        assert_eq!(due(&queue, &store, &mut marks, 131).await, [1]);
        assert_eq!(due(&queue, &store, &mut marks, 165).await, [1, 2]);
    }
}
