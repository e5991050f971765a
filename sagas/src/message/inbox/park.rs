//! Lanes with a message that failed: it is kept, and so is what comes after it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use es_core::Backend;
use es_core::store::{RowWrite, StoreError, Won, write_rows};

use tokio::time::Instant;

use super::Inbox;
use super::error::InboxError;
use super::rows::{LaneRow, Stuck, Waiting, waiting_key};
use super::take::{Next, Outcome};
use crate::message::Sequence;

/// How long it is believed that no more lanes may be parked, unless an operator has something done here.
const FULL: Duration = Duration::from_secs(1);

/// How many more lanes may be parked, before they are counted again.
#[derive(Default)]
pub(super) struct Room(Mutex<(usize, Option<Instant>)>);

impl Room {
    /// Whether one more may be parked, if that is known.
    fn take(&self) -> Option<bool> {
        let (left, full) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(less) = left.checked_sub(1) {
            *left = less;
            return Some(true);
        }
        full.is_some_and(|until| Instant::now() < until).then_some(false)
    }

    /// So many more may be parked. Other programs park some, too: a tenth of it is used before they are counted again.
    fn counted(&self, left: usize) {
        let full = (left == 0).then(|| Instant::now() + FULL);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (left.div_ceil(10).saturating_sub(1), full);
    }

    /// There may be more than was known.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }
}

impl<B: Backend, C> Inbox<B, C> {
    /// Parks the lane of a message that failed. `None`: the lane has changed since it was looked at.
    pub(super) async fn park(
        &self,
        next: &Next<'_>,
        error: String,
        attempts: u32,
    ) -> Result<Option<Outcome>, InboxError> {
        if !self.has_room().await? {
            return Err(InboxError::Full { what: format!("{} lanes", self.options.parked) });
        }
        let lane = next.message.lane.clone();
        tracing::error!(%lane, id = next.message.message.id, error, attempts, "a message failed: its lane waits for an operator");
        let (since, failed, key) = (next.at, sequence(next), lane.row_key()?);
        let stuck = Stuck { lane, since, failed, error, attempts, gone: 0 };
        self.keep(next, vec![self.tables.parked.insert(key, stuck)?], 1).await
    }

    /// Whether one more lane may be parked. The rows are counted, whatever is in them, and not each time.
    async fn has_room(&self) -> Result<bool, StoreError> {
        if let Some(known) = self.room.take() {
            return Ok(known);
        }
        let limit = self.options.parked;
        let left = limit - self.tables.parked.stored_page(&self.backend, None, limit).await?.len();
        self.room.counted(left);
        Ok(left > 0)
    }

    /// Puts a message behind those that wait. `None`: the lane has changed since it was looked at.
    pub(super) async fn queue(&self, next: &Next<'_>) -> Result<Option<Outcome>, InboxError> {
        let lane = &next.message.lane;
        let stuck = self.tables.parked.get(&self.backend, &lane.row_key()?).await?;
        let Some(stuck) = stuck else { return Ok(None) };
        let waiting = next.kept.saturating_sub(stuck.value.gone);
        if waiting >= self.options.waiting {
            return Err(InboxError::Full { what: format!("{waiting} messages of {lane}") });
        }
        self.keep(next, Vec::new(), waiting + 1).await
    }

    async fn keep(
        &self,
        next: &Next<'_>,
        mut rows: Vec<RowWrite>,
        waiting: u64,
    ) -> Result<Option<Outcome>, InboxError> {
        let sequence = sequence(next);
        let waits = Waiting { sequence, at: next.at, message: next.message.message.clone() };
        rows.push(self.tables.waiting.insert(waiting_key(&next.message.lane, sequence)?, waits)?);
        // Whoever takes the last one of those that wait writes the row of the lane, too.
        rows.extend(self.tables.put_lane(&next.row, next.kept + 1)?);
        Ok(match write_rows(&self.backend, rows).await? {
            Won::Yes(_) => Some(Outcome::Parked { waiting }),
            Won::No(_) => None,
        })
    }
}

fn sequence(next: &Next<'_>) -> Sequence {
    match &next.row {
        LaneRow::Mark(row) => row.value.sequence,
        LaneRow::Guard(_) => Sequence::of_time(next.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lanes_are_not_counted_each_time() {
        let room = Room::default();
        assert_eq!(room.take(), None);
        let (mut left, mut counted) = (1_000, 0);
        while left > 0 {
            if room.take().is_none() {
                counted += 1;
                room.counted(left);
            }
            left -= 1;
        }
        assert!(counted < 60, "{counted} times");
        while room.take().is_some_and(|fits| fits) {}
        room.counted(0);
        assert_eq!(room.take(), Some(false));
        room.forget();
        assert_eq!(room.take(), None, "an operator may have made room");
        room.counted(0);
        tokio::time::advance(FULL).await;
        assert_eq!(room.take(), None, "so may another program");
    }
}
