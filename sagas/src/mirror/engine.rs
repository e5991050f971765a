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
        let head = match self.store.head().await {
            Ok(head) => head,
            Err(error) => return error,
        };
        let mut log = Subscription::new(self.store.clone(), events_of::<A>(), head);
        self.cache.follows();
        loop {
            match log.next().await {
                Ok(event) => self.cache.hears(&event.stream, event.version),
                Err(error) => return error,
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
