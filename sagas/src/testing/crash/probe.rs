//! What stands between an engine and its surroundings: it lets things go wrong, and notes what happens.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use es_core::store::{Attempt, Commit, CommitError, Committed, RowWrite, StoreError};
use futures::future::BoxFuture;
use tokio::sync::watch;
use uuid::Uuid;

use super::point::{Case, Fault, Place, Point, PointKind};
use super::tried::confirming;
use crate::saga::Outline;
use crate::transaction::{Answer, Record, Written};

/// Where the nodes of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// They work.
    Works,
    /// This one is gone.
    Killed(usize),
    /// This one stands still.
    Stalled(usize),
    /// It goes on.
    GoesOn,
}

/// What a call came to, as whoever was called knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Began,
    Acted,
    Refused,
    Failed,
    /// It has acted in a transaction: whether that is committed is another matter.
    Within,
    /// Its caller was gone before it had ended.
    Cut,
}

/// Something that a call came to.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) step: String,
    pub(super) undo: bool,
    pub(super) came: Came,
}

/// What has happened in a case.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counts: BTreeMap<Place, u32>,
    pub(super) points: Vec<Point>,
    pub(super) calls: Vec<Event>,
    /// By its number, each record that was written: more than one, if a later writer was not stopped.
    pub(super) written: BTreeMap<u64, Vec<Record>>,
    /// Commits of which no node has heard what became of them, as they were sent.
    unheard: BTreeMap<u64, Unheard>,
    sent: u64,
    decided: bool,
    pub(super) struck: bool,
}

/// A commit that was sent, and how much had happened by then.
#[derive(Debug)]
struct Unheard {
    calls: usize,
    records: Vec<(u64, Record)>,
}

impl Seen {
    fn came(&mut self, step: &str, undo: bool, came: Came) {
        self.calls.push(Event { step: step.to_owned(), undo, came });
    }

    fn sends(&mut self, records: Vec<(u64, Record)>) -> u64 {
        self.sent += 1;
        self.unheard.insert(self.sent, Unheard { calls: self.calls.len(), records });
        self.sent
    }

    fn hears(&mut self, id: u64, outcome: &Result<Committed, CommitError>) {
        if matches!(outcome, Err(CommitError::Unknown(_))) {
            return;
        }
        if let (Some(sent), Ok(_)) = (self.unheard.remove(&id), outcome) {
            self.wrote(self.calls.len(), sent.records);
        }
    }

    /// What became of commits, as the journal of the run tells it: a commit is there before its node hears of it, and a
    /// node may have stopped listening.
    pub(super) fn settle(&mut self, journal: &[Written]) {
        // From the last one on: what is put between the calls moves those behind it.
        for (_, Unheard { calls, records }) in std::mem::take(&mut self.unheard).into_iter().rev() {
            let is_there = |(number, record): &(u64, Record)| {
                let stored = number.checked_sub(1).and_then(|n| journal.get(usize::try_from(n).ok()?));
                stored.is_some_and(|stored| stored.record == *record) && !self.written.contains_key(number)
            };
            if records.iter().all(is_there) {
                self.wrote(calls, records);
            }
        }
    }

    /// Records were written when so many calls had come to something.
    fn wrote(&mut self, calls: usize, records: Vec<(u64, Record)>) {
        let mut acted = Vec::new();
        for (number, record) in records {
            match &record {
                Record::Done { step, .. } => acted.push((step.clone(), false)),
                Record::Undone { step } => acted.push((step.clone(), true)),
                Record::Confirmed { step } => acted.push((confirming(step), false)),
                Record::Decided { .. } => self.decided = true,
                _ => {}
            }
            self.written.entry(number).or_default().push(record);
        }
        let acted = acted.into_iter().map(|(step, undo)| Event { step, undo, came: Came::Acted });
        self.calls.splice(calls..calls, acted);
    }
}

/// What the nodes of a case share.
#[derive(Debug)]
pub(super) struct Watch {
    kind: String,
    /// The sagas that are steps of it.
    within: Vec<String>,
    case: Option<Case>,
    seen: Mutex<Seen>,
    signal: watch::Sender<Signal>,
}

impl Watch {
    pub(super) fn new(outline: &Outline, case: Option<Case>) -> Arc<Self> {
        let (kind, signal) = (outline.kind.clone(), watch::Sender::new(Signal::Works));
        let within = outline.within.iter().map(|(kind, _)| kind.clone()).collect();
        Arc::new(Self { kind, within, case, seen: Mutex::default(), signal })
    }

    pub(super) fn signals(&self) -> watch::Receiver<Signal> {
        self.signal.subscribe()
    }

    /// How often a client asks for the run at once.
    pub(super) fn starts(&self) -> usize {
        let twice = |case: &Case| case.fault == Fault::Duplicate && case.point.kind == PointKind::Begin;
        1 + usize::from(self.case.as_ref().is_some_and(twice))
    }

    /// Whether somebody has written what another one had written: nothing good comes of it any more.
    pub(super) fn is_unfenced(&self) -> bool {
        self.seen().written.values().any(|records| records.len() > 1)
    }

    pub(super) fn go_on(&self) {
        self.signal.send_replace(Signal::GoesOn);
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between one engine and its surroundings. A service of the app that the engine is a part of.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    node: usize,
    gone: Arc<AtomicBool>,
    watch: Arc<Watch>,
}

/// A commit on its way.
#[derive(Debug)]
pub(crate) struct Sent {
    /// `None`: it is not of this saga.
    of: Option<(Place, PointKind, Vec<(u64, Record)>)>,
    attempt: Attempt,
}

impl Probe {
    pub(super) fn new(node: usize, watch: &Arc<Watch>) -> Self {
        Self { node, gone: Arc::default(), watch: watch.clone() }
    }

    /// From now on nothing that this node does reaches anybody.
    pub(super) fn gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// What a commit is, and under which name it is asked for.
    pub(crate) fn sent(&self, commit: &mut Commit, within: bool, name: impl FnOnce() -> Uuid) -> Sent {
        if commit.attempt.is_nil() {
            commit.attempt = name();
        }
        let attempt = Attempt::of(commit.attempt, commit);
        let of = of_commit(&self.watch.kind, commit, within);
        let of = of.or_else(|| self.watch.within.iter().find_map(|kind| of_another(kind, commit, within)));
        Sent { of, attempt }
    }

    /// Lets a commit go through, or not.
    pub(crate) async fn commit(
        &self,
        sent: Sent,
        commit: impl Future<Output = Result<Committed, CommitError>>,
    ) -> Result<Committed, CommitError> {
        let Sent { of: Some((place, kind, records)), attempt } = sent else { return commit.await };
        let fault = self.meet(place, kind).await;
        match fault {
            Some(Fault::Error) => {
                let why = io::Error::other("the crash matrix lets it fail");
                return Err(StoreError::transient("a commit", why).into());
            }
            Some(Fault::Stall) => self.stall().await,
            _ => {}
        }
        let id = self.watch.seen().sends(records);
        let outcome = commit.await;
        self.watch.seen().hears(id, &outcome);
        match (fault, &outcome) {
            (Some(Fault::AnswerLost), Ok(_)) => Err(CommitError::Unknown(Box::new(attempt))),
            (Some(Fault::Kill), _) => self.die().await,
            _ => outcome,
        }
    }

    /// What a call meets before it is made: its answer, if it is not made at all.
    pub(crate) async fn before(
        &self,
        (step, undo): (&str, bool),
        kind: PointKind,
    ) -> Result<Option<Fault>, Answer> {
        let place = if undo { Place::Undo(step.to_owned()) } else { Place::Run(step.to_owned()) };
        let fault = self.meet(place, kind).await;
        self.watch.seen().came(step, undo, Came::Began);
        match fault {
            Some(Fault::Error | Fault::Errors) => return Err(failed("the crash matrix lets it fail")),
            Some(Fault::Stall) => self.stall().await,
            _ => {}
        }
        Ok(fault)
    }

    /// Makes a call.
    pub(crate) async fn make(
        &self,
        fault: Option<Fault>,
        (step, undo): (&str, bool),
        kind: PointKind,
        mut call: BoxFuture<'_, Answer>,
    ) -> Answer {
        let noted = Noted::new(self, step, undo);
        let answer = match fault {
            Some(Fault::KillMidway) => match futures::poll!(call.as_mut()) {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    drop((call, noted));
                    return self.die().await;
                }
            },
            _ => call.await,
        };
        noted.ends(&answer, matches!(kind, PointKind::Local { .. }));
        answer
    }

    /// What comes back of a call.
    pub(crate) async fn after(&self, fault: Option<Fault>, answer: Answer) -> Answer {
        match fault {
            Some(Fault::Kill | Fault::KillMidway) => self.die().await,
            Some(Fault::AnswerLost | Fault::AnswersLost) if matches!(answer, Answer::Done(_)) => {
                failed("the crash matrix has lost the answer")
            }
            _ => answer,
        }
    }

    /// Counts what is done, and says what goes wrong with it. A node that is gone does nothing any more.
    async fn meet(&self, place: Place, kind: PointKind) -> Option<Fault> {
        if self.gone.load(Ordering::Relaxed) {
            return pending().await;
        }
        let mut seen = self.watch.seen();
        let nth = seen.counts.entry(place.clone()).or_default();
        *nth += 1;
        let nth = *nth;
        match &self.watch.case {
            None => {
                seen.points.push(Point { place, nth, kind });
                None
            }
            Some(case) if case.strikes(&place, nth, seen.decided) => {
                seen.struck = true;
                Some(case.fault)
            }
            Some(_) => None,
        }
    }

    async fn die<T>(&self) -> T {
        self.gone();
        self.watch.signal.send_replace(Signal::Killed(self.node));
        pending().await
    }

    async fn stall(&self) {
        let mut signal = self.watch.signals();
        self.watch.signal.send_replace(Signal::Stalled(self.node));
        // The watch lives as long as this node.
        drop(signal.wait_for(|signal| *signal == Signal::GoesOn).await);
    }
}

fn failed(why: &str) -> Answer {
    Answer::Failed(why.into())
}

/// A call that is under way.
struct Noted<'p> {
    probe: &'p Probe,
    step: &'p str,
    undo: bool,
    came: Came,
}

impl<'p> Noted<'p> {
    fn new(probe: &'p Probe, step: &'p str, undo: bool) -> Self {
        Self { probe, step, undo, came: Came::Cut }
    }

    fn ends(mut self, answer: &Answer, within: bool) {
        self.came = match answer {
            Answer::Done(_) if within => Came::Within,
            Answer::Done(_) => Came::Acted,
            Answer::Refused(_) => Came::Refused,
            Answer::Failed(_) => Came::Failed,
        };
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.probe.watch.seen().came(self.step, self.undo, self.came);
    }
}

/// The place of a commit, what it is, and the records in it with their numbers; `None`: it is not of this saga.
fn of_commit(kind: &str, commit: &Commit, within: bool) -> Option<(Place, PointKind, Vec<(u64, Record)>)> {
    let (head, journal) = (format!("txn.heads.{kind}"), format!("txn.journal.{kind}"));
    commit.rows.iter().find(|row| *row.table == *head)?;
    let record = |row: &RowWrite| {
        let number = row.key.rsplit(':').next()?.parse().ok()?;
        let written: Written = serde_json::from_slice(row.row.as_deref()?).ok()?;
        Some((number, written.record))
    };
    let records: Vec<_> =
        commit.rows.iter().filter(|row| *row.table == *journal).filter_map(record).collect();
    let first = records.first().map(|(_, record)| record);
    let kind = match first {
        Some(Record::Begun { .. }) => PointKind::Begin,
        _ => PointKind::Commit { within },
    };
    Some((Place::of_commit(first), kind, records))
}

/// The same for a saga that is a step: its records are its own matter.
fn of_another(kind: &str, commit: &Commit, within: bool) -> Option<(Place, PointKind, Vec<(u64, Record)>)> {
    let (place, point, _) = of_commit(kind, commit, within)?;
    let place = match place {
        Place::Commit(what) => Place::Commit(format!("{kind}/{what}")),
        place => place,
    };
    Some((place, point, Vec::new()))
}

#[cfg(test)]
mod tests {
    use es_core::store::StoreError;

    use super::*;

    fn undone(step: &str) -> Record {
        Record::Undone { step: step.to_owned() }
    }

    fn journal(records: &[Record]) -> Vec<Written> {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        records.iter().map(|record| Written { at, record: record.clone() }).collect()
    }

    #[test]
    fn what_no_node_has_heard_of_is_as_the_journal_tells_it() {
        let mut seen = Seen::default();
        seen.sends(vec![(1, undone("a"))]);
        seen.came("b", true, Came::Began);
        let refused = seen.sends(vec![(2, undone("b"))]);
        seen.hears(refused, &Err(StoreError::transient("a commit", io::Error::other("busy")).into()));
        // Another node has written it as well, and only one of them can be.
        seen.sends(vec![(2, undone("b"))]);
        seen.sends(vec![(2, undone("b"))]);
        seen.sends(vec![(3, undone("c"))]);
        seen.settle(&journal(&[undone("a"), undone("b"), undone("d")]));

        let acted: Vec<_> = seen.calls.iter().map(|call| (&*call.step, call.came)).collect();
        assert_eq!(acted, [("a", Came::Acted), ("b", Came::Began), ("b", Came::Acted)]);
        assert_eq!(
            seen.written.into_iter().collect::<Vec<_>>(),
            [(1, vec![undone("a")]), (2, vec![undone("b")])]
        );
    }
}
