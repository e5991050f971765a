//! Watches, on each node, whether any transaction needs a person, whatever its pattern.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::Timestamp;
use es_core::cluster::Runs;
use es_core::engine::{Engine, EngineAlert, EngineStatus, Node};
use es_core::limits::MAX_PAGE;
use tokio_util::sync::CancellationToken;

use super::all::{Cursor, Overview, Page};
use super::filter::Filter;
use super::listed::Pattern;
use super::source::Sources;

/// Between two counts, and between two pages of one.
const EVERY: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_secs(2);
/// More than this many are urgent.
const MANY: u64 = 10;

/// How many wait, by pattern and kind.
type Waiting = BTreeMap<(Pattern, String), u64>;

pub(super) struct Watch {
    all: Overview,
    node: OnceLock<Node>,
    alert: Mutex<Option<EngineAlert>>,
}

impl Watch {
    pub(super) fn new(sources: Sources) -> Self {
        Self { all: Overview::of(sources), node: OnceLock::new(), alert: Mutex::default() }
    }

    fn alert(&self) -> MutexGuard<'_, Option<EngineAlert>> {
        self.alert.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (mut round, mut pause) = (Round::new(self.all.kinds()), EVERY);
        loop {
            let look = async {
                tokio::time::sleep(pause).await;
                self.all.page(&Filter::needs_person(), round.after.as_ref(), MAX_PAGE).await
            };
            match stop.run_until_cancelled(look).await {
                None => return,
                Some(Ok(page)) => pause = if round.takes(page) { EVERY } else { PAUSE },
                // Its cursor is none any more: it begins anew.
                Some(Err(_)) => {
                    round.begins_anew();
                    pause = EVERY;
                }
            }
            if round.after.is_none() {
                measure(&round.known);
                let mut alert = self.alert();
                *alert = warns(&round.known, alert.take(), node.ids.clock().now());
            }
        }
    }

    fn status(&self) -> Vec<EngineStatus> {
        // It has no work of its own to be behind with: an entry only while there is something to say.
        let warned = self.alert().clone().map(|alert| {
            let mut status = EngineStatus::idle("transactions".to_owned());
            status.alerts.push(alert);
            status
        });
        warned.into_iter().collect()
    }
}

/// A count over all sources that is under way, and what the last one has found.
#[derive(Debug, Default)]
struct Round {
    after: Option<Cursor>,
    found: Waiting,
    /// Those that could not be asked: what was known of them stays.
    kept: Vec<(Pattern, String)>,
    known: Waiting,
}

impl Round {
    fn new(kinds: Vec<(Pattern, String)>) -> Self {
        let known = kinds.into_iter().map(|kind| (kind, 0)).collect();
        Self { known, ..Self::default() }
    }

    /// What was found so far is found again.
    fn begins_anew(&mut self) {
        self.after = None;
        self.found.clear();
        self.kept.clear();
    }

    /// Takes in a page. Whether it was the last one.
    fn takes(&mut self, page: Page) -> bool {
        for listed in page.transactions {
            *self.found.entry((listed.which.pattern, listed.which.kind)).or_default() += 1;
        }
        self.kept.extend(page.unasked.into_iter().map(|unasked| (unasked.pattern, unasked.kind)));
        self.after = page.next;
        if self.after.is_some() {
            return false;
        }
        let found = std::mem::take(&mut self.found);
        for (kind, known) in &mut self.known {
            let now = found.get(kind).copied().unwrap_or_default();
            // What a part of a source says is less than all of it.
            *known = if self.kept.contains(kind) { now.max(*known) } else { now };
        }
        self.kept.clear();
        true
    }
}

fn measure(known: &Waiting) {
    for ((pattern, kind), n) in known {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("es_transactions_waiting", "pattern" => pattern.name(), "kind" => kind.clone())
            .set(*n as f64);
    }
}

/// What a person is told, since when it is so.
fn warns(known: &Waiting, before: Option<EngineAlert>, now: Timestamp) -> Option<EngineAlert> {
    let all: u64 = known.values().sum();
    if all == 0 {
        return None;
    }
    let of = |((pattern, kind), n): (&(Pattern, String), &u64)| format!("{n} of {pattern} {kind}");
    let of = known.iter().filter(|(_, n)| **n > 0).map(of).collect::<Vec<_>>().join(", ");
    let to_do = "list them with `app.transactions()` and `Filter::needs_person`";
    let text = format!("{all} transactions need a person: {of}; {to_do}");
    let since = before.map_or(now, |alert| alert.since);
    Some(EngineAlert { name: "TransactionsWaiting", urgent: all > MANY, since, text })
}

#[cfg(test)]
mod tests {
    use super::super::all::Unasked;
    use super::super::listed::{Listed, Status, Which};
    use super::*;

    fn page(kinds: &[&str], unasked_of: &[&str], more: bool) -> Page {
        let listed = |kind: &&str| Listed::new(Which::new(Pattern::SAGA, *kind, "k"), 1, Status::Parked);
        let unasked = |kind: &&str| {
            let (kind, why) = ((*kind).to_owned(), "it is away".to_owned());
            Unasked { pattern: Pattern::SAGA, kind, part: None, why }
        };
        Page {
            transactions: kinds.iter().map(listed).collect(),
            unasked: unasked_of.iter().map(unasked).collect(),
            next: more.then(|| Cursor::from("saga/b/".to_owned())),
        }
    }

    fn known(round: &Round) -> Vec<u64> {
        round.known.values().copied().collect()
    }

    #[test]
    fn what_needs_a_person_is_counted_over_all_pages_and_what_is_away_is_not_taken_for_none() {
        let kinds = ["a", "b"].map(|kind| (Pattern::SAGA, kind.to_owned()));
        let mut round = Round::new(kinds.to_vec());
        assert!(!round.takes(page(&["a", "a"], &[], true)));
        assert_eq!(known(&round), [0, 0], "it is not known before all was seen");
        assert!(round.takes(page(&["a", "b"], &[], false)));
        assert_eq!(known(&round), [3, 1]);
        assert!(round.takes(page(&["b", "b"], &["a"], false)));
        assert_eq!(known(&round), [3, 2]);
        assert!(round.takes(page(&[], &[], false)));
        assert_eq!(known(&round), [0, 0]);
    }

    #[test]
    fn a_count_that_begins_anew_counts_nothing_twice() {
        let mut round = Round::new(["a", "b"].map(|kind| (Pattern::SAGA, kind.to_owned())).to_vec());
        assert!(!round.takes(page(&["a", "a"], &["b"], true)));
        round.begins_anew();
        assert!(round.after.is_none() && round.takes(page(&["a", "a"], &[], false)));
        assert_eq!(known(&round), [2, 0]);
    }

    #[test]
    fn one_alert_says_how_many_need_a_person_and_since_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let waiting =
            |n| Waiting::from([((Pattern::SAGA, "a".to_owned()), n), ((Pattern::TCC, "b".to_owned()), 0)]);
        assert_eq!(warns(&waiting(0), None, at(1)), None);
        let first = warns(&waiting(10), None, at(1)).unwrap();
        assert!(!first.urgent && first.text.contains("10 of saga a") && !first.text.contains("tcc"));
        let then = warns(&waiting(11), Some(first), at(9)).unwrap();
        assert_eq!((then.urgent, then.since), (true, at(1)));
    }
}
