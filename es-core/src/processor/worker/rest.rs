//! When a range goes on with what it was asked, where some of that has to wait.

use std::time::Duration;

use tokio::time::Instant;

/// Until when nothing is done of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub(super) until: Instant,
    /// Whether all of it waits: then others that are asked are done before that.
    all_wait: bool,
    /// Whether something may have been asked since.
    heard: bool,
}

impl Rest {
    pub(super) const fn until(until: Instant) -> Self {
        Self { until, all_wait: false, heard: false }
    }

    /// New events have at least as much time as what was in vain.
    pub(super) fn fair(took: Duration) -> Self {
        Self::until(Instant::now() + took)
    }

    pub(super) const fn all_wait(until: Instant) -> Self {
        Self { until, all_wait: true, heard: false }
    }

    /// Something may have been asked.
    pub(super) const fn hear(&mut self) {
        self.heard = self.all_wait;
    }

    pub(super) const fn has_heard(&self) -> bool {
        self.heard
    }

    /// What is left of it: nothing was asked.
    pub(super) const fn goes_on(self) -> Self {
        Self { heard: false, ..self }
    }

    pub(super) fn is_on(&self) -> bool {
        self.until > Instant::now()
    }
}
