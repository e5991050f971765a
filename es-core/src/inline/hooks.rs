//! What one inline projection does with the events of a commit.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;

use crate::BoxError;
use crate::projection::{Change, Partition, Project, View, fold, projected, tables_of};
use crate::store::{EventFilter, RecordedEvent, RowStore, RowWrite, StoreError, Transaction};

/// The longest that one call of a handler may take: it is in the way of a command.
const HANDLER: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a commit is not sent.
#[derive(Debug)]
pub(crate) enum Halt<'e> {
    /// A projection cannot handle this event.
    Handler { projection: String, event: &'e RecordedEvent, source: BoxError },
    /// What it needs cannot be read.
    Store(StoreError),
}

impl From<StoreError> for Halt<'_> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// An inline view, whatever its type.
pub(crate) trait Folds: Send + Sync {
    fn filter(&self) -> &EventFilter;
    /// Decodes the events, once.
    fn changes<'e>(&self, events: &'e [RecordedEvent]) -> Result<Box<dyn Changes<'e> + 'e>, Halt<'e>>;
}

/// What the events of a commit change in one view.
#[async_trait]
pub(crate) trait Changes<'e>: Send {
    /// The keys of the rows.
    fn keys(&self) -> Vec<String>;
    /// Makes the changes: to the rows that the commit writes already, else to those that are stored.
    async fn fold(
        self: Box<Self>,
        store: &dyn RowStore,
        table: &Arc<str>,
        rows: &mut Vec<RowWrite>,
    ) -> Result<(), Halt<'e>>;
}

pub(crate) struct ViewHook<V> {
    filter: EventFilter,
    view: PhantomData<fn() -> V>,
}

impl<V: View> ViewHook<V> {
    pub(crate) fn new() -> Self {
        Self { filter: V::filter(), view: PhantomData }
    }
}

impl<V: View> Folds for ViewHook<V> {
    fn filter(&self) -> &EventFilter {
        &self.filter
    }

    fn changes<'e>(&self, events: &'e [RecordedEvent]) -> Result<Box<dyn Changes<'e> + 'e>, Halt<'e>> {
        let mut due = Vec::new();
        for event in events.iter().filter(|event| self.filter.matches(event)) {
            let changes = fold::changes::<V>(event).map_err(|e| halt::<V>(event, e))?;
            due.extend(changes.into_iter().map(|(key, change)| (event, key, change)));
        }
        Ok(Box::new(Due(due)))
    }
}

fn halt<V: View>(event: &RecordedEvent, source: BoxError) -> Halt<'_> {
    Halt::Handler { projection: tables_of::<V>().stored_name(), event, source }
}

/// Changes with their events and the keys of their rows.
struct Due<'e, V: View>(Vec<(&'e RecordedEvent, String, Change<'e, V>)>);

/// A row if there is one, the revision that was read, and where it is among those that are written already.
struct Row<V> {
    row: Option<V>,
    rev: u64,
    written: Option<usize>,
}

#[async_trait]
impl<'e, V: View> Changes<'e> for Due<'e, V> {
    fn keys(&self) -> Vec<String> {
        self.0.iter().map(|(_, key, _)| key.clone()).collect()
    }

    async fn fold(
        self: Box<Self>,
        store: &dyn RowStore,
        table: &Arc<str>,
        rows: &mut Vec<RowWrite>,
    ) -> Result<(), Halt<'e>> {
        let Some((first, ..)) = self.0.first() else { return Ok(()) };
        let first: &'e RecordedEvent = first;
        let mut missing: BTreeSet<String> = self.keys().into_iter().collect();
        let mut found = BTreeMap::<String, Row<V>>::new();
        for (i, write) in rows.iter().enumerate() {
            if write.table != *table || !missing.remove(&write.key) {
                continue;
            }
            let row = write.row.as_ref().map_or(Ok(None), |data| fold::decode(&write.key, data));
            let row = row.map_err(|e| halt::<V>(first, e))?;
            found.insert(write.key.clone(), Row { row, rev: write.rev, written: Some(i) });
        }
        let keys: Vec<String> = missing.into_iter().collect();
        let stored = if keys.is_empty() { Vec::new() } else { store.rows(table, &keys).await? };
        for (key, stored) in keys.into_iter().zip(stored) {
            let row = match stored {
                None => Row { row: None, rev: 0, written: None },
                Some(stored) => {
                    let row = fold::decode(&key, &stored.data).map_err(|e| halt::<V>(first, e))?;
                    Row { row, rev: stored.rev, written: None }
                }
            };
            found.insert(key, row);
        }
        let mut touched = BTreeMap::<String, &'e RecordedEvent>::new();
        for (event, key, change) in self.0 {
            let row = &mut found.get_mut(&key).expect("it was just read").row;
            *row = fold::apply(event, change, row.take()).map_err(|e| halt::<V>(event, e))?;
            touched.insert(key, event);
        }
        for (key, event) in touched {
            let Row { row, rev, written } = &found[&key];
            // Another process may have read the row: the revision says that it is another one.
            let data = row.as_ref().map_or(Ok(fold::GONE), |row| fold::encode(&key, row));
            let data = Some(data.map_err(|e| halt::<V>(event, e))?);
            match written {
                Some(i) => rows[*i].row = data,
                None => rows.push(RowWrite { table: table.clone(), key, rev: *rev, row: data }),
            }
        }
        Ok(())
    }
}

/// An inline SQL projection, whatever its type.
#[async_trait]
pub(crate) trait Projects<T>: Send + Sync {
    fn name(&self) -> String;
    fn filter(&self) -> &EventFilter;
    /// Whether its handlers may touch any row, so that commits which it takes part in come one after the other. One that
    /// goes by streams needs no more than what keeps the commits of a stream apart.
    fn is_whole(&self) -> bool;
    async fn project(&self, event: &RecordedEvent, tx: &mut T) -> Result<(), BoxError>;
}

pub(crate) struct ProjectionHook<P> {
    filter: EventFilter,
    projection: Arc<P>,
}

impl<P: crate::Projection> ProjectionHook<P> {
    pub(crate) fn new(projection: Arc<P>) -> Self {
        Self { filter: P::filter(), projection }
    }
}

#[async_trait]
impl<T: Transaction, P: Project<T>> Projects<T> for ProjectionHook<P> {
    fn name(&self) -> String {
        tables_of::<P>().stored_name()
    }

    fn filter(&self) -> &EventFilter {
        &self.filter
    }

    fn is_whole(&self) -> bool {
        P::PARTITION == Partition::Whole
    }

    async fn project(&self, event: &RecordedEvent, tx: &mut T) -> Result<(), BoxError> {
        projected(HANDLER, &*self.projection, event, tx).await
    }
}
