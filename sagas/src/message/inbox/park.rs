//! Lanes with a message that failed: it is kept, and so is what comes after it.

use es_core::Backend;
use es_core::store::{Row, Won, write_rows};

use super::Inbox;
use super::error::InboxError;
use super::rows::{LaneRow, Parked, Waiting, waiting_key};
use super::sequence::Sequence;
use super::take::{Next, Outcome};

impl<B: Backend, C> Inbox<B, C> {
    /// Parks the lane of a message that failed. `None`: the lane has changed since it was looked at.
    pub(super) async fn park(
        &self,
        next: &Next<'_>,
        error: String,
        attempts: u32,
    ) -> Result<Option<Outcome>, InboxError> {
        let limit = self.options.parked;
        if self.tables.parked.page(&self.backend, None, limit).await?.len() >= limit {
            return Err(InboxError::Full { what: format!("{limit} lanes") });
        }
        let lane = next.message.lane.clone();
        tracing::error!(%lane, id = next.message.message.id, error, attempts, "a message failed: its lane waits for an operator");
        let (since, failed) = (next.at, sequence(next));
        let parked = Parked { lane, since, failed, error, attempts, waiting: 1 };
        self.keep(next, Row::new(next.message.lane.row_key()?, parked)).await
    }

    /// Puts a message behind those that wait. `None`: the lane has changed since it was looked at.
    pub(super) async fn queue(&self, next: &Next<'_>) -> Result<Option<Outcome>, InboxError> {
        let key = next.message.lane.row_key()?;
        let Some(mut parked) = self.tables.parked.get(&self.backend, &key).await? else { return Ok(None) };
        if parked.value.waiting >= self.options.waiting {
            let what = format!("{} messages of {}", parked.value.waiting, parked.value.lane);
            return Err(InboxError::Full { what });
        }
        parked.value.waiting += 1;
        self.keep(next, parked).await
    }

    async fn keep(&self, next: &Next<'_>, parked: Row<Parked>) -> Result<Option<Outcome>, InboxError> {
        let sequence = sequence(next);
        let waits = Waiting { sequence, at: next.at, message: next.message.message.clone() };
        let mut rows = self.tables.put_lane(&next.row, true)?;
        rows.push(self.tables.parked.put(&parked)?);
        rows.push(self.tables.waiting.insert(waiting_key(&next.message.lane, sequence)?, waits)?);
        let waiting = parked.value.waiting;
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
