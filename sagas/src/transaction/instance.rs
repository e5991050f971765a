//! A run as it is in memory, and the rows of its next commit.

use std::collections::{BTreeMap, BTreeSet};

use es_core::id::Ids;
use es_core::limits::MAX_PAGE;
use es_core::store::{EventStore, Row, RowStore, RowWrite, StoreError, StoredRow};
use es_core::{ErrorKind, Timestamp, chain};
use uuid::Uuid;

use super::clock::TRUSTS;
use super::fingerprint;
use super::protocol::{Call, Next, Protocol};
use super::rows::{
    Attention, Ended, FORMAT, Head, Heard, Record, Status, Tables, Verb, Wake, Written, ended_key, head_key,
    journal_of, record_key, slice,
};

/// How often records may follow each other without anything that happens in between, and how often more for each step, whose
/// turn may come and go by that. A protocol that goes on is a mistake.
const FOLLOW: (usize, usize) = (16, 4);

/// A run as it is in memory: what is stored of it, folded.
#[derive(Debug)]
pub(crate) struct Instance<P: Protocol> {
    pub(crate) run: Uuid,
    /// The history of the store that it was read in.
    pub(crate) history: u64,
    pub(crate) head: Row<Head>,
    pub(crate) state: P::State,
    /// The rows that wake it and that it knows of, by their keys: they go when it sleeps or ends.
    pub(crate) wakes: BTreeMap<String, u64>,
    /// Those that its drive has written or removed while it stayed awake: a look that read them before brings nothing new.
    known: BTreeSet<String>,
    /// The one that stands for requests which it has taken: should its node be lost, it is due.
    due: Option<String>,
    /// The revision of its row among those that wait for a person.
    attention: u64,
    /// What that row says, and since when.
    noted: Option<(Timestamp, String)>,
    /// Whether that row says that it cannot go on, which it can now.
    repaired: bool,
}

impl<P: Protocol> Clone for Instance<P> {
    fn clone(&self) -> Self {
        let Self { run, history, head, state, wakes, known, due, attention, noted, repaired } = self;
        let (head, state, wakes, known) = (head.clone(), state.clone(), wakes.clone(), known.clone());
        let (due, attention, noted, repaired) = (due.clone(), *attention, noted.clone(), *repaired);
        Self { run: *run, history: *history, head, state, wakes, known, due, attention, noted, repaired }
    }
}

/// What came of looking a run up.
#[derive(Debug)]
pub(crate) enum Loaded<P: Protocol> {
    /// It is to be driven.
    Live(Box<Instance<P>>),
    /// It has ended, or is not there: what wakes it can go.
    Over,
    /// A newer program wrote it.
    Newer(u32),
    /// It is of this version of the definition, and not of the one here.
    Other(u32),
    /// It cannot be read.
    Damaged(String),
}

impl<P: Protocol> Instance<P> {
    /// A run that begins: nothing of it is stored yet.
    pub(crate) fn new(protocol: &P, run: Uuid, head: Head, history: u64) -> Self {
        let key = head_key(run).unwrap_or_default();
        let head = Row::new(key, head);
        let (state, wakes, known) = (protocol.begin(), BTreeMap::new(), BTreeSet::new());
        let (due, attention, noted, repaired) = (None, 0, None, false);
        Self { run, history, head, state, wakes, known, due, attention, noted, repaired }
    }

    /// It was woken by this row, which goes when it sleeps or ends.
    pub(crate) fn woken_by(&mut self, key: String, rev: u64) {
        if !self.known.contains(&key) {
            self.wakes.insert(key, rev);
        }
    }

    /// Whether rows have woken it that would do so again.
    pub(crate) fn is_woken(&self) -> bool {
        self.wakes.keys().any(|key| Some(key) != self.head.value.wake_row.as_ref())
    }

    /// Reads a run, in one history of the store.
    pub(crate) async fn load<S: EventStore + RowStore>(
        protocol: &P,
        tables: &Tables,
        store: &S,
        run: Uuid,
    ) -> Result<Loaded<P>, StoreError> {
        let history = store.history();
        let loaded = Self::load_in(history, protocol, tables, store, run).await?;
        if store.history() == history {
            return Ok(loaded);
        }
        let lost = std::io::Error::other("meanwhile the store has got another history");
        Err(StoreError::transient("reading a run", lost))
    }

    async fn load_in(
        history: u64,
        protocol: &P,
        tables: &Tables,
        rows: &dyn RowStore,
        run: Uuid,
    ) -> Result<Loaded<P>, StoreError> {
        let head = match tables.heads.get(rows, &head_key(run)?).await {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(Loaded::Over),
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Loaded::Damaged(chain(&error))),
            Err(error) => return Err(error),
        };
        if head.value.format > FORMAT {
            return Ok(Loaded::Newer(head.value.format));
        }
        if head.value.status == Status::Ended {
            return Ok(Loaded::Over);
        }
        if head.value.version != tables.version {
            return Ok(Loaded::Other(head.value.version));
        }
        let mut instance = Self::new(protocol, run, head.value.clone(), history);
        instance.head.rev = head.rev;
        let attention = one(rows, tables.attention.name(), &instance.head.key).await?;
        if let Some(row) = attention {
            // One that cannot be read is no better.
            instance.attention = row.rev;
            let note = tables.attention.decode(row).ok().map(|row| row.value).filter(|note| !note.damaged);
            instance.repaired = note.is_none();
            instance.noted = note.map(|note| (note.since, note.why));
        }
        if let Some(row) = &head.value.wake_row {
            let wake = one(rows, tables.wakes.table().name(), row).await?;
            instance.wakes.extend(wake.map(|wake| (row.clone(), wake.rev)));
        }
        let (prefix, mut after) = (journal_of(run), None::<String>);
        let mut n = 0;
        loop {
            let page = tables.journal.below(rows, &prefix, after.as_deref(), MAX_PAGE).await;
            let page = match page {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    return Ok(Loaded::Damaged(chain(&error)));
                }
                page => page?,
            };
            for row in &page {
                // What was written behind the head that was read belongs to somebody who was faster: the fence says so.
                if n < instance.head.value.records {
                    if let Err(why) = protocol.fold(&mut instance.state, &row.value) {
                        return Ok(Loaded::Damaged(format!("record {}: {why}", row.key)));
                    }
                    n += 1;
                }
            }
            match page.last() {
                Some(last) if page.len() == MAX_PAGE => after = Some(last.key.clone()),
                _ => break,
            }
        }
        if n < head.value.records {
            let (has, of) = (n, head.value.records);
            return Ok(Loaded::Damaged(format!("{has} of its {of} records are there")));
        }
        Ok(Loaded::Live(Box::new(instance)))
    }

    /// The run once these records are written, with all that follows from them at once, and when it is to be looked at
    /// if nothing happens. The rows of that are [`rows`](Self::rows).
    pub(crate) fn with(
        &self,
        protocol: &P,
        records: Vec<Record>,
        busy: &BTreeSet<Call>,
        at: Timestamp,
    ) -> Result<Change<P>, String> {
        let mut change = Change::of(self.clone());
        change.add(protocol, records, busy, at)?;
        Ok(change)
    }

    /// What the head says once records were added.
    fn settle(&mut self, protocol: &P, written: &[Written], at: Timestamp) {
        let head = &mut self.head.value;
        head.records += written.len() as u64;
        head.status = protocol.status(self.run, &self.state, at).0;
        for Written { record, .. } in written {
            head.note_error(record);
            head.note_said(record);
            head.format = head.format.max(record.format());
            if let Record::Ended { outcome } = record {
                (head.outcome, head.status) = (Some(outcome.clone()), Status::Ended);
            }
        }
    }
}

impl Head {
    /// What it has failed with last, until it has got over that.
    fn note_error(&mut self, record: &Record) {
        match record {
            Record::Failed { step, error: why, .. }
            | Record::Refused { step, why, .. }
            | Record::Parked { step, why, .. } => self.error = Some(fingerprint::of_step(step, why)),
            Record::Done { step, .. }
            | Record::Undone { step }
            | Record::Confirmed { step }
            | Record::PreCommitted { step } => {
                let of = fingerprint::of_step(step, "");
                self.error = self.error.take().filter(|error| !error.starts_with(&of));
            }
            Record::Heard { says: Heard::Commit | Heard::Rollback, .. } => self.error = None,
            Record::Heard { why, .. } => self.error = Some(fingerprint::of_step("local", why)),
            // What is sent from outside mends nothing, nor does what its parent says.
            Record::Resolved { verb: Verb::Signal { .. } | Verb::Parent { .. }, .. } => {}
            Record::Resolved { .. } | Record::Ended { .. } => self.error = None,
            _ => {}
        }
    }
}

/// A row as it is stored.
pub(crate) async fn one(
    rows: &dyn RowStore,
    table: &str,
    key: &str,
) -> Result<Option<StoredRow>, StoreError> {
    Ok(rows.rows(table, &[key.to_owned()]).await?.pop().flatten())
}

/// What records change, before it is written.
#[derive(Debug)]
pub(crate) struct Change<P: Protocol> {
    pub(crate) next: Instance<P>,
    pub(crate) written: Vec<Written>,
    /// What is to be done then.
    pub(crate) then: Next,
}

impl<P: Protocol> Change<P> {
    /// None yet.
    pub(crate) const fn of(next: Instance<P>) -> Self {
        Self { next, written: Vec::new(), then: Next::Ended }
    }

    /// These records too, with all that follows from them at once. After an error it is of no use any more.
    pub(crate) fn add(
        &mut self,
        protocol: &P,
        mut records: Vec<Record>,
        busy: &BTreeSet<Call>,
        at: Timestamp,
    ) -> Result<(), String> {
        let before = self.written.len();
        for _ in 0..FOLLOW.0 + FOLLOW.1 * protocol.steps() {
            for record in records.drain(..) {
                let record = Written { at, record };
                protocol.fold(&mut self.next.state, &record)?;
                self.written.push(record);
            }
            match protocol.next(self.next.run, &self.next.state, busy, at) {
                Next::Append(more) => records = more,
                then => {
                    self.then = then;
                    self.next.settle(protocol, &self.written[before..], at);
                    return Ok(());
                }
            }
        }
        Err("its protocol adds records without an end".to_owned())
    }

    /// The rows of the change. `taken`: what was asked and is answered by it. `sleeps`: when somebody is to look again, if
    /// nobody does until then.
    pub(crate) fn rows(
        &mut self,
        protocol: &P,
        tables: &Tables,
        taken: &[(String, u64)],
        sleeps: Option<Timestamp>,
        ids: &Ids,
        at: Timestamp,
    ) -> Result<Vec<RowWrite>, StoreError> {
        let next = &mut self.next;
        let (run, mut rows) = (next.run, Vec::new());
        let first = next.head.value.records - self.written.len() as u64;
        for (n, written) in (first + 1..).zip(&self.written) {
            rows.push(tables.journal.put_at(record_key(run, n)?, 0, written)?);
        }
        let ended = next.head.value.status == Status::Ended;
        for (key, rev) in taken {
            next.wakes.remove(key);
            rows.push(tables.wakes.table().delete_at(key.clone(), *rev));
        }
        // A request that woke it goes now: should its node be lost while it is awake, something else has to wake it.
        let sleeps = sleeps.filter(|_| !ended);
        let has_one = next.due.as_ref().is_some_and(|key| next.wakes.contains_key(key));
        // One that begins is due for everybody, also where the clock of the store is carried on a little less far.
        let begins = next.head.rev == 0;
        let now = if begins { at - TRUSTS } else { at };
        let due = sleeps.or_else(|| (!ended && (begins || !taken.is_empty()) && !has_one).then_some(now));
        if ended || due.is_some() {
            for (key, rev) in std::mem::take(&mut next.wakes) {
                next.known.insert(key.clone());
                rows.push(tables.wakes.table().delete_at(key, rev));
            }
        }
        next.head.value.wake = sleeps;
        if ended {
            next.head.value.wake_row = None;
        }
        if let Some(due) = due {
            let wake = Wake { waits: next.head.value.waits_for_parent(), ..Wake::of(run) };
            let wake = tables.wakes.push(slice(run), due, now, ids.next(), wake)?;
            next.wakes.insert(wake.key.clone(), 1);
            next.known.insert(wake.key.clone());
            next.due = sleeps.is_none().then(|| wake.key.clone());
            next.head.value.wake_row = Some(wake.key.clone());
            rows.push(wake);
        }
        if let (true, Some(outcome)) = (ended, next.head.value.outcome.clone()) {
            let Head { key, version, begun, .. } = next.head.value.clone();
            let of = Ended { key, version, begun, at, outcome };
            rows.push(tables.ended.insert(ended_key(run, at)?, of)?);
        }
        // One that was taken up may still be unable to go on; one that sleeps has come as far as it can.
        let is_tried = sleeps.is_some()
            || self.written.iter().any(|written| !matches!(written.record, Record::Taken {}));
        if is_tried || !next.repaired {
            rows.extend(next.attention(protocol, tables, at)?);
        }
        rows.extend(next.head.value.wakes_parent(&self.written, ids, at)?);
        for word in self.written.iter().flat_map(|written| protocol.words(&next.state, &written.record)) {
            rows.push(word.row(ids, at)?);
        }
        rows.push(tables.heads.put(&next.head)?);
        next.head.rev += 1;
        Ok(rows)
    }
}

impl<P: Protocol> Instance<P> {
    /// Whether it is among those that wait for a person.
    fn attention(
        &mut self,
        protocol: &P,
        tables: &Tables,
        at: Timestamp,
    ) -> Result<Option<RowWrite>, StoreError> {
        let why = match self.head.value.status {
            Status::Ended => None,
            _ => protocol.status(self.run, &self.state, at).1,
        };
        let (key, rev) = (self.head.key.clone(), self.attention);
        Ok(match why {
            // Also if another step of it has come to that since.
            Some(why) if self.noted.as_ref().is_none_or(|(_, before)| *before != why) => {
                let since = self.noted.take().map_or(at, |(since, _)| since);
                (self.attention, self.repaired) = (rev + 1, false);
                self.noted = Some((since, why.clone()));
                let Head { key: of, version, .. } = self.head.value.clone();
                let value = Attention { key: of, version, since, why, damaged: false };
                Some(tables.attention.put(&Row { key, rev, value })?)
            }
            None if rev > 0 => {
                (self.attention, self.noted, self.repaired) = (0, None, false);
                Some(tables.attention.delete_at(key, rev))
            }
            _ => None,
        })
    }
}
