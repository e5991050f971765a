//! Lanes with a message that failed: it is kept, and so is what comes after it.

use std::sync::atomic::Ordering;

use es_core::Backend;
use es_core::store::{RowWrite, StoreError, Won, write_rows};

use super::Inbox;
use super::error::InboxError;
use super::rows::{LaneRow, Stuck, Waiting, waiting_key};
use super::take::{Next, Outcome};
use crate::message::Sequence;

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

    /// Whether one more lane may be parked. They are not counted each time: a tenth of the room that was found is used
    /// before it is looked for again.
    async fn has_room(&self) -> Result<bool, StoreError> {
        let take = |room: usize| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(true);
        }
        let limit = self.options.parked;
        let left = limit.saturating_sub(self.tables.parked.page(&self.backend, None, limit).await?.len());
        self.room.store(left / 10, Ordering::Relaxed);
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
