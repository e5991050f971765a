//! The work on a range of a process: events, answers and timers in, one commit out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::command::Sender;
use es_core::id::Ids;
use es_core::limits::PAGE_BYTES;
use es_core::processor::{Admission, Failure, Opening, Session, Slices};
use es_core::store::keys::{Key, behind};
use es_core::store::queue::Marks;
use es_core::store::{
    Commit, CommitError, PageItem, Position, Row, RowWrite, Span, StoreError, Table, is_full,
};
use es_core::{Backend, BoxError, RecordedEvent, Timestamp};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::book::{Book, Waiting};
use crate::definition::{Definition, RawStep};
use crate::instance::{Moment, ToSend};
use crate::journal;
use crate::next::Association;
use crate::outbox::{Came, Outbox, Sent};
use crate::process::Early;
use crate::rows::{
    Answered, Found, Request, Sending, Tables, Trouble, answered_key, early_of, found_by, instance_key,
    of_instance, send_key,
};
use crate::verb::{Answer, Verb};

/// Instances that are kept between two pages. They cost memory, never correctness.
const KEPT: usize = 10_000;
/// Timers of a slice that are looked at together; timers and answers that are taken in with one commit.
const OF_A_SLICE: usize = 32;
const AT_ONCE: usize = 500;
/// Rows that are read together.
const PAGE: usize = 1_000;
/// Spans of keys that are read together.
const SPANS: usize = 500;
/// Commands that are on their way or wait for that, about. The others are only in the store.
const IN_MEMORY: usize = 10_000;
/// Rows of one commit beside those of instances.
const MAX_ROWS: usize = 1_000;
/// Requests that are done at once, and how often they are looked up in any case.
const REQUESTS: usize = 50;
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
    book: Book,
    /// Instances whose rows cannot be read, and why: what comes to them waits.
    unreadable: BTreeMap<String, String>,
    outbox: Outbox,
    /// Up to here the commands that are stored were put into the outbox; `None`: all were.
    sent_to: Option<String>,
    /// Commands were not put in, because there were too many.
    left_behind: bool,
    /// What commands have come to, and was not taken in.
    came: VecDeque<Sent>,
    /// Commands that are to be sent again, or not, once their rows are written.
    rewritten: Vec<Row<Sending>>,
    /// Instances whose commands are sent again.
    released: Vec<Row<Sending>>,
    /// Operators ask for something.
    requests: watch::Receiver<u64>,
    /// When it is looked up at the latest.
    look: Instant,
    /// Whether it is known which instances lag.
    knows_lagging: bool,
    /// Tells the worker of requests.
    _hears: JoinSet<()>,
    marks: Marks,
    /// Nothing is due before this; `None` if that is not known.
    next_timer: Option<Timestamp>,
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
        let outbox = Outbox::new(sender.clone(), backend.clone(), opening.ids.clone(), wake.clone());
        Self {
            backend,
            tables,
            slices: opening.slices,
            ids: opening.ids.clone(),
            book: Book::new(definitions),
            unreadable: BTreeMap::new(),
            outbox,
            sent_to: Some(Key::in_slice(opening.slices.first).prefix()),
            left_behind: false,
            came: VecDeque::new(),
            rewritten: Vec::new(),
            released: Vec::new(),
            requests,
            look: Instant::now(),
            knows_lagging: false,
            _hears: hears,
            marks: Marks::default(),
            next_timer: None,
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

    /// Reads the instances that a page may mean.
    async fn load_for(&mut self, planned: &[Planned<'_>]) -> Result<Vec<Found>, BoxError> {
        let (mut keys, mut associations) = (BTreeSet::new(), BTreeSet::new());
        for Planned { step, .. } in planned {
            keys.extend(step.keys().map(str::to_owned));
            associations.extend(step.associations().cloned());
        }
        keys.retain(|key| self.slices.has(key));
        let found = self.found(&associations).await?;
        keys.extend(found.iter().map(|found| found.key.clone()));
        self.load(keys).await?;
        if !self.book.definitions()[0].stashes() {
            return Ok(found);
        }
        let again = self.book.begins_again();
        let meant = |Planned { step, .. }: &&Planned<'_>| step.starts || again || step.early == Early::Stash;
        let waits =
            |key: &String| self.slices.has(key) && self.book.now(key).is_none_or(|now| !now.is_running());
        let keys = |step: &Planned<'_>| step.step.keys().map(str::to_owned).collect::<Vec<_>>();
        let starts: BTreeSet<String> = planned.iter().filter(|of| of.step.starts).flat_map(keys).collect();
        // What only comes to others that wait is counted with them, which need not be read for that each time.
        let is_counted = |key: &String| {
            !starts.contains(key) && self.book.now(key).is_none() && self.book.counts_early(key)
        };
        let early = planned.iter().filter(meant).flat_map(keys).filter(waits);
        self.load_early(early.filter(|key| !is_counted(key)).collect()).await?;
        Ok(found)
    }

    /// The instances that associations find, as it is stored.
    async fn found(&self, associations: &BTreeSet<Association>) -> Result<Vec<Found>, StoreError> {
        let found = self.below(&self.tables.associations, associations.iter().map(found_by)).await?;
        // The key of the row has a hash, which proves nothing.
        let is =
            found.into_iter().map(|row| row.value).filter(|found| associations.contains(&found.association));
        Ok(is.collect())
    }

    /// All rows between two keys.
    async fn under<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        after: &str,
        before: String,
    ) -> Result<Vec<Row<T>>, StoreError> {
        self.among(table, vec![Span { after: after.to_owned(), before: Some(before), limit: PAGE }]).await
    }

    /// All rows whose keys begin with one of some texts.
    async fn below<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        prefixes: impl Iterator<Item = String> + Send,
    ) -> Result<Vec<Row<T>>, StoreError> {
        let span = |after: String| Span { before: Some(behind(&after)), after, limit: PAGE };
        let (spans, mut rows) = (prefixes.map(span).collect::<Vec<_>>(), Vec::new());
        for spans in spans.chunks(SPANS) {
            rows.extend(self.among(table, spans.to_vec()).await?);
        }
        Ok(rows)
    }

    /// All rows of some spans, read together.
    async fn among<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        mut spans: Vec<Span>,
    ) -> Result<Vec<Row<T>>, StoreError> {
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
                for row in page {
                    rows.push(table.decode(row)?);
                }
            }
            spans = cut;
        }
        Ok(rows)
    }

    /// Reads instances that are not kept.
    async fn load(&mut self, keys: impl IntoIterator<Item = String> + Send) -> Result<(), BoxError> {
        let missing: Vec<String> = keys.into_iter().filter(|key| !self.book.knows(key)).collect();
        for keys in missing.chunks(PAGE) {
            let rows = keys.iter().map(|key| instance_key(key)).collect::<Result<Vec<_>, _>>()?;
            let found = self.backend.rows(self.tables.instances.name(), &rows).await?;
            for (key, row) in keys.iter().zip(found) {
                match row.map(|row| self.tables.instances.decode(row)).transpose() {
                    Ok(row) => {
                        self.unreadable.remove(key);
                        self.book.put(key, row.map(|row| (row.rev, row.value)));
                    }
                    Err(error) => {
                        let why = format!("instance {key} cannot be read: {}", es_core::chain(&error));
                        self.book.leave(key);
                        self.unreadable.insert(key.clone(), why);
                    }
                }
            }
        }
        Ok(())
    }

    /// Which of the instances that a step is for cannot be read, and why.
    fn unreadable(&self, step: &RawStep<'_>, found: &[Found]) -> Vec<(String, String)> {
        let finds = |key: &str, association: &Association| {
            found.iter().any(|found| found.association == *association && found.key == key)
        };
        let is_meant =
            |key: &&String| step.keys().any(|of| of == *key) || step.associations().any(|by| finds(key, by));
        let meant = self.unreadable.iter().filter(|(key, _)| is_meant(key));
        meant.map(|(key, why)| (key.clone(), why.clone())).collect()
    }

    /// Reads the events that wait for instances which are not there.
    async fn load_early(&mut self, keys: BTreeSet<String>) -> Result<(), BoxError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut rows = BTreeMap::new();
        for row in self.below(&self.tables.early, keys.iter().map(|key| early_of(key))).await? {
            rows.entry((row.value.position, row.value.step)).or_insert_with(Vec::new).push(row);
        }
        let positions: BTreeSet<Position> = rows.keys().map(|(position, _)| *position).collect();
        let mut left: Vec<Position> = positions.into_iter().collect();
        let mut waiting: BTreeMap<String, Vec<Waiting>> =
            keys.iter().cloned().map(|key| (key, Vec::new())).collect();
        while !left.is_empty() {
            let events = self.backend.at(&left).await?;
            let Some(last) = events.last().map(RecordedEvent::place) else { break };
            for event in events {
                let at = event.place();
                let of = rows.range((at, 0)..=(at, u32::MAX)).flat_map(|(_, rows)| rows);
                for Row { value, key, rev } in of {
                    if let Some(waiting) = waiting.get_mut(&value.key) {
                        let (step, event, row) = (value.step, event.clone(), Some((key.clone(), *rev)));
                        waiting.push(Waiting { step, event, row });
                    }
                }
            }
            left.retain(|position| *position > last);
        }
        for (key, waiting) in waiting {
            self.book.put_early(&key, waiting);
        }
        Ok(())
    }

    /// What was not answered is sent again, as much of it at a time as fits into memory.
    async fn resume(&mut self) -> Result<(), BoxError> {
        if self.left_behind && self.outbox.len() + self.came.len() == 0 {
            self.left_behind = false;
            self.sent_to = Some(Key::in_slice(self.slices.first).prefix());
        }
        while let Some(after) = self.sent_to.clone()
            && self.outbox.len() < PAGE
        {
            let before = Some(behind(&Key::in_slice(self.slices.last).prefix()));
            let (table, span) = (&self.tables.sends, Span { after, before, limit: PAGE });
            let page = self.backend.scan_many(table.name(), &[span]).await?.pop().unwrap_or_default();
            self.sent_to = page.last().map(|row| row.key.clone()).filter(|_| is_full(&page, PAGE));
            for row in page {
                self.outbox.push(self.tables.sends.decode(row)?);
            }
        }
        Ok(())
    }

    /// Commands that are stored are sent, unless they are read from the store later.
    fn send(&mut self, row: Row<Sending>) {
        if self.sent_to.as_ref().is_some_and(|sent| row.key > *sent) {
            return;
        }
        self.left_behind |= self.outbox.len() >= IN_MEMORY;
        if !self.left_behind {
            self.outbox.push(row);
        }
    }

    /// Takes in what commands have come to.
    async fn take_answers(&mut self, moment: Moment) -> Result<bool, BoxError> {
        let left = AT_ONCE - self.came.len().min(AT_ONCE);
        self.came.extend(self.outbox.came(left));
        let more = self.came.len() == AT_ONCE;
        let keys: BTreeSet<String> = self.came.iter().map(|(row, _)| row.value.send.key.clone()).collect();
        self.load(keys.clone()).await?;
        self.load_early_of_ended(keys).await?;
        let (ids, mut go_on) = (self.ids.clone(), Vec::new());
        while !self.is_full()
            && let Some((mut row, came)) = self.came.pop_front()
        {
            let ToSend { key, id, .. } = &row.value.send;
            if self.unreadable.contains_key(key) {
                // Sent again under its key, once its instance can be read.
                self.outbox.hold(*id);
                continue;
            }
            match came {
                Came::Answer(why) => {
                    self.book.answered(&row.value.send, why, moment, &|| ids.next());
                    self.rows.push(self.tables.sends.delete(&row));
                    if self.outbox.goes_on(*id) {
                        go_on.push((of_instance(key, *id), row.key));
                    }
                }
                Came::Trouble { error, attempts, held } => {
                    let trouble = Trouble { since: moment.at, error, attempts, held };
                    if held {
                        self.book.park(&row.value.send, &trouble);
                    }
                    row.value.trouble = Some(trouble);
                    self.rows.push(self.tables.sends.put(&row)?);
                    self.rewritten.push(row.written());
                }
            }
        }
        self.put_in_again(go_on).await?;
        Ok(more || !self.came.is_empty())
    }

    /// Commands of instances that were stuck with one are sent, once that one's answer is stored.
    async fn put_in_again(&mut self, stuck: Vec<(String, String)>) -> Result<(), BoxError> {
        let rows = self.below(&self.tables.sends, stuck.iter().map(|(prefix, _)| prefix.clone())).await?;
        let answered: BTreeSet<&String> = stuck.iter().map(|(_, answered)| answered).collect();
        self.released.extend(rows.into_iter().filter(|row| !answered.contains(&row.key)));
        Ok(())
    }

    /// Reads what waits for instances that may have ended by now, where another one may begin.
    async fn load_early_of_ended(&mut self, keys: BTreeSet<String>) -> Result<(), BoxError> {
        if !self.book.begins_again() {
            return Ok(());
        }
        let ends = |key: &String| self.book.now(key).is_some_and(|now| !now.is_running());
        self.load_early(keys.into_iter().filter(ends).collect()).await
    }

    /// Does what operators ask for. Whether there is more of it.
    async fn take_requests(&mut self, moment: Moment) -> Result<bool, BoxError> {
        let heard = self.requests.has_changed().unwrap_or_default();
        if !heard && Instant::now() < self.look {
            return Ok(false);
        }
        self.requests.mark_unchanged();
        let span = Span {
            after: Key::in_slice(self.slices.first).prefix(),
            before: Some(behind(&Key::in_slice(self.slices.last).prefix())),
            limit: REQUESTS,
        };
        let table = self.tables.requests.clone();
        let page = self.backend.scan_many(table.name(), &[span]).await?.pop().unwrap_or_default();
        let more = is_full(&page, REQUESTS);
        self.look = Instant::now() + if more { Duration::ZERO } else { LOOK };
        for row in page {
            // One of a newer program waits for it.
            match table.decode(row) {
                Ok(row) => {
                    self.carry_out(&row.value, moment).await?;
                    self.rows.push(table.delete(&row));
                }
                Err(error) => {
                    tracing::warn!(error = es_core::chain(&error), "a request is left to another program");
                }
            }
        }
        Ok(more)
    }

    /// Does what an operator asks for, and notes what became of it.
    async fn carry_out(&mut self, request: &Request, moment: Moment) -> Result<(), BoxError> {
        let Request { key, id, verb, .. } = request;
        self.load([key.clone()]).await?;
        let prefix = of_instance(key, *id);
        let mut sends = self.under(&self.tables.sends, &prefix, behind(&prefix)).await?;
        // What another request has let go is written with the same flush.
        sends.retain(|row| self.released.iter().all(|released| released.key != row.key));
        let held = sends.iter().any(|row| row.value.is_held());
        let parked = self.book.now(key).filter(|now| now.id == *id && now.parked.is_some()).cloned();
        let failed = match parked {
            Some(now) => journal::behind(&*self.backend, &self.tables, &now, now.taken, 1).await?.0.pop(),
            None => None,
        };
        let done = self.book.verb(request, moment, failed.map(|(_, row)| row), held);
        if done.is_ok() && *verb == Verb::Retry && held {
            for mut row in sends {
                if row.value.is_held() {
                    row.value.trouble = None;
                    self.rows.push(self.tables.sends.put(&row)?);
                    row = row.written();
                }
                self.released.push(row);
            }
        }
        let answer = done.map_or_else(|why| Answer::Refused { why }, |input| Answer::Done { input });
        let answered = Answered { asked: request.clone(), done_at: moment.at, answer };
        self.rows.push(self.tables.answered.insert(answered_key(request)?, answered)?);
        Ok(())
    }

    /// Whether what waits for the flush is enough for one commit.
    fn is_full(&self) -> bool {
        self.book.is_full() || self.rows.len() >= MAX_ROWS
    }

    /// Instances take in what has waited for them. Whether there is more of it.
    async fn catch_up(&mut self) -> Result<bool, BoxError> {
        if !self.knows_lagging {
            let before = behind(&Key::in_slice(self.slices.last).prefix());
            let rows =
                self.under(&self.tables.lagging, &Key::in_slice(self.slices.first).prefix(), before).await?;
            self.book.put_lagging(rows.into_iter().map(|row| row.value));
            self.knows_lagging = true;
        }
        let keys = self.book.next_lagging(LAGGING);
        if keys.is_empty() {
            return Ok(false);
        }
        self.load(keys.clone()).await?;
        self.load_early_of_ended(keys.iter().cloned().collect()).await?;
        let of = self.book.look_at_lagging(&keys);
        let inputs = journal::next_of(&*self.backend, &self.tables, &of, INPUTS).await?;
        let noted = inputs.iter().flatten().map(|(_, row)| &row.value);
        let events = journal::events(&*self.backend, noted).await?;
        let ids = self.ids.clone();
        for (instance, inputs) in of.iter().zip(&inputs) {
            self.book.catch_up(&instance.key, inputs, &events, &|| ids.next());
        }
        Ok(self.book.lags())
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
            if self.is_full() {
                self.next_timer = Some(moment.at);
                return Ok(self.next_timer);
            }
            if self.unreadable.contains_key(&waiting.row.value.key) {
                continue;
            }
            // The row of one that fires goes with what it changes.
            if !self.book.fired(&waiting.row.value, moment) && !self.book.clears(&waiting.row.value) {
                self.rows.push(queue.done(&waiting.row));
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
        let found = loaded.map_err(|source| Failure::new(first, first.stream.as_str(), source))?;
        let (ids, mut last) = (self.ids.clone(), first.place());
        for Planned { event, of, nth, step } in &planned {
            if event.place() > last && self.book.is_full() {
                return Err(Failure::not_yet(event));
            }
            last = event.place();
            for (key, why) in self.unreadable(step, &found) {
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

    async fn due(&mut self, now: Timestamp, head: Position) -> Result<Option<Timestamp>, BoxError> {
        self.resume().await?;
        let moment = Moment { at: now, head };
        // Before what operators do to them: a mark that is not stored yet would be missed.
        let lags = self.catch_up().await?;
        let more = self.take_answers(moment).await?;
        let asked = self.take_requests(moment).await?;
        let next = self.fire(moment).await?;
        Ok(if lags || more || asked || self.book.lags() { Some(now) } else { next })
    }

    async fn flush(&mut self, mut rows: Vec<RowWrite>) -> Result<(), CommitError> {
        let (own, earliest) = self.book.rows(&self.tables)?;
        rows.extend(own);
        rows.append(&mut self.rows);
        self.backend.commit(Commit { rows, ..Commit::default() }).await?;
        if let Some(earliest) = earliest
            && self.next_timer.is_some_and(|next| earliest < next)
        {
            self.next_timer = Some(earliest);
            // It may be due before what was last seen empty.
            self.marks = Marks::default();
        }
        for row in std::mem::take(&mut self.rewritten) {
            if row.value.is_held() {
                self.outbox.hold(row.value.send.id);
            } else {
                self.outbox.begin(row);
            }
        }
        for row in std::mem::take(&mut self.released) {
            self.outbox.release(row.value.send.id);
            self.send(row);
        }
        for sending in self.book.flushed() {
            let key = send_key(&sending.send).expect("it was written");
            self.send(Row { key, rev: 1, value: sending });
        }
        self.book.forget(KEPT);
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.book.waiting() + self.rows.len()
    }
}
