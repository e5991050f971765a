//! Recovery as a part of an app: on every node, without shares, for any number of them may do it at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::clock::Timestamp;
use es_core::cluster::Runs;
use es_core::engine::{Engine, EngineAlert, EngineStatus, Node};
use es_core::services::Services;
use es_core::{AppBuilder, Backend, BoxError, chain};
use tokio_util::sync::CancellationToken;

use super::manager::TwoPhase;
use super::recovery::{Recovered, Waiting};

/// Between two looks of recovery.
const EACH: Duration = Duration::from_secs(5);
/// A branch that is prepared for longer than this is looked at.
const IN_DOUBT: Duration = Duration::from_secs(30);
const NAME: &str = "two-phase";

/// `.two_phase(..)` on the builder of an app.
pub trait TwoPhaseApp<B: Backend>: Sized {
    /// Transactions across databases: the app does not start if a participant cannot take part, or one is missing that a
    /// decision waits for; then it recovers what others have left. Handlers ask for a `&TwoPhase<B>`.
    #[must_use]
    fn two_phase(self, two_phase: &TwoPhase<B>) -> Self;
}

impl<B: Backend> TwoPhaseApp<B> for AppBuilder<B> {
    fn two_phase(self, two_phase: &TwoPhase<B>) -> Self {
        let is_own = self.backend().identity() == two_phase.0.backend.identity();
        let wrong = "the transactions across databases have their decisions in another store than this app"
            .to_owned();
        let recovery =
            Recovery { two_phase: two_phase.clone(), node: OnceLock::new(), seen: Mutex::default() };
        self.provide(two_phase.clone())
            .engine(Arc::new(recovery))
            .check(move |_| if is_own { Vec::new() } else { vec![wrong] })
    }
}

/// Recovery on a node.
struct Recovery<B> {
    two_phase: TwoPhase<B>,
    node: OnceLock<Node>,
    seen: Mutex<Seen>,
}

/// What recovery has seen last.
#[derive(Clone, Debug, Default)]
struct Seen {
    looked: Option<Timestamp>,
    failing: Option<String>,
    last: Recovered,
    /// Since when each alert is so.
    alerts: Vec<EngineAlert>,
}

impl<B> fmt::Debug for Recovery<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").finish_non_exhaustive()
    }
}

impl<B: Backend> Recovery<B> {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, now: impl Fn() -> Timestamp) {
        let looked = self.two_phase.recover().await;
        let mut seen = self.seen();
        match looked {
            Ok(found) => {
                measure(&found, &seen.last, self.two_phase.0.participants.keys());
                seen.failing = failing(&found);
                seen.alerts = alerts(&found, &seen.alerts, now());
                (seen.looked, seen.last) = (Some(now()), found);
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "transactions across databases cannot be recovered now"
                );
                seen.failing = Some(chain(&error));
            }
        }
    }
}

#[async_trait]
impl<B: Backend> Engine for Recovery<B> {
    fn runs(&self) -> Vec<Runs> {
        Vec::new()
    }

    async fn check(&self, _: &Services) -> Result<Vec<String>, BoxError> {
        Ok(self.two_phase.0.wrong().await?)
    }

    fn connect(&self, node: Node) {
        self.seen().looked = Some(node.ids.clock().now());
        drop(self.node.set(node));
    }

    async fn run(&self, stop: CancellationToken) {
        let Some(node) = self.node.get().filter(|node| !node.cluster.only_looks()) else { return };
        loop {
            let look = self.look(|| node.ids.clock().now());
            if stop.run_until_cancelled(look).await.is_none() {
                return;
            }
            // Nodes that have started together do not look together for ever.
            let each = EACH.mul_f64(0.8 + 0.4 * node.ids.fraction());
            if stop.run_until_cancelled(tokio::time::sleep(each)).await.is_none() {
                return;
            }
        }
    }

    fn status(&self) -> Vec<EngineStatus> {
        let seen = self.seen();
        let mut status = EngineStatus::idle(NAME.to_owned());
        // It has no slices of its own: where it works, it does all of it.
        let works = self.node.get().is_some_and(|node| !node.cluster.only_looks());
        status.slices = if works { es_core::processor::SLICES } else { 0 };
        status.looked = seen.looked;
        status.failing.clone_from(&seen.failing);
        status.alerts.clone_from(&seen.alerts);
        vec![status]
    }
}

fn failing(found: &Recovered) -> Option<String> {
    let of = |(name, why): (&String, &String)| format!("participant {name:?}: {why}");
    found.failed.iter().map(of).reduce(|all, one| format!("{all}; {one}"))
}

/// What somebody is to look at, each since when it is so.
fn alerts(found: &Recovered, before: &[EngineAlert], now: Timestamp) -> Vec<EngineAlert> {
    let mut alerts = Vec::new();
    let mut add = |name: &'static str, urgent: bool, text: String| {
        let since = before.iter().find(|alert| alert.name == name).map_or(now, |alert| alert.since);
        alerts.push(EngineAlert { name, urgent, since, text });
    };
    let late: Vec<_> = found.in_doubt.iter().filter(|(_, waiting)| waiting.oldest > IN_DOUBT).collect();
    if !late.is_empty() {
        let of = |(name, waiting): &(&String, &Waiting)| {
            format!("{} at {name:?}, the oldest for {} s", waiting.branches, waiting.oldest.as_secs())
        };
        let text = late.iter().map(of).collect::<Vec<_>>().join("; ");
        let to_do = "they hold their locks; if it goes on, the store or a participant does not answer";
        add("TwoPhaseInDoubt", true, format!("branches are prepared, and wait: {text}; {to_do}"));
    }
    if !found.parked.is_empty() {
        let to_do = "look at `TwoPhase::pending`, mend it by hand, and `accept` it";
        let (n, names) = (found.parked.values().sum::<u64>(), names(found.parked.keys()));
        add("TwoPhaseParked", true, format!("{n} branches at {names} are not what was decided: {to_do}"));
    }
    if !found.missing.is_empty() {
        let names = names(found.missing.iter());
        add(
            "TwoPhaseMissing",
            true,
            format!("decided transactions wait for {names}, not configured on this node"),
        );
    }
    alerts
}

fn names(names: impl Iterator<Item = impl fmt::Debug>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// What a participant has is shown until it was looked at again: a look that fails says nothing of it.
fn measure<'a>(found: &'a Recovered, before: &'a Recovered, configured: impl Iterator<Item = &'a String>) {
    for (outcome, n) in [("committed", found.committed), ("aborted", found.aborted)] {
        metrics::counter!("es_two_phase_recovered_total", "outcome" => outcome).increment(n);
    }
    for (name, waiting) in &found.in_doubt {
        show("es_two_phase_in_doubt", name, waiting.branches);
        let oldest = waiting.oldest.as_secs_f64();
        metrics::gauge!("es_two_phase_in_doubt_seconds", "participant" => name.clone()).set(oldest);
    }
    for name in found.failed.keys() {
        metrics::counter!("es_two_phase_failed_looks_total", "participant" => name.clone()).increment(1);
    }
    let once = before.unfinished.keys().chain(before.parked.keys());
    let now = found.unfinished.keys().chain(found.parked.keys());
    for name in configured.chain(once).chain(now).collect::<BTreeSet<_>>() {
        let of = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or_default();
        show("es_two_phase_unfinished", name, of(&found.unfinished));
        show("es_two_phase_parked", name, of(&found.parked));
    }
}

fn show(gauge: &'static str, participant: &str, n: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!(gauge, "participant" => participant.to_owned()).set(n as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn what_waits_for_long_or_for_a_person_is_an_alert() {
        let mut found = Recovered::default();
        let mut waits = |oldest| {
            found.in_doubt.insert("stock".to_owned(), Waiting { branches: 2, oldest });
            alerts(&found, &[], at(1)).into_iter().map(|alert| alert.name).collect::<Vec<_>>()
        };
        assert_eq!(waits(IN_DOUBT), [""; 0]);
        assert_eq!(waits(IN_DOUBT + Duration::from_millis(1)), ["TwoPhaseInDoubt"]);
        found.parked.insert("stock".to_owned(), 1);
        found.missing.insert("billing".to_owned());
        let first = alerts(&found, &[], at(1));
        let names: Vec<_> = first.iter().map(|alert| alert.name).collect();
        assert_eq!(names, ["TwoPhaseInDoubt", "TwoPhaseParked", "TwoPhaseMissing"]);
        assert!(first[0].text.contains("2 at \"stock\"") && first[2].text.contains("\"billing\""));
        // It is so since then.
        found.in_doubt.clear();
        let then = alerts(&found, &first, at(9));
        assert_eq!(then, first[1..]);
    }

    #[test]
    fn a_participant_that_cannot_be_asked_is_named() {
        let mut found = Recovered::default();
        assert_eq!(failing(&found), None);
        found.failed.insert("stock".to_owned(), "it is away".to_owned());
        assert_eq!(failing(&found).as_deref(), Some("participant \"stock\": it is away"));
    }
}
