//! Steps that only stage what they do: they run one after the other, and one commit has what they leave, and their records.
//!
//! Nothing has happened before that commit: whatever keeps it from being written, the steps are run again from what is stored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::{EventStore, RowStore, StoreError};
use es_core::{Backend, Timestamp};
use tokio::time::Instant;

use super::drive::{Desk, Drive, Effect, Left, within};
use super::instance::Change;
use super::protocol::{Acts, Answer, Call, Next, Protocol, Site};
use super::rows::Record;
use super::staging::Staging;

/// How many steps share a commit at most.
const STEPS: usize = 16;
/// What is staged before another step joins it, in bytes.
const BYTES: usize = 256 << 10;
/// For how long what has run is kept from being written, so that another step can join it.
const LONGEST: Duration = Duration::from_secs(2);

/// Where a batch is made.
pub(super) struct At<'d, B, P> {
    pub(super) desk: &'d Desk<B, P>,
    pub(super) site: &'d Site,
    /// Calls to somewhere else that are under way.
    pub(super) busy: &'d BTreeSet<Call>,
    /// Whether no call joins another one.
    pub(super) alone: bool,
}

/// What calls have staged, and what they came to.
pub(super) struct Batch<P: Protocol> {
    pub(super) staging: Staging,
    pub(super) change: Change<P>,
    /// The call that it is about, if that is one that is done and no other.
    pub(super) only: Option<Call>,
    calls: usize,
    bytes: usize,
    begun: Instant,
}

/// What came of calls that were to be committed together.
pub(super) enum Joined {
    /// This is committed.
    Yes,
    /// The first of them has not done it: nothing of it is staged.
    NotDone(Answer),
    /// Nothing of it is committed: they are called again, each by itself.
    ThrownAway,
}

/// What came of one of them.
enum One {
    Joins,
    /// It is called again by itself, and what it comes to then counts.
    Waits,
    Not(Joined),
}

impl<P: Protocol> Batch<P> {
    /// Nothing yet. `change`: what is written in any case.
    pub(super) fn new(store: Arc<dyn EventStore>, rows: Arc<dyn RowStore>, change: Change<P>) -> Self {
        let staging = Staging::new(store, rows);
        Self { staging, change, only: None, calls: 0, bytes: 0, begun: Instant::now() }
    }

    /// A call, and all that follow from it at once and only stage as well, while it `goes_on`.
    pub(super) async fn run<B: Backend>(
        &mut self,
        at: &At<'_, B, P>,
        call: Call,
        goes_on: impl Fn() -> bool + Send + Sync,
    ) -> Result<Joined, StoreError>
    where
        P: Acts<B>,
    {
        let mut next = Some(call);
        while let Some(call) = next {
            match self.join(at, call).await? {
                One::Joins => next = self.follows(at).filter(|_| goes_on()),
                One::Waits => break,
                One::Not(joined) => return Ok(joined),
            }
        }
        Ok(Joined::Yes)
    }

    /// Makes a call on what is staged by those before it.
    async fn join<B: Backend>(&mut self, at: &At<'_, B, P>, call: Call) -> Result<One, StoreError>
    where
        P: Acts<B>,
    {
        let (At { desk, site, alone, .. }, mark) = (at, self.staging.mark());
        let made = desk.protocol.staged(&self.change.next.state, call, site, &mut self.staging);
        let answer = within(desk.protocol.limit(call), made).await;
        let now = desk.clock.now(&*desk.backend).await?;
        let (is_first, is_done) = (self.calls == 0, matches!(answer, Answer::Done(_)));
        let joins = match &answer {
            // A commit has one condition, which does not see what is staged beside it.
            Answer::Done(_) => is_first || !self.staging.has_condition(),
            Answer::Refused(_) => !alone,
            Answer::Failed(_) => false,
        };
        let one = match joins {
            true => self.fold(at, call, answer, now),
            false if is_first => One::Not(Joined::NotDone(answer)),
            false => One::Waits,
        };
        // It goes with the record that it is done, or not at all.
        if !is_done || !matches!(one, One::Joins) {
            self.staging.go_back(mark);
        }
        Ok(one)
    }

    fn fold<B>(&mut self, at: &At<'_, B, P>, call: Call, answer: Answer, now: Timestamp) -> One {
        let (protocol, is_first) = (&*at.desk.protocol, self.calls == 0);
        let (is_done, bytes) = match &answer {
            Answer::Done(output) => (true, output.text().len()),
            _ => (false, 0),
        };
        let record = protocol.answered(&self.change.next.state, call, answer);
        match self.change.add(protocol, vec![record], at.busy, now) {
            Ok(()) => {
                self.only = (is_first && is_done).then_some(call);
                (self.calls, self.bytes) = (self.calls + 1, self.bytes + bytes);
                One::Joins
            }
            // What it left cannot be read again: it has failed.
            Err(error) if is_first && is_done => One::Not(Joined::NotDone(Answer::Failed(error.into()))),
            Err(_) => One::Not(Joined::ThrownAway),
        }
    }

    /// The call that joins those that are staged: if nothing else is to be done first, and they are not too many.
    fn follows<B: Backend>(&self, at: &At<'_, B, P>) -> Option<Call>
    where
        P: Acts<B>,
    {
        let has_room = self.calls < STEPS
            && self.bytes + self.staging.weight() < BYTES
            && self.begun.elapsed() < LONGEST
            && !self.staging.has_condition();
        self.first(&at.desk.protocol).filter(|_| has_room && !at.alone)
    }

    /// The call that is to be made now, if all of those only stage.
    pub(super) fn first<B: Backend>(&self, protocol: &P) -> Option<Call>
    where
        P: Acts<B>,
    {
        let Next::Act { calls, .. } = &self.change.then else { return None };
        let all_stage = calls.iter().all(|call| protocol.is_staged(*call));
        calls.first().copied().filter(|_| all_stage)
    }
}

impl<B: Backend, P: Acts<B>> Drive<B, P> {
    /// A call that only stages, all of those that follow from it at once, and their commit.
    pub(super) async fn stage(&mut self, call: Call) -> Result<(), Left> {
        let Some(store) = self.site.sender.store() else { return Err(Left::Stopped) };
        let desk = self.desk.clone();
        let mut batch = Batch::new(store, desk.backend.clone(), Change::of(self.instance.clone()));
        let at = At { desk: &desk, site: &self.site, busy: &self.busy, alone: self.alone };
        let joined = batch.run(&at, call, || self.inbox.is_empty() && self.may_call()).await;
        match joined {
            Ok(Joined::Yes) => {}
            Ok(Joined::NotDone(answer)) => return self.not_done(call, answer).await,
            Ok(Joined::ThrownAway) => {
                self.alone = true;
                return Ok(());
            }
            Err(error) => return self.pause(&error).await,
        }
        let Batch { staging, mut change, only, .. } = batch;
        let at = self.now().await?;
        self.changed(&mut change);
        self.finish(staging, change, Effect { call: only, is_open: false, at }).await
    }
    /// Writes what a call elsewhere came to in one commit with the calls that follow from it at once, if those join it.
    /// Whether that is written: where it is not, the answer still has to be, by itself.
    pub(super) async fn joined(&mut self, record: &Record) -> Result<bool, Left> {
        let Some(store) = self.site.sender.store() else { return Ok(false) };
        if self.alone || !self.inbox.is_empty() || !self.may_call() {
            return Ok(false);
        }
        let (desk, at) = (self.desk.clone(), self.now().await?);
        let change = self.instance.with(&*desk.protocol, vec![record.clone()], &self.busy, at);
        let Ok(change) = change else { return Ok(false) };
        let mut batch = Batch::new(store, desk.backend.clone(), change);
        let first = batch.first::<B>(&desk.protocol).filter(|first| desk.protocol.joins_answers(*first));
        let Some(first) = first else { return Ok(false) };
        let at = At { desk: &desk, site: &self.site, busy: &self.busy, alone: false };
        let made = batch.run(&at, first, || self.inbox.is_empty() && self.may_call()).await;
        let Ok(Joined::Yes) = made else { return Ok(false) };
        let Batch { staging, mut change, .. } = batch;
        let (rev, at) = (self.instance.head.rev, self.now().await?);
        self.changed(&mut change);
        // Whatever it is refused for is found out by the call alone.
        match self.finish(staging, change, Effect { call: None, is_open: false, at }).await {
            Err(Left::Trouble(_) | Left::Untold(_)) => Ok(false),
            finished => finished.map(|()| self.instance.head.rev > rev),
        }
    }
}
