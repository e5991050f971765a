//! A keyed view: each touched row is read once, folded in memory, and written once.
//!
//! A range has its keys for itself, so rows that it has read or written are kept: its next commit finds them at the
//! revision that is remembered, or finds the range in other hands.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use super::admission::{Admission, Failure, NotTheEvent};
use super::runner::{Execution, Keeps, Opening, Rebuildable, Runner, Session};
use crate::BoxError;
use crate::projection::{Change, Code, View, fold, tables_of};
use crate::store::{Backend, Commit, CommitError, EventFilter, RecordedEvent, RowWrite, StoreError};

/// Events handled together when there are so many.
const PAGE: usize = 10_000;
/// Rows that are kept between two pages, unless their bytes are too many. They cost memory, never correctness.
const KEPT: usize = 50_000;
/// Rows that are measured to tell how much all have grown that are to be written.
const MEASURED: usize = 64;

pub(crate) struct ViewRunner<B, V> {
    backend: Arc<B>,
    view: PhantomData<fn() -> V>,
}

impl<B, V> ViewRunner<B, V> {
    pub(crate) const fn new(backend: Arc<B>) -> Self {
        Self { backend, view: PhantomData }
    }
}

impl<B: Backend, V: View> Runner for ViewRunner<B, V> {
    fn name(&self) -> String {
        tables_of::<V>().stored_name()
    }

    fn filter(&self) -> EventFilter {
        V::filter()
    }

    fn code(&self) -> Code {
        V::code()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Rows(tables_of::<V>())
    }

    fn execution(&self) -> Execution {
        Execution { splits: true, on_failure: V::ON_FAILURE, page: PAGE, idempotent: V::IDEMPOTENT }
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(fold::storable_changes::<V>(event)?.into_iter().map(|(key, _)| key).collect())
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let table = tables_of::<V>().rows(opening.generation).into();
        Box::new(ViewSession::<B, V> {
            backend: self.backend.clone(),
            table,
            rows: HashMap::new(),
            touched: Vec::new(),
            failed: None,
            most: opening.bytes,
            stored: 0,
            grown: 0,
        })
    }
}

struct ViewSession<B, V> {
    backend: Arc<B>,
    table: Arc<str>,
    rows: HashMap<String, Kept<V>>,
    /// The keys of rows that are to be written, each once.
    touched: Vec<String>,
    /// The key whose row could not be written as data.
    failed: Option<String>,
    /// How many bytes may be kept.
    most: usize,
    /// The bytes of all rows that are kept, as they are stored, and about how many they have more by now.
    stored: usize,
    grown: usize,
}

struct Kept<V> {
    rev: u64,
    /// `None` if there is none.
    row: Option<V>,
    touched: bool,
    /// Its bytes as it is stored.
    stored: usize,
}

impl<V> Kept<V> {
    /// The revision that it has once it was written.
    fn written(&mut self, bytes: usize) {
        (self.touched, self.stored) = (false, bytes);
        self.rev = if self.row.is_some() { self.rev + 1 } else { 0 };
    }
}

/// A change, the event it comes from, and the key of its row.
type Due<'e, V> = (&'e RecordedEvent, String, Change<'e, V>);

impl<B: Backend, V: View> ViewSession<B, V> {
    /// The keys whose rows are not kept, each with the first event that touches it.
    fn missing<'e>(&self, due: &[Due<'e, V>]) -> (Vec<String>, Vec<&'e RecordedEvent>) {
        let mut seen = HashSet::new();
        let missing = due.iter().filter(|(_, key, _)| !self.rows.contains_key(key) && seen.insert(key));
        missing.map(|(event, key, _)| (key.clone(), *event)).unzip()
    }

    async fn read(&mut self, keys: Vec<String>, events: Vec<&RecordedEvent>) -> Result<(), Failure> {
        let Some(first) = events.first() else { return Ok(()) };
        let found = match self.backend.rows(&self.table, &keys).await {
            // A row that cannot be read is between it and the events of its key.
            Err(error @ StoreError::Corrupt { .. }) if keys.len() == 1 => {
                return Err(Failure::new(first, &*keys[0], error));
            }
            Err(StoreError::Corrupt { .. }) => {
                for (key, event) in keys.into_iter().zip(events) {
                    Box::pin(self.read(vec![key], vec![event])).await?;
                }
                return Ok(());
            }
            found => found.map_err(|e| Failure::new(first, &*keys[0], NotTheEvent::tables(e)))?,
        };
        for ((key, row), event) in keys.into_iter().zip(found).zip(events) {
            let kept = match row {
                None => Kept { rev: 0, row: None, touched: false, stored: 0 },
                Some(stored) => {
                    let row = fold::decode(&key, &stored.data).map_err(|e| Failure::new(event, &*key, e))?;
                    Kept { rev: stored.rev, row, touched: false, stored: stored.data.len() }
                }
            };
            self.keep(key, kept);
        }
        Ok(())
    }

    fn keep(&mut self, key: String, kept: Kept<V>) {
        self.stored += kept.stored;
        self.stored -= self.rows.insert(key, kept).map_or(0, |before| before.stored);
    }

    /// How many bytes the rows that are to be written have more than they have as they are stored, by some of them.
    fn measure(&self) -> usize {
        let step = self.touched.len().div_ceil(MEASURED).max(1);
        let some = self.touched.iter().step_by(step).filter_map(|key| self.rows.get(key));
        let more = some.map(|kept| kept.row.as_ref().map_or(0, fold::size).saturating_sub(kept.stored));
        step * more.sum::<usize>()
    }
}

#[async_trait]
impl<B: Backend, V: View> Session for ViewSession<B, V> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        // What touches a row that is kept is applied immediately; the others wait until theirs are read. The order of
        // each key stays, for a row is kept for the whole page or not at all.
        let mut due: Vec<Due<'_, V>> = Vec::new();
        for event in events {
            match fold::storable_changes::<V>(event) {
                Ok(changes) => {
                    for (key, change) in changes {
                        if !admission.admits(event, &key) {
                            continue;
                        }
                        match self.rows.get_mut(&key) {
                            Some(kept) => self.touched.extend(take_in(kept, event, key, change)?),
                            None => due.push((event, key, change)),
                        }
                    }
                }
                Err(source) => {
                    let key = fold::key_of_undecodable::<V>(event);
                    if admission.admits_undecoded(event, &key, &*source) {
                        return Err(Failure::of_undecoded(event, key, source));
                    }
                    admission.pass_undecoded(event, key);
                }
            }
        }
        let (keys, events) = self.missing(&due);
        self.read(keys, events).await?;
        for (event, key, change) in due {
            let kept = self.rows.get_mut(&key).expect("read above");
            self.touched.extend(take_in(kept, event, key, change)?);
        }
        self.grown = self.measure();
        Ok(())
    }

    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError> {
        self.flush_with(Commit { rows, ..Commit::default() }).await
    }

    fn waiting(&self) -> usize {
        self.touched.len()
    }

    fn bytes(&self) -> usize {
        self.stored + self.grown
    }

    fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn rebuildable(&mut self) -> Option<&mut dyn Rebuildable> {
        Some(self)
    }
}

#[async_trait]
impl<B: Backend, V: View> Rebuildable for ViewSession<B, V> {
    async fn flush_with(&mut self, mut commit: Commit) -> Result<(), CommitError> {
        let mut sizes = Vec::with_capacity(self.touched.len());
        for key in &self.touched {
            let Some(Kept { rev, row, .. }) =
                self.rows.get(key).filter(|kept| kept.row.is_some() || kept.rev > 0)
            else {
                sizes.push(0);
                continue;
            };
            let row = match row.as_ref().map(|row| fold::encode(key, row)).transpose() {
                Ok(row) => row,
                Err(error) => {
                    self.failed = Some(key.clone());
                    return Err(StoreError::misuse(error.to_string()).into());
                }
            };
            sizes.push(row.as_ref().map_or(0, Bytes::len));
            let (table, key) = (self.table.clone(), key.clone());
            commit.rows.push(RowWrite { table, key, rev: *rev, row });
        }
        self.backend.commit(commit).await?;
        for (key, bytes) in self.touched.drain(..).zip(sizes) {
            if let Some(kept) = self.rows.get_mut(&key) {
                self.stored = self.stored + bytes - kept.stored;
                kept.written(bytes);
            }
        }
        self.grown = 0;
        if self.rows.len() > KEPT || self.stored > self.most {
            (self.rows, self.stored) = (HashMap::new(), 0);
        }
        Ok(())
    }

    async fn forget(&mut self, keys: &[String]) -> Result<(), StoreError> {
        let found = self.backend.rows(&self.table, keys).await?;
        for (key, row) in keys.iter().zip(found) {
            // It goes, unless an event makes it again.
            let (rev, touched) = (row.as_ref().map_or(0, |row| row.rev), row.is_some());
            let kept = Kept { rev, row: None, touched, stored: row.map_or(0, |row| row.data.len()) };
            let was = self.rows.get(key).is_some_and(|kept| kept.touched);
            self.touched.extend((kept.touched && !was).then(|| key.clone()));
            self.keep(key.clone(), kept);
        }
        Ok(())
    }
}

/// Makes one change of a row. Gives its key if it is the first since the row was written.
fn take_in<V: View>(
    kept: &mut Kept<V>,
    event: &RecordedEvent,
    key: String,
    change: Change<'_, V>,
) -> Result<Option<String>, Failure> {
    match fold::apply(change, kept.row.take()) {
        Ok(row) => kept.row = row,
        Err(source) => return Err(Failure::new(event, key, source)),
    }
    Ok((!std::mem::replace(&mut kept.touched, true)).then_some(key))
}
