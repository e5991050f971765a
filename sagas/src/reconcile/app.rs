//! Reconciliations that run by themselves: whichever node's turn it is first.

use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::Runs;
use es_core::engine::{Engine, EngineAlert, EngineStatus, Node};
use es_core::limits::LimitError;
use es_core::store::{Row, StoreError, write_rows};
use es_core::{AppBuilder, Backend, Timestamp, chain};
use tokio_util::sync::CancellationToken;

use super::report::{Class, Report};
use super::rows::Ran;
use super::run::{ReconcileError, Reconciliation};
use crate::overview::{self, Overview, Sources};

/// How often a node looks whether it is time to run one, and what the last run has found.
const LOOK: Duration = Duration::from_secs(15);
/// When one runs again that came to no end, if it is not time before.
const AGAIN: Duration = Duration::from_secs(600);

/// `.reconcile(..)` on the builder of an app.
pub trait Reconciles: Sized {
    /// A reconciliation that runs every so often, by the clock of its store: on the node whose turn it is first, and not on the
    /// others. If that node is lost meanwhile, it runs again when it is time for the next one; if a side cannot be read, ten minutes later.
    /// It is made from the
    /// [transactions](Overview) of the app.
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
            Ok(job) => app.engine(Arc::new(Watch::new(job, every))),
            Err(error) => app.check(move |_| vec![format!("a reconciliation: {error}")]),
        }
    }
}

/// A reconciliation, whatever is compared.
#[async_trait]
trait Job: Send + Sync + 'static {
    fn name(&self) -> &str;
    async fn run(&self) -> Result<Report, ReconcileError>;
    /// What is known of its runs, and when that is.
    async fn known(&self) -> Result<(Row<Ran>, Timestamp), StoreError>;
    /// Whether nobody else has changed the row.
    async fn claim(&self, row: Row<Ran>) -> Result<bool, StoreError>;
}

#[async_trait]
impl<K, V> Job for Reconciliation<K, V>
where
    K: Ord + Clone + Display + Send + Sync + 'static,
    V: PartialEq + Debug + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        Self::name(self)
    }

    async fn run(&self) -> Result<Report, ReconcileError> {
        Self::run(self).await
    }

    async fn known(&self) -> Result<(Row<Ran>, Timestamp), StoreError> {
        Ok((self.ran().await?, self.store.now().await?))
    }

    async fn claim(&self, row: Row<Ran>) -> Result<bool, StoreError> {
        Ok(write_rows(&*self.store, vec![self.tables.runs.put(&row)?]).await?.is_yes())
    }
}

/// The work of a node on one reconciliation.
struct Watch {
    job: Box<dyn Job>,
    every: Duration,
    node: OnceLock<Node>,
    alert: Mutex<Option<EngineAlert>>,
}

impl Watch {
    fn new(job: impl Job, every: Duration) -> Self {
        Self { job: Box::new(job), every, node: OnceLock::new(), alert: Mutex::default() }
    }

    fn alert(&self) -> MutexGuard<'_, Option<EngineAlert>> {
        self.alert.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs it if it is time for that, and shows what is known.
    async fn look(&self, now: Timestamp) -> Result<(), ReconcileError> {
        let (mut row, at) = self.job.known().await?;
        let every = if row.value.failed.is_some() { self.every.min(AGAIN) } else { self.every };
        if is_due(row.value.began, every, at) {
            row.value.began = Some(at);
            if self.job.claim(row.clone()).await? {
                let ran = self.job.run().await;
                match &ran {
                    Ok(report) if report.is_clean() => tracing::debug!("{report}"),
                    Ok(report) => tracing::warn!(reconciliation = self.job.name(), "{report}"),
                    Err(error) => {
                        let error = chain(error);
                        tracing::warn!(
                            reconciliation = self.job.name(),
                            error,
                            "a reconciliation came to no end"
                        );
                    }
                }
            }
            row = self.job.known().await?.0;
        }
        measure(self.job.name(), &row.value);
        let mut alert = self.alert();
        *alert = warns(self.job.name(), &row.value, alert.take(), now);
        Ok(())
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
                None => return,
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

fn measure(name: &str, ran: &Ran) {
    let Some(report) = &ran.report else { return };
    for class in Class::ALL {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("es_reconcile_differences", "reconciliation" => name.to_owned(), "class" => class.name())
            .set(report.of(class) as f64);
    }
    metrics::gauge!("es_reconcile_ran_timestamp_seconds", "reconciliation" => name.to_owned())
        .set(report.ended.as_duration().as_secs_f64());
}

/// What a person is told, since when it is so.
fn warns(name: &str, ran: &Ran, before: Option<EngineAlert>, now: Timestamp) -> Option<EngineAlert> {
    let text = match (&ran.failed, &ran.report) {
        (Some((at, why)), _) => format!("{name} came to no end at {at}: {why}; mend what cannot be read"),
        (None, Some(report)) if !report.is_clean() => {
            let of = |(class, n): (&Class, &u64)| format!("{n} {class}");
            let mut all: Vec<String> = report.counts.iter().map(of).collect();
            all.extend((report.unconfirmed > 0).then(|| format!("{} more", report.unconfirmed)));
            let to_do = "look at `Reconciliation::last`, mend what differs, or `accept` it";
            format!("the sides of {name} differ at {}: {}; {to_do}", report.ended, all.join(", "))
        }
        _ => return None,
    };
    let since = before.map_or(now, |alert| alert.since);
    Some(EngineAlert { name: "Unreconciled", urgent: false, since, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_when_it_is_time_whatever_the_clock_does() {
        let (at, day) =
            (|hours: i64| Timestamp::from_second(hours * 3_600).unwrap(), Duration::from_secs(86_400));
        assert!(is_due(None, day, at(0)));
        assert!(!is_due(Some(at(10)), day, at(33)) && is_due(Some(at(10)), day, at(34)));
        assert!(!is_due(Some(at(10)), day, at(9)) && is_due(Some(at(40)), day, at(9)));
    }

    #[test]
    fn what_differs_is_one_alert_until_a_run_is_clean() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut ran = Ran { report: Some(Report::new("orders".to_owned(), at(0))), ..Ran::default() };
        assert_eq!(warns("orders", &ran, None, at(1)), None);
        let report = ran.report.as_mut().unwrap();
        report.counts.insert(Class::Mismatch, 2);
        let first = warns("orders", &ran, None, at(1)).unwrap();
        assert!(first.name == "Unreconciled" && first.text.contains("2 mismatch"), "{first:?}");
        ran.failed = Some((at(5), "it is away".to_owned()));
        let then = warns("orders", &ran, Some(first), at(9)).unwrap();
        assert!(then.since == at(1) && then.text.contains("it is away"), "{then:?}");
        ran = Ran { report: Some(Report::new("orders".to_owned(), at(0))), ..Ran::default() };
        assert_eq!(warns("orders", &ran, Some(then), at(9)), None);
    }
}
