//! What all commands of an app share.

use std::sync::Arc;
use std::time::Duration;

use crate::command::{Interceptor, Newness, Registry, RetryPolicy};
use crate::id::Ids;
use crate::lifecycle::Lifecycle;
use crate::repository::{Cache, Repository};
use crate::services::Services;
use crate::store::EventStore;

/// What all commands of an app share.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) repository: Repository,
    pub(crate) cache: Cache,
    pub(crate) newness: Newness,
    pub(crate) services: Services,
    pub(crate) ids: Ids,
    pub(crate) lifecycle: Lifecycle,
    /// Those that can be sent by name.
    pub(crate) commands: Registry,
    pub(crate) interceptors: Vec<Arc<dyn Interceptor>>,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Duration,
    pub(crate) max_events: usize,
    /// Whether each payload is decoded once before it is stored.
    pub(crate) verify: bool,
}

impl Bus {
    pub(crate) fn store(&self) -> &dyn EventStore {
        &*self.repository.store
    }
}
