//! The work on a range of a process: events, answers and timers in, one commit out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::command::Sender;
use es_core::event::is_of_a_newer_program;
use es_core::id::Ids;
use es_core::processor::{Admission, Failure, Opening, Session, Slices};
use es_core::store::keys::{Key, behind};
use es_core::store::queue::Marks;
use es_core::store::{Commit, CommitError, Position, RowWrite, Span, StoreError, Table, is_full};
use es_core::{Backend, BoxError, RecordedEvent, Timestamp};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::book::{Book, Waiting};
use crate::definition::{Definition, RawStep, Whom};
use crate::instance::Moment;
use crate::next::Association;
use crate::outbox::Outbox;
use crate::process::Early;
use crate::rows::{Sending, Tables, early_of, found_by, instance_key, send_key};

/// Instances that are kept between two pages. They cost memory, never correctness.
const KEPT: usize = 10_000;
/// Timers of a slice that are looked at together; timers and answers that are taken in with one commit.
const OF_A_SLICE: usize = 32;
const AT_ONCE: usize = 500;
/// Rows that are read together.
const PAGE: usize = 1_000;
/// Longest key of an instance, in bytes.
const MAX_KEY: usize = 255;

pub(crate) struct ProcessSession<B> {
    backend: Arc<B>,
    tables: Tables,
    slices: Slices,
    ids: Ids,
    book: Book,
    outbox: Outbox,
    /// Whether what was not answered before it began is on its way.
    resumed: bool,
    marks: Marks,
    /// Nothing is due before this; `None` if that is not known.
    next_timer: Option<Timestamp>,
    /// Rows that are done with.
    gone: Vec<RowWrite>,
}

/// A step of an event of a page.
struct Planned<'e> {
    event: &'e RecordedEvent,
    /// Which definition, and which of its steps.
    of: usize,
    nth: u32,
    step: RawStep<'e>,
}

impl<B: Backend> ProcessSession<B> {
    pub(crate) fn new(
        backend: Arc<B>,
        tables: Tables,
        definitions: Vec<Definition>,
        opening: Opening<'_>,
    ) -> Self {
        let (sender, wake): (&Sender, &Arc<Notify>) = (opening.sender, opening.wake);
        Self {
            backend,
            tables,
            slices: opening.slices,
            ids: opening.ids.clone(),
            book: Book::new(definitions),
            outbox: Outbox::new(sender.clone(), opening.ids.clone(), wake.clone()),
            resumed: false,
            marks: Marks::default(),
            next_timer: None,
            gone: Vec::new(),
        }
    }

    /// What the events of a page mean, in order.
    fn plan<'e>(
        &self,
        events: &[&'e RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<Vec<Planned<'e>>, Failure> {
        let mut planned = Vec::new();
        for event in events {
            for (of, definition) in self.book.definitions().iter().enumerate() {
                match steps(definition, event) {
                    Ok(steps) => {
                        let plan = |(nth, step)| Planned { event, of, nth, step };
                        planned.extend((0_u32..).zip(steps).map(plan));
                    }
                    Err(source) => {
                        let key = event.stream.as_str();
                        // What a newer program wrote may belong to any key.
                        if admission.admits_undecoded(event, key) || is_of_a_newer_program(&*source) {
                            return Err(Failure::of_undecoded(event, key, source));
                        }
                        admission.pass_undecoded(event, key.to_owned());
                        break;
                    }
                }
            }
        }
        Ok(planned)
    }

    /// Reads the instances that a page may mean.
    async fn load_for(&mut self, planned: &[Planned<'_>]) -> Result<(), BoxError> {
        let (mut keys, mut associations) = (BTreeSet::new(), BTreeSet::new());
        for Planned { step, .. } in planned {
            match &step.whom {
                Whom::Key(key) => drop(keys.insert(key.clone())),
                Whom::Found(association) => drop(associations.insert(association.clone())),
            }
        }
        keys.retain(|key| self.slices.has(key));
        keys.extend(self.found(&associations).await?);
        self.load(keys).await?;
        let meant = |Planned { step, .. }: &&Planned<'_>| step.starts || step.early == Early::Stash;
        let key = |Planned { step, .. }: &Planned<'_>| match &step.whom {
            Whom::Key(key) => Some(key.clone()),
            Whom::Found(_) => None,
        };
        let waits =
            |key: &String| self.slices.has(key) && self.book.now(key).is_none_or(|now| !now.is_running());
        let early: BTreeSet<String> = planned.iter().filter(meant).filter_map(key).filter(waits).collect();
        self.load_early(early.into_iter().collect()).await
    }

    /// The keys of the instances that associations find, as it is stored.
    async fn found(&self, associations: &BTreeSet<Association>) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        for association in associations {
            let prefix = found_by(association);
            let found = self.under(&self.tables.associations, &prefix, behind(&prefix)).await?;
            // The key of the row has a hash, which proves nothing.
            let is = found.into_iter().filter(|row| row.value.association == *association);
            keys.extend(is.map(|row| row.value.key));
        }
        Ok(keys)
    }

    /// All rows between two keys.
    async fn under<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        after: &str,
        before: String,
    ) -> Result<Vec<es_core::store::Row<T>>, StoreError> {
        let (mut rows, mut after) = (Vec::new(), after.to_owned());
        loop {
            let span = Span { after, before: Some(before.clone()), limit: PAGE };
            let page = self.backend.scan_many(table.name(), &[span]).await?.pop().unwrap_or_default();
            let full = is_full(&page, PAGE);
            let last = page.last().map(|row| row.key.clone());
            for row in page {
                rows.push(table.decode(row)?);
            }
            match last {
                Some(last) if full => after = last,
                _ => return Ok(rows),
            }
        }
    }

    /// Reads instances that are not kept.
    async fn load(&mut self, keys: impl IntoIterator<Item = String> + Send) -> Result<(), BoxError> {
        let missing: Vec<String> = keys.into_iter().filter(|key| !self.book.knows(key)).collect();
        for keys in missing.chunks(PAGE) {
            let rows = keys.iter().map(|key| instance_key(key)).collect::<Result<Vec<_>, _>>()?;
            let found = self.backend.rows(self.tables.instances.name(), &rows).await?;
            for (key, row) in keys.iter().zip(found) {
                let row = row.map(|row| self.tables.instances.decode(row)).transpose()?;
                self.book.put(key, row.map(|row| (row.rev, row.value)));
            }
        }
        Ok(())
    }

    /// Reads the events that wait for instances which are not there.
    async fn load_early(&mut self, keys: Vec<String>) -> Result<(), BoxError> {
        if keys.is_empty() {
            return Ok(());
        }
        let span = |key: &String| {
            let prefix = early_of(key);
            Span { before: Some(behind(&prefix)), after: prefix, limit: PAGE }
        };
        let spans: Vec<Span> = keys.iter().map(span).collect();
        let found = self.backend.scan_many(self.tables.early.name(), &spans).await?;
        let mut rows = BTreeMap::new();
        for row in found.into_iter().flatten() {
            let row = self.tables.early.decode(row)?;
            rows.entry((row.value.position, row.value.step)).or_insert_with(Vec::new).push(row);
        }
        let positions: BTreeSet<Position> = rows.keys().map(|(position, _)| *position).collect();
        let mut left: Vec<Position> = positions.into_iter().collect();
        let mut waiting = BTreeMap::<String, Vec<Waiting>>::new();
        while !left.is_empty() {
            let events = self.backend.at(&left).await?;
            let Some(last) = events.last().map(RecordedEvent::place) else { break };
            for event in events {
                let at = event.place();
                let of = rows.range((at, 0)..=(at, u32::MAX)).flat_map(|(_, rows)| rows);
                for row in of.filter(|row| keys.contains(&row.value.key)) {
                    let (step, event, row) =
                        (row.value.step, event.clone(), (row.value.key.clone(), row.key.clone(), row.rev));
                    let entry = waiting.entry(row.0).or_default();
                    entry.push(Waiting { step, event, row: Some((row.1, row.2)) });
                }
            }
            left.retain(|position| *position > last);
        }
        for (key, waiting) in waiting {
            self.book.put_early(&key, waiting);
        }
        Ok(())
    }

    /// What was not answered is sent again.
    async fn resume(&mut self) -> Result<(), BoxError> {
        if self.resumed {
            return Ok(());
        }
        let Slices { first, last } = self.slices;
        let before = behind(&Key::in_slice(last).prefix());
        let rows = self.under(&self.tables.sends, &Key::in_slice(first).prefix(), before).await?;
        for row in rows {
            self.outbox.push(row.value);
        }
        self.resumed = true;
        Ok(())
    }

    /// Takes in what commands have come to.
    async fn take_answers(&mut self, moment: Moment) -> Result<bool, BoxError> {
        let answers = self.outbox.answers(AT_ONCE);
        let more = answers.len() == AT_ONCE;
        let keys: BTreeSet<String> = answers.iter().map(|(sending, _)| sending.send.key.clone()).collect();
        self.load(keys.clone()).await?;
        let ends = |key: &String| self.book.now(key).is_some_and(|now| !now.is_running());
        if self.book.begins_again() {
            self.load_early(keys.into_iter().filter(ends).collect()).await?;
        }
        let ids = self.ids.clone();
        for (Sending { send, .. }, why) in answers {
            self.book.answered(&send, why, moment, &|| ids.next());
            self.gone.push(self.tables.sends.delete_at(send_key(&send)?, 1));
        }
        Ok(more)
    }

    /// Fires what is due. Gives when the next is.
    async fn fire(&mut self, moment: Moment) -> Result<Option<Timestamp>, BoxError> {
        if self.next_timer.is_some_and(|next| next > moment.at) {
            return Ok(self.next_timer);
        }
        let (slices, queue) = ([self.slices], self.tables.timers.clone());
        let found = queue.due(&*self.backend, &slices, &mut self.marks, moment.at, OF_A_SLICE).await?;
        let mut due = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        let full = due.len() >= OF_A_SLICE.min(AT_ONCE);
        due.sort_by(|a, b| (a.due, &a.row.key).cmp(&(b.due, &b.row.key)));
        due.truncate(AT_ONCE);
        let keys: BTreeSet<String> = due.iter().map(|waiting| waiting.row.value.key.clone()).collect();
        self.load(keys).await?;
        for waiting in due {
            // The row of one that fires goes with what it changes.
            if !self.book.fired(&waiting.row.value, moment) {
                self.gone.push(queue.done(&waiting.row));
            }
        }
        self.next_timer = if full {
            Some(moment.at)
        } else {
            let after = moment.at.checked_add(Duration::from_micros(1))?;
            queue.next(&*self.backend, &slices, after).await?.or(Some(Timestamp::MAX))
        };
        Ok(self.next_timer)
    }
}

/// What an event means, if its keys can be stored.
fn steps<'e>(definition: &Definition, event: &'e RecordedEvent) -> Result<Vec<RawStep<'e>>, BoxError> {
    let steps = definition.steps(event)?;
    for step in &steps {
        if let Whom::Key(key) = &step.whom
            && (key.is_empty() || key.len() > MAX_KEY || key.contains('\0'))
        {
            let key = es_core::limits::cut(key);
            return Err(format!("{key:?} cannot be a key: it has 1 to {MAX_KEY} bytes and no NUL").into());
        }
    }
    Ok(steps)
}

#[async_trait]
impl<B: Backend> Session for ProcessSession<B> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        let planned = self.plan(events, admission)?;
        let Some(Planned { event: first, .. }) = planned.first() else { return Ok(()) };
        let loaded = self.load_for(&planned).await;
        loaded.map_err(|source| Failure::new(first, first.stream.as_str(), source))?;
        let ids = self.ids.clone();
        for Planned { event, of, nth, step } in &planned {
            let admits = |key: &str| admission.admits(event, key);
            let taken = self.book.event(event, *of, *nth, step, admits, &|| ids.next());
            taken.map_err(|(key, source)| Failure::new(event, key, source))?;
        }
        Ok(())
    }

    async fn due(&mut self, now: Timestamp, head: Position) -> Result<Option<Timestamp>, BoxError> {
        self.resume().await?;
        let moment = Moment { at: now, head };
        let more = self.take_answers(moment).await?;
        let next = self.fire(moment).await?;
        Ok(if more { Some(now) } else { next })
    }

    async fn flush(&mut self, mut rows: Vec<RowWrite>) -> Result<(), CommitError> {
        let (own, earliest) = self.book.rows(&self.tables)?;
        rows.extend(own);
        rows.append(&mut self.gone);
        self.backend.commit(Commit { rows, ..Commit::default() }).await?;
        if let Some(earliest) = earliest
            && self.next_timer.is_some_and(|next| earliest < next)
        {
            self.next_timer = Some(earliest);
            // It may be due before what was last seen empty.
            self.marks = Marks::default();
        }
        for sending in self.book.flushed() {
            if self.resumed {
                self.outbox.push(sending);
            }
        }
        self.book.forget(KEPT);
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.book.waiting() + self.gone.len()
    }
}
