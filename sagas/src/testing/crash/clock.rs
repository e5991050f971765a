//! Time as the runtime has it.

use es_core::Timestamp;
use es_core::clock::Clock;
use es_core::testing::epoch;
use tokio::time::Instant;

/// A clock that goes with the time of the runtime: where that is paused, it goes as fast as the test does.
#[derive(Clone, Debug)]
pub struct VirtualClock(Instant);

impl Default for VirtualClock {
    /// At [`epoch`].
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let now = epoch().saturating_add(self.0.elapsed()).unwrap_or_else(|_| epoch());
        es_core::clock::truncate(now)
    }
}
