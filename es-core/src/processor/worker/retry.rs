//! Parked sequences that operators asked to be handled again or left out for good: a part at a time, between two pages of
//! the range, so that its other keys go on.
//!
//! A part is some of the first events of some sequences, done in one commit with the checkpoint. The next owner of the range
//! finds the request, and continues where this one was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Fault, StepError};
use super::run::{Overdue, SOON, Worker};
use crate::event::is_of_a_newer_program;
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::parked::{self, Parked};
use crate::state::{Build, Nothing, Request, Skipped};
use crate::store::{CommitError, Position, RecordedEvent, Row, RowWrite, StoreError};

/// How many events are handled in one part, at first and at most.
const PART: (usize, usize) = (64, 1_000);
/// How long a part may take: other keys wait for it.
const HOLDS: Duration = Duration::from_millis(40);

/// How a range goes through what it was asked to handle again.
#[derive(Debug)]
pub(super) struct Retrying {
    /// How many events are tried at once.
    part: usize,
    /// Since when its failures look like those of the store, which takes writes all the same.
    suspected: Option<Instant>,
    /// It is tried again later.
    pub(super) again: Option<Overdue>,
}

impl Default for Retrying {
    fn default() -> Self {
        Self { part: PART.0, suspected: None, again: None }
    }
}

impl Retrying {
    /// For how long it is left alone.
    pub(super) fn pause(&self) -> Option<Duration> {
        let again = self.again?.again;
        again.checked_duration_since(Instant::now()).filter(|pause| !pause.is_zero())
    }
}

/// The first events of a sequence.
struct Part {
    sequence: Parked,
    request: Row<Request>,
    events: Vec<(Row<Nothing>, Position)>,
    /// Whether the sequence has no more of them.
    whole: bool,
}

/// Why parts were not handled as they are.
enum Stop {
    /// An event of this part fails.
    Handler(usize, Failure),
    /// They cannot be made durable together.
    Flush(CommitError),
    /// So many events of this part can be handled now; the next one belongs to other ranges first.
    Waits(usize, usize),
}

impl Part {
    fn first(&self) -> Position {
        self.events.first().map_or(self.sequence.value.position, |(_, position)| *position)
    }

    fn gone(&self, i: usize, position: Position) -> Stop {
        let why = format!("there is no event at {position} any more");
        let (key, event) = (self.sequence.key.clone(), self.sequence.value.event.clone().into());
        Stop::Handler(i, Failure { key, event, position, source: why.into(), undecoded: false })
    }

    /// Taken in without a handler, it would be gone without a word.
    fn not_handled(&self, i: usize, event: &RecordedEvent) -> Stop {
        let why = "this program does not handle events of its type: retry it with one that does, or discard it";
        Stop::Handler(i, Failure::new(event, self.sequence.key.clone(), why))
    }

    /// What becomes of the sequence and the request once these events are done.
    fn end(&self, build: &Build) -> Result<Vec<RowWrite>, StoreError> {
        Ok(match self.whole {
            // Its key continues, in one commit.
            true => vec![build.parked().delete(&self.sequence), build.requests().delete(&self.request)],
            false => vec![build.parked().put(&self.rest())?],
        })
    }

    fn cut(&mut self, events: usize) {
        self.whole &= events >= self.events.len();
        self.events.truncate(events);
    }

    /// The sequence without these events.
    fn rest(&self) -> Parked {
        let mut rest = self.sequence.clone();
        rest.value.events = rest.value.events.saturating_sub(self.events.len() as u64);
        rest
    }
}

impl Worker {
    /// Does a part of what operators asked to be done with sequences of this range. Whether there is more of it.
    pub(super) async fn requests(&mut self, waits: &BTreeSet<Position>) -> Result<bool, StepError> {
        let build = self.context.build.clone();
        // Of keys that are not parked any more.
        let mut late = Vec::new();
        let (mut retries, mut discards) = (Vec::new(), Vec::new());
        for row in build.requests().stored(self.context.backend()).await? {
            if !self.share.slices.has(&row.key) {
                continue;
            }
            let request = match build.requests().decode(row) {
                Ok(request) => request,
                Err(error) => {
                    // It is of a newer version, or damaged: it stops nothing but itself.
                    tracing::warn!(%build, error = crate::chain(&error), "a request cannot be read, and is left alone");
                    continue;
                }
            };
            match (self.open().parked.contains_key(&request.key), &request.value) {
                (false, _) => late.push(build.requests().delete(&request)),
                (true, Request::Retry) => retries.push(request),
                (true, Request::Discard { .. }) => discards.push(request),
            }
        }
        if late.is_empty() && retries.is_empty() && discards.is_empty() {
            self.retrying.again = None;
            return Ok(false);
        }
        // Whatever was folded is flushed on its own: rows are written with the checkpoint that covers them, and a
        // sequence that fails takes nothing with it.
        self.flush_folded().await?;
        if !late.is_empty() {
            self.flush_with(late).await?;
        }
        let before = discards.len() + retries.len();
        let mut done = 0;
        if !discards.is_empty() {
            let parts = self.parts(discards, PART.1).await?;
            done += parts.iter().filter(|part| part.whole).count();
            self.discard(parts).await?;
        }
        if !retries.is_empty() {
            let started = Instant::now();
            let parts = self.parts(retries, self.retrying.part).await?;
            let n = n_events(&parts);
            let (sequences, events) = self.retry(parts, waits).await?;
            done += sequences;
            let slow = started.elapsed() > HOLDS || events < n;
            let part = if slow { events.min(n) / 2 } else { self.retrying.part * 2 };
            self.retrying.part = part.clamp(1, PART.1);
        }
        Ok(done < before)
    }

    /// The first events of some sequences, together at most so many.
    async fn parts(&mut self, requests: Vec<Row<Request>>, most: usize) -> Result<Vec<Part>, StoreError> {
        let context = self.context.clone();
        let (backend, build) = (context.backend(), &context.build);
        let (mut parts, mut n) = (Vec::new(), 0);
        for request in requests {
            if n >= most {
                break;
            }
            let sequence = self.open().parked[&request.key].clone();
            let mut events = parked::positions(backend, build, &sequence, Position(0), most - n + 1).await?;
            let whole = events.len() <= most - n;
            events.truncate(most - n);
            n += events.len();
            parts.push(Part { sequence, request, events, whole });
        }
        Ok(parts)
    }

    /// Handles parts of sequences, up to the first event that fails again. How many sequences and events are done with.
    async fn retry(
        &mut self,
        mut parts: Vec<Part>,
        waits: &BTreeSet<Position>,
    ) -> Result<(usize, usize), StepError> {
        loop {
            let Err(stop) = self.handle(&parts, waits).await? else {
                let events = n_events(&parts);
                let sequences = parts.iter().filter(|part| part.whole).count();
                parts.into_iter().for_each(|part| self.settled(part));
                (self.retrying.suspected, self.retrying.again) = (None, None);
                return Ok((sequences, events));
            };
            // The session is of no use any more: what it had folded is folded again, without what stopped it.
            self.renew();
            let (i, before) = match &stop {
                Stop::Flush(_) => (0, n_events(&parts) / 2),
                Stop::Waits(i, before) => (*i, *before),
                Stop::Handler(i, failure) => {
                    let (_, events) = (i, &parts[*i].events);
                    (*i, events.partition_point(|(_, position)| *position < failure.position))
                }
            };
            if let Stop::Flush(_) = stop
                && before > 0
            {
                cut(&mut parts, before);
            } else if i > 0 || before > 0 {
                let part = &mut parts[i];
                part.cut(before.min(part.events.len().saturating_sub(1)));
                parts.truncate(if before == 0 { i } else { i + 1 });
            } else {
                let part = parts.swap_remove(0);
                return match stop {
                    Stop::Handler(_, failure) => self.failed_again(part, failure).await,
                    Stop::Flush(error) => {
                        let (key, position) = (part.sequence.key.clone(), part.first());
                        let event = part.sequence.value.event.clone().into();
                        let failure = Failure { key, event, position, source: error.into(), undecoded: false };
                        self.failed_again(part, failure).await
                    }
                    Stop::Waits(..) => {
                        self.retrying.again = Some(Overdue { attempts: 1, again: Instant::now() + SOON });
                        Ok((0, 0))
                    }
                };
            }
        }
    }

    /// Handles parts of sequences and makes that durable, all of it or nothing.
    async fn handle(
        &mut self,
        parts: &[Part],
        waits: &BTreeSet<Position>,
    ) -> Result<Result<(), Stop>, StepError> {
        let context = self.context.clone();
        let positions: Vec<Position> =
            parts.iter().flat_map(|part| part.events.iter().map(|(_, position)| *position)).collect();
        let mut found = context.backend().at(&positions).await?;
        found.iter_mut().for_each(|event| event.replay = event.place() <= self.share.progress.replay);
        let found: BTreeMap<Position, RecordedEvent> =
            found.into_iter().map(|event| (event.place(), event)).collect();
        for (i, part) in parts.iter().enumerate() {
            let (mut events, mut stop) = (Vec::new(), None);
            for (n, (_, position)) in part.events.iter().enumerate() {
                stop = match found.get(position) {
                    None => Some(part.gone(i, *position)),
                    Some(event) if !context.wants(event) => Some(part.not_handled(i, event)),
                    // Ranges that have passed it unread take it in first: then none of its keys is left out.
                    Some(event) if waits.contains(position) && context.runner.keys(event).is_ok() => {
                        Some(Stop::Waits(i, n))
                    }
                    Some(event) => {
                        events.push(event);
                        None
                    }
                };
                if stop.is_some() {
                    break;
                }
            }
            let mut admission = Admission::of_key(&part.sequence.key);
            if let Err(failure) = self.session().fold(&events, &mut admission).await {
                return Ok(Err(Stop::Handler(i, failure)));
            }
            if let Some(stop) = stop {
                return Ok(Err(stop));
            }
        }
        let build = &self.context.build;
        let mut rows = Vec::new();
        for part in parts {
            rows.extend(part.events.iter().map(|(row, _)| build.parked_events().delete(row)));
            rows.extend(part.end(build)?);
        }
        match self.flush_with(rows).await {
            Ok(()) => Ok(Ok(())),
            Err(StepError::Commit(error)) if !matches!(error, CommitError::Fenced { .. }) => {
                Ok(Err(Stop::Flush(error)))
            }
            Err(error) => Err(error),
        }
    }

    /// The first event of a sequence fails again: then it stays as it is, unless the store is to blame.
    async fn failed_again(&mut self, part: Part, failure: Failure) -> Result<(usize, usize), StepError> {
        if !self.blames(&failure).await {
            self.postpone("retrying a parked sequence", &failure);
            return Ok((0, 0));
        }
        let Part { mut sequence, request, .. } = part;
        let value = &mut sequence.value;
        value.error = parked::cut(&crate::chain(&*failure.source));
        value.attempts += 1;
        value.last_at = self.context.now();
        (value.position, value.event) = (failure.position, failure.event.to_string());
        let build = &self.context.build;
        let rows = vec![build.parked().put(&sequence)?, build.requests().delete(&request)];
        self.flush_with(rows).await?;
        self.retrying.again = None;
        self.keep(sequence.written());
        Ok((1, 1))
    }

    /// What was asked for is tried again later; events go on being handled.
    pub(super) fn postpone(&mut self, what: &str, failure: &Failure) {
        let attempts = self.retrying.again.map_or(1, |again| again.attempts.saturating_add(1));
        let pause = self.backoff(attempts).min(self.context.options.patience.max(SOON));
        self.retrying.again = Some(Overdue { attempts, again: Instant::now() + pause });
        self.show_failing(what, &parked::cut(&crate::chain(failure)), attempts);
    }

    /// Whether an error is the event's of which an operator asked something: one that looks like the store's for long is.
    pub(super) async fn blames(&mut self, failure: &Failure) -> bool {
        // To wait for a newer program would hold up the others of the range.
        if is_of_a_newer_program(&*failure.source) {
            return true;
        }
        match self.fault(&*failure.source).await {
            Fault::Store => false,
            Fault::Event | Fault::Certain => true,
            // Once for all that was asked: they wait for the same.
            Fault::Suspect => {
                let since = *self.retrying.suspected.get_or_insert_with(Instant::now);
                since.elapsed() > self.context.options.patience
            }
        }
    }

    /// Leaves parts of sequences out for good.
    async fn discard(&mut self, parts: Vec<Part>) -> Result<(), StepError> {
        let (context, at) = (self.context.clone(), self.context.now());
        let positions: Vec<Position> =
            parts.iter().flat_map(|part| part.events.iter().map(|(_, position)| *position)).collect();
        let events = context.backend().at(&positions).await?;
        let unread = events.iter().filter(|event| context.runner.keys(event).is_err());
        let unread: BTreeSet<Position> = unread.map(RecordedEvent::place).collect();
        let mut rows = Vec::new();
        for part in &parts {
            let Request::Discard { reason } = &part.request.value else { continue };
            for (row, position) in &part.events {
                let (key, reason) = (part.sequence.key.clone(), parked::cut(reason));
                let undecoded = unread.contains(position);
                let skipped = Skipped { position: *position, key, reason, at, undecoded };
                rows.push(parked::skip(&context.build, skipped)?);
                rows.push(context.build.parked_events().delete(row));
            }
            rows.extend(part.end(&context.build)?);
        }
        self.flush_with(rows).await?;
        parts.into_iter().for_each(|part| self.settled(part));
        Ok(())
    }

    /// What is known of a sequence once a part of it is done.
    fn settled(&mut self, part: Part) {
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        match part.whole {
            true => drop(parked.remove(&part.sequence.key)),
            false => drop(parked.insert(part.sequence.key.clone(), part.rest().written())),
        }
        self.show(self.state());
    }

    fn keep(&mut self, sequence: Parked) {
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        parked.insert(sequence.key.clone(), sequence);
    }
}

fn n_events(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.events.len()).sum()
}

/// The first so many events of some parts.
fn cut(parts: &mut Vec<Part>, mut events: usize) {
    parts.retain_mut(|part| {
        let (before, kept) = (events, part.events.len().min(events));
        events -= kept;
        part.cut(kept);
        before > 0
    });
}
