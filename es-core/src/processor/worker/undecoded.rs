//! Events that a range has passed though nobody could decode them, and so without knowing whether they were its own.
//!
//! The range of the key that such an event most likely has parks it; each range that passes it says so in a row, in the
//! commit of its checkpoint. Whoever can decode it later takes it in for those keys that lie in these slices, whichever
//! they turn out to be.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::context::BuildContext;
use super::failure::{StepError, in_vain_for};
use super::retry::{PART_HOLDS, Suspicion};
use super::run::{Overdue, Worker};
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::parked;
use crate::projection::OnFailure;
use crate::slices::Slices;
use crate::state::{Build, Skipped, Undecoded, sortable};
use crate::store::{
    CommitError, Position, RecordedEvent, Row, RowStore, RowWrite, Span, StoreError, StoredRow, at_first,
};

/// Why one is left out.
const GONE: &str = "is not in the log any more";

/// How many are looked at together.
const SOME: usize = 200;

/// The row that says that some slices passed an event.
pub(super) fn passed(build: &Build, position: Position, of: Undecoded) -> Result<RowWrite, StoreError> {
    build.undecoded().insert(format!("{}:{:04}", sortable(position), of.first), of)
}

fn position_of(row: &Row<Undecoded>) -> Option<Position> {
    row.key.split_once(':')?.0.parse().ok().map(Position)
}

/// The rows of a build, with their positions. One that cannot be read stops nothing but itself.
pub(crate) async fn all(
    store: &dyn RowStore,
    build: &Build,
) -> Result<Vec<(Position, Row<Undecoded>)>, StoreError> {
    let table = build.undecoded();
    let stored = table.stored(store).await?.into_iter();
    Ok(placed(stored.filter_map(|row| table.decode(row).ok())))
}

fn placed(rows: impl IntoIterator<Item = Row<Undecoded>>) -> Vec<(Position, Row<Undecoded>)> {
    rows.into_iter().filter_map(|row| Some((position_of(&row)?, row))).collect()
}

impl Undecoded {
    pub(super) fn slices(&self) -> Slices {
        Slices { first: self.first, last: self.last }
    }
}

/// Which of some events, in order, a range has passed undecoded and not taken in yet; of each, whether it could be decoded
/// then, and its keys could not be told.
pub(super) async fn waiting(
    store: &dyn RowStore,
    build: &Build,
    positions: &[Position],
) -> Result<BTreeMap<Position, bool>, StoreError> {
    let (table, mut waiting) = (build.undecoded(), BTreeMap::new());
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return Ok(waiting) };
    let one_of = |first: Position, last: Position| {
        let before = Some(sortable(Position(last.0.saturating_add(1))));
        Span { after: sortable(first), before, limit: 1 }
    };
    // Mostly there is none.
    if store.scan_many(table.name(), &[one_of(*first, *last)]).await?.iter().all(Vec::is_empty) {
        return Ok(waiting);
    }
    for some in positions.chunks(SOME) {
        let spans: Vec<Span> = some.iter().map(|position| one_of(*position, *position)).collect();
        let found = store.scan_many(table.name(), &spans).await?;
        let found =
            some.iter().zip(found).filter_map(|(position, rows)| Some((*position, rows.into_iter().next()?)));
        waiting.extend(
            found.map(|(position, row)| (position, table.decode(row).is_ok_and(|row| row.value.untold))),
        );
    }
    Ok(waiting)
}

/// How far a range has gone through what it has passed undecoded, since something was asked of its build.
#[derive(Debug, Default)]
pub(super) struct Undecodable {
    /// How often something was asked, and how often it was resumed.
    since: (u64, u64),
    /// Up to this key of a row it was taken in, or cannot be decoded by this program.
    after: Option<String>,
    /// Whether there is none behind that.
    pub(super) ended: bool,
    /// A row that cannot be read.
    damaged: Option<StoredRow>,
    /// By the keys that they most likely have: the first that can be decoded, though the session cannot tell its keys yet.
    untold: BTreeMap<String, Position>,
    /// One that fails is tried again later.
    pub(super) again: Option<Overdue>,
    suspected: Option<Suspicion>,
}

impl Undecodable {
    /// Whether an event waits for its session to be able to tell its keys, or is behind such a one of the key that it most
    /// likely has: they are taken in in order.
    pub(super) fn waits(&self, key: &str, position: Position) -> bool {
        self.untold.get(key).is_some_and(|first| *first <= position)
    }

    /// Nothing is left to be tried again. What was waited for may have been taken in, and nobody was told so.
    fn waits_for_none(&mut self) {
        (self.suspected, self.again) = (None, None);
    }
}

/// An event that can be decoded now, or was decided on.
struct Late<'r> {
    position: Position,
    row: &'r Row<Undecoded>,
    what: What,
    /// Those that have passed it, of this range.
    slices: Slices,
}

/// What is known of an event that was passed undecoded.
enum What {
    /// It can be decoded.
    Event(RecordedEvent),
    /// It is left out, and that is recorded.
    LeftOut,
    /// It is not in the log any more.
    Gone,
}

impl What {
    const fn event(&self) -> Option<&RecordedEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::LeftOut | Self::Gone => None,
        }
    }
}

impl Worker {
    /// Takes in what this range has passed undecoded and can be decoded now, a part at a time: its keys go on meanwhile.
    /// Whether there is more of it right now.
    pub(super) async fn take_in_undecoded(&mut self) -> Result<bool, StepError> {
        // It may be halted at one of these: it was tried, and is again once it is resumed.
        if self.halted.is_some() {
            return Ok(false);
        }
        let (context, started) = (self.context.clone(), Instant::now());
        let table = context.build.undecoded();
        self.forget_undecodable().await?;
        while !self.undecodable.ended {
            let after = self.undecodable.after.clone();
            let page = table.stored_page(context.backend(), after.as_deref(), SOME).await?;
            let (last, ended) = (page.last().map(|row| row.key.clone()), page.len() < SOME);
            let damaged = page.iter().find(|row| table.decode((*row).clone()).is_err());
            self.undecodable.damaged = damaged.cloned().or_else(|| self.undecodable.damaged.take());
            let known = self.undecodable.damaged.clone().filter(|known| !page.contains(known));
            let page = placed(self.readable(&table, page.into_iter().chain(known)));
            match self.take_in_page(page, started).await? {
                Some(more) => return Ok(more),
                None => self.undecodable.after = last.or(after),
            }
            if ended && self.undecodable.damaged.take().is_some() {
                // It is looked for again, with whatever is behind it.
                self.undecodable.after = None;
                self.undecodable.waits_for_none();
                return Ok(false);
            }
            self.undecodable.ended = ended;
            // Something may have been asked since it began.
            self.forget_undecodable().await?;
            if !self.undecodable.ended && started.elapsed() > PART_HOLDS {
                return Ok(true);
            }
        }
        self.undecodable.waits_for_none();
        Ok(false)
    }

    /// Takes in some of it. If it ends before that is done, whether there is more right now.
    async fn take_in_page(
        &mut self,
        page: Vec<(Position, Row<Undecoded>)>,
        started: Instant,
    ) -> Result<Option<bool>, StepError> {
        let (context, own) = (self.context.clone(), self.share.slices);
        let here: Vec<_> =
            page.into_iter().filter(|(_, row)| row.value.slices().and(own).is_some()).collect();
        // An operator has decided on these, or the projection, whatever their keys turn out to be.
        let keys = here.iter().map(|(position, row)| (*position, &*row.value.key));
        let skipped = parked::skipped_undecoded(context.backend(), &context.build, keys).await?;
        let mut left = &here[..];
        while !left.is_empty() {
            let positions: Vec<Position> = left.iter().map(|(position, _)| *position).collect();
            let (found, answered) = at_first(context.backend(), &positions).await?;
            let events: BTreeMap<_, _> = found.into_iter().map(|event| (event.place(), event)).collect();
            let (some, rest) = left.split_at(answered);
            left = rest;
            for (position, row) in some {
                let is_left_out = match skipped.get(position) {
                    // Whether it is cannot be read: it waits until that can be.
                    Some(None) => continue,
                    Some(Some(for_any)) => *for_any,
                    None => false,
                };
                let what = match events.get(position) {
                    _ if is_left_out => What::LeftOut,
                    Some(event) => What::Event(event.clone()),
                    None => What::Gone,
                };
                let Some(late) = self.late(*position, row, what) else { continue };
                if !self.take_in(late).await? {
                    // Without a pause it was only interrupted.
                    return Ok(Some(self.undecodable.again.is_none()));
                }
                self.undecodable.after = Some(row.key.clone());
                if started.elapsed() > PART_HOLDS || self.stop.is_cancelled() {
                    return Ok(Some(true));
                }
            }
        }
        Ok(None)
    }

    /// What is to be done about an event; `None` while it cannot be decoded, or its keys cannot be told.
    fn late<'r>(&self, position: Position, row: &'r Row<Undecoded>, mut what: What) -> Option<Late<'r>> {
        let slices = row.value.slices().and(self.share.slices)?;
        if let What::Event(event) = &mut what {
            // Of a type that this program does not handle it knows no keys: another program takes it in.
            let is_told = self.context.filter().matches(event) && self.context.runner.keys(event).is_ok();
            if !is_told || self.undecodable.waits(&row.value.key, position) {
                return None;
            }
            event.replay = position <= self.share.progress.replay;
        }
        Some(Late { position, row, what, slices })
    }

    /// What could not be decoded is looked at again once something was asked, or it was resumed.
    async fn forget_undecodable(&mut self) -> Result<(), StoreError> {
        let asked = parked::times_asked(self.context.backend(), &self.context.build).await?;
        let since = (asked, *self.context.resumes.borrow());
        // One that goes on comes to its end first: what is asked all the time must not keep it from that.
        if self.undecodable.since != since && (self.undecodable.ended || self.undecodable.after.is_none()) {
            self.undecodable = Undecodable { since, ..Undecodable::default() };
        }
        Ok(())
    }

    /// Takes in one event, in one commit with what is left of its row: for each key but the one that it is parked for it is
    /// handled, or queues up behind what is parked of that. If nobody can tell its keys yet, the row stays. `false` if that is to
    /// be tried again later.
    async fn take_in(&mut self, late: Late<'_>) -> Result<bool, StepError> {
        self.flush_folded().await?;
        let context = self.context.clone();
        let mut skips = parked::Skips::new();
        loop {
            let open = self.open.as_mut().expect("it is open");
            // It is not known before which keys that are: a session may find more than the event names.
            let mut admission = Admission::of_late(late.slices, &late.row.value.key, &open.parked, &skips);
            if let Some(event) = late.what.event()
                && let Err(failure) = open.session.fold(&[event], &mut admission).await
            {
                // It is stopped, or may have lost its range: no handler was called.
                if failure.is_interruption() {
                    self.renew();
                    self.forget_begun(late.position);
                    return Ok(false);
                }
                if !self.late_failed(failure, &mut skips).await? {
                    return Ok(false);
                }
                continue;
            }
            if !admission.undecoded().is_empty() {
                self.undecodable.untold.insert(late.row.value.key.clone(), late.position);
                (self.undecodable.suspected, self.undecodable.again) = (None, None);
                return Ok(true);
            }
            let (first, left_out) = (admission.first().map(str::to_owned), admission.left_out());
            let now = context.now();
            let (mut rows, queued) =
                parked::write_left_out(&context.build, &self.open().parked, &skips, &left_out, now)?;
            rows.extend(without(&context.build, &late, self.share.slices)?);
            rows.extend(record_gone(&context, &late).await?);
            context.has_room(&queued, &mut self.room).await?;
            match self.flush_with(rows).await {
                Ok(()) => {}
                // What its handler made of it cannot be stored.
                Err(StepError::Commit(error))
                    if !matches!(error, CommitError::Fenced { .. } | CommitError::OtherHistory) =>
                {
                    let (Some(event), Some(first)) = (late.what.event(), first) else {
                        return Err(StepError::Commit(error));
                    };
                    let key = self.session().failed().map_or(first, str::to_owned);
                    if !self.late_failed(Failure::new(event, key, error), &mut skips).await? {
                        return Ok(false);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            (self.undecodable.suspected, self.undecodable.again) = (None, None);
            self.effects.settled([late.position]);
            let queued = queued.into_iter().map(|sequence| (sequence.key.clone(), sequence.written()));
            self.open.as_mut().expect("it is open").parked.extend(queued);
            return Ok(true);
        }
    }

    /// An event that is taken in late fails: it is left out for the key, unless the store is to blame. Then `false`: it is tried
    /// again later.
    async fn late_failed(&mut self, failure: Failure, skips: &mut parked::Skips) -> Result<bool, StepError> {
        self.renew();
        let mut suspected = self.undecodable.suspected;
        let blames = self.blames(&failure, &mut suspected).await;
        self.undecodable.suspected = suspected;
        if !blames {
            self.forget_begun(failure.position);
            let what = "taking in an event that can be decoded now";
            self.undecodable.again = Some(self.postponed(self.undecodable.again, what, &failure));
            return Ok(false);
        }
        if self.context.on_failure == OnFailure::Stop {
            return Err(StepError::Handler(failure));
        }
        let is_suspect = suspected.is_some() && self.context.blames_the_store(&*failure.source);
        self.leave_out_late(failure, is_suspect, skips);
        Ok(true)
    }

    /// Sequences that were begun at an event and are not stored are decided on anew.
    fn forget_begun(&mut self, position: Position) {
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        parked.retain(|_, sequence| sequence.rev > 0 || sequence.value.position != position);
    }

    /// An event that is taken in late fails for a key: others of that key were handled after it, and go on.
    fn leave_out_late(&mut self, failure: Failure, is_suspect: bool, skips: &mut parked::Skips) {
        let Failure { key, event, position, source, .. } = failure;
        let so_long = if is_suspect { in_vain_for("", self.context.options.patience) } else { String::new() };
        let reason = parked::cut_before(&crate::chain(&*source), &so_long);
        let (build, slices) = (&self.context.build, self.share.slices);
        tracing::error!(%build, %slices, %position, key, reason, "an event that can be decoded now fails");
        if self.context.on_failure == OnFailure::Skip {
            skips.insert((position, key), reason);
            return;
        }
        let sequence = parked::begin(&key, position, event.to_string(), &reason, 1, self.context.now());
        self.open.as_mut().expect("it is open").parked.insert(key, sequence);
    }
}

/// The row that says that an event is not in the log any more, if no other range has written it: what it meant for keys
/// that nobody knows is lost.
async fn record_gone(context: &BuildContext, late: &Late<'_>) -> Result<Option<RowWrite>, StoreError> {
    let position = late.position;
    if !matches!(late.what, What::Gone) {
        return Ok(None);
    }
    let (build, slices, key) = (&context.build, late.slices, &late.row.value.key);
    tracing::error!(%build, %slices, %position, key, "an event that could not be decoded {GONE}");
    let row = parked::skip_key(position, parked::ANY_KEY);
    if context.backend().rows(build.skipped().name(), &[row]).await?.into_iter().flatten().next().is_some() {
        return Ok(None);
    }
    let (key, reason, at) = (parked::ANY_KEY.to_owned(), GONE.to_owned(), context.now());
    let skipped = Skipped { position, key, reason, at, undecoded: true, discarded: false };
    parked::skip(build, skipped).map(Some)
}

/// What is left of a row once the event was taken in for some slices.
fn without(build: &Build, late: &Late<'_>, own: Slices) -> Result<Vec<RowWrite>, StoreError> {
    let Late { position, row, .. } = late;
    let left = row.value.slices().without(own);
    let mut rows = Vec::new();
    for Slices { first, last } in left {
        let value = Undecoded { first, last, ..row.value.clone() };
        rows.push(match first == row.value.first {
            true => build.undecoded().put(&Row { value, ..(*row).clone() })?,
            false => passed(build, *position, value)?,
        });
    }
    if (own.first..=own.last).contains(&row.value.first) {
        rows.push(build.undecoded().delete(row));
    }
    Ok(rows)
}
