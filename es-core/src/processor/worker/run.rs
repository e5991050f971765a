//! The work on one range: fold, then flush.
//!
//! A worker takes page after page, hands the events of its slices to a session, and flushes what they led to together
//! with its checkpoint. What fails is told apart: the store (tried again until it answers), somebody else who has taken
//! the range over (the worker ends), or a handler. Then everything before the event goes through on its own, the event
//! is tried again alone, and at last it is parked, skipped, or the range stands still.

mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::engine::Engine;
use super::pages::SharedPage;
use super::parked::{self, Kept};
use super::range::{self, Range};
use super::runner::Session;
use super::status::{ProcessorState, RangeStatus};
use super::work::{Failure, LeftOut, Work};
use crate::projection::OnFailure;
use crate::store::{CommitError, Position, RecordedEvent, StoreError};

/// How many positions without a match may pass before the checkpoint is moved over them, and after what time it is
/// moved over fewer.
const IDLE_MOVE: u64 = 1_000;
const IDLE_TIME: Duration = Duration::from_secs(1);
/// The longest wait between two looks at the log, and at what persons ask for.
const POLL: Duration = Duration::from_secs(1);
/// What may be folded before it is flushed: events, rows, time.
const FOLD: (usize, usize, Duration) = (100_000, 10_000, Duration::from_secs(2));
/// How long a build that is not read any more waits for the one that is.
const FOLLOW: Duration = Duration::from_millis(50);
/// Events of a parked sequence looked up at once.
const SEQUENCE: usize = 500;

pub(crate) struct Worker {
    engine: Arc<Engine>,
    range: Range,
    stop: CancellationToken,
    wake: watch::Receiver<Position>,
    nudge: watch::Receiver<u64>,
    open: Option<Open>,
    /// Failures of the store in a row.
    failures: u32,
    trouble: Option<Trouble>,
    /// What was decided of events that failed, until it is stored.
    verdicts: Vec<Verdict>,
    /// How many events are flushed at once, after a flush that failed; doubled by each one that did not.
    limit: usize,
    /// While it stands still: how often somebody had resumed before, and what it shows.
    halted: Option<(u64, ProcessorState)>,
    /// When it was last looked up what persons ask for; `None` if somebody has just asked.
    asked: Option<Instant>,
}

/// What is known while the range is worked on without a failure.
struct Open {
    session: Box<dyn Session>,
    parked: BTreeMap<String, Kept>,
    skips: BTreeMap<(Position, String), String>,
    /// Everything up to here is folded.
    seen: Position,
    /// Events folded since the last flush, the last of them, and since when.
    folded: usize,
    last: Option<RecordedEvent>,
    since: Instant,
    left_out: Vec<LeftOut>,
    /// A page of which a part is done.
    page: Option<(Arc<SharedPage>, usize)>,
    flushed: Instant,
}

/// An event whose handler failed.
struct Trouble {
    position: Position,
    key: String,
    attempts: u32,
}

struct Verdict {
    position: Position,
    key: String,
    kept: Option<Kept>,
    reason: String,
}

/// What a step came to.
enum Step {
    /// There is more to do right now.
    More,
    /// There is nothing to do until something happens, or this long.
    Rest(Duration),
    /// The range is somebody else's.
    Lost,
}

/// Why a step failed.
pub(crate) enum Trip {
    Handler(Failure),
    Store(StoreError),
    Commit(CommitError),
    Full(String),
}

impl From<StoreError> for Trip {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Worker {
    pub(crate) fn new(engine: Arc<Engine>, range: Range, stop: CancellationToken) -> Self {
        let (wake, nudge) = (engine.backend.watch(), engine.nudge.subscribe());
        let limit = engine.traits.page;
        Self {
            engine,
            range,
            stop,
            wake,
            nudge,
            open: None,
            failures: 0,
            trouble: None,
            verdicts: Vec::new(),
            limit,
            halted: None,
            asked: None,
        }
    }

    /// Until it is stopped, after the page that it is at, or until the range is somebody else's.
    pub(crate) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.wake.mark_unchanged();
            self.nudge.mark_unchanged();
            let pause = match self.step().await {
                Ok(Step::More) => continue,
                Ok(Step::Lost) => return,
                Ok(Step::Rest(pause)) => pause,
                Err(trip) => match self.tripped(trip).await {
                    Some(pause) => pause,
                    None => return,
                },
            };
            let failing = self.open.is_none();
            let rest = async {
                if failing || pause < POLL {
                    tokio::time::sleep(pause).await;
                } else {
                    crate::store::wait(&mut self.wake, pause).await;
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = rest => {}
                // The engine is as long there as its workers.
                _ = self.nudge.changed() => self.asked = None,
            }
        }
        // What was folded is flushed, unless it fails: then it is folded again by whoever comes next.
        if self.open.as_ref().is_some_and(|open| open.seen > self.range.position) {
            drop(self.flush().await);
        }
    }

    async fn step(&mut self) -> Result<Step, Trip> {
        let resumed = *self.engine.resumed.borrow();
        if self.halted.as_ref().is_some_and(|(before, _)| *before != resumed) {
            // The event that it stopped at is tried again: what was decided of it is forgotten.
            (self.halted, self.trouble, self.open) = (None, None, None);
            self.verdicts.clear();
        }
        if !self.engine.may_act() {
            return Ok(Step::Rest(FOLLOW));
        }
        if self.open.is_none() && !self.reopen().await? {
            return Ok(Step::Lost);
        }
        let waits = !self.open().parked.is_empty();
        if self.asked.is_none_or(|asked| waits && asked.elapsed() >= POLL) {
            self.requests().await?;
            self.afresh().await?;
            if self.open.is_none() {
                return Ok(Step::More);
            }
            self.asked = Some(Instant::now());
        }
        // While it stands still, sequences can be emptied: that may be what it waits for.
        if self.halted.is_some() {
            return Ok(Step::Rest(POLL));
        }
        let bound = self.engine.bound().await?;
        let open = self.open.as_mut().expect("opened above");
        let (page, done) = match open.page.take() {
            Some(part) => part,
            None => (self.engine.pages.after(open.seen).await?, 0),
        };
        self.take(&page, done, bound).await
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("only asked while it is open")
    }

    /// Reads what is stored. `false` if the range is somebody else's.
    async fn reopen(&mut self) -> Result<bool, StoreError> {
        let (backend, build) = (&*self.engine.backend, self.range.build.clone());
        let stored = range::read(backend, &build, self.range.slices.first).await?;
        let own = |range: &Range| range.epoch == self.range.epoch && range.owner == self.range.owner;
        let Some(stored) = stored.filter(|stored| own(stored) && stored.slices == self.range.slices) else {
            return Ok(false);
        };
        if !self.engine.has_its_role().await? {
            return Ok(false);
        }
        self.range = stored;
        let mut parked = parked::of_range(backend, &build, self.range.slices).await?;
        let mut skips = self.engine.skips.clone();
        // What has come through since they were decided is stored.
        self.verdicts.retain(|verdict| verdict.position > self.range.position);
        for Verdict { position, key, kept, reason } in &self.verdicts {
            match kept {
                Some(kept) => drop(parked.entry(key.clone()).or_insert_with(|| kept.clone())),
                None => drop(skips.insert((*position, key.clone()), reason.clone())),
            }
        }
        let session = self.engine.open();
        let now = Instant::now();
        self.open = Some(Open {
            session,
            parked,
            skips,
            seen: self.range.position,
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

    /// Takes in what comes next of a page, of whose events some are done.
    async fn take(&mut self, page: &Arc<SharedPage>, done: usize, bound: Position) -> Result<Step, Trip> {
        let started = Instant::now();
        let next = self.next(page, done, bound);
        let open = self.open.as_mut().expect("only asked while it is open");
        let n = next.events.len();
        if n > 0 {
            let mut work = Work::of_range(self.range.slices, &open.parked, &open.skips);
            let span = tracing::debug_span!(
                "es.processor.fold",
                build = %self.range.build,
                slices = %self.range.slices,
                events = n,
                through = next.through.0,
            );
            let folding = open.session.fold(&next.events, &mut work).instrument(span);
            folding.await.map_err(Trip::Handler)?;
            open.left_out.extend(work.left_out());
            if open.folded == 0 {
                open.since = started;
            }
            open.folded += n;
            open.last = next.events.last().map(|event| (*event).clone());
        }
        open.seen = next.through.max(open.seen);
        let more = match next.rest {
            Some(done) => {
                open.page = Some((page.clone(), done));
                true
            }
            None => page.more && !next.bounded,
        };
        let gap = open.seen.0 - self.range.position.0;
        let due = if open.folded > 0 {
            let folds = self.engine.traits.folds && next.whole && more;
            let (events, rows, time) = FOLD;
            !folds || open.folded >= events || open.session.waiting() >= rows || open.since.elapsed() >= time
        } else {
            gap >= IDLE_MOVE || gap > 0 && open.flushed.elapsed() >= IDLE_TIME
        };
        let (seen, worked) = (open.seen, open.folded > 0);
        if due {
            self.flush().await?;
        }
        self.failures = 0;
        if self.trouble.as_ref().is_some_and(|trouble| self.range.position >= trouble.position) {
            self.trouble = None;
        }
        self.show_at(self.state(), seen);
        Ok(match (more, worked) {
            (true, _) => Step::More,
            (false, _) if next.bounded => Step::Rest(FOLLOW),
            // Under load, as long as the page took: so at most half of the time goes into small pages, and they grow.
            (false, true) => Step::Rest(started.elapsed().min(POLL / 2)),
            // It may have been read for somebody else, some time ago.
            (false, false) if !page.events.is_empty() => Step::More,
            (false, false) if gap > 0 && !due => Step::Rest(IDLE_TIME),
            (false, false) => Step::Rest(POLL),
        })
    }

    /// What is taken in at once: not past what failed, the end of the replay, or the build that is read.
    fn next<'p>(&self, page: &'p SharedPage, done: usize, bound: Position) -> Next<'p> {
        let open = self.open();
        let mut end = bound;
        let replay = open.seen < self.range.replay;
        if replay {
            end = end.min(self.range.replay);
        }
        let mut limit = self.limit.min(self.engine.traits.page);
        let mut whole = limit == self.engine.traits.page;
        if let Some(trouble) = &self.trouble {
            whole = false;
            if open.seen.0 + 1 < trouble.position.0 {
                end = end.min(Position(trouble.position.0 - 1));
            } else {
                (end, limit) = (end.min(trouble.position), 1);
            }
        }
        let wants = |event: &RecordedEvent| self.engine.wants(event);
        let mut events = Vec::new();
        let mut rest = None;
        for (i, event) in page.events(replay).iter().enumerate().skip(done) {
            if event.place() > end || events.len() == limit {
                rest = Some(i);
                break;
            }
            if wants(event) {
                events.push(event);
            }
        }
        let through = match rest {
            Some(i) if page.events[i].place() > end => end,
            Some(_) => events.last().map_or(open.seen, |event: &&RecordedEvent| event.place()),
            None => page.through.min(end),
        };
        let bounded = through >= bound && bound < page.through;
        // Before the end of what is bounded, the page is asked for again: then there may be more of it.
        let rest = rest.filter(|_| !bounded);
        let cut = through < page.through && rest.is_none() && !bounded;
        let rest = if cut { Some(page.events.len()) } else { rest };
        Next { events, through, rest, bounded, whole }
    }

    /// Makes durable what was folded.
    async fn flush(&mut self) -> Result<(), Trip> {
        let (build, now) = (self.range.build.clone(), self.engine.now());
        let open = self.open.as_mut().expect("only flushed while it is open");
        let to = self.range.at(open.seen);
        let mut rows = vec![to.write()];
        if !open.left_out.is_empty() {
            rows.extend(parked::write(&build, &mut open.parked, &open.skips, &open.left_out, now));
            self.engine.has_room(&open.parked).await?;
        }
        let started = Instant::now();
        let span = tracing::debug_span!(
            "es.processor.flush",
            %build,
            slices = %self.range.slices,
            events = open.folded,
            position = to.position.0,
        );
        open.session.flush(rows).instrument(span).await.map_err(Trip::Commit)?;
        self.range = to.written();
        let touched: BTreeSet<String> =
            open.left_out.drain(..).filter(|left| left.parked).map(|left| left.key).collect();
        for key in touched {
            open.parked.get_mut(&key).expect("it was written").rev += 1;
        }
        let (events, last) = (std::mem::take(&mut open.folded), open.last.take());
        open.flushed = Instant::now();
        self.limit = (2 * self.limit).min(self.engine.traits.page);
        self.engine.flushed(events as u64, last.map(|event| event.recorded_at), started.elapsed());
        Ok(())
    }

    /// After a failure: how long to wait; `None` if the range is somebody else's.
    async fn tripped(&mut self, trip: Trip) -> Option<Duration> {
        let open = self.open.take();
        match trip {
            Trip::Full(why) => Some(self.halt(why)),
            Trip::Store(error) => Some(self.failed(&error)),
            // Looked up again, the row says whether it is still this worker's.
            Trip::Commit(error @ CommitError::Fenced { .. }) => {
                tracing::debug!(build = %self.range.build, slices = %self.range.slices, %error, "fenced");
                self.failures += 1;
                (self.failures < 100).then(|| self.backoff(self.failures))
            }
            Trip::Commit(error) => {
                let folded = open.as_ref().map_or(0, |open| open.folded);
                let blamed = open.and_then(|open| self.blamed(open));
                if folded == 0 || !self.engine.blames_the_event(&error).await {
                    return Some(self.failed(&error));
                }
                if folded > 1 {
                    // Which one it is shows when there is only one.
                    self.limit = folded.min(self.limit).div_ceil(2);
                    return Some(Duration::ZERO);
                }
                Some(match blamed {
                    Some((event, key)) => self.handler_failed(Failure::new(&event, key, error)).await,
                    None => self.failed(&error),
                })
            }
            Trip::Handler(failure) => {
                if !self.engine.blames_the_event(&*failure.source).await {
                    return Some(self.failed(&failure));
                }
                Some(self.handler_failed(failure).await)
            }
        }
    }

    /// The event that was folded last, and the key for which it cannot be flushed; `None` if no handler had to do with it.
    fn blamed(&self, open: Open) -> Option<(RecordedEvent, String)> {
        let event = open.last?;
        let left_out = |key: &String| open.left_out.iter().any(|left| left.key == *key);
        let known = open.session.failed().map(str::to_owned);
        let handled = |key: &String| self.range.slices.has(key) && !left_out(key);
        let any = || self.engine.runner.keys(&event).unwrap_or_default().into_iter().find(handled);
        let key = known.or_else(any)?;
        Some((event, key))
    }

    /// The store fails: it is asked again until it answers.
    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) -> Duration {
        self.failures += 1;
        self.show_failing(&crate::chain(error), self.failures);
        self.backoff(self.failures)
    }

    async fn handler_failed(&mut self, failure: Failure) -> Duration {
        let same = |t: &&mut Trouble| t.position == failure.position && t.key == failure.key;
        let attempts = match self.trouble.as_mut().filter(same) {
            Some(trouble) => {
                trouble.attempts += 1;
                trouble.attempts
            }
            None => {
                let (position, key) = (failure.position, failure.key.clone());
                self.trouble = Some(Trouble { position, key, attempts: 1 });
                1
            }
        };
        let error = parked::cut(&crate::chain(&failure));
        self.show_failing(&error, attempts);
        if attempts <= self.engine.settings.retries {
            return self.backoff(attempts);
        }
        let Failure { position, key, event, .. } = failure;
        let (build, slices) = (&self.range.build, self.range.slices);
        let reason = parked::cut(&crate::chain(&*failure.source));
        match self.engine.on_failure {
            OnFailure::Stop => {
                let advice = self.engine.advice(&key).await;
                return self.halt(format!("{error}{advice}"));
            }
            OnFailure::Park => {
                tracing::error!(%build, %slices, %position, key, error, "an event is parked: its key waits for a person");
                let kept = Kept::begin(position, event.to_string(), &reason, attempts, self.engine.now());
                self.verdicts.push(Verdict { position, key, kept: Some(kept), reason });
                self.engine.count("es_processor_parked_total");
            }
            OnFailure::Skip => {
                tracing::error!(%build, %slices, %position, key, error, "an event is skipped for good");
                self.verdicts.push(Verdict { position, key, kept: None, reason });
                self.engine.count("es_processor_skipped_total");
            }
        }
        Duration::ZERO
    }

    fn halt(&mut self, error: String) -> Duration {
        let (build, slices) = (&self.range.build, self.range.slices);
        tracing::error!(%build, %slices, error, "a processor stands still until it is resumed");
        self.engine.count("es_processor_halted_total");
        let state = ProcessorState::Halted { since: self.engine.now(), error };
        self.halted = Some((*self.engine.resumed.borrow(), state.clone()));
        self.show(Some(state));
        POLL
    }

    /// What it shows after something went well; `None` if that was not what had failed: then it goes on showing it.
    fn state(&self) -> Option<ProcessorState> {
        match &self.halted {
            Some((_, halted)) => Some(halted.clone()),
            None => (self.trouble.is_none() && self.failures == 0).then_some(ProcessorState::Running),
        }
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let (first, longest) = self.engine.settings.backoff;
        let doubled = first.saturating_mul(1 << (attempts.max(1) - 1).min(16));
        doubled.min(longest).mul_f64(0.5 + self.engine.ids.fraction() / 2.0)
    }

    fn show_failing(&self, error: &str, attempts: u32) {
        let (build, slices) = (&self.range.build, self.range.slices);
        let position = self.range.position.0;
        tracing::warn!(%build, %slices, position, attempts, error, "a page failed and is tried again");
        if self.halted.is_some() {
            return;
        }
        let now = self.engine.now();
        self.engine.board.update(self.range.slices.first, |range| {
            let since = match range.state {
                ProcessorState::Failing { since, .. } => since,
                _ => now,
            };
            range.position = self.range.position;
            range.state = ProcessorState::Failing { since, attempts, error: error.to_owned() };
        });
    }

    fn show(&self, state: Option<ProcessorState>) {
        self.show_at(state, self.range.position);
    }

    fn show_at(&self, state: Option<ProcessorState>, seen: Position) {
        let parked = self.open.as_ref().map(|open| open.parked.len());
        // Folded is not yet there for a reader: only what was flushed, and what had nothing to flush.
        let folding = self.open.as_ref().is_some_and(|open| open.folded > 0);
        let position = if folding { self.range.position } else { seen };
        self.engine.board.update(self.range.slices.first, |range: &mut RangeStatus| {
            range.position = position;
            range.parked = parked.unwrap_or(range.parked);
            if let Some(state) = state {
                range.state = state;
            }
        });
    }
}

/// What is taken in at once.
struct Next<'p> {
    events: Vec<&'p RecordedEvent>,
    /// Everything up to here is done with it.
    through: Position,
    /// Where to go on in the page, if there is more of it.
    rest: Option<usize>,
    /// Whether it ends because the build that is read has come no further.
    bounded: bool,
    /// Whether nothing asks for small steps.
    whole: bool,
}
