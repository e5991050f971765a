//! Until when a node may believe that it is believed to be alive.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// The lease of a node, as the node itself knows it: it ends no later than others believe.
#[derive(Debug)]
pub struct Lease(Mutex<Instant>);

impl Default for Lease {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Lease {
    pub(crate) fn renew(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Whether it holds now. Effects that no row can fence wait while it does not.
    #[must_use]
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
