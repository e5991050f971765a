//! Keeps the rules of [`alerts`](crate::alerts) by the numbers of this node: says so in the log, and in the app's health.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use es_core::engine::{EngineAlert, Node};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::numbers::Numbers;
use crate::alerts::{Change, Kept, Severity};

/// Between two looks at the numbers.
const EVERY: Duration = Duration::from_secs(15);

/// What is warned of now.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<Vec<EngineAlert>>);

impl Alarms {
    pub(crate) fn now(&self) -> Vec<EngineAlert> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<EngineAlert>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until `stop`.
pub(crate) async fn watch(
    numbers: &Numbers,
    kind: &str,
    (deadline, stages): (Option<Duration>, &[&'static str]),
    alarms: &Alarms,
    node: &Node,
    stop: &CancellationToken,
) {
    numbers.announce(deadline, stages);
    let (begun, clock) = (Instant::now(), node.ids.clock());
    let mut kept = Kept::from(numbers.sample(clock.now(), deadline), Duration::ZERO);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = clock.now();
        for change in kept.take(numbers.sample(now, deadline), begun.elapsed(), now) {
            tell(kind, change);
        }
        let alert = |(rule, since): (&'static crate::alerts::Rule, _)| EngineAlert {
            name: rule.name,
            urgent: rule.severity == Severity::Critical,
            since,
            text: format!("{kind}: {} {}", rule.summary, rule.to_do),
        };
        *alarms.all() = kept.alarms().map(alert).collect();
    }
}

fn tell(kind: &str, change: Change) {
    match change {
        Change::Began { rule, value } if rule.severity == Severity::Critical => {
            tracing::error!(alert = rule.name, kind, value, to_do = rule.to_do, "{}", rule.summary);
        }
        Change::Began { rule, value } => {
            tracing::warn!(alert = rule.name, kind, value, to_do = rule.to_do, "{}", rule.summary);
        }
        Change::Over { rule } => tracing::info!(alert = rule.name, kind, "it is over"),
    }
}
