//! The instances that are in memory, and what becomes of them: events, answers and timers in, rows out.
//!
//! No IO: who uses it puts in what is stored, beforehand. So a session and the fixture of a test do the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use es_core::store::{Position, Row, RowWrite, StoreError};
use es_core::{BoxError, Metadata, RecordedEvent, Timestamp, chain};
use uuid::Uuid;

use crate::data::{Data, json_len};
use crate::definition::{Definition, RawStep, Whom};
use crate::instance::{Changes, Instance, Moment, ToSend};
use crate::journal;
use crate::next::Association;
use crate::process::{self, AfterEnd, Elapsed, RefusedCommand, Rejected};
use crate::rows::{
    Early, Found, Input, Instead, Noted, Request, Sending, Tables, Trouble, Waits, association_key,
    early_key, input_key, instance_key, lagging_key, send_key,
};
use crate::verb::Verb;

/// Events that may wait for one instance to start.
const MAX_EARLY: usize = 1_000;
/// Rows and bytes of one commit, about. What one event leads to is never torn.
const MAX_ROWS: usize = 2_000;
const MAX_BYTES: usize = 4 << 20;
/// What a row takes beside what is counted, about, in bytes.
const A_ROW: usize = 300;

/// Instances in memory.
#[derive(Debug)]
pub(crate) struct Book {
    /// The newest first: it is the one that starts instances.
    definitions: Vec<Definition>,
    kept: HashMap<String, Kept>,
    /// Of the instances that are kept.
    by_association: HashMap<Association, BTreeSet<String>>,
    /// What waits for the flush.
    touched: BTreeSet<String>,
    /// Bytes of the instances that are kept, and of those that wait for the flush.
    kept_bytes: usize,
    touched_bytes: usize,
    inputs: Vec<(String, Uuid, u64, Noted)>,
    sends: Vec<Sending>,
    early: BTreeMap<String, Vec<Waiting>>,
    /// Instances that have inputs to take in.
    lagging: BTreeSet<String>,
    /// Inputs that something else is done in the place of.
    marked: Vec<Row<Noted>>,
    /// Rows of timers and associations, and bytes of associations, inputs and commands, that wait for the flush, about.
    beside: usize,
    bytes: usize,
    /// Rows of events that waited, and wait no more.
    gone: Vec<(String, u64)>,
}

/// An instance, as it is stored and as it is now.
#[derive(Debug, Default)]
struct Kept {
    rev: u64,
    stored: Option<Instance>,
    now: Option<Instance>,
    /// Bytes of it, when they were last counted.
    bytes: usize,
}

/// An event that waits for its instance.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) step: u32,
    pub(crate) event: RecordedEvent,
    /// The key and the revision of its row; `None` if it is not stored yet.
    pub(crate) row: Option<(String, u64)>,
}

impl Book {
    /// Of a process, by its definitions, the newest first.
    pub(crate) fn new(definitions: Vec<Definition>) -> Self {
        Self {
            definitions,
            kept: HashMap::new(),
            by_association: HashMap::new(),
            touched: BTreeSet::new(),
            kept_bytes: 0,
            touched_bytes: 0,
            inputs: Vec::new(),
            sends: Vec::new(),
            early: BTreeMap::new(),
            lagging: BTreeSet::new(),
            marked: Vec::new(),
            beside: 0,
            bytes: 0,
            gone: Vec::new(),
        }
    }

    pub(crate) fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// Whether a key may have another instance once one has ended.
    pub(crate) fn begins_again(&self) -> bool {
        self.definitions[0].after_end() == AfterEnd::Again
    }

    /// Whether an instance is kept, or is known not to be there.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.kept.contains_key(key)
    }

    /// Puts in what is stored.
    pub(crate) fn put(&mut self, key: &str, stored: Option<(u64, Instance)>) {
        let (rev, stored) = stored.map_or((0, None), |(rev, instance)| (rev, Some(instance)));
        for association in stored.iter().flat_map(|instance| &instance.associations) {
            self.by_association.entry(association.clone()).or_default().insert(key.to_owned());
        }
        let bytes = stored.as_ref().map_or(0, Instance::bytes);
        self.kept_bytes += bytes;
        self.kept.insert(key.to_owned(), Kept { rev, now: stored.clone(), stored, bytes });
    }

    /// Puts in what waits for an instance.
    pub(crate) fn put_early(&mut self, key: &str, mut waiting: Vec<Waiting>) {
        let kept = self.early.entry(key.to_owned()).or_default();
        let at = |waiting: &Waiting| (waiting.event.place(), waiting.step);
        waiting.retain(|stored| !kept.iter().any(|kept| at(kept) == at(stored)));
        kept.splice(0..0, waiting);
    }

    pub(crate) fn now(&self, key: &str) -> Option<&Instance> {
        self.kept.get(key)?.now.as_ref()
    }

    /// All instances that are kept.
    #[cfg(feature = "testing")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Instance> {
        self.kept.values().filter_map(|kept| kept.now.as_ref())
    }

    /// The keys of kept instances that an association finds.
    fn found_by(&self, association: &Association) -> Vec<String> {
        self.by_association.get(association).into_iter().flatten().cloned().collect()
    }

    /// An event means something to instances: those that `admits` says yes to. All that are stored and may be meant are
    /// kept.
    ///
    /// # Errors
    ///
    /// Too many events wait for this key already.
    pub(crate) fn event(
        &mut self,
        event: &RecordedEvent,
        of: usize,
        nth: u32,
        step: &RawStep<'_>,
        mut admits: impl FnMut(&str) -> bool,
        id: &dyn Fn() -> Uuid,
    ) -> Result<(), (String, BoxError)> {
        let keys = match &step.whom {
            Whom::Key(key) => vec![key.clone()],
            Whom::Found(association) => self.found_by(association),
        };
        for key in keys {
            if admits(&key) {
                self.step(&key, event, of, nth, step, id).map_err(|error| (key, error))?;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        key: &str,
        event: &RecordedEvent,
        of: usize,
        nth: u32,
        step: &RawStep<'_>,
        id: &dyn Fn() -> Uuid,
    ) -> Result<(), BoxError> {
        let (version, newest) = (self.definitions[of].version(), of == 0);
        let again = self.definitions[of].after_end() == AfterEnd::Again;
        let begins = match self.now(key) {
            None => step.starts,
            Some(Instance { ended: true, ends: Some(end), .. }) => {
                step.starts && again && event.place() > *end
            }
            Some(instance) if newest && definition_of(&self.definitions, instance).is_none() => {
                self.note_event(key, event);
                return Ok(());
            }
            Some(instance) if instance.version != version || step.starts && instance.is_running() => {
                return Ok(());
            }
            Some(instance) if instance.is_running() => {
                self.take_event(key, event, nth, step);
                return Ok(());
            }
            // What comes behind a start that waits is for the one that it begins.
            Some(Instance { ended: false, .. }) if again && (step.starts || self.waits(key)) => {
                return self.wait(key, event, nth);
            }
            Some(_) => return Ok(()),
        };
        if !newest {
            return Ok(());
        }
        if begins {
            let origin = Metadata::caused_by(event);
            let kept = self.kept.entry(key.to_owned()).or_default();
            kept.now = Some(Instance::begin(key, id(), version, origin));
            self.take_event(key, event, nth, step);
            self.take_early(key, id);
        } else if self.now(key).is_none() && step.early == process::Early::Stash {
            self.wait(key, event, nth)?;
        }
        Ok(())
    }

    /// Whether something waits for the next instance of a key.
    fn waits(&self, key: &str) -> bool {
        self.early.get(key).is_some_and(|waiting| !waiting.is_empty())
    }

    /// The event waits for the instance.
    fn wait(&mut self, key: &str, event: &RecordedEvent, step: u32) -> Result<(), BoxError> {
        let waiting = self.early.entry(key.to_owned()).or_default();
        if waiting.len() >= MAX_EARLY {
            return Err(format!("{MAX_EARLY} events wait for {key:?} to start, and no more fit").into());
        }
        waiting.push(Waiting { step, event: event.clone(), row: None });
        Ok(())
    }

    /// What has waited for an instance is taken in.
    fn take_early(&mut self, key: &str, id: &dyn Fn() -> Uuid) {
        let (definition, mut left) = (self.definitions[0].clone(), Vec::new());
        for waiting in self.early.remove(key).unwrap_or_default() {
            let Waiting { step: nth, event, row } = &waiting.clone();
            let steps = definition.steps(event);
            let ends = self.now(key).is_some_and(|now| !now.is_running() && !now.ended);
            let step = match &steps {
                // A program that can decode it takes it in.
                Err(_) => {
                    left.push(waiting);
                    continue;
                }
                Ok(steps) => steps.get(*nth as usize),
            };
            // The one that the start before it has begun is ending already: it goes on waiting, where it is.
            if ends && (!left.is_empty() || step.is_some_and(|step| step.starts)) {
                left.push(waiting);
                continue;
            }
            self.gone.extend(row.clone());
            if let Some(step) = step {
                drop(self.step(key, event, 0, *nth, step, id));
            }
        }
        if !left.is_empty() {
            self.early.insert(key.to_owned(), left);
        }
    }

    fn take_event(&mut self, key: &str, event: &RecordedEvent, nth: u32, step: &RawStep<'_>) {
        let moment = Moment { at: event.recorded_at, head: event.place() };
        let noted = Noted::new(moment, Input::Event { position: event.place(), step: Some(nth) });
        self.input(key, noted, Some(step), Some(&Metadata::caused_by(event)));
    }

    /// There is no code for the instance: the event waits for a program that has it, and which says what it means.
    fn note_event(&mut self, key: &str, event: &RecordedEvent) {
        let moment = Moment { at: event.recorded_at, head: event.place() };
        let noted = Noted::new(moment, Input::Event { position: event.place(), step: None });
        let mut before = self.inputs.iter().rev().filter(|(of, ..)| of == key);
        if before.next().is_none_or(|(_, _, _, last)| last.input != noted.input) {
            self.input(key, noted, None, None);
        }
    }

    /// Another input of an instance: noted, and taken in unless others wait before it.
    fn input(&mut self, key: &str, noted: Noted, step: Option<&RawStep<'_>>, metadata: Option<&Metadata>) {
        let Some(now) = self.kept.get_mut(key).and_then(|kept| kept.now.as_mut()) else { return };
        let number = now.note();
        if let Input::Refused { command, .. } = &noted.input {
            now.answered();
            self.bytes += json_len(&command.payload);
        }
        if let Input::Timer { name, input, ordinal } = &noted.input
            && let Some(timer) = now.timer(name, *input, *ordinal)
        {
            timer.fired = true;
        }
        let (id, is_next) = (now.id, now.taken + 1 == number);
        // One that is parked for a command takes what an operator wants of it.
        if is_next && (now.parked.is_none() || noted.by.is_some()) {
            self.take(key, &noted, step, metadata);
        }
        self.inputs.push((key.to_owned(), id, number, noted));
        self.changed(key);
    }

    /// An instance takes its next input in; if its handler fails, it is parked. Without code for it, it lags.
    fn take(&mut self, key: &str, noted: &Noted, step: Option<&RawStep<'_>>, metadata: Option<&Metadata>) {
        let definitions = &self.definitions;
        let Some(now) = self.kept.get_mut(key).and_then(|kept| kept.now.as_mut()) else { return };
        if definition_of(definitions, now).is_none() {
            return;
        }
        let mut next = now.clone();
        match apply(definitions, &mut next, noted, step) {
            Ok(sends) => {
                let metadata = metadata.unwrap_or(&now.origin);
                let sending = |send| Sending { send, metadata: metadata.clone(), trouble: None };
                let sends: Vec<Sending> = sends.into_iter().map(sending).collect();
                self.bytes += sends.iter().map(|sending| sending.send.bytes()).sum::<usize>();
                self.sends.extend(sends);
            }
            Err(error) => {
                next = now.clone();
                next.park(&chain(&*error), noted.at);
            }
        }
        self.beside += Changes::between(Some(now), Some(&next)).len();
        let before = std::mem::replace(now, next).associations;
        let after = &now.associations;
        for gone in before.difference(after) {
            self.by_association.entry(gone.clone()).or_default().remove(key);
        }
        for new in after.difference(&before) {
            self.bytes += new.bytes();
            self.by_association.entry(new.clone()).or_default().insert(key.to_owned());
        }
    }

    /// An instance is not as it was.
    fn changed(&mut self, key: &str) {
        if let Some(kept) = self.kept.get_mut(key) {
            let before = std::mem::replace(&mut kept.bytes, kept.now.as_ref().map_or(0, Instance::bytes));
            let counted = if self.touched.insert(key.to_owned()) { 0 } else { before };
            self.kept_bytes = self.kept_bytes + kept.bytes - before;
            self.touched_bytes = self.touched_bytes + kept.bytes - counted;
        }
        self.mark_lagging(key);
    }

    fn mark_lagging(&mut self, key: &str) {
        if self.now(key).is_some_and(Instance::lags) {
            self.lagging.insert(key.to_owned());
        } else {
            self.lagging.remove(key);
        }
    }

    /// Puts in which instances have inputs to take in.
    pub(crate) fn put_lagging(&mut self, keys: impl IntoIterator<Item = String>) {
        self.lagging.extend(keys);
    }

    /// An instance cannot be read now: whether it has inputs to take in is seen with the next session.
    pub(crate) fn leave(&mut self, key: &str) {
        self.lagging.remove(key);
    }

    /// Some instances that have inputs to take in.
    pub(crate) fn lagging(&self, most: usize) -> Vec<String> {
        let has_code =
            |key: &&String| self.now(key).is_none_or(|now| definition_of(&self.definitions, now).is_some());
        self.lagging.iter().filter(has_code).take(most).cloned().collect()
    }

    /// An instance takes inputs in that have waited for it, as they are stored: those that come next.
    pub(crate) fn catch_up(
        &mut self,
        key: &str,
        inputs: &[(u64, Row<Noted>)],
        events: &BTreeMap<Position, RecordedEvent>,
        id: &dyn Fn() -> Uuid,
    ) {
        for (number, Row { value: noted, .. }) in inputs {
            let is_next = |now: &&Instance| now.lags() && now.taken + 1 == *number;
            let Some(now) = self.now(key).filter(is_next).filter(|_| !self.is_full()) else { break };
            let event = match noted.input {
                Input::Event { position, .. } if noted.instead.is_none() && now.is_running() => {
                    Some(position)
                }
                _ => None,
            };
            let (event, definition) =
                (event.map(|at| events.get(&at).ok_or(at)), definition_of(&self.definitions, now));
            let steps = match (&event, definition.cloned()) {
                (Some(Ok(event)), Some(definition)) => definition.steps(event),
                (Some(Err(at)), Some(_)) => Err(format!("there is no event at {at} any more").into()),
                _ => Ok(Vec::new()),
            };
            let steps = match steps {
                Ok(steps) => steps,
                Err(error) => {
                    self.fail(key, *number, &chain(&*error), noted.at);
                    break;
                }
            };
            let step = journal::step_of(now, noted, &steps);
            let event = event.and_then(Result::ok);
            self.take(key, noted, step, event.map(Metadata::caused_by).as_ref());
            self.changed(key);
        }
        self.mark_lagging(key);
        if self.now(key).is_some_and(|now| now.ended) {
            self.take_early(key, id);
        }
    }

    /// An instance cannot take its next input in, if that is the one with this number: it is parked.
    pub(crate) fn fail(&mut self, key: &str, number: u64, why: &str, at: Timestamp) {
        let kept = self.kept.get_mut(key).and_then(|kept| kept.now.as_mut());
        if let Some(now) = kept.filter(|now| now.lags() && now.taken + 1 == number) {
            now.park(why, at);
            self.changed(key);
        }
    }

    /// An operator wants something done to an instance. `next`: the input that it is parked before, as it is stored; `held`: why
    /// a command of it is not sent. Gives the number of the input that it becomes.
    ///
    /// # Errors
    ///
    /// Why it is not done, and what to do.
    pub(crate) fn verb(
        &mut self,
        request: &Request,
        moment: Moment,
        next: Option<(u64, Row<Noted>)>,
        held: Option<&Trouble>,
    ) -> Result<u64, String> {
        let Request { key, id, verb, by, .. } = request;
        let Some(now) = self.incarnation(key, *id) else {
            return Err("there is no such instance any more: look the key up again".to_owned());
        };
        verb.fits(now, held.is_some())?;
        let instead = match verb {
            Verb::Skip { .. } => Some(Instead::Skip),
            Verb::End => Some(Instead::End(moment.head)),
            _ => None,
        };
        if matches!(verb, Verb::Retry | Verb::Skip { .. } | Verb::End) {
            let next = next.filter(|(number, _)| now.parked.is_some() && *number == now.taken + 1);
            now.unpark();
            if let (Some(instead), Some((_, mut row))) = (instead, next) {
                row.value.instead = Some(instead);
                self.take(key, &row.value, None, None);
                self.marked.push(row);
            }
        }
        let now = self.incarnation(key, *id).ok_or("there is no such instance any more")?;
        if let (Some(trouble), true) = (held, *verb != Verb::Retry) {
            now.park_for_command(&trouble.error, trouble.attempts, trouble.since);
        }
        let input = match verb {
            Verb::Fire { timer } => {
                let set = now.timers.get(timer).ok_or("there is no such timer")?;
                Input::Timer { name: timer.clone(), input: set.input, ordinal: set.ordinal }
            }
            verb => Input::Verb(verb.clone()),
        };
        let number = now.noted + 1;
        self.input(key, Noted { by: Some(by.clone()), ..Noted::new(moment, input) }, None, None);
        Ok(number)
    }

    /// An instance, if it is this incarnation.
    fn incarnation(&mut self, key: &str, id: Uuid) -> Option<&mut Instance> {
        self.kept.get_mut(key)?.now.as_mut().filter(|now| now.id == id)
    }

    /// A command of an instance failed for good: an operator has to look at it.
    pub(crate) fn park(&mut self, key: &str, id: Uuid, trouble: &Trouble) {
        if let Some(now) = self.incarnation(key, id).filter(|now| now.parked.is_none()) {
            now.park_for_command(&trouble.error, trouble.attempts, trouble.since);
            self.changed(key);
        }
    }

    /// A command was answered: `why` if it was refused.
    pub(crate) fn answered(
        &mut self,
        send: &ToSend,
        why: Option<Rejected<Data>>,
        moment: Moment,
        id: &dyn Fn() -> Uuid,
    ) {
        let Some(now) = self.kept.get_mut(&send.key).and_then(|kept| kept.now.as_mut()) else { return };
        if now.id != send.id {
            return;
        }
        match why {
            None => {
                now.answered();
                self.changed(&send.key);
            }
            Some(why) => {
                let (input, ordinal, command) = (send.input, send.ordinal, send.command.clone());
                let noted = Noted::new(moment, Input::Refused { input, ordinal, command, why });
                self.input(&send.key, noted, None, None);
            }
        }
        if self.now(&send.key).is_some_and(|now| now.ended) {
            // What would begin it again has waited for this.
            self.take_early(&send.key, id);
        }
    }

    /// The time of a timer has come. `false` if it was cleared, or set anew: then it is history.
    pub(crate) fn fired(&mut self, waits: &Waits, moment: Moment) -> bool {
        let Waits { key, id, name, input, ordinal } = waits;
        let Some(now) = self.kept.get_mut(key).and_then(|kept| kept.now.as_mut()) else { return false };
        if now.id != *id || now.timer(name, *input, *ordinal).is_none_or(|timer| timer.fired) {
            return false;
        }
        let input = Input::Timer { name: name.clone(), input: *input, ordinal: *ordinal };
        self.input(key, Noted::new(moment, input), None, None);
        true
    }

    /// Whether the row of a timer goes with what waits for the flush: its instance has it as it is stored.
    pub(crate) fn clears(&self, waits: &Waits) -> bool {
        let Waits { key, id, name, input, ordinal } = waits;
        let stored =
            self.kept.get(key).and_then(|kept| kept.stored.as_ref()).filter(|stored| stored.id == *id);
        let timer = stored.and_then(|stored| stored.timers.get(name));
        timer.is_some_and(|timer| (timer.input, timer.ordinal) == (*input, *ordinal) && !timer.fired)
    }

    /// How many rows wait for the flush, about.
    pub(crate) fn waiting(&self) -> usize {
        let new = |waiting: &Vec<Waiting>| waiting.iter().filter(|waiting| waiting.row.is_none()).count();
        self.touched.len()
            + self.inputs.len()
            + self.sends.len()
            + self.marked.len()
            + self.beside
            + self.early.values().map(new).sum::<usize>()
    }

    /// Whether it is enough for one commit.
    pub(crate) fn is_full(&self) -> bool {
        let rows = self.waiting();
        rows >= MAX_ROWS || self.bytes + self.touched_bytes + rows * A_ROW >= MAX_BYTES
    }

    /// How many bytes it has in memory, about: an instance as it is stored and as it is now.
    pub(crate) fn bytes(&self) -> usize {
        2 * self.kept_bytes + self.kept.len() * A_ROW + self.bytes
    }

    /// What is to be written, and when the first of the timers in there is due.
    ///
    /// # Errors
    ///
    /// A row cannot be written.
    pub(crate) fn rows(&self, tables: &Tables) -> Result<(Vec<RowWrite>, Option<Timestamp>), StoreError> {
        let (mut rows, mut earliest) = (Vec::new(), None::<Timestamp>);
        for key in &self.touched {
            let Some(Kept { rev, stored, now: Some(now), .. }) = self.kept.get(key) else { continue };
            let row = Row { key: instance_key(key)?, rev: *rev, value: now.clone() };
            rows.push(tables.instances.put(&row)?);
            let due = now.timers.values().filter(|timer| !timer.fired).map(|timer| timer.due).min();
            earliest = due.into_iter().chain(earliest).min();
            match stored {
                // It has ended and begun again since.
                Some(stored) if stored.id != now.id => {
                    beside(tables, Some(stored), None, &mut rows)?;
                    beside(tables, None, Some(now), &mut rows)?;
                }
                stored => beside(tables, stored.as_ref(), Some(now), &mut rows)?,
            }
        }
        for (key, id, number, noted) in &self.inputs {
            // One that ends as it starts leaves its tombstone, which says the same.
            let tombstone = self.now(key).is_some_and(|now| now.id == *id && now.ended && now.noted == 1);
            if !tombstone {
                rows.push(tables.inputs.insert(input_key(key, *id, *number)?, noted.clone())?);
            }
        }
        for row in &self.marked {
            rows.push(tables.inputs.put(row)?);
        }
        for sending in &self.sends {
            rows.push(tables.sends.insert(send_key(&sending.send)?, sending.clone())?);
        }
        for (key, waiting) in &self.early {
            for Waiting { step, event, .. } in waiting.iter().filter(|waiting| waiting.row.is_none()) {
                let early = Early { key: key.clone(), position: event.place(), step: *step };
                rows.push(tables.early.insert(early_key(&early)?, early)?);
            }
        }
        rows.extend(self.gone.iter().map(|(key, rev)| tables.early.delete_at(key.clone(), *rev)));
        Ok((rows, earliest))
    }

    /// What waited is stored. Gives the commands that are to be sent now.
    pub(crate) fn flushed(&mut self) -> Vec<Sending> {
        for key in std::mem::take(&mut self.touched) {
            if let Some(kept) = self.kept.get_mut(&key) {
                kept.rev += 1;
                kept.stored = kept.now.clone();
            }
        }
        self.inputs.clear();
        self.marked.clear();
        self.gone.clear();
        (self.beside, self.bytes, self.touched_bytes) = (0, 0, 0);
        for (key, waiting) in &mut self.early {
            for Waiting { step, event, row } in waiting {
                let early = Early { key: key.clone(), position: event.place(), step: *step };
                let stored = early_key(&early).expect("it was written");
                row.get_or_insert((stored, 1));
            }
        }
        std::mem::take(&mut self.sends)
    }

    /// Forgets what is stored, if that is more than `most` instances or bytes; and what waits, which is asked for when it may be
    /// taken in.
    pub(crate) fn forget(&mut self, most: (usize, usize)) {
        self.early.clear();
        if self.kept.len() > most.0 || self.bytes() > most.1 {
            self.kept.clear();
            self.kept_bytes = 0;
            self.by_association.clear();
        }
    }
}

/// The rows of timers and associations of one incarnation.
fn beside(
    tables: &Tables,
    before: Option<&Instance>,
    after: Option<&Instance>,
    rows: &mut Vec<RowWrite>,
) -> Result<(), StoreError> {
    let Some(of) = after.or(before) else { return Ok(()) };
    match (before.is_some_and(Instance::lags), after.is_some_and(Instance::lags)) {
        (false, true) => rows.push(tables.lagging.insert(lagging_key(&of.key, of.id)?, of.key.clone())?),
        (true, false) => rows.push(tables.lagging.delete_at(lagging_key(&of.key, of.id)?, 1)),
        _ => {}
    }
    let Changes { set, cleared, associated, dissociated } = Changes::between(before, after);
    for (name, timer) in set {
        rows.push(tables.timer(of, name, timer)?);
    }
    for timer in cleared {
        rows.push(tables.cleared(of, timer)?);
    }
    for association in associated {
        let found = Found { association: association.clone(), key: of.key.clone() };
        rows.push(tables.associations.insert(association_key(association, of.id)?, found)?);
    }
    for association in dissociated {
        rows.push(tables.associations.delete_at(association_key(association, of.id)?, 1));
    }
    Ok(())
}

/// The definition that an instance began with.
pub(crate) fn definition_of<'d>(definitions: &'d [Definition], of: &Instance) -> Option<&'d Definition> {
    definitions.iter().find(|definition| definition.version() == of.version)
}

/// Takes the next input of an instance in.
///
/// # Errors
///
/// Its handler failed, or what it wants is over a limit: the instance is of no use then.
pub(crate) fn apply(
    definitions: &[Definition],
    instance: &mut Instance,
    noted: &Noted,
    step: Option<&RawStep<'_>>,
) -> Result<Vec<ToSend>, BoxError> {
    let version = instance.version;
    let definition = definition_of(definitions, instance)
        .ok_or_else(|| format!("this program has no version {version} of the process"))?;
    let moment = Moment { at: noted.at, head: noted.head };
    if let Some(instead) = &noted.instead {
        if let Instead::End(position) = instead {
            instance.ends = instance.ends.or(Some(*position));
        }
        instance.pass();
        return Ok(Vec::new());
    }
    let reply = match &noted.input {
        Input::Event { .. } if instance.is_running() => match step {
            Some(step) => step.call(instance.state.as_ref())?,
            None if matches!(noted.input, Input::Event { step: None, .. }) => {
                instance.pass();
                return Ok(Vec::new());
            }
            None => return Err("its event means nothing to this program any more".into()),
        },
        Input::Timer { name, input, ordinal } => {
            let Some(timer) = instance.timer(name, *input, *ordinal) else {
                instance.pass();
                return Ok(Vec::new());
            };
            let elapsed = Elapsed { name: name.clone(), data: timer.data.clone() };
            instance.timers.remove(name);
            let state = instance.state.as_ref().ok_or("it has no state yet")?;
            definition.elapsed(state, &elapsed)?
        }
        Input::Refused { command, why, .. } => {
            let refused = RefusedCommand { command: command.clone(), why: why.clone() };
            let state = instance.state.as_ref().ok_or("it has no state yet")?;
            definition.refused(state, &refused)?
        }
        Input::Verb(verb) => {
            done(verb, instance, moment)?;
            instance.pass();
            return Ok(Vec::new());
        }
        Input::Event { .. } => {
            instance.pass();
            return Ok(Vec::new());
        }
    };
    instance.take(reply, moment)
}

/// Does what an operator wants, where that is no call of a handler.
fn done(verb: &Verb, instance: &mut Instance, moment: Moment) -> Result<(), BoxError> {
    match verb {
        // An instance that has been ended meanwhile has no associations.
        Verb::Associate(association) if instance.is_running() => instance.associate(association.clone())?,
        Verb::Dissociate(association) => drop(instance.associations.remove(association)),
        // Where it ended in the place of an input, that has come before.
        Verb::End => instance.ends = instance.ends.or(Some(moment.head)),
        // What they do is done to the inputs before.
        Verb::Associate(_) | Verb::Retry | Verb::Skip { .. } | Verb::Fire { .. } => {}
    }
    Ok(())
}
