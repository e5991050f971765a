//! Messages without an order are forgotten after a while: what is done, never what waits.

use std::sync::atomic::Ordering;

use es_core::store::keys::Key;
use es_core::store::{RowWrite, Span, StoreError, StoredRow, Won, write_rows};
use es_core::{Backend, Timestamp};

use super::Inbox;
use super::error::InboxError;
use crate::damaged::read;

/// So many messages are forgotten in one commit.
const PORTION: usize = 200;
/// After so many that were taken: fewer than a portion, so that it keeps up.
const EVERY: u64 = 100;

impl<B: Backend, C> Inbox<B, C> {
    /// Forgets messages without an order that were taken longer ago than the [retention](Self::retention): up to 200 of
    /// them, the oldest first, in one commit; how many that were. The inbox does this by itself now and then while it takes
    /// such messages. What cannot be read is not forgotten, nor what is parked: its time begins when it is retried or discarded.
    ///
    /// # Errors
    ///
    /// [`InboxError::Store`]; [`InboxError::Busy`] if another program forgets the same ones.
    pub async fn forget(&self) -> Result<usize, InboxError> {
        let now = self.backend.now().await?;
        let until = now.checked_sub(self.options.retention).unwrap_or(Timestamp::MIN);
        let (mut after, before) = (String::new(), Some(Key::default().time(until).prefix()));
        loop {
            let span = Span { after, before: before.clone(), limit: PORTION };
            let ages = self.backend.scan_many(self.tables.ages.name(), &[span]).await?;
            let ages = ages.into_iter().next().unwrap_or_default();
            let Some(last) = ages.last().map(|row| row.key.clone()) else { return Ok(0) };
            let (rows, count) = self.over(ages, until).await?;
            if rows.is_empty() {
                // None of them can be read.
                after = last;
                continue;
            }
            return match write_rows(&self.backend, rows).await? {
                Won::Yes(_) => Ok(count),
                Won::No(_) => Err(InboxError::Busy("another program forgets the same messages".into())),
            };
        }
    }

    /// Rows without some guards that were done before a time, and how many guards that are. What cannot be read stays.
    async fn over(
        &self,
        ages: Vec<StoredRow>,
        until: Timestamp,
    ) -> Result<(Vec<RowWrite>, usize), StoreError> {
        let ages: Vec<_> = ages.into_iter().filter_map(|age| read(&self.tables.ages, age).ok()).collect();
        let keys: Vec<String> = ages.iter().map(|age| age.value.clone()).collect();
        let guards = self.backend.rows(self.tables.guards.name(), &keys).await?;
        let (mut rows, mut count) = (Vec::new(), 0);
        for (age, guard) in ages.iter().zip(guards) {
            match guard.map(|guard| read(&self.tables.guards, guard)) {
                Some(Ok(guard)) if guard.value.at < until => {
                    rows.push(self.tables.guards.delete(&guard));
                    count += 1;
                }
                Some(_) => continue,
                None => {}
            }
            rows.push(self.tables.ages.delete(age));
        }
        Ok((rows, count))
    }

    /// Forgets some after every so many that were taken.
    pub(super) async fn tidy(&self) {
        if self.taken.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1
            && let Err(error) = self.forget().await
        {
            tracing::debug!(error = es_core::chain(&error), "no message was forgotten");
        }
    }
}
