//! The timers of a range: what is due fires.

use std::collections::{BTreeMap, BTreeSet};

use es_core::processor::Slices;
use es_core::store::keys::{Key, behind};
use es_core::store::queue::{Marks, WHOLE};
use es_core::store::{Span, StoredRow};
use es_core::{Backend, BoxError, Timestamp};

use super::{AT_ONCE, ProcessSession};
use crate::damaged::read;
use crate::instance::Moment;
use crate::rows::due_at;

/// What is known of the timers that wait. A look at a slice costs the same however few wait there, so only those are looked
/// at where one may be due.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By slice: none is due before this. Of a slice that is not in here, none waits.
    next: BTreeMap<u16, Timestamp>,
    /// When all slices are looked at; `None`: they were not yet.
    whole: Option<Timestamp>,
}

impl Known {
    /// Timers of a slice were set, of which the first is due then. Whether that is before what was known.
    pub(super) fn set(&mut self, slice: u16, due: Timestamp) -> bool {
        let is_earlier = self.next.get(&slice).is_none_or(|next| due < *next);
        if is_earlier {
            self.next.insert(slice, due);
        }
        is_earlier
    }

    fn earliest(&self) -> Option<Timestamp> {
        self.next.values().copied().chain(self.whole).min()
    }

    fn due(&self, now: Timestamp) -> Vec<Slices> {
        let due = self.next.iter().filter(|(_, next)| **next <= now);
        due.map(|(slice, _)| Slices { first: *slice, last: *slice }).collect()
    }
}

impl<B: Backend> ProcessSession<B> {
    /// Fires what is due, except where events of the key are set aside, which come first. Gives when the next is.
    pub(super) async fn fire(
        &mut self,
        moment: Moment,
        parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, BoxError> {
        let mut due = self.look(moment.at).await?;
        let queue = self.tables.timers.clone();
        due.sort_by(|(_, a, row), (_, b, other)| (a, &row.key).cmp(&(b, &other.key)));
        due.truncate(AT_ONCE);
        let due: Vec<_> =
            due.into_iter().map(|(_, _, row)| (row.key.clone(), read(queue.table(), row))).collect();
        let keys: BTreeSet<String> =
            due.iter().filter_map(|(_, row)| row.as_ref().ok()).map(|row| row.value.key.clone()).collect();
        self.load(keys).await?;
        for (key, row) in due {
            if self.is_full() {
                break;
            }
            let waits = |key: &str| self.unreadable.contains_key(key) || parked(key);
            let Some(row) = row.ok().filter(|row| !waits(&row.value.key)) else {
                self.marks.pass(&key);
                continue;
            };
            // The row of one that fires goes with what it changes, as does that of one that was cleared since the last flush.
            if !self.book.fired(&row.value, moment) && !self.book.clears(&row.value) {
                self.rows.push(queue.done(&row));
            }
        }
        Ok(self.timers.earliest())
    }

    /// Looks at the slices where one may be due, and at all of them now and then. Gives what is due.
    async fn look(&mut self, now: Timestamp) -> Result<Vec<(u16, Timestamp, StoredRow)>, BoxError> {
        let is_whole = self.timers.whole.is_none_or(|whole| whole <= now);
        if is_whole {
            // What could not fire is looked at again, too.
            (self.timers, self.marks) = (Known::default(), Marks::default());
        }
        let slices = if is_whole { vec![self.slices] } else { self.timers.due(now) };
        let mut looked: BTreeSet<u16> = slices.iter().flat_map(|slices| slices.first..=slices.last).collect();
        if looked.is_empty() {
            return Ok(Vec::new());
        }
        let (queue, least) = (self.tables.timers.clone(), AT_ONCE.div_ceil(looked.len()));
        let limit = self.of_a_slice.clamp(least, AT_ONCE);
        let due = queue.stored_due(&*self.backend, &slices, &mut self.marks, now, limit).await?;
        // Where a few slices have all of it, more of each is read.
        self.of_a_slice = if due.is_empty() || due.len() >= AT_ONCE { least } else { 2 * limit };
        for (slice, ..) in &due {
            // There may be more of it.
            looked.remove(slice);
            self.timers.next.insert(*slice, now);
        }
        self.look_ahead(looked, now).await?;
        if is_whole {
            self.timers.whole = Some(now.checked_add(WHOLE)?);
        }
        Ok(due)
    }

    /// Looks when the next timers of some slices are due, at a time or later.
    async fn look_ahead(&mut self, slices: BTreeSet<u16>, from: Timestamp) -> Result<(), BoxError> {
        if slices.is_empty() {
            return Ok(());
        }
        let span = |slice: &u16| Span {
            after: Key::in_slice(*slice).time(from).prefix(),
            before: Some(behind(&Key::in_slice(*slice).prefix())),
            limit: 1,
        };
        let spans: Vec<Span> = slices.iter().map(span).collect();
        let found = self.backend.scan_many(self.tables.timers.table().name(), &spans).await?;
        for (slice, rows) in slices.into_iter().zip(found) {
            self.timers.next.remove(&slice);
            self.timers.next.extend(rows.first().map(|row| (slice, due_at(&row.key).unwrap_or(from))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_looked_at_where_a_timer_may_be_due() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut known = Known { whole: Some(at(60)), ..Known::default() };
        assert_eq!((known.due(at(9)), known.earliest()), (vec![], Some(at(60))));
        assert!(known.set(3, at(20)) && known.set(5, at(90)));
        assert!(!known.set(3, at(30)), "an earlier one waits there");
        assert_eq!((known.due(at(19)), known.earliest()), (vec![], Some(at(20))));
        assert!(known.set(3, at(10)));
        assert_eq!(known.due(at(10)), [Slices { first: 3, last: 3 }]);
    }
}
