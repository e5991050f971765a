//! The timers of a range: what is due fires.

use std::collections::BTreeSet;

use es_core::store::queue::WHOLE;
use es_core::{Backend, BoxError, Timestamp};

use super::{AT_ONCE, ProcessSession};
use crate::damaged::read;
use crate::instance::Moment;

impl<B: Backend> ProcessSession<B> {
    /// Fires what is due, except where events of the key are set aside, which come first. Gives when the next is.
    pub(super) async fn fire(
        &mut self,
        moment: Moment,
        parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, BoxError> {
        if self.next_timer.is_some_and(|next| next > moment.at) {
            return Ok(self.next_timer);
        }
        let (slices, queue) = ([self.slices], self.tables.timers.clone());
        let least = AT_ONCE.div_ceil(usize::from(self.slices.last - self.slices.first) + 1);
        let limit = self.of_a_slice.clamp(least, AT_ONCE);
        let mut due = queue.stored_due(&*self.backend, &slices, &mut self.marks, moment.at, limit).await?;
        // Where a few slices have all of it, more of each is read.
        self.of_a_slice = if due.is_empty() || due.len() >= AT_ONCE { least } else { 2 * limit };
        if due.is_empty() {
            let next = queue.next(&*self.backend, &slices, moment.at).await?;
            // At the latest when the whole queue is to be read.
            let whole = moment.at.checked_add(WHOLE)?;
            self.next_timer = Some(next.map_or(whole, |next| next.min(whole)));
            return Ok(self.next_timer);
        }
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
        // There may be more of it.
        self.next_timer = Some(moment.at);
        Ok(self.next_timer)
    }
}
