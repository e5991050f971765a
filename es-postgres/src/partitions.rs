//! Partitions of the log are made before it enters them.
//!
//! The first process that sees the log enter the last partition has the next one made. Should none have been in time,
//! the append that finds no partition does it, and is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use es_core::store::{Commit, Position, StoreError};
use sqlx::Row as _;

use crate::readers::Readers;
use crate::row::signed;

/// Nothing is to be made: the log is one table, or somebody is at it.
const NEVER: i64 = i64::MAX;

#[derive(Clone, Debug)]
pub(crate) struct Partitions {
    readers: Arc<Readers>,
    /// The first position of the last partition.
    due: Arc<AtomicI64>,
}

impl Partitions {
    pub(crate) async fn read(readers: &Arc<Readers>) -> Result<Self, StoreError> {
        let query = || sqlx::query("select first from partitions order by first desc limit 1");
        let rows = readers.rows("reading partitions", query).await?;
        let due = rows.first().map_or(NEVER, |row| row.get_unchecked(0));
        Ok(Self { readers: readers.clone(), due: Arc::new(due.into()) })
    }

    /// The log goes this far: if that is into the last partition, another one is made, in the background.
    pub(crate) fn reach(&self, head: Position) {
        let due = self.due.load(Ordering::Relaxed);
        if signed(head.0) < due {
            return;
        }
        // Whoever takes the number out makes the partition.
        if self.due.compare_exchange(due, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let partitions = self.clone();
            drop(tokio::spawn(async move { partitions.make([]).await }));
        }
    }

    /// Makes room for these commits, and one partition more. A failure is logged: who needs the room finds out.
    pub(crate) async fn make(&self, commits: impl IntoIterator<Item = &Commit>) {
        let events: usize = commits.into_iter().flat_map(|c| &c.appends).map(|a| a.events.len()).sum();
        let ahead = i64::try_from(events).unwrap_or(i64::MAX);
        let query = || sqlx::query("select add_partition($1)").bind(ahead);
        match self.readers.rows("making a partition", query).await {
            Ok(rows) => {
                let due: Option<i64> = rows.first().and_then(|row| row.get_unchecked(0));
                self.due.store(due.unwrap_or(NEVER), Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no partition could be made ahead");
            }
        }
    }
}
