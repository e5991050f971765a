//! What operators can have done to lanes that are parked.

use std::fmt;
use std::time::Duration;

use es_core::Backend;
use es_core::id::Ids;
use es_core::store::{Row, RowWrite, StoreError, StoredRow, Table, Won, write_rows};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Inbox;
use super::consumer::Consumer;
use super::error::InboxError;
use super::lane::Lane;
use super::rows::{LaneRow, Operation, Stuck, operation_key, sequence_of, waiting_key};
use super::take::{Tried, lose};
use crate::damaged::read;
use crate::message::Sequence;
use crate::verb::By;

/// So many messages are discarded in one commit. They are read whole.
const PORTION: usize = 25;
/// How often another writer may be faster in a row.
const ROUNDS: u32 = 32;

/// What an operator can have done to a lane that is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verb {
    /// What waits is taken, in order.
    Retry,
    /// One message is discarded.
    Discard {
        /// Its [sequence](super::Waiting::sequence).
        sequence: Sequence,
    },
    /// All messages that wait are discarded.
    DiscardAll,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::Discard { sequence } => write!(f, "discard message {sequence}"),
            Self::DiscardAll => f.write_str("discard all"),
        }
    }
}

/// Why an operator's wish was not done. What it did before that is in the [operations](Inbox::operations).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// It cannot be done.
    #[error("{verb} of {lane} is refused: {why}")]
    Refused {
        /// The lane.
        lane: Lane,
        /// What was asked for.
        verb: Verb,
        /// Why, and what to do.
        why: String,
    },
    /// It can be done later.
    #[error(transparent)]
    Inbox(#[from] InboxError),
}

impl From<StoreError> for OperateError {
    fn from(error: StoreError) -> Self {
        Self::Inbox(error.into())
    }
}

impl<B: Backend, C> Inbox<B, C> {
    /// Discards one message that waits: it is gone, and is a duplicate if it comes again. What waits behind it keeps
    /// waiting, for a retry.
    ///
    /// # Errors
    ///
    /// [`OperateError`].
    pub async fn discard(
        &self,
        lane: &Lane,
        sequence: Sequence,
        actor: &str,
        reason: &str,
    ) -> Result<Operation, OperateError> {
        self.discard_some(lane, Verb::Discard { sequence }, actor, reason).await
    }

    /// Discards everything that waits in a lane. It is not parked any more after that.
    ///
    /// # Errors
    ///
    /// [`OperateError`]. Part of it may be done: see the [operations](Self::operations).
    pub async fn discard_all(
        &self,
        lane: &Lane,
        actor: &str,
        reason: &str,
    ) -> Result<Operation, OperateError> {
        self.discard_some(lane, Verb::DiscardAll, actor, reason).await
    }

    async fn discard_some(
        &self,
        lane: &Lane,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Operation, OperateError> {
        let mut operation = self.begin(lane, verb, actor, reason).await?;
        let mut lost = 0;
        while lost < ROUNDS {
            let Some(stuck) = self.parked_lane(lane).await? else { break };
            let gone = match verb {
                Verb::Discard { sequence } => {
                    let keys = [waiting_key(lane, sequence).map_err(StoreError::from)?];
                    let found = self.backend.rows(self.tables.waiting.name(), &keys).await?;
                    found.into_iter().flatten().collect()
                }
                _ => self.first(lane, PORTION).await?,
            };
            if gone.is_empty() {
                if let Verb::Discard { sequence } = verb {
                    let why = format!("message {sequence} does not wait: look at those that do");
                    return Err(OperateError::Refused { lane: lane.clone(), verb, why });
                }
                // Another operator took the last one, since the lane was looked at.
                lost = lose(lost).await;
                continue;
            }
            let next = operation_with(&operation, gone.len() as u64, None);
            let mut rows = self.without(&stuck, &gone).await?;
            rows.push(self.tables.operations.put(&next)?);
            match write_rows(&self.backend, rows).await? {
                Won::Yes(_) => (operation, lost) = (next.written(), 0),
                Won::No(_) => {
                    lost = lose(lost).await;
                    continue;
                }
            }
            if matches!(verb, Verb::Discard { .. }) {
                break;
            }
        }
        self.ended(operation, lost)
    }

    /// An operation that may begin: it is parked, and somebody says why.
    async fn begin(
        &self,
        lane: &Lane,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Row<Operation>, OperateError> {
        let refused = |why: String| OperateError::Refused { lane: lane.clone(), verb, why };
        By::check(actor, reason).map_err(refused)?;
        if self.parked_lane(lane).await?.is_none() {
            return Err(refused("it is not parked: look at the list".to_owned()));
        }
        let by = By::new(actor.to_owned(), reason.to_owned(), Ids::default().next());
        let key = operation_key(lane, &by).map_err(StoreError::from)?;
        let at = self.backend.now().await?;
        Ok(Row::new(key, Operation { lane: lane.clone(), verb, by, at, done: 0, error: None }))
    }

    fn ended(&self, operation: Row<Operation>, lost: u32) -> Result<Operation, OperateError> {
        if lost < ROUNDS {
            return Ok(operation.value);
        }
        Err(InboxError::Busy("other writers were faster, every time".into()).into())
    }

    /// The rows of a lane without some messages that waited. The last one leaves it as one that is not parked.
    async fn without(&self, stuck: &Row<Stuck>, gone: &[StoredRow]) -> Result<Vec<RowWrite>, StoreError> {
        let waiting = &self.tables.waiting;
        let mut rows: Vec<RowWrite> =
            gone.iter().map(|row| waiting.delete_at(row.key.clone(), row.rev)).collect();
        let gone = stuck.value.gone + gone.len() as u64;
        let lane = self.tables.lane(&self.backend, &stuck.value.lane).await?;
        if lane.as_ref().is_some_and(|row| row.kept() > gone) {
            let left = Stuck { gone, ..stuck.value.clone() };
            rows.push(self.tables.parked.put(&stuck.clone().with(left))?);
            return Ok(rows);
        }
        // Then one more may be parked.
        self.room.forget();
        rows.push(self.tables.parked.delete(stuck));
        if let Some(mut row) = lane {
            if let LaneRow::Guard(row) = &mut row {
                // From now on it is known for as long as any that was taken.
                row.value.at = self.backend.now().await?;
            }
            rows.extend(self.tables.put_lane(&row, 0)?);
        }
        Ok(rows)
    }
}

impl<B: Backend, C: Consumer<B::Tx>> Inbox<B, C> {
    /// Takes what waits in a lane, in order, each message once, in a commit of its own. If one fails, or its row cannot be
    /// read, it and what is behind it wait on: the operation says why. Messages that come meanwhile are taken after those
    /// that wait.
    ///
    /// # Errors
    ///
    /// [`OperateError`]. Part of it may be done: see the [operations](Self::operations).
    pub async fn retry(&self, lane: &Lane, actor: &str, reason: &str) -> Result<Operation, OperateError> {
        let mut operation = self.begin(lane, Verb::Retry, actor, reason).await?;
        let mut lost = 0;
        while lost < ROUNDS {
            let Some(stuck) = self.parked_lane(lane).await? else { break };
            let Some(first) = self.first(lane, 1).await?.pop() else {
                lost = lose(lost).await;
                continue;
            };
            let next = operation_with(&operation, 1, None);
            let mut rows = self.without(&stuck, std::slice::from_ref(&first)).await?;
            rows.push(self.tables.operations.put(&next)?);
            let tried = match read(&self.tables.waiting, first.clone()) {
                Ok(row) => self.act(&row.value.message, rows, (Instant::now(), Duration::ZERO)).await?,
                Err(damaged) => Tried::Failed(damaged.why, false),
            };
            match tried {
                Tried::Stored => (operation, lost) = (next.written(), 0),
                Tried::Lost => lost = lose(lost).await,
                Tried::Failed(error, _) | Tried::Suspected(error) => {
                    let next = operation_with(&operation, 0, Some(error.clone()));
                    let failed = sequence_of(&first.key).unwrap_or(stuck.value.failed);
                    let again = stuck.value.failed == failed;
                    let attempts = if again { stuck.value.attempts } else { 0 }.saturating_add(1);
                    let still = Stuck { failed, error, attempts, ..stuck.value.clone() };
                    // The message is written as it is: if it is gone, the lane may be parked anew under the same revision.
                    let rows = vec![
                        self.tables.parked.put(&stuck.with(still))?,
                        as_it_is(&self.tables.waiting, first),
                        self.tables.operations.put(&next)?,
                    ];
                    if write_rows(&self.backend, rows).await?.is_yes() {
                        return Ok(next.value);
                    }
                    lost = lose(lost).await;
                }
            }
        }
        self.ended(operation, lost)
    }
}

/// A write that changes nothing but the revision.
fn as_it_is<T>(table: &Table<T>, row: StoredRow) -> RowWrite {
    RowWrite { table: table.name().clone(), key: row.key, rev: row.rev, row: Some(row.data) }
}

fn operation_with(of: &Row<Operation>, more: u64, error: Option<String>) -> Row<Operation> {
    let done = of.value.done + more;
    of.clone().with(Operation { done, error, ..of.value.clone() })
}
