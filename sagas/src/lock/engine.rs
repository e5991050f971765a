//! The looks at locks as a part of an app: on every node, without shares, for any number of them may look.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::{Runs, SLICES, Slices};
use es_core::engine::{Engine, EngineAlert, EngineStatus, Node};
use es_core::{Backend, Timestamp, chain};
use tokio_util::sync::CancellationToken;

use super::list::Locks;
use super::look::{Found, Looks};
use super::rows::LockTables;
use crate::alerts::LOCK_WAIT;

/// Between two looks, if nobody has begun to wait.
const EACH: Duration = Duration::from_secs(10);
/// The shortest time between two looks.
const LEAST: Duration = Duration::from_secs(1);
const NAME: &str = "saga-locks";

/// Which of the looks of a node is at work: each saga with locks brings one, and one is enough.
#[derive(Debug, Default)]
pub(crate) struct LockDesk(tokio::sync::Mutex<()>);

/// The looks of a node.
pub(crate) struct LockLooks<B> {
    backend: Arc<B>,
    node: OnceLock<Node>,
    seen: Mutex<Seen>,
}

/// What was seen last.
#[derive(Clone, Debug, Default)]
struct Seen {
    works: bool,
    looked: Option<Timestamp>,
    failing: Option<String>,
    found: Found,
    alert: Option<EngineAlert>,
}

impl<B> fmt::Debug for LockLooks<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockLooks").finish_non_exhaustive()
    }
}

impl<B: Backend> LockLooks<B> {
    pub(crate) fn new(backend: Arc<B>) -> Self {
        Self { backend, node: OnceLock::new(), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again and again, until `stop`.
    async fn work(&self, node: &Node, stop: &CancellationToken) {
        let Ok(tables) = LockTables::new() else { return };
        let mut began_to_wait = self.backend.watch_rows(tables.waits.name(), Slices::ALL);
        let mut looks = Looks::default();
        loop {
            began_to_wait.mark_unchanged();
            let Some(found) = stop.run_until_cancelled(looks.look(&*self.backend, node)).await else {
                return;
            };
            let now = node.ids.clock().now();
            match found {
                Ok(found) => self.seen().takes(found, now),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "locks cannot be looked at, and are looked at again");
                    self.seen().failing = Some(error);
                }
            }
            let rest = async {
                // Nodes that have started together do not look together for ever.
                tokio::time::sleep(LEAST.mul_f64(0.8 + 0.4 * node.ids.fraction())).await;
                drop(tokio::time::timeout(EACH - LEAST, began_to_wait.changed()).await);
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }
}

impl Seen {
    fn takes(&mut self, found: Found, now: Timestamp) {
        let held = found.held.or(self.found.held);
        let waits = found.oldest.and_then(|oldest| Duration::try_from(now.duration_since(oldest)).ok());
        let waits = waits.unwrap_or_default();
        measure(&found, waits);
        let text = || {
            format!(
                "{} runs wait for locks, the first for {} s: `Locks::waiting` says which, and who has what they wait for",
                found.waiting,
                waits.as_secs()
            )
        };
        let since = self.alert.take().map_or(now, |before| before.since);
        self.alert = (waits > LOCK_WAIT).then(|| EngineAlert {
            name: "SagaLockWait",
            urgent: false,
            since,
            text: text(),
        });
        (self.found, self.looked, self.failing) = (Found { held, ..found }, Some(now), None);
    }
}

fn measure(found: &Found, waits: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let show = |name: &'static str, n: u64| metrics::gauge!(name).set(n as f64);
    show("es_saga_locks_waiting", found.waiting);
    if let Some(held) = found.held {
        show("es_saga_locks_held", held);
    }
    metrics::gauge!("es_saga_lock_oldest_wait_seconds").set(waits.as_secs_f64());
    metrics::counter!("es_saga_deadlocks_total").increment(found.deadlocks);
    metrics::counter!("es_saga_locks_taken_over_total").increment(found.taken_over);
}

#[async_trait]
impl<B: Backend> Engine for LockLooks<B> {
    fn runs(&self) -> Vec<Runs> {
        Vec::new()
    }

    fn connect(&self, node: Node) {
        self.seen().looked = Some(node.ids.clock().now());
        drop(self.node.set(node));
    }

    async fn run(&self, stop: CancellationToken) {
        let Some(node) = self.node.get().filter(|node| !node.cluster.only_looks()) else { return };
        let Ok(desk) = node.services.get::<LockDesk>() else { return };
        let Some(_turn) = stop.run_until_cancelled(desk.0.lock()).await else { return };
        {
            let mut seen = self.seen();
            (seen.works, seen.looked) = (true, Some(node.ids.clock().now()));
        }
        self.work(node, &stop).await;
        self.seen().works = false;
    }

    fn status(&self) -> Vec<EngineStatus> {
        let seen = self.seen();
        if !seen.works {
            return Vec::new();
        }
        let mut status = EngineStatus::idle(NAME.to_owned());
        (status.slices, status.looked) = (SLICES, seen.looked);
        status.failing.clone_from(&seen.failing);
        status.alerts.extend(seen.alert.clone());
        vec![status]
    }

    fn handle(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(Locks::of(self.backend.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_long_is_an_alert_since_then() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (mut seen, limit) = (Seen::default(), i64::try_from(LOCK_WAIT.as_secs()).unwrap());
        let found = |oldest| Found { waiting: 2, oldest, ..Found::default() };
        seen.takes(found(Some(at(0))), at(limit));
        assert_eq!(seen.alert, None);
        seen.takes(found(Some(at(0))), at(limit + 1));
        seen.takes(found(Some(at(0))), at(limit + 9));
        let alert = seen.alert.clone().unwrap();
        assert_eq!((alert.name, alert.urgent, alert.since), ("SagaLockWait", false, at(limit + 1)));
        assert!(alert.text.contains("2 runs wait for locks, the first for 309 s"), "{}", alert.text);
        // What was counted before is so until it is counted again.
        seen.takes(Found { held: Some(7), ..found(None) }, at(limit + 10));
        seen.takes(found(None), at(limit + 11));
        assert_eq!((seen.alert, seen.found.held), (None, Some(7)));
    }
}
