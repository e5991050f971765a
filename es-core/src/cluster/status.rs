//! How a node is, as it knows itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How a node is, as it knows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its id: the owner of its ranges.
    pub node: Uuid,
    /// For how long it is believed to be alive after it said so last.
    pub lease: Duration,
    /// For how long it has not said so, nor seen the others; before the first time, since it began. One that looks on only
    /// sees them.
    pub silent: Duration,
    /// Why it cannot, if it was told.
    pub failing: Option<String>,
}

/// When a node looked last.
#[derive(Debug)]
pub(super) struct Looked(Mutex<Option<Last>>);

#[derive(Clone, Debug)]
struct Last {
    at: Instant,
    failing: Option<String>,
}

impl Looked {
    /// A node begins.
    pub(super) fn begin() -> Self {
        Self(Mutex::new(Some(Last { at: Instant::now(), failing: None })))
    }

    pub(super) fn well(&self) {
        self.set(Some(Last { at: Instant::now(), failing: None }));
    }

    pub(super) fn failed(&self, why: String) {
        if let Some(last) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            last.failing = Some(why);
        }
    }

    /// It has signed off: nobody waits for it.
    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, last: Option<Last>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// How the node is, unless it has signed off.
    pub(super) fn status(&self, node: Uuid, lease: Duration) -> Option<NodeStatus> {
        let Last { at, failing } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(NodeStatus { node, lease, silent: at.elapsed(), failing })
    }
}
