//! What is to be written of the instances in memory: as much as one commit takes.

use std::collections::{BTreeMap, BTreeSet};

use es_core::Timestamp;
use es_core::processor::slice_of;
use es_core::store::{Row, RowWrite, StoreError};
use uuid::Uuid;

use super::early::Waiting;
use super::{Book, Kept};
use crate::instance::{Changes, Instance};
use crate::rows::{
    Early, Found, Sending, Tables, association_key, early_key, ended_key, input_key, instance_key,
    lagging_key, send_key,
};

/// Rows and bytes of one commit, about. What one event leads to is never torn.
const MAX_ROWS: usize = 2_000;
const MAX_BYTES: usize = 4 << 20;
/// What a row takes beside what is counted, about, in bytes.
const A_ROW: usize = 300;
/// What is kept of an instance beside itself, about, in bytes: its key, and its place among all and among those that an
/// association finds.
const A_KEY: usize = 200;
const A_FINDING: usize = 400;

impl Book {
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
        self.fills(1)
    }

    /// Whether it is enough for one such part of a commit.
    pub(super) fn fills(&self, part: usize) -> bool {
        let rows = self.waiting();
        rows >= MAX_ROWS / part || self.bytes + self.touched_bytes + rows * A_ROW >= MAX_BYTES / part
    }

    /// How many bytes it has in memory, about: of an instance that is to be written, as it is stored and as it is now.
    pub(crate) fn bytes(&self) -> usize {
        let found = self.by_association.len() * A_FINDING;
        self.kept_bytes + self.touched_bytes + self.kept.len() * A_KEY + found + self.bytes
    }

    /// What is to be written at a time, and when the first of the timers in there is due, by slice.
    ///
    /// # Errors
    ///
    /// A row cannot be written.
    pub(crate) fn rows(
        &self,
        tables: &Tables,
        at: Timestamp,
    ) -> Result<(Vec<RowWrite>, BTreeMap<u16, Timestamp>), StoreError> {
        let (mut rows, mut first) = (Vec::new(), BTreeMap::<u16, Timestamp>::new());
        for key in &self.touched {
            let (rev, stored, now) = match self.kept.get(key) {
                Some(Kept { rev, stored, now: Some(now), .. }) => (rev, stored, now),
                // It is forgotten.
                Some(Kept { rev, stored: Some(_), now: None, .. }) => {
                    rows.push(tables.instances.delete_at(instance_key(key)?, *rev));
                    continue;
                }
                _ => continue,
            };
            let row = Row { key: instance_key(key)?, rev: *rev, value: Instance::clone(now) };
            rows.push(tables.instances.put(&row)?);
            let due = now.timers.values().filter(|timer| !timer.fired).map(|timer| timer.due).min();
            if let Some(due) = due {
                let first = first.entry(slice_of(key)).or_insert(due);
                *first = due.min(*first);
            }
            match stored {
                // It has ended and begun again since.
                Some(stored) if stored.id != now.id => {
                    beside(tables, Some(stored), None, &mut rows)?;
                    beside(tables, None, Some(now), &mut rows)?;
                }
                stored => beside(tables, stored.as_deref(), Some(now), &mut rows)?,
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
        if self.definitions[0].keep_ended().is_some() {
            for (key, id) in self.ended() {
                rows.push(tables.ended.insert(ended_key(key, id, at)?, key.to_owned())?);
            }
        }
        rows.extend(self.gone.iter().map(|(key, rev)| tables.early.delete_at(key.clone(), *rev)));
        Ok((rows, first))
    }

    /// Whether instances have ended since the last flush.
    pub(crate) fn any_ended(&self) -> bool {
        !self.ended().is_empty()
    }

    /// The instances that have ended since the last flush: also those after which another one of their keys has begun.
    fn ended(&self) -> BTreeSet<(&str, Uuid)> {
        let mut ended = BTreeSet::new();
        for (key, kept) in self.touched.iter().filter_map(|key| Some((&**key, self.kept.get(key)?))) {
            let (stored, now) = (kept.stored.as_deref(), kept.now.as_deref());
            let had_ended = |id: Uuid| stored.is_some_and(|stored| stored.id == id && stored.ended);
            let is_over = |of: &&Instance| of.ended || now.is_some_and(|now| now.id != of.id);
            let of = [stored, now].into_iter().flatten().filter(is_over).map(|of| of.id);
            ended.extend(of.filter(|id| !had_ended(*id)).map(|id| (key, id)));
        }
        let is_over = |key: &str, id: Uuid| self.now(key).is_none_or(|now| now.id != id);
        ended.extend(
            self.inputs.iter().filter(|(key, id, ..)| is_over(key, *id)).map(|(key, id, ..)| (&**key, *id)),
        );
        ended
    }

    /// An instance that has ended is no more, if it is this incarnation, and nothing has come to its key since the last flush.
    pub(crate) fn forget_ended(&mut self, key: &str, id: Uuid) {
        let Some(kept) = self.kept.get_mut(key) else { return };
        let is_it = kept.now.as_deref().is_some_and(|now| now.ended && now.id == id);
        if is_it && !self.touched.contains(key) {
            kept.now = None;
            self.changed(key);
        }
    }

    /// What waited is stored. Gives the commands that are to be sent now.
    pub(crate) fn flushed(&mut self) -> Vec<Sending> {
        for key in std::mem::take(&mut self.touched) {
            if let Some(kept) = self.kept.get_mut(&key) {
                kept.rev = if kept.now.is_some() { kept.rev + 1 } else { 0 };
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

    /// Forgets what is stored, if that is more than `most` instances or bytes; and what waits, which is asked for
    /// when it may be taken in.
    pub(crate) fn forget(&mut self, most: (usize, usize)) {
        for (key, waiting) in std::mem::take(&mut self.early) {
            *self.waiting.entry(key).or_default() += waiting.len();
        }
        if self.waiting.len() > most.0 {
            self.waiting.clear();
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use es_core::store::Position;
    use es_core::{Metadata, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::data::Data;
    use crate::definition::{Definition, Reply};
    use crate::instance::Moment;
    use crate::next::{Association, Effect};

    #[test]
    fn instances_are_kept_up_to_what_they_take_in_memory() {
        let moment = Moment { at: Timestamp::UNIX_EPOCH, head: Position(1) };
        let mut book = Book::new(vec![Definition::of::<crate::Schedule>()]);
        for n in 0..100 {
            let key = n.to_string();
            let mut instance = Instance::begin(&key, Uuid::nil(), 2, Metadata::default());
            let effects = vec![
                Effect::Set { name: "due", after: Duration::ZERO, data: Data::of(&()).unwrap() },
                Effect::Associate(Association::new("of", n)),
            ];
            let reply = Reply { state: Data::of(&()).unwrap(), effects, ends: false };
            instance.note();
            instance.take(reply, moment).unwrap();
            book.put(&key, Some((1, instance)));
        }
        // Two maps, and a place among those that are found.
        let bytes = book.bytes();
        assert!((150_000..400_000).contains(&bytes), "{bytes}");
        book.forget((100, bytes));
        assert!(book.knows("7"));
        book.forget((100, bytes - 1));
        assert_eq!((book.knows("7"), book.bytes()), (false, 0));
    }
}
