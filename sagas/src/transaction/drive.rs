//! The task of one run: asks the protocol what is to be done, makes the calls, and commits what they came to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use es_core::engine::Node;
use es_core::guarded::caught;
use es_core::store::{Commit, CommitError, Committed, Row, RowAt, RowWrite, StoreError, Transaction, Won};
use es_core::{Backend, BoxError, ErrorKind, Timestamp, chain};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::StoreClock;
use super::destination::{self, Held, Open};
use super::door;
use super::family::{Errand, SLOWLY};
use super::instance::{Change, Instance};
use super::life::{self, SagaEvent};
use super::numbers::Numbers;
use super::outcome::Teller;
use super::protocol::{Acts, Answer, Call, Next, No, OwnFault, Site};
use super::rows::{Head, Record, Tables, Wake, Written};
use crate::lock::LockTables;

/// What waits for less than this stays in memory.
const STAYS: Duration = Duration::from_secs(2);
/// The longest wait in memory: the store's clock may be set, or have run on while the machine slept.
const POLL: Duration = Duration::from_secs(1);
/// When a run that waits for a person is looked at, though nobody has asked for it.
const FAR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The pause before a store that failed is asked again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// The longest pause before that is read again which another was faster with, at first and at most.
const TURN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(320));
/// For how long a step may fail as a store fails, while the store takes writes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often in a row another may be faster with what a step decided on, before that is a failure of it.
const CONFLICTS: u32 = 8;
/// How much is taken in at once of what is asked of a run.
const ASKED: usize = 100;

/// What the runs of one definition share on a node.
#[derive(Debug)]
pub(crate) struct Desk<B, P> {
    pub(crate) kind: Arc<str>,
    pub(crate) protocol: Arc<P>,
    pub(crate) tables: Tables,
    pub(crate) backend: Arc<B>,
    pub(crate) node: Node,
    pub(crate) clock: Arc<StoreClock>,
    pub(crate) numbers: Arc<Numbers>,
}

/// Why a run is not driven any more.
#[derive(Debug)]
pub(crate) enum Left {
    /// It has ended.
    Ended,
    /// It is looked at again at that time, or when something is asked of it.
    Sleeps(Timestamp),
    /// Somebody else has written it.
    Lost,
    /// The work was stopped.
    Stopped,
    /// It cannot go on as it is: it is tried again later.
    Trouble(String),
    /// What happened cannot be told by this program, which is no failure of a step: it is tried again later, or elsewhere.
    Untold(String),
}

/// What is committed of calls.
pub(super) struct Effect {
    /// The call; `None`: not one that is done.
    pub(super) call: Option<Call>,
    /// Whether a transaction of the database is open.
    pub(super) is_open: bool,
    pub(super) at: Timestamp,
}

/// Why a run is not left behind as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stays {
    /// An answer is at hand that is not written yet.
    Told,
    /// It is written that it is taken up, and nothing was called since: whoever has it next takes that for called.
    Taken,
}

/// What wakes a run that is driven, and what is asked of it.
pub(crate) type Inbox = UnboundedReceiver<Row<Wake>>;

/// A run that is driven.
pub(crate) struct Drive<B: Backend, P: Acts<B>> {
    pub(super) desk: Arc<Desk<B, P>>,
    pub(super) instance: Instance<P>,
    pub(super) site: Site,
    calls: JoinSet<(Call, Answer)>,
    pub(super) busy: BTreeSet<Call>,
    pub(super) inbox: Inbox,
    stop: CancellationToken,
    /// Calls that may be made, once it is written that it is taken up.
    passes: Vec<Open>,
    /// Since when a step has failed as a store fails.
    suspected: Option<Instant>,
    failures: u32,
    /// How often in a row another was faster with a lock, or with what a step decided on.
    turns: u32,
    /// Whether steps that only stage are committed one by one, since a commit of several was refused.
    pub(super) alone: bool,
    /// Why it is not left behind as it is, if it is not.
    stays: Option<Stays>,
    /// Whether a child may have something to say.
    pub(super) looks: bool,
}

impl<B: Backend, P: Acts<B>> Drive<B, P> {
    pub(crate) fn new(
        desk: Arc<Desk<B, P>>,
        instance: Instance<P>,
        inbox: Inbox,
        stop: CancellationToken,
    ) -> Self {
        let (run, key) = (instance.run, instance.head.value.key.clone());
        let (sender, services) = (desk.node.sender.clone(), desk.node.services.clone());
        let site = Site { run, key, sender, services };
        let (calls, busy, passes) = (JoinSet::new(), BTreeSet::new(), Vec::new());
        let (suspected, failures, turns, alone, looks) = (None, 0, 0, false, true);
        Self {
            desk,
            instance,
            site,
            calls,
            busy,
            inbox,
            stop,
            passes,
            suspected,
            failures,
            turns,
            alone,
            stays: None,
            looks,
        }
    }

    /// Until it has ended, sleeps, or is somebody else's: why, and what of it was not taken in. `begun`: it was taken up in
    /// the commit that began it, and this is told how it ends.
    pub(crate) async fn run(mut self, begun: Option<Teller>) -> (Left, Inbox) {
        let left = match self.drive_on(begun.is_some()).await {
            Ok(never) => match never {},
            Err(left) => left,
        };
        if let (Left::Ended, Some(teller)) = (&left, begun) {
            teller.send_replace(self.instance.head.value.outcome.clone());
        }
        (left, self.inbox)
    }

    async fn drive_on(&mut self, taken: bool) -> Result<std::convert::Infallible, Left> {
        let is_taken = taken && !self.desk.protocol.calls_once();
        if !is_taken && self.desk.protocol.calls_outside(&self.instance.state) {
            if self.stop.is_cancelled() {
                return Err(Left::Stopped);
            }
            self.commit(vec![Record::Taken {}], Vec::new()).await?;
            self.stays = Some(Stays::Taken);
        }
        loop {
            self.take_in().await?;
            let now = self.now().await?;
            let next = self.desk.protocol.next(self.instance.run, &self.instance.state, &self.busy, now);
            match next {
                Next::Ended => return Err(Left::Ended),
                Next::Append(records) => self.commit(records, Vec::new()).await?,
                Next::Act { calls, until } => self.act(calls, until, now).await?,
            }
        }
    }

    /// The time of the store.
    pub(super) async fn now(&mut self) -> Result<Timestamp, Left> {
        loop {
            match self.desk.clock.now(&*self.desk.backend).await {
                Ok(now) => return Ok(now),
                Err(error) => self.pause(&error).await?,
            }
        }
    }

    /// Waits before that is read again which another was faster with: others are to have their turn.
    async fn turn(&mut self) -> Result<(), Left> {
        self.turns = self.turns.saturating_add(1);
        let longest = TURN.0 * (1 << self.turns.min(8));
        let pause = longest.min(TURN.1).mul_f64(self.desk.node.ids.fraction());
        tokio::select! {
            () = self.stop.cancelled(), if self.stays.is_none() => Err(Left::Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Waits before the store is asked again.
    pub(super) async fn pause(&mut self, error: &StoreError) -> Result<(), Left> {
        if error.kind() != ErrorKind::Transient {
            return Err(Left::Trouble(chain(error)));
        }
        self.failures = self.failures.saturating_add(1);
        let pause = (AGAIN.0 * (1 << self.failures.min(8))).min(AGAIN.1);
        tokio::select! {
            () = self.stop.cancelled(), if self.stays.is_none() => Err(Left::Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Whether a call can be begun.
    pub(super) fn may_call(&self) -> bool {
        (self.stays == Some(Stays::Taken) || !self.stop.is_cancelled())
            && self.desk.node.cluster.lease().holds()
    }

    /// Makes calls, or waits until there is something to do.
    async fn act(
        &mut self,
        mut calls: Vec<Call>,
        mut until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Left> {
        let kept = std::mem::take(&mut self.passes);
        let may_call = self.may_call();
        let mut has_children = false;
        if may_call {
            self.stays = None;
            let errands = self.errands(&self.instance.state, &calls);
            has_children = !errands.is_empty();
            calls.retain(|call| errands.iter().all(|(of, _)| of != call));
            if has_children && self.see_to(errands).await? {
                return Ok(());
            }
            let (local, outside): (Vec<Call>, Vec<Call>) =
                calls.iter().copied().partition(|call| self.desk.protocol.is_local(*call));
            let (open, held) = destination::sort(&self.desk, self.instance.run, outside, kept);
            if !open.is_empty() && self.desk.protocol.is_held(&self.instance.state) {
                // From now on a call may be under way. Which ones are still wanted is looked at once that is written.
                self.passes = open;
                return self.commit(vec![Record::Taken {}], Vec::new()).await;
            }
            for open in open {
                self.call_outside(open);
            }
            if let Some(call) = local.first() {
                return match self.desk.protocol.is_staged(*call) {
                    true => self.stage(*call).await,
                    false => self.call_within(*call).await,
                };
            }
            if let Some(Held { steps, waits }) = held {
                let again = now.saturating_add(waits).unwrap_or(now);
                let first = until.map_or(again, |until| until.min(again));
                if self.busy.is_empty() {
                    return self.hold(steps, first).await;
                }
                until = Some(first);
            }
        } else if self.busy.is_empty() && self.stop.is_cancelled() {
            return Err(Left::Stopped);
        }
        let waits = if may_call || calls.is_empty() { until } else { None };
        if self.busy.is_empty() && (may_call || calls.is_empty()) {
            // One that waits for a person is looked at some time.
            let asleep = self.instance.head.value.wake.filter(|wake| is_later(*wake, now, STAYS));
            let until = match waits {
                Some(until) if has_children => until.min(asleep.unwrap_or_else(|| idle(now, true))),
                waits => waits.or(asleep).unwrap_or_else(|| idle(now, has_children)),
            };
            if is_later(until, now, STAYS) {
                return self.sleep(until).await;
            }
        }
        let pause = match waits {
            Some(until) => Duration::try_from(until - now).unwrap_or_default(),
            // A lease that is not held comes back, or the work is stopped.
            None if !calls.is_empty() => AGAIN.0,
            None => POLL,
        };
        let pause = pause.min(POLL);
        tokio::select! {
            Some(answered) = self.calls.join_next() => self.answered(answered).await,
            Some(wake) = self.inbox.recv() => self.asked(vec![wake]).await,
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.stop.cancelled(), if self.busy.is_empty() => Err(Left::Stopped),
        }
    }

    /// Leaves it to whoever is there at a time, once what was asked of it is taken in.
    async fn sleep(&mut self, until: Timestamp) -> Result<(), Left> {
        if !self.inbox.is_empty() {
            return Ok(());
        }
        let head = &self.instance.head.value;
        // What has woken it goes, also if it has brought nothing new.
        if head.wake != Some(until) || self.instance.is_woken() {
            self.write(Vec::new(), Vec::new(), Some(until), Vec::new()).await?;
        }
        Err(Left::Sleeps(until))
    }

    /// Lays it down until its destinations may be back: it leaves memory, so that it holds up no other. That none of its
    /// calls is under way is not written again while that stands.
    async fn hold(&mut self, steps: Vec<String>, until: Timestamp) -> Result<(), Left> {
        if !self.inbox.is_empty() {
            return Ok(());
        }
        let is_held = self.desk.protocol.is_held(&self.instance.state);
        let records = if is_held { Vec::new() } else { vec![Record::Held { steps }] };
        self.write(records, Vec::new(), Some(until), Vec::new()).await?;
        Err(Left::Sleeps(until))
    }

    fn call_outside(&mut self, Open { call, pass }: Open) {
        let (state, site, desk) = (self.instance.state.clone(), self.site.clone(), self.desk.clone());
        let (limit, answer) = (desk.protocol.limit(call), desk.protocol.remote(state, call, site));
        self.busy.insert(call);
        self.calls.spawn(async move {
            let answer = within(limit, answer).await;
            if let Some(pass) = pass {
                destination::learn(pass, &answer, |tried| desk.protocol.rests(call, tried));
            }
            (call, answer)
        });
    }

    async fn answered(&mut self, joined: Result<(Call, Answer), tokio::task::JoinError>) -> Result<(), Left> {
        // Panics are answers, and no call is aborted before its run.
        let Ok((call, answer)) = joined else { return Err(Left::Stopped) };
        self.busy.remove(&call);
        let record = self.desk.protocol.answered(&self.instance.state, call, answer);
        self.stays = Some(Stays::Told);
        let recorded = match self.joined(&record).await {
            Ok(false) => self.record(record).await,
            joined => joined.map(drop),
        };
        self.stays = None;
        recorded
    }

    /// Writes what a call came to. What the store cannot hold has failed.
    pub(super) async fn record(&mut self, record: Record) -> Result<(), Left> {
        let step = match &record {
            Record::Done { step, .. } | Record::Confirmed { step } => Some((step.clone(), false)),
            Record::Undone { step } => Some((step.clone(), true)),
            _ => None,
        };
        match (self.commit(vec![record], Vec::new()).await, step) {
            (Err(Left::Trouble(error)), Some((step, undo))) => {
                self.commit(vec![Record::Failed { step, undo, error }], Vec::new()).await
            }
            (done, _) => done,
        }
    }

    /// A call within a transaction, and its record with it.
    async fn call_within(&mut self, call: Call) -> Result<(), Left> {
        let desk = self.desk.clone();
        let mut tx = match desk.backend.begin().await {
            Ok(tx) => tx,
            Err(error) => return self.pause(&error).await,
        };
        let (limit, protocol) = (desk.protocol.limit(call), &desk.protocol);
        let answer = within(limit, protocol.local(&self.instance.state, call, &self.site, &mut tx)).await;
        let Answer::Done(output) = answer else {
            drop(tx.rollback().await);
            return self.not_done(call, answer).await;
        };
        let record = protocol.answered(&self.instance.state, call, Answer::Done(output));
        let at = self.now().await?;
        match self.change(vec![record], at) {
            Ok(change) => self.finish(tx, change, Effect { call: Some(call), is_open: true, at }).await,
            // What it left cannot be read again: it has failed.
            Err(Left::Trouble(error)) => {
                drop(tx.rollback().await);
                self.not_done(call, Answer::Failed(error.into())).await
            }
            Err(left) => Err(left),
        }
    }

    /// Commits what calls have done, and what is written of it.
    pub(super) async fn finish<T: Transaction>(
        &mut self,
        mut tx: T,
        mut change: Change<P>,
        Effect { call, is_open, at }: Effect,
    ) -> Result<(), Left> {
        let desk = self.desk.clone();
        let left = match self.left_locks(&change, at).await {
            Ok(left) => left,
            Err(error) => {
                drop(tx.rollback().await);
                return self.pause(&error).await;
            }
        };
        tx.staged().rows.extend(left);
        let sleeps = self.sleeps(&change, at);
        let facts = self.facts(&change, at);
        let tells = !facts.is_empty();
        let rows = change.rows(&*desk.protocol, &desk.tables, &[], sleeps, &desk.node.ids, at);
        tx.staged().rows.extend(rows.map_err(|error| Left::Trouble(chain(&error)))?);
        if let Err(error) = self.announce(facts, &mut tx).await {
            drop(tx.rollback().await);
            return if error.kind() == ErrorKind::Transient {
                self.pause(&error).await
            } else {
                Err(Left::Untold(chain(&error)))
            };
        }
        if self.is_gone() {
            drop(tx.rollback().await);
            return Err(self.lost());
        }
        let outcome = door::commit_tx(&desk.node, tx, is_open).await;
        let is_in_doubt = matches!(outcome, Err(CommitError::Unknown(_)));
        match Won::after(&*desk.backend, outcome).await {
            Ok(Some(Won::Yes(_))) if is_in_doubt && !self.is_written(&change.next.head).await? => {
                Err(self.lost())
            }
            Ok(Some(Won::Yes(_))) => {
                self.count(&change);
                (self.instance, self.suspected, self.alone) = (change.next, None, false);
                (self.failures, self.turns) = (0, 0);
                Ok(())
            }
            Ok(Some(Won::No(at))) if desk.tables.has(&at.table) => Err(self.lost()),
            Err(CommitError::OtherHistory) => Err(self.lost()),
            // Another run was faster with a lock that this one leaves.
            Ok(Some(Won::No(at))) if LockTables::has(&at.table) => self.turn().await,
            // Another was faster with what the step decided on: it decides again.
            Ok(Some(Won::No(_)))
            | Err(CommitError::Conflict { .. } | CommitError::ConditionFailed { .. })
                if call.is_some() && self.turns < CONFLICTS =>
            {
                self.turn().await
            }
            Ok(Some(Won::No(at))) => self.refused(call, faster(&at).into()).await,
            // It was never applied.
            Ok(None) => Ok(()),
            Err(CommitError::Store(error)) if error.kind() == ErrorKind::Transient => {
                self.pause(&error).await
            }
            Err(error) if error.kind() == ErrorKind::Transient => {
                self.pause(&StoreError::transient("a step", error)).await
            }
            Err(error @ CommitError::Inline { .. }) => Err(Left::Untold(chain(&error))),
            Err(error @ CommitError::Projection { .. }) if tells => Err(Left::Untold(chain(&error))),
            Err(error) => self.refused(call, error.into()).await,
        }
    }

    /// Whether a head stands as it was to be written. What proves a commit is its events, and a step may give those ids of its
    /// own making: another owner's have the same.
    async fn is_written(&mut self, head: &Row<Head>) -> Result<bool, Left> {
        loop {
            match self.desk.tables.heads.get(&*self.desk.backend, &head.key).await {
                Ok(stored) => return Ok(stored.as_ref() == Some(head)),
                Err(error) => self.pause(&error).await?,
            }
        }
    }

    /// What calls have done was not committed, for a reason of theirs. Of several it is not known which one's that is: they
    /// are made again, each by itself.
    async fn refused(&mut self, call: Option<Call>, why: BoxError) -> Result<(), Left> {
        match call {
            Some(call) => self.not_done(call, Answer::Failed(why)).await,
            None => {
                self.alone = true;
                Ok(())
            }
        }
    }

    /// Whether it was read in a history that the store does not have any more, where revisions stand for other rows.
    fn is_gone(&self) -> bool {
        self.desk.backend.history() != self.instance.history
    }

    /// Somebody else has it, or the store has another history: what is stored says so.
    fn lost(&self) -> Left {
        self.desk.numbers.fenced();
        Left::Lost
    }

    /// A call within a transaction that was rolled back. The store that is away is nobody's fault.
    pub(super) async fn not_done(&mut self, call: Call, answer: Answer) -> Result<(), Left> {
        if let Answer::Failed(error) = &answer
            && self.desk.backend.is_transient(&**error)
            && self.suspected.get_or_insert_with(Instant::now).elapsed() < PATIENCE
        {
            let error = StoreError::transient("a step", std::io::Error::other(chain(&**error)));
            return self.pause(&error).await;
        }
        self.suspected = None;
        let record = self.desk.protocol.answered(&self.instance.state, call, answer);
        self.record(record).await
    }

    /// Takes in what is asked of it by now.
    async fn take_in(&mut self) -> Result<(), Left> {
        let mut asked = Vec::new();
        while asked.len() < ASKED
            && let Ok(wake) = self.inbox.try_recv()
        {
            asked.push(wake);
        }
        if asked.is_empty() { Ok(()) } else { self.asked(asked).await }
    }

    async fn asked(&mut self, wakes: Vec<Row<Wake>>) -> Result<(), Left> {
        let (mut records, mut taken) = (Vec::new(), Vec::new());
        // Each is judged by what those before it come to.
        let (mut state, at) = (self.instance.state.clone(), self.now().await?);
        self.looks = true;
        for Row { key, rev, value } in wakes {
            let Some(asked) = value.asked else {
                self.instance.woken_by(key, rev);
                continue;
            };
            let answer = self.desk.protocol.asked(&state, &self.busy, &asked);
            let declined = |No { why, unread }| {
                vec![Record::Declined { verb: asked.verb.without_value(), by: asked.by, why, unread }]
            };
            for record in answer.unwrap_or_else(declined) {
                let written = Written { at, record };
                self.desk.protocol.fold(&mut state, &written).map_err(Left::Trouble)?;
                records.push(written.record);
            }
            taken.push((key, rev));
        }
        if taken.is_empty() { Ok(()) } else { self.commit(records, taken).await }
    }

    pub(super) async fn commit(
        &mut self,
        records: Vec<Record>,
        taken: Vec<(String, u64)>,
    ) -> Result<(), Left> {
        self.write(records, taken, None, Vec::new()).await
    }

    /// Writes records, and all that follows from them at once. `beside`: rows of others, which go with them.
    pub(super) async fn write(
        &mut self,
        records: Vec<Record>,
        taken: Vec<(String, u64)>,
        sleeps: Option<Timestamp>,
        beside: Vec<RowWrite>,
    ) -> Result<(), Left> {
        let desk = self.desk.clone();
        let mut is_first = true;
        // Rows of others are made anew, with the time of then.
        while std::mem::take(&mut is_first) || beside.is_empty() {
            let at = self.now().await?;
            let mut change = self.change(records.clone(), at)?;
            let sleeps = sleeps.or_else(|| self.sleeps(&change, at));
            let facts = self.facts(&change, at);
            let tells = !facts.is_empty();
            let left = match self.left_locks(&change, at).await {
                Ok(left) => left,
                Err(error) => {
                    self.pause(&error).await?;
                    continue;
                }
            };
            let mut rows = change
                .rows(&*desk.protocol, &desk.tables, &taken, sleeps, &desk.node.ids, at)
                .map_err(|error| Left::Trouble(chain(&error)))?;
            if self.keeps_locks(&change) {
                rows.extend(beside.iter().cloned());
            }
            rows.extend(left);
            let outcome = if self.is_gone() {
                Err(CommitError::OtherHistory)
            } else if tells {
                self.commit_with(facts, rows).await
            } else {
                door::commit(&*desk.backend, &desk.node, Commit { rows, ..Commit::default() }).await
            };
            match Won::after(&*desk.backend, outcome).await {
                Ok(Some(Won::Yes(_))) => {
                    self.count(&change);
                    (self.instance, self.failures, self.turns) = (change.next, 0, 0);
                    return Ok(());
                }
                // Another run was faster with a lock: it is read again.
                Ok(Some(Won::No(at))) if LockTables::has(&at.table) => self.turn().await?,
                // Such a child is there by now: it is looked at again.
                Ok(Some(Won::No(at)))
                    if beside.iter().any(|row| row.table == at.table && row.key == at.key) =>
                {
                    let faster = std::io::Error::other(faster(&at));
                    return self.pause(&StoreError::transient("a child", faster)).await;
                }
                // A row of an inline view that is told of it: it is told again.
                Ok(Some(Won::No(at))) if !desk.tables.has(&at.table) => {
                    let faster = std::io::Error::other(faster(&at));
                    self.pause(&StoreError::transient("telling of a run", faster)).await?;
                }
                // By its head, or by its stream.
                Ok(Some(Won::No(_))) | Err(CommitError::Conflict { .. } | CommitError::OtherHistory) => {
                    return Err(self.lost());
                }
                // What became of it is not known, and will not be soon: what is stored says so.
                Err(CommitError::Unknown(_)) => return Err(Left::Lost),
                Ok(None) => {}
                Err(error) if tells && error.kind() != ErrorKind::Transient => {
                    return Err(Left::Untold(chain(&error)));
                }
                Err(CommitError::Store(error)) => self.pause(&error).await?,
                Err(error) => return Err(Left::Trouble(chain(&error))),
            }
        }
        Ok(())
    }

    /// Counts what was written. That a child began is known by what is written first behind its beginning.
    fn count(&self, change: &Change<P>) {
        let (before, numbers) = (&self.instance.head.value, &self.desk.numbers);
        if before.parent.is_some() && self.instance.head.rev == 1 {
            numbers.started();
        }
        let (protocol, is_first) = (&self.desk.protocol, self.instance.head.rev == 1);
        let [was, is] = [&self.instance.state, &change.next.state].map(|state| protocol.stage(state));
        let came = [was.filter(|_| is_first), is.filter(|_| is != was)];
        came.into_iter().flatten().for_each(|stage| numbers.came_to(stage));
        let held = protocol.held_by_parent(&change.next.state);
        numbers.wrote(before.begun, held, &change.written);
    }

    /// Which calls have to do with children.
    fn errands(&self, state: &P::State, calls: &[Call]) -> Vec<(Call, Errand)> {
        let of = |call: &Call| Some((*call, self.desk.protocol.errand(state, *call)?));
        calls.iter().filter_map(of).collect()
    }

    /// What is told of a change.
    fn facts(&self, change: &Change<P>, at: Timestamp) -> Vec<SagaEvent> {
        let (protocol, run) = (&self.desk.protocol, self.instance.run);
        if !protocol.announces() {
            return Vec::new();
        }
        let why = protocol.status(run, &change.next.state, at).1;
        let after = &change.next.head.value;
        life::between(&self.desk.kind, run, &self.instance.head, after, &change.written, why)
    }

    async fn announce<T: Transaction>(&self, facts: Vec<SagaEvent>, tx: &mut T) -> Result<(), StoreError> {
        if facts.is_empty() {
            return Ok(());
        }
        let told = life::announce(&self.site.sender, &self.desk.kind, self.instance.run, facts, tx).await;
        told.map_err(|error| match error.kind() {
            ErrorKind::Transient | ErrorKind::Unknown | ErrorKind::Conflict => {
                StoreError::transient("telling of a run", error)
            }
            _ => StoreError::misuse(chain(&error)),
        })
    }

    async fn commit_with(
        &self,
        facts: Vec<SagaEvent>,
        rows: Vec<RowWrite>,
    ) -> Result<Committed, CommitError> {
        let mut tx = self.desk.backend.begin().await?;
        tx.staged().rows.extend(rows);
        match self.announce(facts, &mut tx).await {
            Ok(()) if self.is_gone() => {
                drop(tx.rollback().await);
                Err(CommitError::OtherHistory)
            }
            Ok(()) => door::commit_tx(&self.desk.node, tx, true).await,
            Err(error) => {
                drop(tx.rollback().await);
                Err(error.into())
            }
        }
    }

    fn change(&mut self, records: Vec<Record>, at: Timestamp) -> Result<Change<P>, Left> {
        let change = self.instance.with(&*self.desk.protocol, records, &self.busy, at);
        let mut change = change.map_err(Left::Trouble)?;
        self.changed(&mut change);
        Ok(change)
    }

    /// What goes with each change.
    pub(super) fn changed(&mut self, change: &mut Change<P>) {
        // What such a child has said before may be an answer.
        self.looks |= change.written.iter().any(|written| matches!(written.record, Record::Recalled { .. }));
        change.next.head.value.holder = Some(self.desk.node.cluster.node());
    }

    /// Whether it can sleep once a change is written, and until when.
    fn sleeps(&self, change: &Change<P>, at: Timestamp) -> Option<Timestamp> {
        match &change.then {
            Next::Act { calls, until } if self.busy.is_empty() => {
                let errands = self.errands(&change.next.state, calls);
                let is_idle = |(_, errand): &(Call, Errand)| errand.is_look() && !self.looks;
                if errands.len() < calls.len() || !errands.iter().all(is_idle) {
                    return None;
                }
                let idle = idle(at, !errands.is_empty());
                let until = match until {
                    Some(until) if !errands.is_empty() => (*until).min(idle),
                    until => until.unwrap_or(idle),
                };
                is_later(until, at, STAYS).then_some(until)
            }
            _ => None,
        }
    }
}

/// When a run is looked at that nothing wakes before.
fn idle(now: Timestamp, has_children: bool) -> Timestamp {
    now.saturating_add(if has_children { SLOWLY } else { FAR }).unwrap_or(now)
}

fn faster(at: &RowAt) -> String {
    format!("row {:?} of {} was written by somebody else", at.key, at.table)
}

fn is_later(time: Timestamp, now: Timestamp, by: Duration) -> bool {
    Duration::try_from(time - now).is_ok_and(|left| left > by)
}

/// A call that has a limit and may panic.
pub(super) async fn within(limit: Duration, call: impl Future<Output = Answer>) -> Answer {
    match tokio::time::timeout(limit, caught(call)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panic)) => Answer::Failed(OwnFault::boxed(panic.boxed())),
        Err(_) => Answer::Failed(BoxError::from(format!("no answer within its limit of {limit:?}"))),
    }
}
