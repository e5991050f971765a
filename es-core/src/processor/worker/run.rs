//! The work on one range: fold, then flush.
//!
//! A worker takes page after page, hands the events of its slices to a session, and flushes what they led to together
//! with its checkpoint. What fails is told apart (`failure`): the store (tried again until it answers), another node that
//! has taken the range over (the worker ends), or a handler. Then everything before the event goes through on its own, the
//! event is tried again alone, and at last it is parked, skipped, or the range is halted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::afresh::Rounds;
use super::context::{BuildContext, Role, Room};
use super::discards::ask_elsewhere;
use super::failure::{InVain, StepError, Trouble, Verdict};
use super::fold::{FOLLOW, Fits};
use super::rest::Rest;
use super::retry::Retrying;
use super::undecoded::{self, Undecodable};
use crate::clock::Timestamp;
use crate::cluster::Share;
use crate::guarded::caught;
use crate::processor::feed::SharedPage;
use crate::processor::kinds::admission::LeftOut;
use crate::processor::kinds::effects::Effects;
use crate::processor::kinds::runner::{Keeps, Session};
use crate::processor::parked::{self, Parked, Skips};
use crate::slices::Slices;
use crate::state::{Checkpoint, Undecoded, afresh};
use crate::store::{CommitError, Page, Position, RecordedEvent, RowWrite, StoreError};

/// After what time the checkpoint is moved over a few positions without a match.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(1);
/// The longest pause of a worker that may have something to do. Also of one that waits for a time: the app's clock is not
/// the one that pauses are measured by, and may be set, or have run on while the machine slept.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// How many events are handled together at first, where each of them may take long.
const FIRST_BATCH: usize = 16;
/// How long what is handled at once may take, where it is not bounded while it is handled.
const TRANSACTION_HOLDS: Duration = Duration::from_millis(25);
/// How often it is tried to note what was done, before a worker ends.
const LAST_TRIES: usize = 3;
/// The shortest pause before something is asked again that may be the same.
pub(super) const SOON: Duration = Duration::from_millis(10);

pub(crate) struct Worker {
    pub(super) context: Arc<BuildContext>,
    pub(super) share: Share<Checkpoint>,
    /// The history of the store that all of this was read in.
    pub(super) history: u64,
    pub(super) stop: CancellationToken,
    /// There may be more to read.
    news: watch::Receiver<u64>,
    /// Something is asked for.
    wake: watch::Receiver<u64>,
    /// Something has come to the session from outside.
    called: Arc<Notify>,
    /// Rows of requests have been written, by any node.
    requests: Vec<watch::Receiver<u64>>,
    pub(super) open: Option<Open>,
    /// Side effects that no checkpoint covers yet.
    pub(super) effects: Arc<Effects>,
    /// Failures of the store in a row.
    pub(super) failures: u32,
    pub(super) trouble: Option<Trouble>,
    /// Whether what is stored of it was read: what the share says that it came with may be of another history.
    began: bool,
    /// Whether more than one event was handled at once, the last time.
    pub(super) crowd: bool,
    /// What was due could not be done.
    pub(super) overdue: Option<Overdue>,
    /// What was decided of events that failed, until it is stored.
    pub(super) verdicts: Vec<Verdict>,
    /// How many events are flushed at once, after a flush that failed, at least one; doubled by each one that did not.
    pub(super) limit: usize,
    /// While it is halted: how often it had been resumed before, and what it shows.
    pub(super) halted: Option<(u64, crate::processor::ProcessorState)>,
    /// Whether it was looked up what is asked for.
    asked: bool,
    /// When to continue with it, if that is not right now.
    next: Option<Instant>,
    /// What it was asked to handle again.
    pub(super) retrying: Retrying,
    /// The rows that it was asked to rebuild.
    pub(super) rounds: Rounds,
    /// How often something had been asked of its build, and of the one that is read, when it had left out all that was
    /// discarded there.
    pub(super) discards: Option<(u64, u64)>,
    /// What may still be parked.
    pub(super) room: Room,
    /// What is parked, between two sessions.
    pub(super) parked: Option<BTreeMap<String, Parked>>,
    /// The page that is handled, or was when an event of it failed, and is tried next.
    pub(super) page: Option<Arc<SharedPage>>,
    /// What it has passed and cannot decode.
    pub(super) undecodable: Undecodable,
    pub(super) in_vain: InVain,
    /// The same of those that had failed as the store does, for as long as that was believed.
    pub(super) suspected_in_vain: InVain,
    /// What is shown of a row of state that cannot be read, by its table.
    pub(super) unreadable: BTreeMap<Arc<str>, crate::processor::ProcessorState>,
}

/// What was due failed so often in a row, and is not tried again before this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overdue {
    pub(super) attempts: u32,
    pub(super) again: Instant,
}

/// What is known while the range is worked on without a failure.
pub(super) struct Open {
    pub(super) session: Box<dyn Session>,
    pub(super) parked: BTreeMap<String, Parked>,
    pub(super) skips: Skips,
    /// Everything up to here is folded.
    pub(super) seen: Position,
    /// Events folded since the last flush, the last of them, and since when.
    pub(super) folded: usize,
    /// How many are folded at once.
    pub(super) fits: Fits,
    pub(super) last: Option<RecordedEvent>,
    pub(super) since: Instant,
    pub(super) left_out: Vec<LeftOut>,
    /// What ranges of other keys are to leave out as well.
    pub(super) elsewhere: Vec<(String, Position)>,
    /// What was passed and could not be decoded.
    pub(super) undecoded: Vec<(Position, Undecoded)>,
    /// A page of which a part is done.
    pub(super) page: Option<(Arc<SharedPage>, usize)>,
    /// What is folded is flushed once what is due was done.
    pub(super) flushes_with_due: bool,
    pub(super) flushed: Instant,
}

/// What a step came to.
pub(super) enum Step {
    /// There is more to do right now.
    More,
    /// This long nothing is read: what fails is tried again after its pause, not sooner, and small pages grow.
    Rest(Duration),
    /// There is nothing to do until something happens, or at the latest after this long.
    Idle(Option<Duration>),
    /// The range belongs to another node, or its build to another program; or the store has another history, and whoever
    /// comes next begins with what is there.
    Lost,
}

impl Step {
    /// There is something to do after a pause.
    fn within(self, pause: Duration) -> Self {
        match self {
            Self::Rest(rest) => Self::Rest(rest.min(pause)),
            Self::Idle(rest) => Self::Idle(Some(rest.map_or(pause, |rest| rest.min(pause)))),
            step => step,
        }
    }
}

impl Worker {
    pub(crate) fn new(context: Arc<BuildContext>, share: Share<Checkpoint>, stop: CancellationToken) -> Self {
        let (news, wake) = (context.pages.news(), context.wake.subscribe());
        // How long a handler of SQL takes is not known yet.
        let limit =
            if context.folds() { context.execution.page } else { FIRST_BATCH.min(context.execution.page) };
        let build = &context.build;
        let (requests, rows, undecoded) = (build.requests(), afresh(build), build.undecoded());
        let tables = [requests.name(), rows.name(), undecoded.name()];
        let mut requests = tables.map(|table| context.backend().watch_rows(table, share.slices)).to_vec();
        if let Role::Building { current, honours_skips: true, .. } = &context.role {
            // One that is done goes.
            requests.push(context.backend().watch_rows(current.requests().name(), Slices::ALL));
        }
        let effects = Effects::new(context.node.lease.clone(), stop.clone(), &share.progress.ahead);
        let history = context.backend().history();
        Self {
            context,
            share,
            history,
            stop,
            news,
            wake,
            called: Arc::default(),
            requests,
            open: None,
            effects: Arc::new(effects),
            failures: 0,
            trouble: None,
            began: false,
            crowd: false,
            overdue: None,
            verdicts: Vec::new(),
            limit,
            halted: None,
            asked: false,
            next: None,
            retrying: Retrying::default(),
            rounds: Rounds::default(),
            discards: None,
            room: Room::default(),
            undecodable: Undecodable::default(),
            parked: None,
            page: None,
            in_vain: InVain::default(),
            suspected_in_vain: InVain::default(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Until it is stopped, after the page that it is at, or until the range belongs to another node, or its build to another
    /// program.
    pub(crate) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.news.mark_unchanged();
            match self.step().await {
                Ok(Step::More) => {}
                Ok(Step::Lost) => {
                    if self.has_lost_its_history() {
                        // Where it was is no place in this one: nobody is told that it has come so far.
                        self.open = None;
                        self.show_at(Some(crate::processor::ProcessorState::Starting), Position(0));
                    }
                    return;
                }
                Ok(Step::Idle(pause)) => self.rest(pause, true).await,
                Ok(Step::Rest(pause)) => self.rest(Some(pause), false).await,
                Err(error) => {
                    let pause = self.recover(error).await;
                    self.rest(Some(pause), false).await;
                }
            }
        }
        self.leave().await;
    }

    /// The calls that were made and that the checkpoint does not tell.
    pub(super) fn untold(&self) -> Vec<Position> {
        self.effects.untold(self.share.progress.position, self.share.progress.position)
    }

    /// What was folded is flushed, unless it fails: then it is folded again by the next owner. Calls that were made beside one
    /// that fails are noted, and not made again.
    async fn leave(&mut self) {
        let folded = self.open.as_ref().is_some_and(|open| open.seen > self.share.progress.position);
        let flushed = folded && self.flush().await.is_ok();
        if flushed || self.untold().is_empty() {
            return;
        }
        for _ in 0..LAST_TRIES {
            if self.takes_writes().await {
                return;
            }
        }
    }

    /// Until there is something to do, at the latest after a pause. Whether that there is more to read is something to do.
    async fn rest(&mut self, pause: Option<Duration>, hears: bool) {
        let requests = self.requests.iter_mut().map(|requests| Box::pin(requests.changed()));
        let asked = async {
            tokio::select! {
                // The context is there for as long as its workers.
                _ = self.wake.changed() => {}
                (Ok(()), ..) = select_all(requests) => {}
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            _ = self.news.changed(), if hears => {}
            () = asked => self.hear(),
            () = self.called.notified(), if hears => {}
        }
    }

    /// Whether something may have been asked for since it was looked up. Under load there is no rest to hear it in.
    fn is_asked(&mut self) -> bool {
        let mut news = false;
        for heard in self.requests.iter_mut().chain([&mut self.wake]) {
            if heard.has_changed().unwrap_or_default() {
                heard.mark_unchanged();
                news = true;
            }
        }
        if news {
            self.hear();
        }
        !self.asked
    }

    fn hear(&mut self) {
        self.asked = false;
        for rest in [&mut self.rounds.rest, &mut self.retrying.rest].into_iter().flatten() {
            rest.hear();
        }
    }

    /// Ends the rests of what waits, if something was asked since it was looked up. Whoever waits wakes the range again and
    /// again: that is no reason to look all of it up. What ranges ask of themselves and each other is found as a rest ends.
    async fn end_rests(&mut self) -> Result<(), StoreError> {
        let Self { rounds, retrying, context, .. } = self;
        let rests = [(&mut rounds.rest, &mut rounds.asked), (&mut retrying.rest, &mut retrying.asked)];
        for (rest, known) in rests {
            if let Some(heard) = rest.filter(Rest::has_heard) {
                // Counted before it is looked up.
                let now = parked::times_asked(context.backend(), &context.build).await?;
                *rest = (known.replace(now) == Some(now)).then_some(heard.goes_on());
            }
        }
        Ok(())
    }

    /// Whether the store has another history than the one that all of this was read in.
    pub(super) fn has_lost_its_history(&self) -> bool {
        self.context.backend().history() != self.history
    }

    async fn step(&mut self) -> Result<Step, StepError> {
        if self.has_lost_its_history() {
            return Ok(Step::Lost);
        }
        let resumes = *self.context.resumes.borrow();
        if self.halted.as_ref().is_some_and(|(before, _)| *before != resumes) {
            // The event that it stopped at is tried again: what was decided of it is forgotten.
            (self.halted, self.trouble, self.overdue, self.open) = (None, None, None, None);
            self.verdicts.clear();
        }
        if !self.context.may_act() {
            return Ok(Step::Rest(FOLLOW));
        }
        if self.open.is_none()
            && let Some(step) = self.reopen().await?
        {
            return Ok(step);
        }
        self.asked &= self.unreadable.is_empty();
        if self.is_asked() {
            if !self.leave_out_discarded().await? {
                return Ok(Step::Rest(FOLLOW));
            }
            self.end_rests().await?;
            let more = self.asked_for().await?;
            self.rebuild_keys().await?;
            if self.open.is_none() {
                // It is stopped, or the build begins again.
                return Ok(Step::Rest(FOLLOW));
            }
            self.asked = !more && !self.rounds.more && self.rounds.rest.is_none();
            if let Some(Rest { until: round, .. }) = self.rounds.rest {
                self.next = if more { self.next.map(|next| next.min(round)) } else { Some(round) };
            }
        }
        // While it is halted, sequences can be emptied: that may be what it waits for.
        if let Some((before, _)) = &self.halted {
            // It may have been resumed while it was looked up what is asked for: that was heard, and is not heard again.
            let resumed = *before != *self.context.resumes.borrow();
            if resumed {
                return Ok(Step::More);
            }
            if !self.tells_why().await? {
                self.open = None;
                return Ok(Step::More);
            }
            return Ok(self.then_asked(Step::Idle(None)));
        }
        let bound = self.context.bound(&self.share).await?;
        // Before the page is read: what is recorded after it may be missing in there.
        let now = self.context.now();
        let open = self.open.as_mut().expect("opened above");
        let (page, done) = match open.page.take() {
            Some(part) => part,
            None => {
                let replay = open.seen < self.share.progress.replay;
                (self.context.pages.after(open.seen, replay).await?, 0)
            }
        };
        if self.has_lost_its_history() {
            return Ok(Step::Lost);
        }
        self.page = Some(page.clone());
        let step = self.take(&page, done, bound).await?;
        let step = self.due(&page, now, step).await?;
        self.page = None;
        Ok(self.then_asked(step))
    }

    /// Does a part of what is to be done with events that were set aside. Whether there is more of it. An event that is taken in
    /// late and waits for a partner holds up no retry and no discard.
    async fn asked_for(&mut self) -> Result<bool, StepError> {
        let waits = |again: Option<Overdue>| again.map(|later| later.again).filter(|at| *at > Instant::now());
        let mut more = Vec::new();
        // One that is halted takes none in, however long ago their pause has ended.
        if self.halted.is_none()
            && (waits(self.undecodable.again).is_some()
                || self.take_in_undecoded().await?
                || self.undecodable.again.is_some())
        {
            more.push(waits(self.undecodable.again));
        }
        let rests = |rest: Option<Rest>| rest.filter(Rest::is_on).map(|rest| rest.until);
        if rests(self.retrying.rest).is_some() || self.requests().await? {
            more.push(rests(self.retrying.rest));
        }
        // `None` is right now.
        self.next = more.iter().copied().min().flatten();
        Ok(!more.is_empty())
    }

    /// Goes on with what it is asked for, if there is more of it.
    fn then_asked(&self, step: Step) -> Step {
        match self.next.and_then(|next| next.checked_duration_since(Instant::now())) {
            // Whether it has gone is not always told.
            _ if self.asked && !self.unreadable.is_empty() => step.within(POLL),
            _ if self.asked => step,
            _ if self.rounds.more => Step::More,
            Some(pause) if !pause.is_zero() => step.within(pause),
            _ => Step::More,
        }
    }

    /// Whether what is due is done before what was folded is flushed: both are one commit then. Not once that has failed.
    pub(super) fn flushes_with_due(&self) -> bool {
        self.overdue.is_none() && self.trouble.is_none() && self.context.runner.keeps() == Keeps::State
    }

    /// Does what is due, as far as events were handled.
    async fn due(&mut self, page: &SharedPage, now: Timestamp, step: Step) -> Result<Step, StepError> {
        // Rows that are folded page after page are not flushed in between.
        if matches!(step, Step::More) && self.context.folds() {
            return Ok(step);
        }
        let open = self.open.as_mut().expect("only asked while it is open");
        let folded = std::mem::take(&mut open.flushes_with_due);
        let Some(until) = handled_until(page, open.seen, now) else { return Ok(step) };
        if let Some(Overdue { again, .. }) = self.overdue
            && let Some(pause) = again.checked_duration_since(Instant::now()).filter(|pause| !pause.is_zero())
        {
            return Ok(step.within(pause));
        }
        let parked = |key: &str| open.parked.contains_key(key);
        let due = caught(open.session.due(until, open.seen, &parked)).await;
        let due = due.unwrap_or_else(|panic| Err(panic.boxed()));
        let next = due.map_err(StepError::Due)?;
        let waits = open.session.waiting() > 0;
        if waits || folded {
            // What was folded with it is to blame only if it cannot be flushed alone: it is tried so next.
            self.flush().await.map_err(|error| match error {
                StepError::Commit(error) => StepError::Due(error.into()),
                error => error,
            })?;
        }
        if folded {
            self.went_well();
            self.show_at(self.state(), self.open().seen);
        }
        if self.overdue.take().is_some() {
            self.show_at(self.state(), self.open().seen);
        }
        let Some(next) = next else { return Ok(step) };
        let left = Duration::try_from(next - self.context.now()).unwrap_or_default();
        if waits && left.is_zero() {
            return Ok(Step::More);
        }
        Ok(step.within(left.clamp(SOON, POLL)))
    }

    pub(super) fn open(&self) -> &Open {
        self.open.as_ref().expect("only asked while it is open")
    }

    /// Reads what is stored. What to do instead, if the range is not this worker's any more, or its build another program's.
    async fn reopen(&mut self) -> Result<Option<Step>, StoreError> {
        let (backend, build) = (self.context.backend(), self.context.build.clone());
        let Share { group, slices, epoch, owner, .. } = &self.share;
        let stored = self.context.shares.read(backend, group, slices.first).await?;
        let own = |stored: &Share<Checkpoint>| {
            stored.epoch == *epoch && stored.owner == *owner && stored.slices == *slices
        };
        let Some(mut stored) = stored.filter(own) else { return Ok(Some(Step::Lost)) };
        if let Err(error) = lies_in_the_log(&self.context, &stored).await {
            // Where it is and where the log ends are of two histories only because it was asked in both.
            return if self.has_lost_its_history() { Ok(Some(Step::Lost)) } else { Err(error) };
        }
        if !std::mem::replace(&mut self.began, true) {
            let lease = self.context.node.lease.clone();
            self.effects = Arc::new(Effects::new(lease, self.stop.clone(), &stored.progress.ahead));
        }
        let as_it_was = stored.rev == self.share.rev;
        // Nobody takes a build from its workers without writing their shares, if their effects can be fenced.
        let known = as_it_was && self.parked.is_some() && self.context.runner.keeps().is_fenced();
        if !known && !self.context.has_its_role().await? {
            self.share = stored;
            return Ok(Some(self.hand_over().await));
        }
        // Why it was halted before is history: it is tried again, or says so again.
        stored.progress.halt = stored.progress.halt.filter(|_| self.halted.is_some());
        self.share = stored;
        let mut parked = match self.parked.take().filter(|_| as_it_was) {
            Some(parked) => parked,
            None => parked::of_range(backend, &build, self.share.slices).await?,
        };
        // What was begun and is not stored is decided on in a verdict.
        parked.retain(|_, sequence| sequence.rev > 0);
        if parked.is_empty() {
            // Calls of sequences of a neighbour, whose share this was a part of.
            self.effects.covered(Position(0), self.share.progress.position);
        }
        let mut skips = Skips::new();
        // What has come through since they were decided is stored.
        self.verdicts.retain(|verdict| verdict.position > self.share.progress.position);
        self.verdicts.iter().for_each(|verdict| verdict.apply(&mut parked, &mut skips));
        let (session, now) = (self.session_of_its_own(), Instant::now());
        let seen = self.share.progress.position;
        let page = self.page.take().and_then(|page| page.behind(seen).map(|done| (page, done)));
        self.open = Some(Open {
            session,
            parked,
            skips,
            seen,
            folded: 0,
            fits: Fits::default(),
            last: None,
            since: now,
            left_out: Vec::new(),
            elsewhere: Vec::new(),
            undecoded: Vec::new(),
            page,
            flushes_with_due: false,
            flushed: now,
        });
        self.show(self.state());
        Ok(None)
    }

    /// The range is still its own, and the build is not: whoever comes next is told of the calls that were made, however
    /// often that takes.
    async fn hand_over(&mut self) -> Step {
        let is_told = self.untold() == self.share.progress.ahead;
        if is_told || self.takes_writes().await {
            return Step::Lost;
        }
        self.failures += 1;
        Step::Rest(self.backoff(self.failures))
    }

    /// Makes durable what was folded.
    pub(super) async fn flush(&mut self) -> Result<(), StepError> {
        let (build, now) = (self.context.build.clone(), self.context.now());
        let open = self.open.as_mut().expect("only flushed while it is open");
        let untold = self.effects.untold(self.share.progress.position, open.seen);
        let to = self.share.with(self.share.progress.at(open.seen, untold));
        let mut rows = vec![self.context.shares.put(&to)?];
        let (left_out, queued) =
            parked::write_left_out(&build, &open.parked, &open.skips, &open.left_out, now)?;
        rows.extend(left_out);
        rows.extend(ask_elsewhere(&self.context, &open.elsewhere).await?);
        self.context.has_room(&queued, &mut self.room).await?;
        for (position, passed) in &open.undecoded {
            rows.push(undecoded::passed(&build, *position, passed.clone())?);
        }
        let started = Instant::now();
        let span = tracing::debug_span!(
            "es.processor.flush",
            %build,
            slices = %self.share.slices,
            events = open.folded,
            position = open.seen.0,
        );
        // How long the handlers took: a commit that is slow is no reason for more of them.
        let held = open.since.elapsed();
        if self.context.backend().history() != self.history {
            return Err(StepError::Commit(CommitError::OtherHistory));
        }
        open.session.flush(rows).instrument(span).await.map_err(StepError::Commit)?;
        self.effects.covered(self.share.progress.position, open.seen);
        self.share = to.written();
        let written = queued.into_iter().map(|sequence| (sequence.key.clone(), sequence.written()));
        open.parked.extend(written);
        open.left_out.clear();
        open.elsewhere.clear();
        open.undecoded.clear();
        let (events, last) = (std::mem::take(&mut open.folded), open.last.take());
        open.flushed = Instant::now();
        // Who waits for the store's one writer, or for these keys, does not wait long.
        // Handlers of SQL are bounded while they run.
        let holds = self.context.holds().is_none()
            && !self.context.folds()
            && self.context.runner.keeps().is_fenced();
        let slow = holds && held > TRANSACTION_HOLDS;
        let limit = if slow { events / 2 } else { 2 * self.limit };
        self.limit = limit.clamp(1, self.context.execution.page);
        self.context.flushed(events as u64, last.map(|event| event.recorded_at), started.elapsed());
        Ok(())
    }

    pub(super) async fn flush_folded(&mut self) -> Result<(), StepError> {
        if self.open().seen > self.share.progress.position { self.flush().await } else { Ok(()) }
    }

    /// Rows together with the checkpoint, which stays where it is: so they are written only by the range's owner.
    pub(super) async fn flush_with(&mut self, mut rows: Vec<RowWrite>) -> Result<(), StepError> {
        rows.push(self.context.shares.put(&self.share)?);
        if self.has_lost_its_history() {
            return Err(StepError::Commit(CommitError::OtherHistory));
        }
        self.session().flush(rows).await.map_err(StepError::Commit)?;
        self.share.rev += 1;
        self.show(self.state());
        Ok(())
    }

    pub(super) fn session(&mut self) -> &mut dyn Session {
        &mut *self.open.as_mut().expect("only asked while it is open").session
    }

    /// A session in the place of one that has seen a failure. What that one had folded must have been flushed.
    pub(super) fn renew(&mut self) {
        let session = self.session_of_its_own();
        self.open.as_mut().expect("it is open").session = session;
    }

    fn session_of_its_own(&self) -> Box<dyn Session> {
        self.context.open(self.share.slices, &self.effects, &self.called)
    }
}

/// Where a share has come to is there: else what is appended next would be passed over.
async fn lies_in_the_log(context: &BuildContext, stored: &Share<Checkpoint>) -> Result<(), StoreError> {
    let position = stored.progress.position;
    let head = context.backend().head().await?;
    if position <= head {
        return Ok(());
    }
    let build = &context.build;
    let what = format!(
        "the checkpoint of {build} is at {position}, and the log ends at {head}: they are of two histories. Restore both from \
         one state, or rebuild it"
    );
    Err(StoreError::Corrupt { what })
}

/// Up to what time every event was handled, once those of a page were up to a position. At the end of the log that is the
/// time at which it was read.
fn handled_until(page: &Page, seen: Position, now: Timestamp) -> Option<Timestamp> {
    if page.events.is_empty() {
        return (!page.more && seen >= page.through).then_some(now);
    }
    let n_handled = page.events.partition_point(|event| event.place() <= seen);
    let last = page.events[..n_handled].last()?;
    Some(last.recorded_at.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamId;
    use crate::event::EventData;
    use crate::store::{NewEvent, Version};

    fn second(n: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(n)
    }

    /// A page of events that were recorded at the seconds of their positions.
    fn page(places: &[u64], through: u64, more: bool) -> Page {
        let event = |&place: &u64| {
            let (name, codec) = ("noted".into(), "json".into());
            let data = EventData { name, schema: 1, codec, data: "{}".into(), tags: Vec::new() };
            let event = NewEvent::new(uuid::Uuid::from_u128(place.into()), data, Arc::default());
            let stream = StreamId::new("a").unwrap();
            event.into_recorded(stream, Version(place), Some(Position(place)), second(place))
        };
        Page { events: places.iter().map(event).collect(), through: Position(through), more }
    }

    #[test]
    fn time_goes_by_the_log_until_its_end() {
        let (now, at) = (second(60), |n| Some(second(n)));
        let until = |page: &Page, seen| handled_until(page, Position(seen), now);
        assert_eq!(until(&page(&[], 9, false), 9), Some(now), "the end");
        assert_eq!(until(&page(&[], 9, true), 9), None, "nothing matched so far");
        assert_eq!(until(&page(&[], 9, false), 5), None, "the build may go no further");
        assert_eq!(until(&page(&[2, 5, 7], 9, false), 9), at(7), "there may be more since it was read");
        assert_eq!(until(&page(&[2, 5, 7], 9, true), 6), at(5), "a part of a page");
        assert_eq!(until(&page(&[2, 5, 7], 9, true), 1), None);
        assert_eq!(until(&page(&[90], 90, true), 90), Some(now), "the clock of the store is ahead");
    }

    #[test]
    fn what_is_due_shortens_a_pause_and_never_lengthens_it() {
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(1));
        assert!(matches!(Step::Rest(short).within(long), Step::Rest(pause) if pause == short));
        assert!(matches!(Step::Idle(None).within(long), Step::Idle(Some(pause)) if pause == long));
        assert!(matches!(Step::Idle(Some(long)).within(short), Step::Idle(Some(pause)) if pause == short));
        assert!(matches!(Step::More.within(short), Step::More));
    }
}
