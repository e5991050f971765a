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
use es_core::store::Prepared;
use es_core::{AppBuilder, Backend, BoxError, chain};
use tokio_util::sync::CancellationToken;

use super::forget::Place;
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
        let app = self.provide(two_phase.clone()).engine(Arc::new(recovery));
        crate::overview::add(app, |sources| sources.add(Arc::new(two_phase.clone())))
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
    /// When it has looked last, whatever came of it.
    at: Option<Timestamp>,
    failing: Option<String>,
    last: Recovered,
    /// When each participant has last said what is prepared there; from the first look on.
    asked: BTreeMap<String, Timestamp>,
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
        let configured: Vec<_> = self.two_phase.0.participants.keys().cloned().collect();
        // What hangs behind the scan is not waited for.
        let scanned = |found: &_| self.seen().scanned(found, &configured, now());
        let (found, failed) = self.two_phase.0.look(scanned).await;
        let failed = failed.map(|error| chain(&error));
        if let Some(error) = &failed {
            tracing::warn!(error, "transactions across databases cannot be recovered now");
        }
        self.seen().takes(found, failed.as_deref(), &configured, now());
    }
}

impl Seen {
    /// What is prepared, before anything is done about it.
    fn scanned(&mut self, found: &BTreeMap<String, Vec<Prepared>>, configured: &[String], now: Timestamp) {
        let torn = &self.last.torn;
        let in_doubt = found.iter().map(|(name, found)| (name.clone(), Waiting::of(found, torn)));
        let mut found = Recovered { in_doubt: in_doubt.collect(), ..self.last.clone() };
        // They were counted.
        (found.committed, found.aborted, found.failed) = (0, 0, BTreeMap::new());
        self.waits(&mut found, configured, now);
        measure(&found, &self.last, configured, &self.asked);
        self.alerts = alerts(&found, &self.asked, &self.alerts, now);
        (self.at, self.last) = (Some(now), found);
    }

    /// Who has answered; of the others, what was prepared there may be so still.
    fn waits(&mut self, found: &mut Recovered, configured: &[String], now: Timestamp) {
        for name in configured {
            let asked = self.asked.entry(name.clone()).or_insert(now);
            if found.in_doubt.contains_key(name) {
                *asked = now;
                continue;
            }
            let before = self.last.in_doubt.get(name).filter(|waiting| waiting.branches > 0);
            let since = self.at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
            let later = |waiting: &Waiting| waiting.later(since.unwrap_or_default());
            found.in_doubt.extend(before.map(|waiting| (name.clone(), later(waiting))));
        }
    }

    /// A look, and why the list could not be seen to, if it could not.
    fn takes(&mut self, mut found: Recovered, list: Option<&str>, configured: &[String], now: Timestamp) {
        self.waits(&mut found, configured, now);
        if list.is_some() {
            let Recovered { unfinished, missing, abandoned, parked, unread, torn, .. } = &self.last;
            (found.unfinished, found.missing) = (unfinished.clone(), missing.clone());
            (found.parked, found.unread) = (parked.clone(), unread.clone());
            found.abandoned.clone_from(abandoned);
            found.torn.extend(torn);
        }
        measure(&found, &self.last, configured, &self.asked);
        self.failing = failing(&found, list);
        self.alerts = alerts(&found, &self.asked, &self.alerts, now);
        if list.is_none() {
            self.looked = Some(now);
        }
        (self.at, self.last) = (Some(now), found);
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
        let mut place = Place::default();
        loop {
            let look = async {
                self.look(|| node.ids.clock().now()).await;
                self.two_phase.0.forget(&mut place).await;
            };
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

fn failing(found: &Recovered, list: Option<&str>) -> Option<String> {
    let of = |(name, why): (&String, &String)| format!("participant {name:?}: {why}");
    let list = list.map(|why| format!("the list of what was decided: {why}"));
    let store = found.store.iter().map(|why| format!("the store, what was decided: {why}"));
    list.into_iter()
        .chain(store)
        .chain(found.failed.iter().map(of))
        .reduce(|all, one| format!("{all}; {one}"))
}

/// What somebody is to look at, each since when it is so.
fn alerts(
    found: &Recovered,
    asked: &BTreeMap<String, Timestamp>,
    before: &[EngineAlert],
    now: Timestamp,
) -> Vec<EngineAlert> {
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
    let is_late = |at: &Timestamp| now.duration_since(*at).unsigned_abs() > IN_DOUBT && now > *at;
    let unasked: Vec<_> = asked.iter().filter(|(_, at)| is_late(at)).map(|(name, _)| name).collect();
    if !unasked.is_empty() {
        let names = names(unasked.into_iter());
        let text = format!("{names} cannot be asked what is prepared there, which may hold its locks");
        add("TwoPhaseUnasked", true, text);
    }
    if !found.torn.is_empty() {
        let n = found.torn.len();
        let to_do = "look at `TwoPhase::strays`, and `adopt` them";
        let text = format!(
            "{n} transactions are committed in one database and prepared in another, or were before somebody has ended that by \
             hand, or nobody can know, undecided: {to_do}"
        );
        add("TwoPhaseTorn", true, text);
    }
    if !found.parked.is_empty() || !found.unread.is_empty() {
        let to_do = "look at `TwoPhase::pending`, mend it by hand, and `accept` it";
        let (n, names) = (found.parked.values().sum::<u64>(), names(found.parked.keys()));
        let unread = found.unread.len();
        let text = format!(
            "{n} branches at {names} are not what was decided, {unread} rows cannot be read: {to_do}"
        );
        add("TwoPhaseParked", true, text);
    }
    if !found.missing.is_empty() || !found.abandoned.is_empty() {
        // What is to be rolled back keeps nobody waiting, but for its locks.
        let (urgent, names) = (!found.missing.is_empty(), names(found.missing.union(&found.abandoned)));
        let text = format!("decided transactions wait for {names}, not configured on this node");
        add("TwoPhaseMissing", urgent, text);
    }
    alerts
}

fn names(names: impl Iterator<Item = impl fmt::Debug>) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// What a participant has is shown until it was looked at again: a look that fails says nothing of it.
fn measure(
    found: &Recovered,
    before: &Recovered,
    configured: &[String],
    asked: &BTreeMap<String, Timestamp>,
) {
    for (outcome, n) in [("committed", found.committed), ("aborted", found.aborted)] {
        metrics::counter!("es_two_phase_recovered_total", "outcome" => outcome).increment(n);
    }
    for (name, waiting) in &found.in_doubt {
        show("es_two_phase_in_doubt", name, waiting.branches);
        let oldest = waiting.oldest.as_secs_f64();
        metrics::gauge!("es_two_phase_in_doubt_seconds", "participant" => name.clone()).set(oldest);
    }
    for (name, at) in asked {
        let at = at.as_duration().as_secs_f64();
        metrics::gauge!("es_two_phase_looked_timestamp_seconds", "participant" => name.clone()).set(at);
    }
    for name in found.failed.keys() {
        metrics::counter!("es_two_phase_failed_looks_total", "participant" => name.clone()).increment(1);
    }
    let once = before.unfinished.keys().chain(before.parked.keys());
    let now = found.unfinished.keys().chain(found.parked.keys());
    for name in configured.iter().chain(once).chain(now).collect::<BTreeSet<_>>() {
        let of = |all: &BTreeMap<String, u64>| all.get(name).copied().unwrap_or_default();
        show("es_two_phase_unfinished", name, of(&found.unfinished));
        show("es_two_phase_parked", name, of(&found.parked));
    }
    let n = |all: usize| u64::try_from(all).unwrap_or(u64::MAX);
    show("es_two_phase_parked", "unread", n(found.unread.len()));
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("es_two_phase_torn").set(n(found.torn.len()) as f64);
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
            alerts(&found, &BTreeMap::new(), &[], at(1))
                .into_iter()
                .map(|alert| alert.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(IN_DOUBT), [""; 0]);
        assert_eq!(waits(IN_DOUBT + Duration::from_millis(1)), ["TwoPhaseInDoubt"]);
        found.parked.insert("stock".to_owned(), 1);
        found.missing.insert("billing".to_owned());
        let first = alerts(&found, &BTreeMap::new(), &[], at(1));
        let names: Vec<_> = first.iter().map(|alert| alert.name).collect();
        assert_eq!(names, ["TwoPhaseInDoubt", "TwoPhaseParked", "TwoPhaseMissing"]);
        assert!(first[0].text.contains("2 at \"stock\"") && first[2].text.contains("\"billing\""));
        // It is so since then.
        found.in_doubt.clear();
        let then = alerts(&found, &BTreeMap::new(), &first, at(9));
        assert_eq!(then, first[1..]);
        let left = Recovered { torn: BTreeSet::from([uuid::Uuid::nil()]), ..Recovered::default() };
        assert_eq!(alerts(&left, &BTreeMap::new(), &[], at(1))[0].name, "TwoPhaseTorn");
        let damaged = BTreeMap::from([("x".to_owned(), "it is no key".to_owned())]);
        let damaged = Recovered { unread: damaged, ..Recovered::default() };
        assert_eq!(alerts(&damaged, &BTreeMap::new(), &[], at(1))[0].name, "TwoPhaseParked");
    }

    #[test]
    fn what_is_prepared_is_an_alert_also_where_nobody_can_be_asked() {
        let (mut seen, names) = (Seen::default(), ["stock".to_owned()]);
        let mut takes = |found: &Recovered, list: Option<&str>, second| {
            seen.takes(found.clone(), list, &names, at(second));
            let alerts = seen.alerts.iter().map(|alert| alert.name).collect::<Vec<_>>();
            (alerts, seen.failing.clone().unwrap_or_default(), seen.looked)
        };
        // The store is away, and the participant is not: what waits is seen.
        let mut found = Recovered::default();
        found.parked.insert("stock".to_owned(), 1);
        takes(&found, None, 1);
        let mut found = Recovered::default();
        found.in_doubt.insert("stock".to_owned(), Waiting { branches: 1, oldest: IN_DOUBT + IN_DOUBT });
        let (alerts, failing, looked) = takes(&found, Some("the store is away"), 2);
        assert_eq!(alerts, ["TwoPhaseInDoubt", "TwoPhaseParked"]);
        assert!(failing.contains("the store is away"));
        assert_eq!(looked, Some(at(1)));
        // Then the participant is away: what was prepared there grows older.
        found.in_doubt.insert("stock".to_owned(), Waiting { branches: 1, oldest: IN_DOUBT });
        assert!(takes(&found, None, 3).0.is_empty());
        let away = Recovered::default();
        assert_eq!(takes(&away, None, 4).0, ["TwoPhaseInDoubt"]);
        assert_eq!(takes(&away, None, 34).0, ["TwoPhaseInDoubt", "TwoPhaseUnasked"]);
        let answers = BTreeMap::from([("stock".to_owned(), Waiting::default())]);
        let answers = Recovered { in_doubt: answers, ..Recovered::default() };
        assert_eq!(takes(&answers, None, 35).0, [""; 0]);
        assert_eq!(takes(&away, None, 65).0, [""; 0]);
        assert_eq!(takes(&away, None, 66).0, ["TwoPhaseUnasked"]);
    }

    #[test]
    fn what_a_person_has_to_decide_about_is_an_alert_until_it_is_decided() {
        let (mut seen, names) = (Seen::default(), ["stock".to_owned()]);
        let txn = uuid::Uuid::nil();
        let torn = Recovered { torn: BTreeSet::from([txn]), ..Recovered::default() };
        seen.takes(torn, None, &names, at(1));
        // The list cannot be read, and nobody is asked for long: it is no branch that waits for an answer.
        seen.takes(Recovered::default(), Some("the store is away"), &names, at(2));
        let id = es_core::store::BranchId::new(uuid::Uuid::nil(), txn, "stock").expect("a branch");
        let prepared =
            BTreeMap::from([("stock".to_owned(), vec![Prepared { id, age: IN_DOUBT + IN_DOUBT }])]);
        seen.scanned(&prepared, &names, at(3));
        let alerts: Vec<_> = seen.alerts.iter().map(|alert| (alert.name, alert.since)).collect();
        assert_eq!(alerts, [("TwoPhaseTorn", at(1))]);
        assert_eq!(seen.last.in_doubt["stock"].branches, 1);
        seen.takes(Recovered::default(), None, &names, at(4));
        assert_eq!(seen.last.torn.len(), 0);
    }

    #[test]
    fn what_is_prepared_is_an_alert_before_the_look_is_over() {
        let (mut seen, names) = (Seen::default(), ["stock".to_owned()]);
        let id =
            es_core::store::BranchId::new(uuid::Uuid::nil(), uuid::Uuid::nil(), "stock").expect("a branch");
        let prepared =
            BTreeMap::from([("stock".to_owned(), vec![Prepared { id, age: IN_DOUBT + IN_DOUBT }])]);
        seen.scanned(&prepared, &names, at(1));
        assert_eq!(seen.alerts[0].name, "TwoPhaseInDoubt");
    }

    #[test]
    fn what_is_to_be_rolled_back_where_nobody_looks_is_not_urgent() {
        let mut found = Recovered::default();
        found.abandoned.insert("stock".to_owned());
        let urgent = |found: &Recovered| alerts(found, &BTreeMap::new(), &[], at(1))[0].urgent;
        assert!(!urgent(&found));
        found.missing.insert("billing".to_owned());
        assert!(urgent(&found));
    }

    #[test]
    fn a_participant_that_cannot_be_asked_is_named() {
        let mut found = Recovered::default();
        assert_eq!(failing(&found, None), None);
        found.failed.insert("stock".to_owned(), "it is away".to_owned());
        assert_eq!(failing(&found, None).as_deref(), Some("participant \"stock\": it is away"));
        // What the store says is not put down to a participant.
        let store = Recovered { store: Some("it is away".to_owned()), ..Recovered::default() };
        assert_eq!(failing(&store, None).as_deref(), Some("the store, what was decided: it is away"));
    }
}
