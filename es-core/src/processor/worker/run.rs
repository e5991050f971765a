//! The work on one range: fold, then flush.
//!
//! A worker takes page after page, hands the events of its slices to a session, and flushes what they led to together
//! with its checkpoint. What fails is told apart (`failure`): the store (tried again until it answers), another node that
//! has taken the range over (the worker ends), or a handler. Then everything before the event goes through on its own, the
//! event is tried again alone, and at last it is parked, skipped, or the range is halted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::context::BuildContext;
use super::failure::{StepError, Trouble, Verdict};
use super::fold::FOLLOW;
use crate::cluster::Share;
use crate::processor::feed::SharedPage;
use crate::processor::kinds::admission::LeftOut;
use crate::processor::kinds::runner::Session;
use crate::processor::parked::{self, Parked};
use crate::state::{Checkpoint, afresh};
use crate::store::{Position, RecordedEvent, StoreError};

/// After what time the checkpoint is moved over a few positions without a match.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(1);
/// The longest pause of a worker that may have something to do.
pub(super) const POLL: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    pub(super) context: Arc<BuildContext>,
    pub(super) share: Share<Checkpoint>,
    pub(super) stop: CancellationToken,
    /// There may be more to read.
    news: watch::Receiver<u64>,
    /// Something is asked for.
    wake: watch::Receiver<u64>,
    /// Rows of requests have been written, by any node.
    requests: [watch::Receiver<u64>; 2],
    pub(super) open: Option<Open>,
    /// Failures of the store in a row.
    pub(super) failures: u32,
    pub(super) trouble: Option<Trouble>,
    /// What was decided of events that failed, until it is stored.
    pub(super) verdicts: Vec<Verdict>,
    /// How many events are flushed at once, after a flush that failed; doubled by each one that did not.
    pub(super) limit: usize,
    /// While it is halted: how often it had been resumed before, and what it shows.
    pub(super) halted: Option<(u64, crate::processor::ProcessorState)>,
    /// Whether it was looked up what is asked for.
    asked: bool,
}

/// What is known while the range is worked on without a failure.
pub(super) struct Open {
    pub(super) session: Box<dyn Session>,
    pub(super) parked: BTreeMap<String, Parked>,
    pub(super) skips: BTreeMap<(Position, String), String>,
    /// Everything up to here is folded.
    pub(super) seen: Position,
    /// Events folded since the last flush, the last of them, and since when.
    pub(super) folded: usize,
    pub(super) last: Option<RecordedEvent>,
    pub(super) since: Instant,
    pub(super) left_out: Vec<LeftOut>,
    /// A page of which a part is done.
    pub(super) page: Option<(Arc<SharedPage>, usize)>,
    pub(super) flushed: Instant,
}

/// What a step came to.
pub(super) enum Step {
    /// There is more to do right now.
    More,
    /// There is nothing to do until something happens, or this long.
    Rest(Duration),
    /// There is nothing to do until something happens.
    Idle,
    /// The range belongs to another node.
    Lost,
}

impl Worker {
    pub(crate) fn new(context: Arc<BuildContext>, share: Share<Checkpoint>, stop: CancellationToken) -> Self {
        let (news, wake) = (context.pages.news(), context.wake.subscribe());
        let limit = context.execution.page;
        let tables = [context.build.requests().name().clone(), afresh(&context.build).name().clone()];
        let requests = tables.map(|table| context.backend().watch_rows(&table, share.slices));
        Self {
            context,
            share,
            stop,
            news,
            wake,
            requests,
            open: None,
            failures: 0,
            trouble: None,
            verdicts: Vec::new(),
            limit,
            halted: None,
            asked: false,
        }
    }

    /// Until it is stopped, after the page that it is at, or until the range belongs to another node.
    pub(crate) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.news.mark_unchanged();
            self.hear();
            let pause = match self.step().await {
                Ok(Step::More) => continue,
                Ok(Step::Lost) => return,
                Ok(Step::Idle) => None,
                Ok(Step::Rest(pause)) => Some(pause),
                Err(error) => match self.recover(error).await {
                    Some(pause) => Some(pause),
                    None => return,
                },
            };
            self.rest(pause).await;
        }
        // What was folded is flushed, unless it fails: then it is folded again by the next owner.
        if self.open.as_ref().is_some_and(|open| open.seen > self.share.progress.position) {
            drop(self.flush().await);
        }
    }

    /// Whether something was asked for while it was busy: then that is looked up before the next page.
    fn hear(&mut self) {
        let Self { wake, requests: [retries, rows], .. } = self;
        for asked in [wake, retries, rows] {
            // The context is there for as long as its workers; a store that is gone asks for nothing.
            if asked.has_changed().unwrap_or_default() {
                self.asked = false;
                asked.mark_unchanged();
            }
        }
    }

    /// Until there is something to do, at the latest after a pause.
    async fn rest(&mut self, pause: Option<Duration>) {
        // What fails is tried again after its pause, not sooner; so is what grows meanwhile.
        let hears = self.open.is_some() && pause.is_none_or(|pause| pause >= POLL);
        let [retries, rows] = &mut self.requests;
        let asked = async {
            tokio::select! {
                // The context is there for as long as its workers.
                _ = self.wake.changed() => {}
                Ok(()) = retries.changed() => {}
                Ok(()) = rows.changed() => {}
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            _ = self.news.changed(), if hears => {}
            () = asked => self.asked = false,
        }
    }

    async fn step(&mut self) -> Result<Step, StepError> {
        let resumes = *self.context.resumes.borrow();
        if self.halted.as_ref().is_some_and(|(before, _)| *before != resumes) {
            // The event that it stopped at is tried again: what was decided of it is forgotten.
            (self.halted, self.trouble, self.open) = (None, None, None);
            self.verdicts.clear();
        }
        if !self.context.may_act() {
            return Ok(Step::Rest(FOLLOW));
        }
        if self.open.is_none() && !self.reopen().await? {
            return Ok(Step::Lost);
        }
        if !self.asked {
            self.requests().await?;
            self.rebuild_keys().await?;
            if self.open.is_none() {
                return Ok(Step::More);
            }
            self.asked = true;
        }
        // While it is halted, sequences can be emptied: that may be what it waits for.
        if self.halted.is_some() {
            return Ok(Step::Idle);
        }
        let bound = self.context.bound().await?;
        let open = self.open.as_mut().expect("opened above");
        let (page, done) = match open.page.take() {
            Some(part) => part,
            None => (self.context.pages.after(open.seen).await?, 0),
        };
        let step = self.take(&page, done, bound).await?;
        match step {
            Step::Rest(_) | Step::Idle => self.due(step).await,
            Step::More | Step::Lost => Ok(step),
        }
    }

    /// Does what is due, now that every event was handled.
    async fn due(&mut self, step: Step) -> Result<Step, StepError> {
        let now = self.context.now();
        let open = self.open.as_mut().expect("only asked while it is open");
        let next = open.session.due(now, open.seen).await.map_err(StepError::Due)?;
        if open.session.waiting() > 0 {
            self.flush().await?;
        }
        let Some(next) = next else { return Ok(step) };
        let until = Duration::try_from(next - now).unwrap_or_default();
        Ok(match step {
            Step::Rest(pause) => Step::Rest(pause.min(until)),
            _ => Step::Rest(until),
        })
    }

    pub(super) fn open(&self) -> &Open {
        self.open.as_ref().expect("only asked while it is open")
    }

    /// Reads what is stored. `false` if the range belongs to another node.
    async fn reopen(&mut self) -> Result<bool, StoreError> {
        let (backend, build) = (self.context.backend(), self.context.build.clone());
        let Share { group, slices, epoch, owner, .. } = &self.share;
        let stored = self.context.shares.read(backend, group, slices.first).await?;
        let own = |stored: &Share<Checkpoint>| {
            stored.epoch == *epoch && stored.owner == *owner && stored.slices == *slices
        };
        let Some(mut stored) = stored.filter(own) else { return Ok(false) };
        if !self.context.has_its_role().await? {
            return Ok(false);
        }
        // Why it was halted before is history: it is tried again, or says so again.
        stored.progress.halt = stored.progress.halt.filter(|_| self.halted.is_some());
        self.share = stored;
        let mut parked = parked::of_range(backend, &build, self.share.slices).await?;
        let mut skips = self.context.skips.clone();
        // What has come through since they were decided is stored.
        self.verdicts.retain(|verdict| verdict.position > self.share.progress.position);
        for Verdict { position, key, parked: sequence, reason } in &self.verdicts {
            match sequence {
                Some(sequence) => drop(parked.entry(key.clone()).or_insert_with(|| sequence.clone())),
                None => drop(skips.insert((*position, key.clone()), reason.clone())),
            }
        }
        let (session, now) = (self.context.open(self.share.slices), Instant::now());
        self.open = Some(Open {
            session,
            parked,
            skips,
            seen: self.share.progress.position,
            folded: 0,
            last: None,
            since: now,
            left_out: Vec::new(),
            page: None,
            flushed: now,
        });
        self.show(self.state());
        Ok(true)
    }

    /// Makes durable what was folded.
    pub(super) async fn flush(&mut self) -> Result<(), StepError> {
        let (build, now) = (self.context.build.clone(), self.context.now());
        let open = self.open.as_mut().expect("only flushed while it is open");
        let to = self.share.with(self.share.progress.at(open.seen));
        let mut rows = vec![self.context.shares.put(&to)?];
        if !open.left_out.is_empty() {
            let left_out = &open.left_out;
            rows.extend(parked::write_left_out(&build, &mut open.parked, &open.skips, left_out, now)?);
            self.context.has_room(&open.parked).await?;
        }
        let started = Instant::now();
        let span = tracing::debug_span!(
            "es.processor.flush",
            %build,
            slices = %self.share.slices,
            events = open.folded,
            position = open.seen.0,
        );
        open.session.flush(rows).instrument(span).await.map_err(StepError::Commit)?;
        self.share = to.written();
        let touched: BTreeSet<String> =
            open.left_out.drain(..).filter(|left| left.parked).map(|left| left.key).collect();
        for key in touched {
            open.parked.get_mut(&key).expect("it was written").rev += 1;
        }
        let (events, last) = (std::mem::take(&mut open.folded), open.last.take());
        open.flushed = Instant::now();
        self.limit = (2 * self.limit).min(self.context.execution.page);
        self.context.flushed(events as u64, last.map(|event| event.recorded_at), started.elapsed());
        Ok(())
    }
}
