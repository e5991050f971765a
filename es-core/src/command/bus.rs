//! What all commands of an app share.

use std::sync::Arc;
use std::time::Duration;

use crate::Apply;
use crate::command::{Interceptor, Newness, Registry, RetryPolicy};
use crate::id::Ids;
use crate::lifecycle::Lifecycle;
use crate::repository::{Cache, LoadError, Loaded, Repository, stream_of};
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

    /// The current state of an aggregate; `None` if there is none.
    pub(crate) async fn load<A: Apply>(&self, id: &A::Id) -> Result<Option<Loaded<A>>, LoadError> {
        let stream = stream_of::<A>(id)?;
        let mut held = self.cache.slot(&stream).hold().await;
        let loaded = match held.take::<A>(self.store().history()) {
            Some(mut kept) => {
                self.repository.refresh(&stream, &mut *kept).await?;
                kept
            }
            None => Box::new(self.repository.load(&stream).await?),
        };
        let answer = (loaded.version.0 > 0).then(|| Loaded::clone(&loaded));
        held.put(loaded);
        Ok(answer)
    }
}
