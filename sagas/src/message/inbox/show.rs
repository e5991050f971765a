//! What operators see of lanes that are parked.

use es_core::store::{Row, StoreError, StoredRow, Table};
use es_core::{Backend, Timestamp};
use serde::de::DeserializeOwned;

use super::Inbox;
use super::lane::Lane;
use super::rows::{Mark, Operation, Stuck, Waiting, of_lane, same_lane, sequence_of};
use crate::damaged::{Damaged, read};
use crate::message::Sequence;

/// A lane that is parked: its messages wait for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parked {
    /// The lane.
    pub lane: Lane,
    /// Since when; `None`, as [`failed`](Self::failed), if its row cannot be read: the error says why.
    pub since: Option<Timestamp>,
    /// Which message failed last: its [sequence](Waiting::sequence).
    pub failed: Option<Sequence>,
    /// Why.
    pub error: String,
    /// How often that one was tried.
    pub attempts: u32,
    /// How many messages wait; `None` if a row that it takes to know this cannot be read.
    pub waiting: Option<u64>,
}

/// A lane that is parked, with what waits.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shown {
    /// Since when, and why.
    pub parked: Parked,
    /// The first messages that wait, in order: those behind them come up once these are taken or discarded.
    pub messages: Vec<Waiting>,
    /// Those among them whose rows cannot be read: a retry comes no further than to the first one.
    pub unreadable: Vec<Unreadable>,
    /// The first operations on the lane.
    pub operations: Vec<Operation>,
}

/// A message that waits, and whose row cannot be read: it is discarded, or left to the program that can.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreadable {
    /// Its [place](Waiting::sequence).
    pub sequence: Sequence,
    /// Why.
    pub error: String,
}

impl<B: Backend, C> Inbox<B, C> {
    /// Lanes that are parked, in a fixed order, behind one of them. One whose row cannot be read is shown as that, or left out
    /// and logged if nobody can tell which it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn parked(&self, after: Option<&Lane>, limit: usize) -> Result<Vec<Parked>, StoreError> {
        let (mut after, mut all) = (after.map(Lane::row_key).transpose()?, Vec::new());
        while all.len() < limit {
            let left = limit - all.len();
            let page = self.tables.parked.stored_page(&self.backend, after.as_deref(), left).await?;
            let (last, count) = (page.last().map(|row| row.key.clone()), page.len());
            all.extend(self.shown(page).await?);
            if count < left {
                break;
            }
            after = last;
        }
        Ok(all)
    }

    /// With how many wait in each.
    async fn shown(&self, stuck: Vec<StoredRow>) -> Result<Vec<Parked>, StoreError> {
        let keys: Vec<String> = stuck.iter().map(|row| row.key.clone()).collect();
        let marks = self.backend.rows(self.tables.marks.name(), &keys).await?;
        let guards = self.backend.rows(self.tables.guards.name(), &keys).await?;
        let shown = stuck.into_iter().zip(marks).zip(guards).filter_map(|((stuck, mark), guard)| {
            let mark = mark.map(|row| read(&self.tables.marks, row).map(|row| row.value)).transpose();
            let stuck = match read(&self.tables.parked, stuck) {
                Ok(row) => row.value,
                Err(Damaged { why: error, .. }) => {
                    let of_mark = mark.ok().flatten().map(|mark: Mark| mark.lane);
                    let of_guard = || Some(read(&self.tables.guards, guard?).ok()?.value.lane);
                    let lane = of_mark.or_else(of_guard)?;
                    return Some(Parked {
                        lane,
                        since: None,
                        failed: None,
                        error,
                        attempts: 0,
                        waiting: None,
                    });
                }
            };
            let Stuck { lane, since, failed, error, attempts, gone } = stuck;
            // A message without an order has no mark, and waits alone.
            let kept = |mark: Option<Mark>| mark.map_or(1, |mark| mark.kept);
            let waiting = mark.ok().map(|mark| kept(mark).saturating_sub(gone));
            Some(Parked { lane, since: Some(since), failed: Some(failed), error, attempts, waiting })
        });
        Ok(shown.collect())
    }

    /// A lane that is parked, with up to `limit` of its messages and operations; `None`: it is not parked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn show(&self, lane: &Lane, limit: usize) -> Result<Option<Shown>, StoreError> {
        let row = self.backend.rows(self.tables.parked.name(), &[lane.row_key()?]).await?.pop().flatten();
        let Some(parked) = self.shown(row.into_iter().collect()).await?.pop() else { return Ok(None) };
        same_lane(&parked.lane, lane)?;
        let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
        for row in self.first(lane, limit).await? {
            match read(&self.tables.waiting, row) {
                Ok(row) => messages.push(row.value),
                Err(Damaged { row, why: error, .. }) => {
                    unreadable.extend(sequence_of(&row).map(|sequence| Unreadable { sequence, error }));
                }
            }
        }
        let operations = self.operations(lane, limit).await?;
        Ok(Some(Shown { parked, messages, unreadable, operations }))
    }

    /// What operators had done to a lane, the first ones, in order. For the last ones too, ask for more than there are. One
    /// whose row cannot be read is left out and logged.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn operations(&self, lane: &Lane, limit: usize) -> Result<Vec<Operation>, StoreError> {
        let table = &self.tables.operations;
        let rows = self.stored(table, lane, limit).await?;
        Ok(rows.into_iter().filter_map(|row| Some(read(table, row).ok()?.value)).collect())
    }

    pub(super) async fn parked_lane(&self, lane: &Lane) -> Result<Option<Row<Stuck>>, StoreError> {
        let row = self.tables.parked.get(&self.backend, &lane.row_key()?).await?;
        row.as_ref().map_or(Ok(()), |row| same_lane(&row.value.lane, lane))?;
        Ok(row)
    }

    /// The first messages that wait, as they are stored: one that cannot be read can be discarded.
    pub(super) async fn first(&self, lane: &Lane, limit: usize) -> Result<Vec<StoredRow>, StoreError> {
        self.stored(&self.tables.waiting, lane, limit).await
    }

    /// The first rows of a lane, as they are stored.
    async fn stored<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        lane: &Lane,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let prefix = of_lane(lane);
        let mut rows = table.stored_page(&self.backend, Some(&prefix), limit).await?;
        rows.retain(|row| row.key.starts_with(&prefix));
        Ok(rows)
    }
}
