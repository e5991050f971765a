//! What is stored of an inbox, and under which keys. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `inbox.marks.NAME` | hash of the lane | up to where the messages of a lane came: a [`Mark`]; it stays |
//! | `inbox.guards.NAME` | hash of the lane | a message without an order came: a [`Guard`] |
//! | `hot.inbox.ages.NAME` | time, hash of the lane | when a guard was done: after a while both go |
//! | `inbox.parked.NAME` | hash of the lane | a lane whose messages wait for an operator: [`Stuck`] |
//! | `inbox.waiting.NAME` | hash of the lane, sequence | one of these messages: [`Waiting`] |
//! | `inbox.operations.NAME` | hash of the lane, id of the request | what an operator had done: [`Operation`] |
//!
//! Whatever changes a lane writes its mark or its guard at the revision that was read, or a message that waits in it: of two
//! programs one wins. A [`Stuck`] alone proves nothing: it is deleted with the last message, and begins again.

use es_core::Timestamp;
use es_core::limits::LimitError;
use es_core::store::keys::Key;
use es_core::store::{HOT, Row, RowStore, RowWrite, StoreError, Table};
use serde::{Deserialize, Serialize};

use super::lane::Lane;
use super::operate::Verb;
use crate::message::Envelope;
use crate::message::Sequence;
use crate::verb::By;

/// The tables of one inbox.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) marks: Table<Mark>,
    pub(super) guards: Table<Guard>,
    /// Of keys of guards.
    pub(super) ages: Table<String>,
    pub(super) parked: Table<Stuck>,
    pub(super) waiting: Table<Waiting>,
    pub(super) operations: Table<Operation>,
}

/// Up to where the messages of a lane came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(flatten)]
    pub(super) lane: Lane,
    /// Of the last one that was taken, or waits.
    pub(super) sequence: Sequence,
    /// Its id.
    pub(super) id: String,
    pub(super) at: Timestamp,
    /// How many messages were kept since one failed, that one included; 0: the lane is not parked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) kept: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A message without an order came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Guard {
    #[serde(flatten)]
    pub(super) lane: Lane,
    /// Of its content.
    pub(super) fingerprint: String,
    pub(super) at: Timestamp,
    /// Whether it waits for an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) parked: bool,
}

/// A lane whose messages wait for an operator: the first of them failed. Messages that come do not write it, so that they
/// are not in the way of a retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stuck {
    #[serde(flatten)]
    pub(super) lane: Lane,
    pub(super) since: Timestamp,
    /// Which message failed last.
    pub(super) failed: Sequence,
    pub(super) error: String,
    /// How often that one was tried.
    pub(super) attempts: u32,
    /// How many of those that were kept do not wait any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) gone: u64,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waiting {
    /// Its place in its lane; of a message without an order, when it came, in microseconds since 1970.
    pub sequence: Sequence,
    /// When it came.
    pub at: Timestamp,
    /// The message.
    pub message: Envelope,
}

/// What an operator had done to a lane, and what came of it. It is stored with what it did, and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Operation {
    /// The lane.
    #[serde(flatten)]
    pub lane: Lane,
    /// What.
    pub verb: Verb,
    /// Who, and why.
    pub by: By,
    /// When it began.
    pub at: Timestamp,
    /// How many messages were taken, or discarded.
    pub done: u64,
    /// Why the next one was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Tables {
    pub(super) fn of(inbox: &str) -> Result<Self, LimitError> {
        let table = |of: &str| format!("inbox.{of}.{inbox}");
        Ok(Self {
            marks: Table::new(table("marks"))?,
            guards: Table::new(table("guards"))?,
            ages: Table::new(format!("{HOT}{}", table("ages")))?,
            parked: Table::new(table("parked"))?,
            waiting: Table::new(table("waiting"))?,
            operations: Table::new(table("operations"))?,
        })
    }
}

/// The row that knows what came in a lane: whatever changes the lane writes it.
pub(super) enum LaneRow {
    Mark(Row<Mark>),
    Guard(Row<Guard>),
}

impl Tables {
    /// The row of a lane, if something came in it.
    pub(super) async fn lane(
        &self,
        store: &dyn RowStore,
        lane: &Lane,
    ) -> Result<Option<LaneRow>, StoreError> {
        let key = lane.row_key()?;
        let row = if lane.relay.is_some() {
            self.marks.get(store, &key).await?.map(LaneRow::Mark)
        } else {
            self.guards.get(store, &key).await?.map(LaneRow::Guard)
        };
        if let Some(LaneRow::Mark(Row { value: Mark { lane: stored, .. }, .. }))
        | Some(LaneRow::Guard(Row { value: Guard { lane: stored, .. }, .. })) = &row
        {
            same_lane(stored, lane)?;
        }
        Ok(row)
    }

    /// The row of a lane is written, with so many messages that are kept. A guard that is done can be forgotten after a
    /// while.
    pub(super) fn put_lane(&self, row: &LaneRow, kept: u64) -> Result<Vec<RowWrite>, StoreError> {
        match row {
            LaneRow::Mark(row) => {
                let mark = Mark { kept, ..row.value.clone() };
                Ok(vec![self.marks.put(&row.clone().with(mark))?])
            }
            LaneRow::Guard(row) => {
                let guard = Guard { parked: kept > 0, ..row.value.clone() };
                let mut rows = vec![self.guards.put(&row.clone().with(guard))?];
                if kept == 0 {
                    rows.push(self.ages.insert(age_key(&row.value)?, row.key.clone())?);
                }
                Ok(rows)
            }
        }
    }
}

impl LaneRow {
    /// How many messages were kept since it was parked.
    pub(super) fn kept(&self) -> u64 {
        match self {
            Self::Mark(row) => row.value.kept,
            Self::Guard(row) => row.value.parked.into(),
        }
    }
}

/// What the keys of all messages that wait in a lane begin with, and those of what was done to it.
pub(super) fn of_lane(lane: &Lane) -> String {
    Key::default().id(lane.hash()).prefix()
}

pub(super) fn waiting_key(lane: &Lane, sequence: Sequence) -> Result<String, LimitError> {
    Key::default().id(lane.hash()).text(&sequence.to_string()).build()
}

/// The place of a message that waits, by the key of its row.
pub(super) fn sequence_of(key: &str) -> Option<Sequence> {
    key.rsplit(':').next()?.parse().ok()
}

pub(super) fn operation_key(lane: &Lane, by: &By) -> Result<String, LimitError> {
    Key::default().id(lane.hash()).id(by.request).build()
}

pub(super) fn age_key(guard: &Guard) -> Result<String, LimitError> {
    Key::default().time(guard.at).id(guard.lane.hash()).build()
}

/// Two lanes may have one hash: then one of them is not touched.
pub(super) fn same_lane(stored: &Lane, lane: &Lane) -> Result<(), StoreError> {
    if stored == lane {
        return Ok(());
    }
    Err(StoreError::Corrupt { what: format!("{lane} has the hash of {stored}") })
}

#[cfg(test)]
mod tests {
    use es_core::limits::MAX_NAME;
    use uuid::Uuid;

    use super::*;
    use crate::rows::golden;

    golden! {
        marks: Mark = ["inbox-mark", "inbox-mark-parked"];
        guards: Guard = ["inbox-guard", "inbox-guard-parked"];
        parked_lanes: Stuck = ["inbox-parked", "inbox-parked-message"];
        messages: Waiting = ["inbox-waiting"];
        operations: Operation = ["inbox-operation-retry", "inbox-operation-discard"];
    }

    #[test]
    fn keys_are_pinned() {
        let lane = Lane::of_message("/shop", "7");
        let hash = lane.hash().simple();
        let sequence = "9.2".parse().unwrap();
        let waiting = waiting_key(&lane, sequence).unwrap();
        assert_eq!(waiting, format!("{hash}:{:020}.0002", 9));
        assert_eq!(sequence_of(&waiting), Some(sequence));
        let at = Timestamp::from_microsecond(1_700_000_000_000_001).unwrap();
        let guard = Guard { lane: lane.clone(), fingerprint: String::new(), at, parked: false };
        assert_eq!(age_key(&guard).unwrap(), format!("00001700000000000001:{hash}"));
        let by = By::new(String::new(), String::new(), Uuid::from_u128(0xab));
        assert_eq!(operation_key(&lane, &by).unwrap(), format!("{hash}:{}", Uuid::from_u128(0xab).simple()));
    }

    #[test]
    fn a_name_that_no_table_can_have_is_refused() {
        for name in ["", "a/b", "a~1", "a\0", &"n".repeat(MAX_NAME)] {
            assert!(Tables::of(name).is_err() || name.is_empty(), "{name:?}");
        }
    }
}
