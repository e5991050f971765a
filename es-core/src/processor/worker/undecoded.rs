//! Events that a range has passed though nobody could decode them, and so without knowing whether they were its own.
//!
//! The range of the key that such an event most likely has parks it; each range that passes it says so in a row, in the
//! commit of its checkpoint. Whoever can decode it later takes it in for those keys that lie in these slices, whichever
//! they turn out to be.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::failure::StepError;
use super::retry::PART_HOLDS;
use super::run::Worker;
use crate::limits::MAX_PAGE;
use crate::processor::kinds::admission::{Admission, Failure};
use crate::processor::parked;
use crate::projection::OnFailure;
use crate::slices::Slices;
use crate::state::{Build, Undecoded, sortable};
use crate::store::{CommitError, Position, RecordedEvent, Row, RowStore, RowWrite, StoreError, at_first};

/// How many are looked at together.
const SOME: usize = 200;

/// The row that says that some slices passed an event.
pub(super) fn passed(
    build: &Build,
    slices: Slices,
    position: Position,
    key: String,
) -> Result<RowWrite, StoreError> {
    let Slices { first, last } = slices;
    build.undecoded().insert(format!("{}:{first:04}", sortable(position)), Undecoded { key, first, last })
}

fn position_of(row: &Row<Undecoded>) -> Option<Position> {
    row.key.split_once(':')?.0.parse().ok().map(Position)
}

/// The rows of a build, with their positions. One that cannot be read stops nothing but itself.
pub(super) async fn all(
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
    fn slices(&self) -> Slices {
        Slices { first: self.first, last: self.last }
    }
}

/// What is left of the events that were passed undecoded.
pub(super) struct Passed {
    /// Some of their keys have yet to be looked at, by this range or by others.
    pub(super) waits: BTreeSet<Position>,
    /// Whether this range can go on with it right now.
    pub(super) more: bool,
}

/// What the program of this worker was found unable to decode, since something was asked of its build.
#[derive(Debug, Default)]
pub(super) struct Undecodable {
    /// How often something was asked, and how often it was resumed.
    since: (u64, u64),
    /// The keys of the rows.
    rows: BTreeSet<String>,
}

/// An event that can be decoded now, or was decided on.
struct Late<'r> {
    position: Position,
    row: &'r Row<Undecoded>,
    /// Nothing is to be done with it, if there is none.
    event: Option<RecordedEvent>,
    /// Those that have passed it, of this range.
    slices: Slices,
}

impl Worker {
    /// Takes in what this range has passed undecoded and can be decoded now, a part at a time: its keys go on meanwhile.
    pub(super) async fn take_in_undecoded(&mut self) -> Result<Passed, StepError> {
        let (context, own, started) = (self.context.clone(), self.share.slices, Instant::now());
        let table = context.build.undecoded();
        let stored = table.stored(context.backend()).await?;
        let stored = placed(self.readable(&table, stored));
        let mut passed =
            Passed { waits: stored.iter().map(|(position, _)| *position).collect(), more: false };
        if self.halted.is_some() {
            // It may be halted at one of these: it was tried, and is again once it is resumed.
            return Ok(passed);
        }
        // A range that was several ones before has several rows of an event.
        let mut left_of = BTreeMap::<Position, usize>::new();
        stored.iter().for_each(|(position, _)| *left_of.entry(*position).or_default() += 1);
        let mut here: Vec<_> =
            stored.iter().filter(|(_, row)| row.value.slices().and(own).is_some()).collect();
        if !here.is_empty() {
            self.forget_undecodable().await?;
        }
        // An operator has decided on these, or the projection, whatever their keys turn out to be.
        let mut skipped = BTreeSet::new();
        for some in here.chunks(MAX_PAGE) {
            let keys = some.iter().map(|(position, row)| (*position, &*row.value.key));
            skipped.extend(parked::skipped_undecoded(context.backend(), &context.build, keys).await?);
        }
        let known = &self.undecodable.rows;
        here.retain(|(position, row)| skipped.contains(position) || !known.contains(&row.key));
        let mut left = &here[..];
        while !left.is_empty() {
            let positions: Vec<Position> = left.iter().take(SOME).map(|(position, _)| *position).collect();
            let (found, answered) = at_first(context.backend(), &positions).await?;
            let events: BTreeMap<_, _> = found.into_iter().map(|event| (event.place(), event)).collect();
            let (some, rest) = left.split_at(answered);
            left = rest;
            for (position, row) in some {
                let event = events.get(position).filter(|_| !skipped.contains(position)).cloned();
                if let Some(late) = self.late(*position, row, event) {
                    if !self.take_in(late).await? {
                        return Ok(passed);
                    }
                    let is_own = row.value.slices().without(own).next().is_none();
                    let left = left_of.entry(*position).or_default();
                    *left -= usize::from(is_own);
                    if *left == 0 {
                        passed.waits.remove(position);
                    }
                } else {
                    self.undecodable.rows.insert(row.key.clone());
                }
                if started.elapsed() > PART_HOLDS {
                    return Ok(Passed { more: true, ..passed });
                }
            }
        }
        Ok(passed)
    }

    /// What is to be done about an event; `None` while it cannot be decoded.
    fn late<'r>(
        &self,
        position: Position,
        row: &'r Row<Undecoded>,
        event: Option<RecordedEvent>,
    ) -> Option<Late<'r>> {
        let slices = row.value.slices().and(self.share.slices)?;
        let Some(mut event) = event else { return Some(Late { position, row, event, slices }) };
        self.context.runner.keys(&event).ok()?;
        event.replay = position <= self.share.progress.replay;
        Some(Late { position, row, event: Some(event), slices })
    }

    /// What could not be decoded is looked at again once something was asked, or it was resumed.
    async fn forget_undecodable(&mut self) -> Result<(), StoreError> {
        let asked = parked::times_asked(self.context.backend(), &self.context.build).await?;
        let since = (asked, *self.context.resumes.borrow());
        if self.undecodable.since != since {
            self.undecodable = Undecodable { since, rows: BTreeSet::new() };
        }
        Ok(())
    }

    /// Takes in one event, in one commit with what is left of its row: for each key but the one that it is parked for it is
    /// handled, or queues up behind what is parked of that. `false` if that is to be tried again later.
    async fn take_in(&mut self, late: Late<'_>) -> Result<bool, StepError> {
        self.flush_folded().await?;
        let context = self.context.clone();
        let mut skips = parked::Skips::new();
        loop {
            let open = self.open.as_mut().expect("it is open");
            // It is not known before which keys that are: a session may find more than the event names.
            let mut admission = Admission::of_late(late.slices, &late.row.value.key, &open.parked, &skips);
            if let Some(event) = &late.event
                && let Err(failure) = open.session.fold(&[event], &mut admission).await
            {
                if !self.late_failed(failure, &mut skips).await? {
                    return Ok(false);
                }
                continue;
            }
            let (first, left_out) = (admission.first().map(str::to_owned), admission.left_out());
            let now = context.now();
            let (mut rows, queued) =
                parked::write_left_out(&context.build, &self.open().parked, &skips, &left_out, now)?;
            rows.extend(without(&context.build, &late, self.share.slices)?);
            match self.flush_with(rows).await {
                Ok(()) => {}
                // What its handler made of it cannot be stored.
                Err(StepError::Commit(error)) if !matches!(error, CommitError::Fenced { .. }) => {
                    let (Some(event), Some(first)) = (&late.event, first) else {
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
            self.retrying.suspected = None;
            let queued = queued.into_iter().map(|sequence| (sequence.key.clone(), sequence.written()));
            self.open.as_mut().expect("it is open").parked.extend(queued);
            return Ok(true);
        }
    }

    /// An event that is taken in late fails: it is left out for the key, unless the store is to blame. Then `false`: it is tried
    /// again later.
    async fn late_failed(&mut self, failure: Failure, skips: &mut parked::Skips) -> Result<bool, StepError> {
        self.renew();
        if !self.blames(&failure).await {
            self.postpone("taking in an event that can be decoded now", &failure);
            return Ok(false);
        }
        if self.context.on_failure == OnFailure::Stop {
            return Err(StepError::Handler(failure));
        }
        self.leave_out_late(failure, skips);
        Ok(true)
    }

    /// An event that is taken in late fails for a key: others of that key were handled after it, and go on.
    fn leave_out_late(&mut self, failure: Failure, skips: &mut parked::Skips) {
        let Failure { key, event, position, source, .. } = failure;
        let reason = parked::cut(&crate::chain(&*source));
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

/// What is left of a row once the event was taken in for some slices.
fn without(build: &Build, late: &Late<'_>, own: Slices) -> Result<Vec<RowWrite>, StoreError> {
    let Late { position, row, .. } = late;
    let left = row.value.slices().without(own);
    let mut rows = Vec::new();
    for Slices { first, last } in left {
        if first == row.value.first {
            rows.push(
                build
                    .undecoded()
                    .put(&Row { value: Undecoded { last, ..row.value.clone() }, ..(*row).clone() })?,
            );
        } else {
            rows.push(passed(build, Slices { first, last }, *position, row.value.key.clone())?);
        }
    }
    if (own.first..=own.last).contains(&row.value.first) {
        rows.push(build.undecoded().delete(row));
    }
    Ok(rows)
}
