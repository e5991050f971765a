//! The time of the store, without asking it each time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use es_core::Timestamp;
use es_core::store::{EventStore, StoreError};
use tokio::time::Instant;

/// For how long an answer of the store is carried on with this machine's steady clock: by so much it may run ahead of one
/// that was set back.
pub(crate) const TRUSTS: Duration = Duration::from_millis(500);

/// The store's clock, as this node carries it on.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(Mutex<Option<(Timestamp, Instant)>>);

impl StoreClock {
    /// What time it is in the store.
    pub(crate) async fn now(&self, store: &dyn EventStore) -> Result<Timestamp, StoreError> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((time, at)) = known
            && at.elapsed() < TRUSTS
        {
            return Ok(time.saturating_add(at.elapsed()).unwrap_or(time));
        }
        let at = Instant::now();
        let time = store.now().await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, at));
        Ok(time)
    }
}
