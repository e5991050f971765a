//! When a range goes on with what it was asked, where some of that has to wait.

use std::time::Duration;

use tokio::time::Instant;

/// Until when nothing is done of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub(super) until: Instant,
    /// Whether all of it waits: then others that are asked are done before that.
    all_wait: bool,
}

impl Rest {
    pub(super) const fn until(until: Instant) -> Self {
        Self { until, all_wait: false }
    }

    /// New events have at least as much time as what was in vain.
    pub(super) fn fair(took: Duration) -> Self {
        Self::until(Instant::now() + took)
    }

    pub(super) const fn all_wait(until: Instant) -> Self {
        Self { until, all_wait: true }
    }

    /// What is left of it once something is asked.
    pub(super) fn heard(self) -> Option<Self> {
        (!self.all_wait).then_some(self)
    }

    pub(super) fn is_on(&self) -> bool {
        self.until > Instant::now()
    }
}
