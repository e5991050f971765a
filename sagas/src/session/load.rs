//! What a range needs of what is stored, read together and beforehand.

use std::collections::{BTreeMap, BTreeSet};

use es_core::Backend;
use es_core::limits::PAGE_BYTES;
use es_core::store::keys::behind;
use es_core::store::{PageItem, Position, Span, StoreError, StoredRow, Table, is_full};

use super::{PAGE, Planned, ProcessSession, SPANS};
use crate::book::Waiting;
use crate::damaged::{Unread, read};
use crate::definition::RawStep;
use crate::journal;
use crate::next::Association;
use crate::process::Early;
use crate::rows::{Found, early_of, found_by, instance_key};

/// Which instances the events of a page mean by associations.
#[derive(Debug, Default)]
pub(super) struct Meant {
    found: Vec<Found>,
    /// Associations of which a row cannot be read, and why: nobody knows whom they find.
    unknown: BTreeMap<Association, String>,
}

impl Meant {
    /// Why it is not known which instances a step is for.
    pub(super) fn unknown(&self, step: &RawStep<'_>) -> Option<&str> {
        step.associations().find_map(|association| self.unknown.get(association)).map(String::as_str)
    }

    /// The keys of the instances that an association finds.
    fn keys(&self, association: &Association) -> impl Iterator<Item = &str> {
        self.found.iter().filter(move |found| found.association == *association).map(|found| &*found.key)
    }
}

impl<B: Backend> ProcessSession<B> {
    /// Reads the instances that a page may mean.
    pub(super) async fn load_for(&mut self, planned: &[Planned<'_>]) -> Result<Meant, StoreError> {
        let (mut keys, mut associations) = (BTreeSet::new(), BTreeSet::new());
        for Planned { step, .. } in planned {
            keys.extend(step.keys().map(str::to_owned));
            associations.extend(step.associations().cloned());
        }
        keys.retain(|key| self.slices.has(key));
        let meant = self.found(&associations).await?;
        keys.extend(meant.found.iter().map(|found| found.key.clone()));
        self.load(keys).await?;
        if !self.book.definitions()[0].stashes() {
            return Ok(meant);
        }
        let again = self.book.begins_again();
        let is_meant =
            |Planned { step, .. }: &&Planned<'_>| step.starts || again || step.early == Early::Stash;
        let waits =
            |key: &String| self.slices.has(key) && self.book.now(key).is_none_or(|now| !now.is_running());
        let keys = |step: &Planned<'_>| step.step.keys().map(str::to_owned).collect::<Vec<_>>();
        let starts: BTreeSet<String> = planned.iter().filter(|of| of.step.starts).flat_map(keys).collect();
        // What only comes to others that wait is counted with them, which need not be read for that each time.
        let is_counted = |key: &String| {
            !starts.contains(key) && self.book.now(key).is_none() && self.book.counts_early(key)
        };
        let early = planned.iter().filter(is_meant).flat_map(keys).filter(waits);
        self.load_early(early.filter(|key| !is_counted(key)).collect()).await?;
        Ok(meant)
    }

    /// The instances that associations find, as it is stored.
    async fn found(&self, associations: &BTreeSet<Association>) -> Result<Meant, StoreError> {
        let (table, mut meant) = (&self.tables.associations, Meant::default());
        for row in self.below(table, associations.iter().map(found_by)).await? {
            match read(table, row) {
                // The key of the row has a hash, which proves nothing.
                Ok(row) if associations.contains(&row.value.association) => meant.found.push(row.value),
                Ok(_) => {}
                Err(damaged) => {
                    let of = associations.iter().filter(|of| damaged.row.starts_with(&found_by(of)));
                    meant.unknown.extend(of.map(|of| (of.clone(), damaged.why.clone())));
                }
            }
        }
        Ok(meant)
    }

    /// All rows between two keys.
    pub(super) async fn under<T>(
        &self,
        table: &Table<T>,
        after: String,
        before: String,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.among(table, vec![Span { after, before: Some(before), limit: PAGE }]).await
    }

    /// All rows whose keys begin with one of some texts.
    async fn below<T>(
        &self,
        table: &Table<T>,
        prefixes: impl Iterator<Item = String> + Send,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let span = |after: String| Span { before: Some(behind(&after)), after, limit: PAGE };
        let (spans, mut rows) = (prefixes.map(span).collect::<Vec<_>>(), Vec::new());
        for spans in spans.chunks(SPANS) {
            rows.extend(self.among(table, spans.to_vec()).await?);
        }
        Ok(rows)
    }

    /// All rows of some spans, read together.
    async fn among<T>(&self, table: &Table<T>, mut spans: Vec<Span>) -> Result<Vec<StoredRow>, StoreError> {
        let mut rows = Vec::new();
        while !spans.is_empty() {
            // Each has the same part of the bytes of a page, and may have been cut by that.
            let share = PAGE_BYTES / spans.len();
            let pages = self.backend.scan_many(table.name(), &spans).await?;
            let mut cut = Vec::new();
            for (span, page) in spans.into_iter().zip(pages) {
                let bytes: usize = page.iter().map(PageItem::size).sum();
                if let Some(last) = page.last()
                    && (is_full(&page, PAGE) || bytes >= share)
                {
                    cut.push(Span { after: last.key.clone(), ..span });
                }
                rows.extend(page);
            }
            spans = cut;
        }
        Ok(rows)
    }

    /// Reads instances that are not kept, and those that something is the matter with.
    pub(super) async fn load(
        &mut self,
        keys: impl IntoIterator<Item = String> + Send,
    ) -> Result<(), StoreError> {
        let is_missing = |key: &String| !self.book.knows(key) || self.unreadable.contains_key(key);
        let missing: Vec<String> = keys.into_iter().filter(is_missing).collect();
        for keys in missing.chunks(PAGE) {
            let rows = keys.iter().map(|key| instance_key(key)).collect::<Result<Vec<_>, _>>()?;
            let found = self.backend.rows(self.tables.instances.name(), &rows).await?;
            for (key, row) in keys.iter().zip(found) {
                match row.map(|row| read(&self.tables.instances, row)).transpose() {
                    Ok(row) => {
                        // What it lags behind is looked up again.
                        self.knows_lagging &= self.unreadable.remove(key).is_none();
                        if !self.book.knows(key) {
                            self.book.put(key, row.map(|row| (row.rev, row.value)));
                        }
                    }
                    Err(damaged) => {
                        self.leave(key, Unread::new(format!("instance {key}"), damaged.why));
                    }
                }
            }
        }
        Ok(())
    }

    /// Something of an instance cannot be read: what comes to it waits.
    fn leave(&mut self, key: &str, why: Unread) {
        self.book.leave(key);
        self.unreadable.insert(key.to_owned(), why);
    }

    /// Which of the instances that a step is for cannot be read, and why.
    pub(super) fn unreadable(&self, step: &RawStep<'_>, meant: &Meant) -> BTreeMap<String, Unread> {
        if self.unreadable.is_empty() {
            return BTreeMap::new();
        }
        let keys = step.keys().chain(step.associations().flat_map(|by| meant.keys(by)));
        keys.filter_map(|key| Some((key.to_owned(), self.unreadable.get(key)?.clone()))).collect()
    }

    /// Reads the events that wait for instances which are not there.
    pub(super) async fn load_early(&mut self, keys: BTreeSet<String>) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let table = self.tables.early.clone();
        let mut waiting: BTreeMap<String, Vec<Waiting>> =
            keys.iter().cloned().map(|key| (key, Vec::new())).collect();
        let mut rows = BTreeMap::<Position, Vec<_>>::new();
        for row in self.below(&table, keys.iter().map(|key| early_of(key))).await? {
            match read(&table, row) {
                // The key of the row has a hash, which proves nothing.
                Ok(row) if keys.contains(&row.value.key) => {
                    rows.entry(row.value.position).or_default().push(row);
                }
                Ok(_) => {}
                Err(damaged) => {
                    for key in keys.iter().filter(|key| damaged.row.starts_with(&early_of(key))) {
                        // How many wait for it is not known.
                        waiting.remove(key);
                        self.leave(
                            key,
                            Unread::new(format!("an event that waits for {key}"), damaged.why.clone()),
                        );
                    }
                }
            }
        }
        let events = journal::at(&*self.backend, rows.keys().copied().collect()).await?;
        for (at, mut rows) in rows {
            rows.sort_by_key(|row| row.value.step);
            // One that is gone, or cannot be decoded now, would be lost to an instance that begins without it.
            let read = match events.get(&at) {
                Some(event) => self.book.definitions()[0].steps(event).map(|_| event),
                None => Err("it is not in the log any more: attach what was archived".into()),
            };
            let event = match read {
                Ok(event) => event,
                Err(error) => {
                    let why = Unread::new(format!("event {at}, which waits for its instance,"), error);
                    for row in rows {
                        waiting.remove(&row.value.key);
                        self.leave(&row.value.key, why.clone());
                    }
                    continue;
                }
            };
            for row in rows {
                if let Some(waiting) = waiting.get_mut(&row.value.key) {
                    let (step, stored) = (row.value.step, Some((row.key, row.rev)));
                    waiting.push(Waiting { step, event: event.clone(), row: stored });
                }
            }
        }
        for (key, waiting) in waiting {
            self.book.put_early(&key, waiting);
        }
        Ok(())
    }

    /// Reads what waits for instances that may have ended by now, where another one may begin.
    pub(super) async fn load_early_of_ended(&mut self, keys: BTreeSet<String>) -> Result<(), StoreError> {
        if !self.book.begins_again() {
            return Ok(());
        }
        let ends = |key: &String| self.book.now(key).is_some_and(|now| !now.is_running());
        self.load_early(keys.into_iter().filter(ends).collect()).await
    }
}
