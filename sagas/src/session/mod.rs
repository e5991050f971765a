//! The work on a range of a process: events, answers and timers in, one commit out.

mod commands;
mod forget;
mod load;
mod requests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::command::Sender;
use es_core::id::Ids;
use es_core::processor::{Admission, Failure, Opening, Session, Slices};
use es_core::store::keys::{Key, behind};
use es_core::store::queue::Marks;
use es_core::store::{Commit, CommitError, Position, Row, RowWrite, StoredRow};
use es_core::{Backend, BoxError, RecordedEvent, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use self::forget::Forgets;
use self::requests::Left;
use self::timers::Known;
use crate::book::Book;
use crate::damaged::{Unread, read};
use crate::definition::{Definition, RawStep};
use crate::instance::{Instance, Moment};
use crate::journal;
use crate::outbox::{Outbox, Sent, Writes};
use crate::rows::{Noted, Sending, Tables, send_key, writes_key};
use crate::transaction::StoreClock;

/// Instances that are kept between two pages. They cost memory, never correctness.
const KEPT: usize = 10_000;
/// Timers and answers that are taken in with one commit.
const AT_ONCE: usize = 500;
/// Rows that are read together.
const PAGE: usize = 1_000;
/// Spans of keys that are read together.
const SPANS: usize = 500;
/// Commands that are on their way or wait for that, about. The others are only in the store.
const IN_MEMORY: usize = 10_000;
/// Rows of one commit beside those of instances.
const MAX_ROWS: usize = 1_000;
/// How often requests, and what was set aside, are looked at in any case.
const LOOK: Duration = Duration::from_secs(1);
/// How many instances take in what has waited for them at once, and how much of it each.
const LAGGING: usize = 10;
const INPUTS: usize = 100;
/// Longest key of an instance, in bytes.
const MAX_KEY: usize = 255;

pub(crate) struct ProcessSession<B> {
    backend: Arc<B>,
    tables: Tables,
    slices: Slices,
    ids: Ids,
    /// How many bytes of instances it keeps.
    keeps: usize,
    book: Book,
    /// Instances of which something cannot be read, and why: what comes to them waits.
    unreadable: BTreeMap<String, Unread>,
    outbox: Outbox,
    /// Up to here the commands that are stored were put into the outbox; `None`: all were.
    sent_to: Option<String>,
    /// Commands were not put in, because there were too many.
    left_behind: bool,
    /// What commands have come to, and was not taken in.
    came: VecDeque<Sent>,
    /// What was not taken in, because its instance cannot be read, and when it is looked at again.
    aside: Vec<Sent>,
    looks_aside: Instant,
    /// Rows of commands, by their keys, as they are to be written: then they are sent again, or held.
    rewritten: BTreeMap<String, Row<Sending>>,
    /// Instances whose commands are read again, and sent, once what waits is written: their ids and keys.
    released: BTreeMap<Uuid, String>,
    /// Operators ask for something.
    requests: watch::Receiver<u64>,
    /// When it is looked up at the latest.
    look: Instant,
    /// Up to here requests were looked up; `None`: all were.
    asked_to: Option<String>,
    /// Requests that could not be done, by the keys of their rows.
    left: BTreeMap<String, Left>,
    /// Whether it is known which instances lag.
    knows_lagging: bool,
    /// Tells the worker of requests.
    _hears: JoinSet<()>,
    marks: Marks,
    /// How many timers of a slice are looked at together.
    of_a_slice: usize,
    timers: Known,
    clock: StoreClock,
    forgets: Forgets,
    /// Rows beside those of instances.
    rows: Vec<RowWrite>,
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
        let requests = backend.watch_rows(tables.requests.name(), opening.slices);
        let (mut heard, called, mut hears) = (requests.clone(), wake.clone(), JoinSet::new());
        hears.spawn(async move {
            while heard.changed().await.is_ok() {
                called.notify_one();
            }
        });
        let writes = Writes::new(backend.clone(), tables.writes.clone(), writes_key(opening.slices.first));
        let ids = opening.ids.clone();
        let outbox = Outbox::new(sender.clone(), backend.clone(), writes, ids, wake.clone());
        Self {
            backend,
            tables,
            slices: opening.slices,
            ids: opening.ids.clone(),
            keeps: opening.bytes,
            book: Book::new(definitions),
            unreadable: BTreeMap::new(),
            outbox,
            sent_to: Some(Key::in_slice(opening.slices.first).prefix()),
            left_behind: false,
            came: VecDeque::new(),
            aside: Vec::new(),
            looks_aside: Instant::now(),
            rewritten: BTreeMap::new(),
            released: BTreeMap::new(),
            requests,
            look: Instant::now(),
            asked_to: None,
            left: BTreeMap::new(),
            knows_lagging: false,
            _hears: hears,
            marks: Marks::default(),
            of_a_slice: 0,
            timers: Known::default(),
            clock: StoreClock::default(),
            forgets: Forgets::default(),
            rows: Vec::new(),
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
            match self.plan_one(event) {
                Ok(steps) => planned.extend(steps),
                Err(source) => {
                    let key = event.stream.as_str();
                    if admission.admits_undecoded(event, key, &*source) {
                        return Err(Failure::of_undecoded(event, key, source));
                    }
                    admission.pass_undecoded(event, key.to_owned());
                }
            }
        }
        Ok(planned)
    }

    /// What an event means to all definitions. If one of them does not understand it, it means nothing to the others
    /// either: they would take it in again once all do.
    fn plan_one<'e>(&self, event: &'e RecordedEvent) -> Result<Vec<Planned<'e>>, BoxError> {
        let mut planned = Vec::new();
        for (of, definition) in self.book.definitions().iter().enumerate() {
            let plan = |(nth, step)| Planned { event, of, nth, step };
            planned.extend((0_u32..).zip(steps(definition, event)?).map(plan));
        }
        Ok(planned)
    }

    /// Whether what waits for the flush is enough for one commit.
    fn is_full(&self) -> bool {
        self.book.is_full() || self.rows.len() + self.rewritten.len() >= MAX_ROWS
    }

    /// Instances take in what has waited for them. Whether there is more of it.
    async fn catch_up(&mut self, moment: Moment) -> Result<bool, BoxError> {
        if !self.knows_lagging {
            let table = self.tables.lagging.clone();
            let [after, before] = [self.slices.first, self.slices.last].map(|n| Key::in_slice(n).prefix());
            let rows = self.under(&table, after, behind(&before)).await?;
            self.book.put_lagging(rows.into_iter().filter_map(|row| Some(read(&table, row).ok()?.value)));
            self.knows_lagging = true;
        }
        let keys = self.book.next_lagging(LAGGING);
        if keys.is_empty() {
            return Ok(false);
        }
        self.load(keys.clone()).await?;
        self.load_early_of_ended(keys.iter().cloned().collect()).await?;
        let mut of = self.book.look_at_lagging(&keys);
        for key in keys.iter().filter(|key| self.unreadable.contains_key(*key)) {
            self.book.leave(key);
        }
        of.retain(|instance| !self.unreadable.contains_key(&instance.key));
        let pages = journal::next_of(&*self.backend, &self.tables, &of, INPUTS).await?;
        let inputs: Vec<_> = pages.into_iter().map(|page| self.readable(page)).collect();
        let noted = inputs.iter().flat_map(|(inputs, _)| inputs).map(|(_, row)| &row.value);
        let events = journal::events(&*self.backend, noted).await?;
        let ids = self.ids.clone();
        for (Instance { key, .. }, (inputs, damaged)) in of.iter().zip(inputs) {
            self.book.catch_up(key, &inputs, &events, &|| ids.next());
            if let Some((number, why)) = damaged {
                self.book.fail(key, number, &why, moment.at);
            }
        }
        Ok(self.book.lags())
    }

    /// The inputs before the first that cannot be read, and the number of that one and why.
    fn readable(&self, page: Vec<(u64, StoredRow)>) -> (Vec<(u64, Row<Noted>)>, Option<(u64, String)>) {
        let mut inputs = Vec::new();
        for (number, row) in page {
            match read(&self.tables.inputs, row) {
                Ok(row) => inputs.push((number, row)),
                Err(damaged) => return (inputs, Some((number, damaged.why))),
            }
        }
        (inputs, None)
    }
}

/// Whether no row is written twice. A commit with such a row is refused, and so is the next one.
fn is_once(rows: &[RowWrite]) -> bool {
    let mut seen = BTreeSet::new();
    rows.iter().all(|row| seen.insert((&row.table, &row.key)))
}

/// What an event means, if its keys can be stored.
fn steps<'e>(definition: &Definition, event: &'e RecordedEvent) -> Result<Vec<RawStep<'e>>, BoxError> {
    let steps = definition.steps(event)?;
    for key in steps.iter().flat_map(RawStep::keys) {
        if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
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
        let meant = loaded.map_err(|error| Failure::of_the_store(first, first.stream.as_str(), error))?;
        let unknown: BTreeMap<Position, &str> =
            planned.iter().filter_map(|of| Some((of.event.place(), meant.unknown(&of.step)?))).collect();
        let (ids, mut last) = (self.ids.clone(), first.place());
        for Planned { event, of, nth, step } in &planned {
            if event.place() > last && self.book.is_full() {
                return Err(Failure::not_yet(event));
            }
            last = event.place();
            // Nobody can tell whom it is for: it is handled for all of them once that is known.
            if let Some(why) = unknown.get(&event.place()) {
                let key = event.stream.as_str();
                let why = BoxError::from(*why);
                if admission.admits_undecoded(event, key, &*why) {
                    return Err(Failure::of_undecoded(event, key, why));
                }
                admission.pass_undecoded(event, key.to_owned());
                continue;
            }
            for (key, why) in self.unreadable(step, &meant) {
                if admission.admits(event, &key) {
                    return Err(Failure::new(event, key, why));
                }
            }
            let admits = |key: &str| admission.admits(event, key);
            let taken = self.book.event(event, *of, *nth, step, admits, &|| ids.next());
            taken.map_err(|(key, source)| Failure::new(event, key, source))?;
        }
        Ok(())
    }

    async fn due(
        &mut self,
        now: Timestamp,
        head: Position,
        parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, BoxError> {
        let moment = Moment { at: now, head };
        self.resume(moment).await?;
        // Before what operators do to them: a mark that is not stored yet would be missed.
        let lags = self.catch_up(moment).await?;
        let more = self.take_answers(moment).await?;
        let asked = self.take_requests(moment).await?;
        let next = self.fire(moment, parked).await?;
        self.forget_ended(moment, parked).await?;
        let more = lags || more || asked || !self.released.is_empty() || self.book.lags();
        Ok(if more { Some(now) } else { next })
    }

    async fn flush(&mut self, mut rows: Vec<RowWrite>) -> Result<(), CommitError> {
        let (own, due) = self.book.rows(&self.tables, self.ended_at().await?)?;
        rows.extend(own);
        rows.append(&mut self.rows);
        for row in self.rewritten.values() {
            rows.push(self.tables.sends.put(row)?);
        }
        debug_assert!(is_once(&rows), "a row is written twice: {rows:?}");
        self.backend.commit(Commit { rows, ..Commit::default() }).await?;
        for (slice, due) in due {
            if self.timers.set(slice, due) {
                // It may be due before what was last seen empty.
                self.marks = Marks::default();
            }
        }
        self.written();
        for sending in self.book.flushed() {
            let key = send_key(&sending.send).expect("it was written");
            self.send(Row { key, rev: 1, value: sending });
        }
        self.book.forget((KEPT, self.keeps));
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.book.bytes() + self.outbox.bytes()
    }

    fn waiting(&self) -> usize {
        self.book.waiting() + self.rows.len() + self.rewritten.len()
    }
}
