//! What operators see of lanes that are parked.

use es_core::store::{Row, StoreError};
use es_core::{Backend, Timestamp};

use super::Inbox;
use super::lane::Lane;
use super::rows::{Operation, Stuck, Waiting, of_lane, same_lane};
use crate::message::Sequence;

/// A lane that is parked: its messages wait for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parked {
    /// The lane.
    pub lane: Lane,
    /// Since when.
    pub since: Timestamp,
    /// Which message failed last: its [sequence](Waiting::sequence).
    pub failed: Sequence,
    /// Why.
    pub error: String,
    /// How often that one was tried.
    pub attempts: u32,
    /// How many messages wait.
    pub waiting: u64,
}

/// A lane that is parked, with what waits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shown {
    /// Since when, and why.
    pub parked: Parked,
    /// The first messages that wait, in order: those behind them come up once these are taken or discarded.
    pub messages: Vec<Waiting>,
    /// The first operations on the lane.
    pub operations: Vec<Operation>,
}

impl<B: Backend, C> Inbox<B, C> {
    /// Lanes that are parked, in a fixed order, behind one of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn parked(&self, after: Option<&Lane>, limit: usize) -> Result<Vec<Parked>, StoreError> {
        let after = after.map(Lane::row_key).transpose()?;
        let stuck = self.tables.parked.page(&self.backend, after.as_deref(), limit).await?;
        self.counted(stuck).await
    }

    /// With how many wait in each.
    async fn counted(&self, stuck: Vec<Row<Stuck>>) -> Result<Vec<Parked>, StoreError> {
        let keys: Vec<String> = stuck.iter().map(|row| row.key.clone()).collect();
        let marks = self.backend.rows(self.tables.marks.name(), &keys).await?;
        let counted = stuck.into_iter().zip(marks).map(|(stuck, mark)| {
            let Stuck { lane, since, failed, error, attempts, gone } = stuck.value;
            // A message without an order has no mark, and waits alone.
            let kept =
                mark.map(|mark| self.tables.marks.decode(mark)).transpose()?.map_or(1, |m| m.value.kept);
            let waiting = kept.saturating_sub(gone);
            Ok(Parked { lane, since, failed, error, attempts, waiting })
        });
        counted.collect()
    }

    /// A lane that is parked, with up to `limit` of its messages and operations; `None`: it is not parked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn show(&self, lane: &Lane, limit: usize) -> Result<Option<Shown>, StoreError> {
        let Some(stuck) = self.parked_lane(lane).await? else { return Ok(None) };
        let Some(parked) = self.counted(vec![stuck]).await?.pop() else { return Ok(None) };
        let messages = self.first(lane, limit).await?.into_iter().map(|row| row.value).collect();
        let operations = self.operations(lane, limit).await?;
        Ok(Some(Shown { parked, messages, operations }))
    }

    /// What operators had done to a lane, the first ones, in order. For the last ones too, ask for more than there are.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn operations(&self, lane: &Lane, limit: usize) -> Result<Vec<Operation>, StoreError> {
        let rows = self.tables.operations.below(&self.backend, &of_lane(lane), None, limit).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    pub(super) async fn parked_lane(&self, lane: &Lane) -> Result<Option<Row<Stuck>>, StoreError> {
        let row = self.tables.parked.get(&self.backend, &lane.row_key()?).await?;
        row.as_ref().map_or(Ok(()), |row| same_lane(&row.value.lane, lane))?;
        Ok(row)
    }

    pub(super) async fn first(&self, lane: &Lane, limit: usize) -> Result<Vec<Row<Waiting>>, StoreError> {
        self.tables.waiting.below(&self.backend, &of_lane(lane), None, limit).await
    }
}
