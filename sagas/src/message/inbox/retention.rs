//! Messages without an order are forgotten after a while: what is done, never what waits.

use std::sync::atomic::Ordering;

use es_core::store::{Won, write_rows};
use es_core::{Backend, Timestamp};

use super::Inbox;
use super::error::InboxError;

/// So many messages are forgotten in one commit.
const PORTION: usize = 200;
/// After so many that were taken: fewer than a portion, so that it keeps up.
const EVERY: u64 = 100;

impl<B: Backend, C> Inbox<B, C> {
    /// Forgets messages without an order that were taken longer ago than the [retention](Self::retention): up to 200 of
    /// them, the oldest first, in one commit; how many that were. The inbox does this by itself now and then while it takes
    /// such messages. What is parked is not forgotten; its time begins when it is retried or discarded.
    ///
    /// # Errors
    ///
    /// [`InboxError::Store`]; [`InboxError::Busy`] if another program forgets the same ones.
    pub async fn forget(&self) -> Result<usize, InboxError> {
        let now = self.backend.now().await?;
        let until = now.checked_sub(self.options.retention).unwrap_or(Timestamp::MIN);
        let ages = self.tables.ages.page(&self.backend, None, PORTION).await?;
        let keys: Vec<String> = ages.iter().map(|age| age.value.clone()).collect();
        let guards = self.backend.rows(self.tables.guards.name(), &keys).await?;
        let mut rows = Vec::new();
        for (age, guard) in ages.iter().zip(guards) {
            if let Some(guard) = guard {
                let guard = self.tables.guards.decode(guard)?;
                if guard.value.at >= until {
                    break;
                }
                rows.push(self.tables.guards.delete(&guard));
            }
            rows.push(self.tables.ages.delete(age));
        }
        let count = rows.iter().filter(|row| row.table == *self.tables.guards.name()).count();
        if rows.is_empty() {
            return Ok(0);
        }
        match write_rows(&self.backend, rows).await? {
            Won::Yes(_) => Ok(count),
            Won::No(_) => Err(InboxError::Busy("another program forgets the same messages".into())),
        }
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
