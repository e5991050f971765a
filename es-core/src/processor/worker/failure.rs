//! What failed, whose fault it is, and what becomes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Open, Overdue, POLL, SOON, Worker};
use crate::BoxError;
use crate::blame::{Definite, NotTheEvent};
use crate::event::is_of_a_newer_program;
use crate::processor::kinds::admission::Failure;
use crate::processor::parked::{self, ANY_KEY, Parked, Skips};
use crate::processor::status::{ProcessorState, RangeStatus};
use crate::projection::OnFailure;
use crate::state::Halt;
use crate::store::{
    Append, Commit, CommitError, ExpectedVersion, Position, RecordedEvent, StoreError, StreamId, write_rows,
};

/// How many events are handled at once after one has failed: no more than these are handled again without it.
const CAUTIOUS: usize = 256;
/// After so many events in a row whose handler was called again in vain, the next ones are tried once, until no event was
/// given up for this long; or as long as two may take, if that is longer. In a row: none that had failed went through between
/// them; those that have never failed say nothing.
const IN_VAIN: (u32, Duration) = (8, Duration::from_secs(60));
/// The stream to which nothing is appended, to see whether something could be.
const PROBE: &str = "es-probe";
/// How often in a row a write is refused before that is shown: mostly it was another node, once.
const FENCED: u32 = 10;

/// What is at the end of an error for which an event is blamed, for want of anything else. Operators look for it.
pub(super) fn in_vain_for(others: &str, patience: Duration) -> String {
    format!(", {others}for {patience:?} in which the store took writes")
}

/// Why a step failed.
pub(crate) enum StepError {
    Handler(Failure),
    /// What was due could not be done, or not be written.
    Due(BoxError),
    Store(StoreError),
    Commit(CommitError),
    Full(String),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// An event whose handler failed.
pub(super) struct Trouble {
    pub(super) position: Position,
    key: String,
    attempts: u32,
    /// Since when its failure looks like one of the store, which takes writes all the same.
    suspected: Option<Instant>,
    /// Whether it was decided to go on without it. That is not known from the verdict: it is forgotten once it is stored, also
    /// if nobody was told so.
    given_up: bool,
}

/// Events in a row that were given up though their handler was called again, and when the last one was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InVain {
    events: u32,
    last: Option<Instant>,
}

impl InVain {
    /// Whether it is known by now that to call again does not help, if what lies further back than this is forgotten.
    fn is_known(&self, within: Duration) -> bool {
        self.events >= IN_VAIN.0 && self.last.is_some_and(|last| last.elapsed() < within)
    }

    fn gave_up(&mut self, called_again: bool, within: Duration) {
        let before = if self.last.is_none_or(|last| last.elapsed() >= within) { 0 } else { self.events };
        *self = Self { events: before.saturating_add(u32::from(called_again)), last: Some(Instant::now()) };
    }
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The store takes no writes now: nothing can be said of the event. Or this program is too old for it: a newer one
    /// handles it.
    Store,
    /// It looks like one of the store, which takes writes. After a while it is the event's: a partner that is down fails
    /// in the same words.
    Suspect,
    Event,
    /// The event's, without a doubt: its handler has nothing but it and its row, and to call it again does not help.
    Certain,
}

/// What was decided of an event that failed.
pub(super) struct Verdict {
    pub(super) position: Position,
    pub(super) key: String,
    /// The sequence that it begins; `None` if it is skipped.
    pub(super) parked: Option<Parked>,
    pub(super) reason: String,
    /// Whether the event could not be decoded.
    pub(super) undecoded: bool,
}

impl Verdict {
    /// From now on the event is left out, or begins its sequence.
    pub(super) fn apply(&self, parked: &mut BTreeMap<String, Parked>, skips: &mut Skips) {
        let Self { position, key, parked: sequence, reason, undecoded } = self;
        match sequence {
            Some(sequence) => {
                let known = parked.entry(key.clone()).or_insert_with(|| sequence.clone());
                // Of two that are not stored, the other one queues up behind the earlier one.
                if known.rev == 0 && sequence.value.first < known.value.first {
                    known.clone_from(sequence);
                }
            }
            None => {
                drop(skips.insert((*position, key.clone()), reason.clone()));
                if *undecoded {
                    drop(skips.insert((*position, ANY_KEY.to_owned()), reason.clone()));
                }
            }
        }
    }
}

impl Worker {
    /// After a failure: how long to wait. Whether the range is still this worker's shows when it is looked up again.
    pub(super) async fn recover(&mut self, error: StepError) -> Duration {
        let mut open = self.open.take();
        // What is parked is written by this worker alone: it need not be read again while the share is as it left it.
        self.parked = open.as_mut().map(|open| std::mem::take(&mut open.parked));
        let page = self.page.take();
        let folded = open.as_ref().map_or(0, |open| open.folded);
        let pause = match error {
            StepError::Full(_) if folded > 1 => {
                // As many as fit are parked: what is left over shows when it is handled alone.
                self.halve(folded);
                Duration::ZERO
            }
            StepError::Full(why) => {
                // Its transaction would be in the way of saying so. What was decided is not stored: it is no more.
                drop(open);
                self.verdicts.clear();
                let resumes = *self.context.resumes.borrow();
                self.halt(why, resumes).await
            }
            StepError::Store(error) => self.store_failed(&error),
            StepError::Due(error) => self.due_failed(&*error),
            StepError::Commit(error @ (CommitError::Fenced { .. } | CommitError::OtherHistory)) => {
                self.fenced(&error)
            }
            StepError::Commit(error) => self.flush_failed(error, open).await,
            StepError::Handler(failure) => {
                if self.is_certain(&failure) {
                    self.leave_out(failure).await
                } else {
                    let fault = self.fault(&*failure.source).await;
                    if is_of_a_newer_program(&*failure.source) {
                        // With the next look, the build is left to a node that may know it.
                        self.context.met_unknown(failure.position);
                    }
                    self.handler_failed(failure, fault).await
                }
            }
        };
        // What is tried right now is not read again.
        self.page = page.filter(|_| pause.is_zero());
        pause
    }

    /// A write was refused, for something has changed: all of it is read again. The worker stays, and with it what its calls
    /// have come to; a range that has another owner it leaves once it has read so.
    fn fenced(&mut self, error: &CommitError) -> Duration {
        self.parked = None;
        self.failures += 1;
        if self.failures >= FENCED {
            self.show_failing("a page", &crate::chain(error), self.failures);
        } else {
            tracing::debug!(build = %self.context.build, slices = %self.share.slices, %error, "fenced");
        }
        self.backoff(self.failures)
    }

    /// Whose fault an error is. An event is blamed only while the store takes writes, whatever the error says.
    pub(super) async fn fault(&mut self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Fault {
        let fenced =
            matches!(error.downcast_ref(), Some(CommitError::Fenced { .. } | CommitError::OtherHistory));
        // Asked in any case: what was done beside it is written with the answer.
        let takes_writes = !fenced && self.takes_writes().await;
        if !takes_writes || is_of_a_newer_program(error) || error.is::<NotTheEvent>() {
            Fault::Store
        } else if !self.context.blames_the_store(error) {
            Fault::Event
        } else if self.takes_appends().await {
            Fault::Suspect
        } else {
            Fault::Store
        }
    }

    /// Whether the store takes events as well: rows may go another way, and commands of a handler fail that one does not see.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "a session may be sent to another thread, and not shared with it"
    )]
    async fn takes_appends(&mut self) -> bool {
        let Ok(stream) = StreamId::new(PROBE) else { return false };
        let append = Append { stream, expected: ExpectedVersion::Any, events: Vec::new() };
        self.context.backend().commit(Commit { appends: vec![append], ..Commit::default() }).await.is_ok()
    }

    /// Whether a failure needs no second look: its handler is not called again, and has nothing but an event and a row. That
    /// it is blamed is written with the next commit, so only if the store takes one.
    fn is_certain(&self, failure: &Failure) -> bool {
        let source = &*failure.source;
        let goes_on = self.context.on_failure != OnFailure::Stop;
        let goes_on = goes_on && self.context.folds() && self.retries(failure) == 0;
        let of_event = !is_of_a_newer_program(source) && !source.is::<NotTheEvent>();
        goes_on && of_event && !self.context.blames_the_store(source)
    }

    /// Goes on without the event, from the last flush: in small steps, for there may be more of its kind.
    async fn leave_out(&mut self, failure: Failure) -> Duration {
        let pause = self.handler_failed(failure, Fault::Certain).await;
        self.trouble = None;
        self.limit = self.limit.min(CAUTIOUS);
        pause
    }

    /// Whether the store takes a write: of the share, as it is.
    pub(super) async fn takes_writes(&mut self) -> bool {
        if self.has_lost_its_history() {
            return false;
        }
        // Meanwhile a neighbour of what has failed may have acted: whoever comes next is told.
        self.share.progress.ahead = self.untold();
        let Ok(row) = self.context.shares.put(&self.share) else { return false };
        let commit = Commit { rows: vec![row], ..Commit::default() };
        let written = self.context.backend().commit(commit).await.is_ok();
        self.share.rev += u64::from(written);
        written
    }

    /// A flush failed: which of its events is to blame shows when there is only one.
    async fn flush_failed(&mut self, error: CommitError, open: Option<Open>) -> Duration {
        let folded = open.as_ref().map_or(0, |open| open.folded);
        let blamed = open.and_then(|open| self.blamed(open));
        let fault = if folded == 0 { Fault::Store } else { self.fault(&error).await };
        if fault != Fault::Store && folded > 1 {
            self.halve(folded);
        }
        match (fault, blamed) {
            (Fault::Event, _) if folded > 1 => Duration::ZERO,
            (Fault::Event | Fault::Suspect, Some((event, key))) if folded == 1 => {
                self.handler_failed(Failure::new(&event, key, error), fault).await
            }
            _ => self.store_failed(&error),
        }
    }

    /// Of so many events that cannot be flushed together, half are tried next. Down to nothing: then one event at a time is
    /// handled, and nothing is folded on.
    fn halve(&mut self, folded: usize) {
        self.limit = folded.min(self.limit) / 2;
    }

    /// The event that was folded last, and the key for which it cannot be flushed; `None` if no handler had to do with it.
    fn blamed(&self, open: Open) -> Option<(RecordedEvent, String)> {
        let event = open.last?;
        let left_out = |key: &String| open.left_out.iter().any(|left| left.key == *key);
        let known = open.session.failed().map(str::to_owned);
        let handled = |key: &String| self.share.slices.has(key) && !left_out(key);
        let any = || self.context.runner.keys(&event).unwrap_or_default().into_iter().find(handled);
        let key = known.or_else(any)?;
        Some((event, key))
    }

    /// The store fails: it is asked again until it answers.
    fn store_failed(&mut self, error: &(dyn std::error::Error + 'static)) -> Duration {
        self.failures += 1;
        self.show_failing("a page", &crate::chain(error), self.failures);
        self.backoff(self.failures)
    }

    /// What is due is tried again after a while; events go on being handled.
    fn due_failed(&mut self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Duration {
        let attempts = self.overdue.map_or(1, |overdue| overdue.attempts.saturating_add(1));
        self.overdue = Some(Overdue { attempts, again: Instant::now() + self.backoff(attempts) });
        if matches!(error.downcast_ref(), Some(CommitError::Fenced { .. } | CommitError::OtherHistory)) {
            // Looked up again, the row says whether it is still this worker's.
            tracing::debug!(build = %self.context.build, slices = %self.share.slices, %error, "fenced");
        } else {
            self.show_failing("what is due", &parked::cut(&crate::chain(error)), attempts);
        }
        Duration::ZERO
    }

    async fn handler_failed(&mut self, failure: Failure, fault: Fault) -> Duration {
        // From here on a resume is one of what is decided now.
        let resumes = *self.context.resumes.borrow();
        let patience = self.context.options.patience;
        let Trouble { attempts, suspected, .. } = self.count(&failure, fault);
        let (attempts, suspected) = (*attempts, suspected.map(|since| since.elapsed()));
        let said = crate::chain(&failure);
        // Whose failure it was in a crowd shows when it is handled alone.
        let in_a_crowd = attempts == 1 && self.crowd;
        let pause = match (fault, suspected) {
            (Fault::Store, _) => return self.store_failed(&failure),
            (Fault::Suspect, _)
                if self.is_vain_to_suspect() && attempts > self.context.options.retries && !in_a_crowd =>
            {
                None
            }
            (Fault::Suspect, Some(time)) => {
                patience.checked_sub(time).map(|left| self.backoff(attempts).min(left.max(SOON)))
            }
            (Fault::Certain, _) => None,
            _ if attempts <= self.retries(&failure) => Some(self.backoff(attempts)),
            _ => in_a_crowd.then_some(Duration::ZERO),
        };
        self.show_failing("a page", &parked::cut(&said), attempts);
        if let Some(pause) = pause {
            return pause;
        }
        let so_long = match suspected {
            Some(time) if fault == Fault::Suspect => {
                let others = if time < patience { "as others did " } else { "" };
                in_vain_for(others, patience)
            }
            _ => String::new(),
        };
        let Failure { position, key, event, undecoded, .. } = failure;
        self.in_vain.gave_up(attempts > 1, IN_VAIN.1);
        if fault == Fault::Suspect {
            self.suspected_in_vain.gave_up(true, self.suspects_within());
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.given_up = true;
        }
        let (build, slices) = (&self.context.build, self.share.slices);
        let reason = parked::cut_before(&crate::chain(&*failure.source), &so_long);
        let error = parked::cut_before(&said, &so_long);
        match self.context.on_failure {
            OnFailure::Stop => {
                // It is cut so that what helps is stored as well.
                let advice = so_long + &self.context.advice(&key).await;
                return self.halt(parked::cut_before(&said, &advice), resumes).await;
            }
            OnFailure::Park => {
                tracing::error!(%build, %slices, %position, key, error, "an event is parked: its key waits for an operator");
                let now = self.context.now();
                let sequence = parked::begin(&key, position, event.to_string(), &reason, attempts, now);
                self.verdicts.push(Verdict { position, key, parked: Some(sequence), reason, undecoded });
                self.context.count("es_processor_parked_total");
            }
            OnFailure::Skip => {
                tracing::error!(%build, %slices, %position, key, error, "an event is skipped for good");
                self.verdicts.push(Verdict { position, key, parked: None, reason, undecoded });
                self.context.count("es_processor_skipped_total");
            }
        }
        Duration::ZERO
    }

    /// How often a handler is called again. One that writes to the store's own tables has shown soon whether that helps; one
    /// with effects outside waits for a partner, whatever came before.
    fn retries(&self, failure: &Failure) -> u32 {
        let vain = self.in_vain.is_known(IN_VAIN.1) && self.context.runner.keeps().is_fenced();
        if vain || failure.source.is::<Definite>() { 0 } else { self.context.options.retries }
    }

    /// Whether others have failed as the store does for as long as it is believed, and went on to. An effect outside waits for
    /// its partner all the same.
    fn is_vain_to_suspect(&self) -> bool {
        self.suspected_in_vain.is_known(self.suspects_within()) && self.context.runner.keeps().is_fenced()
    }

    /// One that is believed may take its whole `patience`, and a call more.
    fn suspects_within(&self) -> Duration {
        let options = &self.context.options;
        IN_VAIN.1.max(options.patience.saturating_add(options.handler_limit).saturating_mul(2))
    }

    /// Counts how often the same event has failed for the same key.
    fn count(&mut self, failure: &Failure, fault: Fault) -> &Trouble {
        let same = |t: &Trouble| t.position == failure.position && t.key == failure.key;
        let known = self.trouble.take().filter(same);
        let trouble = known.unwrap_or_else(|| {
            let (position, key) = (failure.position, failure.key.clone());
            Trouble { position, key, attempts: 0, suspected: None, given_up: false }
        });
        let suspected = match fault {
            Fault::Store => None,
            Fault::Suspect => trouble.suspected.or_else(|| Some(Instant::now())),
            Fault::Event | Fault::Certain => trouble.suspected,
        };
        // While the store is away, nothing is learned of the event.
        let attempts = trouble.attempts.saturating_add(u32::from(fault != Fault::Store));
        self.trouble.insert(Trouble { attempts, suspected, ..trouble })
    }

    async fn halt(&mut self, error: String, resumes: u64) -> Duration {
        let (build, slices) = (&self.context.build, self.share.slices);
        tracing::error!(%build, %slices, error, "a processor is halted until it is resumed");
        self.context.count("es_processor_halted_total");
        let since = self.context.now();
        let state = ProcessorState::Halted { since, error };
        self.halted = Some((resumes, state.clone()));
        self.show(Some(state));
        // If that fails, it is tried again while it stands still.
        drop(self.tells_why().await);
        POLL
    }

    /// Stores why it is halted, so that every node can say so. `false` if its share has another revision by now.
    pub(super) async fn tells_why(&mut self) -> Result<bool, StoreError> {
        let Some((resumes, ProcessorState::Halted { since, error })) = &self.halted else { return Ok(true) };
        if self.share.progress.halt.is_some() {
            return Ok(true);
        }
        let mut next = self.share.clone();
        next.progress.halt = Some(Halt { since: *since, error: parked::cut(error), resumes: *resumes });
        let won = write_rows(self.context.backend(), vec![self.context.shares.put(&next)?]).await?;
        if won.is_yes() {
            self.share = next.written();
        }
        Ok(won.is_yes())
    }

    /// A step went well: what had failed before is over, if it was that.
    pub(super) fn went_well(&mut self) {
        self.failures = 0;
        let position = self.share.progress.position;
        if let Some(trouble) = self.trouble.take_if(|trouble| position >= trouble.position)
            && !trouble.given_up
        {
            // It has gone through: to call again helps.
            (self.in_vain, self.suspected_in_vain) = (InVain::default(), InVain::default());
        }
    }

    /// What it shows after something went well; `None` if that was not what had failed: then it goes on showing it.
    pub(super) fn state(&self) -> Option<ProcessorState> {
        match &self.halted {
            Some((_, halted)) => Some(halted.clone()),
            None => {
                let well = self.trouble.is_none() && self.overdue.is_none() && self.failures == 0;
                let well = well && self.retrying.again.is_none() && self.undecodable.again.is_none();
                let well = well && self.rounds.again.is_none();
                well.then(|| self.unreadable.values().next().cloned().unwrap_or(ProcessorState::Running))
            }
        }
    }

    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        let options = &self.context.options;
        let doubled = options.first_wait.saturating_mul(1 << (attempts.max(1) - 1).min(16));
        doubled.min(options.longest_wait).mul_f64(0.5 + self.context.node.ids.fraction() / 2.0)
    }

    pub(super) fn show_failing(&self, what: &str, error: &str, attempts: u32) {
        let (build, slices) = (&self.context.build, self.share.slices);
        let position = self.share.progress.position;
        tracing::warn!(%build, %slices, position = position.0, attempts, error, "{what} failed and is tried again");
        if self.halted.is_some() {
            return;
        }
        let now = self.context.now();
        self.context.board.update(self.share.slices.first, |range| {
            let since = match range.state {
                ProcessorState::Failing { since, .. } => since,
                _ => now,
            };
            (range.position, range.history) = (position, Some(self.history));
            range.state = ProcessorState::Failing { since, attempts, error: error.to_owned() };
        });
    }

    pub(super) fn show(&self, state: Option<ProcessorState>) {
        self.show_at(state, self.share.progress.position);
    }

    pub(super) fn show_at(&self, state: Option<ProcessorState>, seen: Position) {
        let parked = self.open.as_ref().map(|open| open.parked.len());
        // Folded is not yet there for a reader: only what was flushed, and what had nothing to flush.
        let folding = self.open.as_ref().is_some_and(|open| open.folded > 0);
        let position = if folding { self.share.progress.position } else { seen };
        self.context.board.update(self.share.slices.first, |range: &mut RangeStatus| {
            (range.position, range.history) = (position, Some(self.history));
            range.parked = parked.or(range.parked);
            range.rev = self.share.rev;
            if let Some(state) = state {
                range.state = state;
            }
        });
    }
}
