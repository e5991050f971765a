//! Parked sequences that operators asked to be handled again or left out for good: a part at a time, between two pages of
//! the range, so that its other keys continue.
//!
//! A part is some of the first events of some sequences, done in one commit with the checkpoint. The next owner of the range
//! finds the request, and continues where this one was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::context::BuildContext;
use super::failure::{Fault, StepError, in_vain_for};
use super::rest::Rest;
use super::run::{Overdue, POLL, SOON, Worker};
use super::undecoded::{Undecodable, waiting};
use crate::blame::NotTheEvent;
use crate::event::is_of_a_newer_program;
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::kinds::runner::{Keeps, Runner};
use crate::processor::parked::{self, Parked};
use crate::state::{Asked, Build, ParkedEvent, Request, Skipped, asked};
use crate::store::{CommitError, EventStore, Position, RecordedEvent, Row, RowWrite, StoreError, at_first};

/// How many events are handled in one part, at first and at most.
const PART: (usize, usize) = (64, 1_000);
/// Requests that are read together.
const PAGE: usize = 256;
/// Sequences that are looked up together.
const SOME: usize = 64;
/// What is shown of one that has to wait.
const RETRYING: &str = "retrying a parked sequence";
/// How long a part may take: other keys wait for it.
pub(super) const PART_HOLDS: Duration = Duration::from_millis(40);

/// Why an event is not retried for which no handler would be called: it would be gone without a word.
const NOT_HANDLED: &str =
    "this program does not handle events of its type: retry it with one that does, or discard it";
const ELSEWHERE: &str =
    "this program has it under other keys: retry it with one that has it under this key, or discard it";
const ELSEWHERE_IN_ROWS: &str =
    "this program has it under other keys: rebuild the projection, which handles it there, or discard it";

/// How a range goes through what it was asked to handle again.
#[derive(Debug)]
pub(super) struct Retrying {
    /// How many events are tried at once.
    part: usize,
    /// Up to this key, there was nothing to be done when it looked last.
    after: Option<String>,
    suspected: Option<Suspicion>,
    /// The keys that were suspected in the round before.
    suspects: BTreeSet<String>,
    pub(super) rest: Option<Rest>,
    /// How often something had been asked when it was last looked up in a rest of all of it.
    pub(super) asked: Option<u64>,
    /// When the next round begins, if something waits.
    pub(super) again: Option<Overdue>,
    aside: Aside,
}

/// Keys that are tried again in the next round: they wait for a pause, and for all others that are asked.
#[derive(Debug, Default)]
struct Aside {
    keys: BTreeSet<String>,
    /// Whether the others were tried.
    all_wait: bool,
    /// What the last one failed with that waits for something that is away.
    away: Option<Failure>,
    /// Whether one waits for what ranges take in first.
    untaken: bool,
    /// Those of them that failed as the store fails.
    suspects: BTreeSet<String>,
}

impl Default for Retrying {
    fn default() -> Self {
        let (suspects, aside) = (BTreeSet::new(), Aside::default());
        let (part, rest, asked, again) = (PART.0, None, None, None);
        Self { part, after: None, suspected: None, suspects, rest, asked, again, aside }
    }
}

impl Retrying {
    /// Those that wait are tried again, once it is time.
    fn begin_round(&mut self) {
        self.rest = None;
        if self.aside.all_wait && self.again.is_none_or(|again| again.again <= Instant::now()) {
            self.suspects = std::mem::take(&mut self.aside).suspects;
        }
    }

    /// Other ranges come first: it is looked again, ever less often.
    fn wait(&mut self) {
        let attempts = self.again.map_or(1, |again| again.attempts.saturating_add(1));
        let pause = (SOON * (1 << attempts.min(8))).min(POLL);
        self.again = Some(Overdue { attempts, again: Instant::now() + pause });
    }
}

/// Since when, and how often, something has failed as if the store did, which takes writes all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    since: Instant,
    tries: u32,
}

/// The first events of a sequence.
struct Part {
    sequence: Parked,
    request: Row<Request>,
    events: Vec<(Row<ParkedEvent>, Position)>,
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

/// What a part came to.
#[derive(Clone, Copy, Debug, Default)]
struct Retried {
    /// How many sequences and events are done with, those among them that fail again.
    sequences: usize,
    events: usize,
    /// Whether they could not be made durable together.
    too_large: bool,
    /// For how long the store was waited for: reads, transactions that are opened and committed. That these are slow is no
    /// reason for more of them.
    storing: Duration,
}

impl Stop {
    /// Which part is in the way, and how many of its events come before that; of a flush, how many to try next.
    fn place(&self, parts: &[Part]) -> (usize, usize) {
        match self {
            Self::Flush(_) => (0, n_events(parts) / 2),
            Self::Waits(i, before) => (*i, *before),
            Self::Handler(i, failure) => {
                (*i, parts[*i].events.partition_point(|(_, position)| *position < failure.position))
            }
        }
    }
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

    /// The events that can be handled now, and what stops it at the one behind them.
    fn events<'e>(
        &self,
        i: usize,
        context: &BuildContext,
        found: &'e BTreeMap<Position, RecordedEvent>,
        waits: &BTreeMap<Position, bool>,
        undecodable: &Undecodable,
    ) -> (Vec<&'e RecordedEvent>, Option<Stop>) {
        let mut events = Vec::new();
        for (n, (row, position)) in self.events.iter().enumerate() {
            let Some(event) = found.get(position) else { return (events, Some(self.gone(i, *position))) };
            let fails = |why| Stop::Handler(i, Failure::new(event, self.sequence.key.clone(), why));
            if !context.filter().matches(event) {
                return (events, Some(fails(NOT_HANDLED)));
            }
            if let Ok(keys) = context.runner.keys(event) {
                // Ranges that have passed it unread take it in first: then none of its keys is left out.
                if waits.contains_key(position) {
                    // If the session still cannot tell them, why not is for the operator.
                    events.extend(undecodable.waits(&self.sequence.key, *position).then_some(event));
                    return (events, Some(Stop::Waits(i, n)));
                }
                if self.is_elsewhere(row, &keys, &*context.runner) {
                    let rebuilds = context.runner.keeps().tables().is_some();
                    return (events, Some(fails(if rebuilds { ELSEWHERE_IN_ROWS } else { ELSEWHERE })));
                }
            }
            events.push(event);
        }
        (events, None)
    }

    /// Whether an event does not have the key any more: no handler would be called for it.
    fn is_elsewhere(&self, row: &Row<ParkedEvent>, keys: &[String], runner: &dyn Runner) -> bool {
        // What could not be decoded was parked under a guess, and is handled under its own keys by itself.
        let names_all = !row.value.undecoded && runner.keeps() != Keeps::State;
        names_all && !keys.contains(&self.sequence.key)
    }

    fn not_written(&self, error: CommitError) -> Failure {
        let (key, position) = (self.sequence.key.clone(), self.first());
        let event = self.sequence.value.event.clone().into();
        Failure { key, event, position, source: error.into(), undecoded: false }
    }

    /// What becomes of the sequence and the request once these events are done.
    fn end(&self, build: &Build) -> Result<Vec<RowWrite>, StoreError> {
        let mut rows: Vec<_> = self.events.iter().map(|(row, _)| build.parked_events().delete(row)).collect();
        match self.whole {
            // Its key continues, in one commit.
            true => {
                rows.extend([build.parked().delete(&self.sequence), build.requests().delete(&self.request)]);
            }
            false => rows.push(build.parked().put(&self.rest())?),
        }
        Ok(rows)
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
    pub(super) async fn requests(&mut self) -> Result<bool, StepError> {
        let build = self.context.build.clone();
        self.retrying.begin_round();
        // Of keys that are not parked any more.
        let mut late = Vec::new();
        let (mut retries, mut discards) = (Vec::new(), Vec::new());
        let (found, more) = self.next_requests().await?;
        for request in found {
            match (self.open().parked.contains_key(&request.key), &request.value) {
                (false, _) => late.push(build.requests().delete(&request)),
                (true, Request::Retry) => retries.push(request),
                (true, Request::Discard { .. }) => discards.push(request),
            }
        }
        if late.is_empty() && retries.is_empty() && discards.is_empty() {
            if more {
                return Ok(true);
            }
            return Ok(self.end_round());
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
            let parts = parts_of(&self.context, &self.open().parked, discards, PART.1).await?;
            done += parts.iter().filter(|part| part.whole).count();
            self.discard(parts).await?;
        }
        if !retries.is_empty() {
            let started = Instant::now();
            let parts = parts_of(&self.context, &self.open().parked, retries, self.retrying.part).await?;
            let n = n_events(&parts);
            let retried = self.retry(parts, started).await?;
            done += retried.sequences;
            let part = match retried {
                Retried { events, too_large: true, .. } => events / 2,
                Retried { storing, .. } if started.elapsed().saturating_sub(storing) > PART_HOLDS => n / 2,
                Retried { events, .. } if events < n => self.retrying.part,
                _ => self.retrying.part * 2,
            };
            self.retrying.part = part.clamp(1, PART.1);
        }
        let more = more || done < before || !self.retrying.aside.keys.is_empty();
        if !more {
            (self.retrying.suspected, self.retrying.again) = (None, None);
        }
        Ok(more)
    }

    /// All that was asked was tried. Whether some of it waits.
    fn end_round(&mut self) -> bool {
        let aside = &mut self.retrying.aside;
        let (away, untaken) = (aside.away.take(), std::mem::take(&mut aside.untaken));
        let goes_on = std::mem::replace(&mut aside.all_wait, true);
        if untaken && self.undecodable.ended {
            // It can be decoded, also if this range could not when it was asked.
            self.undecodable = Undecodable::default();
        }
        if aside.suspects.is_empty() {
            self.retrying.suspected = None;
        }
        match away {
            _ if aside.keys.is_empty() => {
                (self.retrying.aside, self.retrying.again, self.retrying.suspected) =
                    (Aside::default(), None, None);
            }
            // Others were asked in the pause.
            _ if goes_on => {}
            Some(failure) => {
                self.retrying.again = Some(self.postponed(self.retrying.again, RETRYING, &failure));
            }
            None => self.retrying.wait(),
        }
        self.retrying.rest = self.retrying.again.map(|again| Rest::all_wait(again.again));
        self.retrying.rest.is_some()
    }

    /// The next of what was asked of this range, enough for a part; and whether there may be more.
    ///
    /// What is done goes, so the first of them are always next. Those before them that are of other ranges, or set aside, are
    /// not read again before the end of the round.
    async fn next_requests(&mut self) -> Result<(Vec<Row<Request>>, bool), StoreError> {
        let (context, slices) = (self.context.clone(), self.share.slices);
        let table = context.build.requests();
        let begun = self.retrying.after.clone();
        let (mut own, mut n, mut after, mut ended) = (Vec::new(), 0, begun.clone(), false);
        let mut is_first = true;
        while !ended && n < self.retrying.part.max(PART.0) {
            let page = table.stored_page(context.backend(), after.as_deref(), PAGE).await?;
            ended = page.len() < PAGE;
            for row in page {
                after = Some(row.key.clone());
                let is_retry =
                    || table.decode(row.clone()).is_ok_and(|row| matches!(row.value, Request::Retry));
                // A discard may have taken its place.
                let waits = || self.retrying.aside.keys.contains(&row.key) && is_retry();
                if slices.has(&row.key) && !waits() {
                    is_first = false;
                    n += usize::from(table.decode(row.clone()).is_ok());
                    own.push(row);
                } else if is_first {
                    self.retrying.after.clone_from(&after);
                }
            }
        }
        if n == 0 {
            self.retrying.after = None;
        }
        // Some may have been asked for before those.
        Ok((self.readable(&table, own), !ended || begun.is_some()))
    }

    /// Handles parts of sequences, as long as there is time; those that fail again stay.
    async fn retry(&mut self, mut parts: Vec<Part>, started: Instant) -> Result<Retried, StepError> {
        let mut done = Retried { storing: started.elapsed(), ..Retried::default() };
        // Those behind one that fails.
        let mut behind = Vec::new();
        while !parts.is_empty() {
            let began = Instant::now();
            let handled = self.handle(&mut parts, &mut done.storing).await?;
            let took = began.elapsed();
            let Err(stop) = handled else {
                done.events += n_events(&parts);
                done.sequences += parts.iter().filter(|part| part.whole).count();
                parts.iter().for_each(|part| self.settled(part));
                // What goes through without ever having been suspected says nothing of what was.
                if parts.iter().any(|part| self.retrying.suspects.contains(&part.sequence.key)) {
                    self.retrying.suspected = None;
                }
                if self.retrying.aside.keys.is_empty() {
                    self.retrying.again = None;
                }
                parts = if started.elapsed() > PART_HOLDS { Vec::new() } else { std::mem::take(&mut behind) };
                continue;
            };
            // The session is of no use any more: what it had folded is folded again, without what stopped it.
            self.renew();
            let (i, before) = stop.place(&parts);
            if let Stop::Flush(_) = stop
                && before > 0
            {
                cut(&mut parts, before);
                done.too_large = true;
            } else if i > 0 || before > 0 {
                let part = &mut parts[i];
                if before > 0 {
                    part.cut(before.min(part.events.len().saturating_sub(1)));
                }
                let mut rest = parts.split_off(if before == 0 { i } else { i + 1 });
                rest.append(&mut behind);
                behind = rest;
            } else {
                let part = parts.remove(0);
                let failure = match stop {
                    Stop::Handler(_, failure) => Some(failure),
                    Stop::Flush(error) => Some(part.not_written(error)),
                    Stop::Waits(..) => {
                        self.retrying.aside.keys.insert(part.sequence.key.clone());
                        self.retrying.aside.untaken = true;
                        None
                    }
                };
                if let Some(failure) = failure
                    && !self.failed_again(part, failure, took).await?
                {
                    return Ok(done);
                }
                (done.sequences, done.events) = (done.sequences + 1, done.events + 1);
                parts.append(&mut behind);
                if started.elapsed() > PART_HOLDS {
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }

    /// Handles parts of sequences and makes that durable, all of it or nothing. Parts that do not fit into one page, or hold the
    /// writer for too long, are cut.
    async fn handle(
        &mut self,
        parts: &mut Vec<Part>,
        storing: &mut Duration,
    ) -> Result<Result<(), Stop>, StepError> {
        let (context, began) = (self.context.clone(), Instant::now());
        let found = page_of(context.backend(), parts, self.share.progress.replay).await?;
        let waits = waiting(context.backend(), &context.build, &positions_of(parts)).await?;
        *storing += began.elapsed();
        let (mut handling, mut enough) = (Duration::ZERO, None);
        for (i, part) in parts.iter().enumerate() {
            let (events, stop) = part.events(i, &context, &found, &waits, &self.undecodable);
            let mut admission = Admission::of_key(&part.sequence.key);
            let started = Instant::now();
            let folded = self.fold_part(&events, &mut admission).await;
            handling += started.elapsed();
            match folded {
                Ok(None) => {}
                Ok(Some(n)) => {
                    enough = Some((i, n));
                    break;
                }
                Err(failure) => {
                    let done = events.partition_point(|event| event.place() < failure.position);
                    let waits = failure.is_interruption();
                    return Ok(Err(if waits { Stop::Waits(i, done) } else { Stop::Handler(i, failure) }));
                }
            }
            if let Some(stop) = stop {
                return Ok(Err(stop));
            }
        }
        if let Some((i, n)) = enough {
            parts.truncate(i + 1);
            parts[i].cut(n);
        }
        let opening = handling.saturating_sub(self.session().held().unwrap_or(handling));
        let build = &self.context.build;
        let mut rows = Vec::new();
        for part in &*parts {
            rows.extend(part.end(build)?);
        }
        let started = Instant::now();
        let flushed = self.flush_parts(parts, rows).await;
        *storing += opening + started.elapsed();
        match flushed {
            Ok(()) => Ok(Ok(())),
            Err(StepError::Commit(error))
                if !matches!(error, CommitError::Fenced { .. } | CommitError::OtherHistory) =>
            {
                Ok(Err(Stop::Flush(error)))
            }
            Err(error) => Err(error),
        }
    }

    /// Handles events of a sequence; how many, if that held the writer for long enough, or the worker is stopped.
    async fn fold_part(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<Option<usize>, Failure> {
        let Some(longest) = self.context.holds() else {
            return self.session().fold(events, admission).await.map(|()| None);
        };
        let started = Instant::now();
        for (n, event) in events.iter().enumerate() {
            self.session().fold(&[event], admission).await?;
            let held = self.session().held().unwrap_or_else(|| started.elapsed());
            if held >= longest || self.stop.is_cancelled() {
                return Ok(Some(n + 1));
            }
        }
        Ok(None)
    }

    /// The first event of a sequence fails again: then it stays as it is. `false` if that is the store's fault, and nothing
    /// else is to be tried.
    async fn failed_again(
        &mut self,
        part: Part,
        failure: Failure,
        took: Duration,
    ) -> Result<bool, StepError> {
        let mut suspected = self.retrying.suspected;
        let blames = self.blames(&failure, &mut suspected).await;
        self.retrying.suspected = suspected;
        // Of a suspicion that others have brought about, none is blamed at its first try.
        let is_suspect = suspected.is_some() && self.context.blames_the_store(&*failure.source);
        let blames = blames && (!is_suspect || self.retrying.suspects.contains(&part.sequence.key));
        if !blames {
            // What others wait for may be there.
            let is_away = failure.source.is::<NotTheEvent>() || self.retrying.suspected.is_some();
            if is_away {
                let key = part.sequence.key;
                if !failure.source.is::<NotTheEvent>() {
                    self.retrying.aside.suspects.insert(key.clone());
                }
                self.retrying.aside.keys.insert(key);
                self.retrying.aside.away = Some(failure);
                // New events have at least as much time as attempts that are in vain.
                if took > PART_HOLDS {
                    self.retrying.rest = Some(Rest::fair(took.min(self.context.options.patience)));
                    let before = self.retrying.again;
                    self.retrying.again =
                        before.or_else(|| Some(Overdue { attempts: 0, again: Instant::now() }));
                    return Ok(false);
                }
            } else {
                let again = self.postponed(self.retrying.again, RETRYING, &failure);
                (self.retrying.again, self.retrying.rest) = (Some(again), Some(Rest::until(again.again)));
            }
            return Ok(is_away);
        }
        let Part { mut sequence, request, .. } = part;
        let value = &mut sequence.value;
        let so_long = if is_suspect { in_vain_for("", self.context.options.patience) } else { String::new() };
        value.error = parked::cut_before(&crate::chain(&*failure.source), &so_long);
        value.attempts += 1;
        value.last_at = self.context.now();
        (value.position, value.event) = (failure.position, failure.event.to_string());
        let build = &self.context.build;
        let rows = vec![build.parked().put(&sequence)?, build.requests().delete(&request)];
        self.flush_with(rows).await?;
        // What waits goes on waiting, and the others of the round are suspected for as long as this one was.
        if self.retrying.aside.keys.is_empty() {
            self.retrying.again = None;
        }
        self.keep(sequence.written());
        Ok(true)
    }

    /// When something is tried again; events go on being handled.
    pub(super) fn postponed(&self, before: Option<Overdue>, what: &str, failure: &Failure) -> Overdue {
        let overdue = self.overdue_after(before.map_or(1, |again| again.attempts.saturating_add(1)));
        self.show_failing(what, &parked::cut(&crate::chain(failure)), overdue.attempts);
        overdue
    }

    pub(super) fn overdue_after(&self, attempts: u32) -> Overdue {
        let pause = self.backoff(attempts).min(self.context.options.patience.max(SOON));
        Overdue { attempts, again: Instant::now() + pause }
    }

    /// Whether an error is the event's of which an operator asked something: one that looks like the store's for long is, and
    /// not for two bad moments that are far apart.
    pub(super) async fn blames(&mut self, failure: &Failure, suspected: &mut Option<Suspicion>) -> bool {
        // To wait for a newer program would hold up the others of the range.
        if is_of_a_newer_program(&*failure.source) {
            return true;
        }
        match self.fault(&*failure.source).await {
            // While the store is away, nothing is learned of the event: it is suspected afresh. What one of them waits for
            // says nothing of the others.
            Fault::Store => {
                if !failure.source.is::<NotTheEvent>() {
                    *suspected = None;
                }
                false
            }
            Fault::Event | Fault::Certain => true,
            // Once for all that was asked: they wait for the same.
            Fault::Suspect => {
                let Suspicion { since, tries } =
                    suspected.get_or_insert_with(|| Suspicion { since: Instant::now(), tries: 0 });
                *tries += 1;
                let options = &self.context.options;
                since.elapsed() > options.patience && *tries > options.retries
            }
        }
    }

    /// Leaves parts of sequences out for good.
    async fn discard(&mut self, parts: Vec<Part>) -> Result<(), StepError> {
        let (context, at) = (self.context.clone(), self.context.now());
        let (positions, mut keys) = (positions_of(&parts), BTreeMap::new());
        let mut left = &positions[..];
        while !left.is_empty() {
            let (events, answered) = at_first(context.backend(), left).await?;
            // Of a type that this program does not handle it knows no keys.
            let known =
                |event: &RecordedEvent| context.filter().matches(event).then(|| context.runner.keys(event));
            keys.extend(events.iter().map(|event| (event.place(), known(event))));
            left = &left[answered..];
        }
        let passed = waiting(context.backend(), &context.build, &positions).await?;
        let mut rows = Vec::new();
        for part in &parts {
            let Request::Discard { reason } = &part.request.value else { continue };
            for (row, position) in &part.events {
                let (key, reason) = (part.sequence.key.clone(), parked::cut(reason));
                let is_elsewhere = keys.get(position).is_some_and(|keys| match keys {
                    Some(Ok(keys)) => part.is_elsewhere(row, keys, &*context.runner),
                    Some(Err(_)) => true,
                    // It was parked under one of its keys, or under a guess.
                    None => row.value.undecoded,
                });
                let untold = passed.get(position).copied().unwrap_or_default();
                let undecoded = untold || is_elsewhere;
                let skipped = Skipped { position: *position, key, reason, at, undecoded, discarded: true };
                rows.push(parked::skip(&context.build, skipped)?);
            }
            rows.extend(part.end(&context.build)?);
        }
        if !passed.is_empty() {
            // Each range that has passed one of them looks at it again. In this commit: nobody would say so after it.
            rows.push(asked().put(&Asked::requests(context.backend(), &context.build).await?)?);
        }
        self.flush_parts(&parts, rows).await?;
        parts.iter().for_each(|part| self.settled(part));
        Ok(())
    }

    /// Writes what belongs to parts that are done with: from then on nobody needs to know which of their calls were made.
    async fn flush_parts(&mut self, parts: &[Part], rows: Vec<RowWrite>) -> Result<(), StepError> {
        let done: BTreeSet<Position> = positions_of(parts).into_iter().collect();
        self.share.progress.ahead = self.untold();
        self.share.progress.ahead.retain(|position| !done.contains(position));
        self.flush_with(rows).await
    }

    /// What is known of a sequence once a part of it is done.
    fn settled(&mut self, part: &Part) {
        self.effects.settled(part.events.iter().map(|(_, position)| *position));
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        match part.whole {
            true => {
                parked.remove(&part.sequence.key);
                self.retrying.aside.keys.remove(&part.sequence.key);
            }
            false => drop(parked.insert(part.sequence.key.clone(), part.rest().written())),
        }
        self.show(self.state());
    }

    fn keep(&mut self, sequence: Parked) {
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        parked.insert(sequence.key.clone(), sequence);
    }
}

/// The first events of some sequences, at most so many of all of them.
async fn parts_of(
    context: &BuildContext,
    parked: &BTreeMap<String, Parked>,
    requests: Vec<Row<Request>>,
    most: usize,
) -> Result<Vec<Part>, StoreError> {
    let (backend, build, mut parts, mut n) = (context.backend(), &context.build, Vec::new(), 0);
    let mut requests = requests.into_iter();
    while n < most {
        let some: Vec<_> = requests.by_ref().take(SOME.min(most - n)).collect();
        if some.is_empty() {
            break;
        }
        let sequences: Vec<&Parked> = some.iter().map(|request| &parked[&request.key]).collect();
        let few = (most - n) / some.len() + 2;
        let found = parked::whole_sequences(backend, build, &sequences, few).await?;
        for (request, whole) in some.into_iter().zip(found) {
            let (sequence, left) = (parked[&request.key].clone(), most - n);
            if left == 0 {
                break;
            }
            let mut events = match whole {
                Some(events) => events,
                None => parked::positions(backend, build, &sequence, Position(0), left + 1).await?,
            };
            let whole = events.len() <= left;
            events.truncate(left);
            n += events.len();
            parts.push(Part { sequence, request, events, whole });
        }
    }
    Ok(parts)
}

/// The events of some parts, as far as one page goes: the parts are cut to what it holds.
async fn page_of(
    store: &dyn EventStore,
    parts: &mut Vec<Part>,
    replay: Position,
) -> Result<BTreeMap<Position, RecordedEvent>, StoreError> {
    let positions = positions_of(parts);
    let (events, answered) = at_first(store, &positions).await?;
    if let Some(next) = positions.get(answered) {
        parts.retain_mut(|part| {
            let kept = part.events.partition_point(|(_, position)| position < next);
            let is_left = kept > 0 || part.events.is_empty();
            part.cut(kept);
            is_left
        });
    }
    let mark = |event: RecordedEvent| RecordedEvent { replay: event.place() <= replay, ..event };
    Ok(events.into_iter().map(|event| (event.place(), mark(event))).collect())
}

/// The positions of all events of some parts, in order.
fn positions_of(parts: &[Part]) -> Vec<Position> {
    let positions = parts.iter().flat_map(|part| part.events.iter().map(|(_, position)| *position));
    let mut positions: Vec<Position> = positions.collect();
    positions.sort_unstable();
    positions
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
