//! Reconciliations that run by themselves: whichever node's turn it is first.

use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::Runs;
use es_core::engine::{Engine, EngineAlert, EngineStatus, Node};
use es_core::limits::LimitError;
use es_core::{AppBuilder, Backend, Timestamp, chain};
use tokio_util::sync::CancellationToken;

use super::handle::{Job, Jobs};
use super::report::Class;
use super::rows::Ran;
use super::run::{ReconcileError, Reconciliation};
use crate::overview::{self, Overview, Sources};

/// How often a node looks whether it is time to run one, and what the last run has found.
const LOOK: Duration = Duration::from_secs(15);
/// When one runs again that came to no end, if it is not time before.
const AGAIN: Duration = Duration::from_secs(600);
/// How late it may be, besides a run that is left out, before that is an alert.
const LATE: Duration = Duration::from_hours(1);

/// `.reconcile(..)` on the builder of an app.
pub trait Reconciles: Sized {
    /// A reconciliation that runs every so often, by the clock of its store: on the node whose turn it is first, and not on the
    /// others. If that node is shut down meanwhile, another one runs it; if it is lost, it runs again when it is time for the next
    /// one; if a side cannot be read, ten minutes later. It is made from the [transactions](Overview) of the app.
    ///
    /// The app does not start with two of one name: they would share what they have found. What it has found, and
    /// what is accepted, is seen to by [`App::reconciliations`](super::Reconciliations).
    ///
    /// Each node shows what the last run has found, wherever that was: as metrics, and as an alert in
    /// [`Health::engines`](es_core::Health::engines).
    #[must_use]
    fn reconcile<K, V>(
        self,
        every: Duration,
        make: impl FnOnce(Overview) -> Result<Reconciliation<K, V>, LimitError>,
    ) -> Self
    where
        K: Ord + Clone + Display + Send + Sync + 'static,
        V: PartialEq + Debug + Send + Sync + 'static;
}

impl<B: Backend> Reconciles for AppBuilder<B> {
    fn reconcile<K, V>(
        self,
        every: Duration,
        make: impl FnOnce(Overview) -> Result<Reconciliation<K, V>, LimitError>,
    ) -> Self
    where
        K: Ord + Clone + Display + Send + Sync + 'static,
        V: PartialEq + Debug + Send + Sync + 'static,
    {
        let app = overview::add(self, |_| {});
        let sources = app.services().get::<Sources>().cloned().unwrap_or_default();
        match make(Overview::of(sources)) {
            Ok(job) => {
                let (app, job) = (app.provide_once::<Jobs>(), Arc::new(job));
                if app.services().get::<Jobs>().is_ok_and(|jobs| jobs.add(job.clone())) {
                    return app.engine(Arc::new(Watch::new(job, every)));
                }
                app.check(move |_| vec![format!("two reconciliations are named {:?}", job.name())])
            }
            Err(error) => app.check(move |_| vec![format!("a reconciliation: {error}")]),
        }
    }
}

/// The work of a node on one reconciliation.
struct Watch {
    job: Arc<dyn Job>,
    every: Duration,
    node: OnceLock<Node>,
    alert: Mutex<Option<EngineAlert>>,
    /// When a run of this node began that is under way, and when the one before it.
    runs: Mutex<Option<(Timestamp, Option<Timestamp>)>>,
}

impl Watch {
    fn new(job: Arc<dyn Job>, every: Duration) -> Self {
        Self { job, every, node: OnceLock::new(), alert: Mutex::default(), runs: Mutex::default() }
    }

    fn alert(&self) -> MutexGuard<'_, Option<EngineAlert>> {
        self.alert.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs it if it is time for that, and shows what is known.
    async fn look(&self, now: Timestamp) -> Result<(), ReconcileError> {
        let (mut row, mut at) = self.job.known().await?;
        let every = if row.value.failed.is_some() { self.every.min(AGAIN) } else { self.every };
        if is_due(row.value.began, every, at) {
            let before = row.value.began.replace(at);
            row.value.since.get_or_insert(at);
            if self.job.claim(row.clone()).await? {
                *self.runs() = Some((at, before));
                self.runs_now().await;
                *self.runs() = None;
            }
            (row, at) = self.job.known().await?;
        }
        let stands = Stands { ran: &row.value, every: self.every, at };
        stands.measure(self.job.name());
        let mut alert = self.alert();
        *alert = stands.warns(self.job.name(), alert.take(), now);
        Ok(())
    }

    async fn runs_now(&self) {
        let name = self.job.name();
        match self.job.run().await {
            Ok(report) if report.is_clean() => tracing::debug!("{report}"),
            Ok(report) => tracing::warn!(reconciliation = name, "{report}"),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(reconciliation = name, error, "a reconciliation came to no end");
            }
        }
    }

    /// The node stops: if it has begun a run, another one runs it.
    async fn stops(&self) {
        let Some((began, before)) = self.runs().take() else { return };
        if let Err(error) = self.job.gives_back(began, before).await {
            let (reconciliation, error) = (self.job.name(), chain(&error));
            tracing::debug!(reconciliation, error, "that a run came to no end is not noted");
        }
    }

    fn runs(&self) -> MutexGuard<'_, Option<(Timestamp, Option<Timestamp>)>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for Watch {
    fn runs(&self) -> Vec<Runs> {
        Vec::new()
    }

    fn connect(&self, node: Node) {
        drop(self.node.set(node));
    }

    async fn run(&self, stop: CancellationToken) {
        let Some(node) = self.node.get().filter(|node| !node.cluster.only_looks()) else { return };
        loop {
            let look = async {
                // Nodes that have started together do not look together for ever.
                tokio::time::sleep(LOOK.mul_f64(0.8 + 0.4 * node.ids.fraction())).await;
                self.look(node.ids.clock().now()).await
            };
            match stop.run_until_cancelled(look).await {
                None => return self.stops().await,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let (reconciliation, error) = (self.job.name(), chain(&error));
                    tracing::debug!(reconciliation, error, "it is looked at again in a while");
                }
            }
        }
    }

    fn status(&self) -> Vec<EngineStatus> {
        let warned = self.alert().clone().map(|alert| {
            let mut status = EngineStatus::idle(format!("reconcile.{}", self.job.name()));
            status.alerts.push(alert);
            status
        });
        warned.into_iter().collect()
    }
}

/// Whether it is time to run it. A clock that has gone back keeps nobody from it for longer than that.
fn is_due(began: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    began
        .is_none_or(|began| Duration::try_from(now.duration_since(began).abs()).is_ok_and(|ago| ago >= every))
}

/// What is known of one at a time.
struct Stands<'r> {
    ran: &'r Ran,
    every: Duration,
    at: Timestamp,
}

impl Stands<'_> {
    fn measure(&self, name: &str) {
        let label = || name.to_owned();
        let fails = self.ran.failed.is_some() || self.overdue().is_some();
        metrics::gauge!("es_reconcile_failing", "reconciliation" => label()).set(f64::from(u8::from(fails)));
        let Some(report) = &self.ran.report else { return };
        let of_class = Class::ALL.map(|class| (class.name(), report.of(class)));
        for (class, n) in of_class.into_iter().chain([("unconfirmed", report.unconfirmed)]) {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("es_reconcile_differences", "reconciliation" => label(), "class" => class)
                .set(n as f64);
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("es_reconcile_pending", "reconciliation" => label()).set(report.pending as f64);
        metrics::gauge!("es_reconcile_ran_timestamp_seconds", "reconciliation" => label())
            .set(report.ended.as_duration().as_secs_f64());
    }

    /// Since when none has come to its end, if it should have.
    fn overdue(&self) -> Option<Timestamp> {
        let last = self.ran.report.as_ref().map(|report| report.ended).max(self.ran.since)?;
        let late = self.every.saturating_mul(2).saturating_add(LATE);
        Duration::try_from(self.at.duration_since(last)).is_ok_and(|age| age > late).then_some(last)
    }

    /// What a person is told, since when it is so.
    fn warns(&self, name: &str, before: Option<EngineAlert>, now: Timestamp) -> Option<EngineAlert> {
        let mut told = Vec::new();
        if let Some((at, why)) = &self.ran.failed {
            told.push(format!("{name} came to no end at {at}: {why}; mend what cannot be read"));
        } else if let Some(last) = self.overdue() {
            told.push(format!(
                "{name} has come to no end since {last}: a run takes too long, or is lost each time"
            ));
        }
        if let Some(report) = self.ran.report.as_ref().filter(|report| !report.is_clean()) {
            let of = |(class, n): (&Class, &u64)| format!("{n} {class}");
            let mut all: Vec<String> = report.counts.iter().map(of).collect();
            all.extend((report.unconfirmed > 0).then(|| format!("{} more", report.unconfirmed)));
            all.extend((report.redriven > 0).then(|| format!("{} of them redriven", report.redriven)));
            let to_do = "look at `last` in `app.reconciliations()`, mend what differs, or `accept` it";
            told.push(format!("the sides of {name} differ at {}: {}; {to_do}", report.ended, all.join(", ")));
        }
        if told.is_empty() {
            return None;
        }
        let since = before.map_or(now, |alert| alert.since);
        Some(EngineAlert { name: "Unreconciled", urgent: false, since, text: told.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use es_core::BoxError;
    use es_core::memory::MemoryBackend;
    use futures::{StreamExt as _, stream};

    use super::super::report::Report;
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[tokio::test]
    async fn a_panic_of_a_side_is_an_alert_and_its_watch_goes_on() {
        let store = MemoryBackend::new();
        let side = || stream::iter([Ok::<_, BoxError>((1_u8, 1_u8))]);
        let torn = || stream::iter([0]).map(|_| -> Result<(u8, u8), BoxError> { panic!("it is on fire") });
        let job = Reconciliation::between("books", store.clone(), side, torn).unwrap();
        let watch = Watch::new(Arc::new(job), DAY);
        watch.look(at(1)).await.unwrap();
        let alert = watch.alert().clone().unwrap();
        assert!(alert.name == "Unreconciled" && alert.text.contains("it is on fire"), "{alert:?}");
        assert!(watch.runs().is_none(), "it is under way no more");
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3_600).unwrap()
    }

    fn warns(ran: &Ran, before: Option<EngineAlert>, now: Timestamp) -> Option<EngineAlert> {
        Stands { ran, every: DAY, at: now }.warns("orders", before, now)
    }

    #[test]
    fn it_runs_when_it_is_time_whatever_the_clock_does() {
        assert!(is_due(None, DAY, at(0)));
        assert!(!is_due(Some(at(10)), DAY, at(33)) && is_due(Some(at(10)), DAY, at(34)));
        assert!(!is_due(Some(at(10)), DAY, at(9)) && is_due(Some(at(40)), DAY, at(9)));
    }

    #[test]
    fn what_differs_is_one_alert_until_a_run_is_clean() {
        let mut ran = Ran { report: Some(Report::new("orders".to_owned(), at(0))), ..Ran::default() };
        assert_eq!(warns(&ran, None, at(1)), None);
        let report = ran.report.as_mut().unwrap();
        report.counts.insert(Class::Mismatch, 2);
        let first = warns(&ran, None, at(1)).unwrap();
        assert!(first.name == "Unreconciled" && first.text.contains("2 mismatch"), "{first:?}");
        // What is known stays said while nothing newer is.
        ran.failed = Some((at(5), "it is away".to_owned()));
        let then = warns(&ran, Some(first), at(9)).unwrap();
        let says = |part| then.text.contains(part);
        assert!(then.since == at(1) && says("it is away") && says("2 mismatch"), "{then:?}");
        ran = Ran { report: Some(Report::new("orders".to_owned(), at(0))), ..Ran::default() };
        assert_eq!(warns(&ran, Some(then), at(9)), None);
    }

    #[test]
    fn one_that_comes_to_no_end_for_long_is_an_alert_though_nobody_has_said_why() {
        // Each run is begun, and its node is lost.
        let mut ran = Ran { began: Some(at(100)), since: Some(at(0)), ..Ran::default() };
        assert_eq!(warns(&ran, None, at(49)), None);
        assert!(
            warns(&ran, None, at(50)).is_some_and(|alert| alert.text.contains("no end since 1970-01-01T00"))
        );
        ran.report = Some(Report::new("orders".to_owned(), at(40)));
        assert_eq!(warns(&ran, None, at(89)), None);
        assert!(warns(&ran, None, at(90)).is_some_and(|alert| alert.text.contains("since 1970-01-02T16")));
    }

    #[test]
    fn a_run_that_ends_last_is_not_the_last_one_if_it_began_before() {
        let report = |began, mismatches| {
            let mut report = Report::new("orders".to_owned(), at(began));
            report.counts.insert(Class::Mismatch, mismatches);
            report
        };
        let (mut ran, none) = (Ran::default(), BTreeMap::new());
        ran.takes(&report(5, 1), &none);
        ran.takes(&report(1, 0), &none);
        assert_eq!(ran.report, Some(report(5, 1)));
        ran.failed = Some((at(7), "it is away".to_owned()));
        ran.takes(&report(6, 2), &none);
        assert!(ran.failed.is_some(), "what began before it failed says nothing of that");
        ran.takes(&report(8, 0), &none);
        assert_eq!((&ran.report, &ran.failed), (&Some(report(8, 0)), &None));
    }
}
