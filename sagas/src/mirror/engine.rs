//! A cache follows the log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::Runs;
use es_core::engine::{Engine, Node};
use es_core::store::{StoreError, Subscription};
use es_core::{Apply, Backend, chain};
use tokio_util::sync::CancellationToken;

use super::follow::events_of;
use super::near_cache::NearCache;

/// Before a log that could not be read is followed again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells a cache what happens.
pub(super) struct Drops<B, A> {
    pub(super) cache: NearCache<A>,
    pub(super) store: Arc<B>,
}

impl<B: Backend, A: Apply> Drops<B, A> {
    /// Follows the log until it cannot be read.
    async fn follow(&self) -> StoreError {
        let history = self.store.history();
        let head = match self.store.head().await {
            Ok(head) => head,
            Err(error) => return error,
        };
        let mut log = Subscription::new(self.store.clone(), events_of::<A>(), head);
        self.cache.follows();
        let mut look = tokio::time::interval(AGAIN);
        loop {
            let heard = tokio::select! {
                event = log.next() => Some(event),
                _ = look.tick() => None,
            };
            // The subscription may go on: what is held may have events that are gone, all the same.
            if self.store.history() != history {
                let lost = std::io::Error::other("the store has another history");
                return StoreError::transient("following the log", lost);
            }
            match heard {
                Some(Ok(event)) => self.cache.hears(&event.stream, event.version),
                Some(Err(error)) => return error,
                None => {}
            }
        }
    }
}

#[async_trait]
impl<B: Backend, A: Apply> Engine for Drops<B, A> {
    /// Each process has its own.
    fn runs(&self) -> Vec<Runs> {
        Vec::new()
    }

    fn connect(&self, node: Node) {
        self.cache.connect(node.sender);
    }

    async fn run(&self, stop: CancellationToken) {
        while let Some(error) = stop.run_until_cancelled(self.follow()).await {
            // What was heard of may be of another history, too.
            self.cache.forgets();
            tracing::warn!(
                cache = A::NAME,
                error = chain(&error),
                "the log cannot be followed: every get asks the store"
            );
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                break;
            }
        }
        self.cache.forgets();
    }
}
