//! Events that a range has passed though nobody could decode them, and so without knowing whether they were its own.
//!
//! The range of the key that such an event most likely has parks it; each range that passes it says so in a row, in the
//! commit of its checkpoint. Whoever can decode it later takes it in for those keys that lie in these slices, whichever
//! they turn out to be.

use std::collections::{BTreeMap, BTreeSet};

use super::failure::StepError;
use super::run::Worker;
use crate::processor::kinds::admission::{Admission, Failure, LeftOut};
use crate::processor::parked;
use crate::projection::OnFailure;
use crate::slices::Slices;
use crate::state::{Build, Undecoded, sortable};
use crate::store::{Position, RecordedEvent, Row, RowStore, RowWrite, StoreError};

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
    let rows = stored.filter_map(|row| table.decode(row).ok());
    Ok(rows.filter_map(|row| Some((position_of(&row)?, row))).collect())
}

impl Undecoded {
    fn slices(&self) -> Slices {
        Slices { first: self.first, last: self.last }
    }
}

/// An event that can be decoded now, or was decided on.
struct Late<'r> {
    position: Position,
    row: &'r Row<Undecoded>,
    /// Nothing is to be done with it, if there is none.
    event: Option<RecordedEvent>,
    /// Of the slices of this range.
    keys: BTreeSet<String>,
}

impl Worker {
    /// Takes in what this range has passed undecoded and can be decoded now. Gives the positions of what other ranges have
    /// passed, and have yet to take in.
    pub(super) async fn take_in_undecoded(&mut self) -> Result<BTreeSet<Position>, StepError> {
        let (context, own) = (self.context.clone(), self.share.slices);
        let stored = all(context.backend(), &context.build).await?;
        let elsewhere = stored.iter().filter(|(_, row)| row.value.slices().without(own).next().is_some());
        let elsewhere = elsewhere.map(|(position, _)| *position).collect();
        let here: Vec<_> = stored.iter().filter(|(_, row)| row.value.slices().and(own).is_some()).collect();
        for some in here.chunks(SOME) {
            let positions: Vec<Position> = some.iter().map(|(position, _)| *position).collect();
            let mut events: BTreeMap<Position, RecordedEvent> = BTreeMap::new();
            for event in context.backend().at(&positions).await? {
                events.insert(event.place(), event);
            }
            for (position, row) in some {
                let event = events.get(position).cloned();
                if let Some(late) = self.late(*position, row, event).await?
                    && !self.take_in(late).await?
                {
                    return Ok(elsewhere);
                }
            }
        }
        Ok(elsewhere)
    }

    /// What is to be done about an event; `None` while it cannot be decoded.
    async fn late<'r>(
        &mut self,
        position: Position,
        row: &'r Row<Undecoded>,
        event: Option<RecordedEvent>,
    ) -> Result<Option<Late<'r>>, StoreError> {
        let mut late = Late { position, row, event: None, keys: BTreeSet::new() };
        let guessed = &row.value.key;
        let Some(mut event) = event else { return Ok(Some(late)) };
        // Whatever its keys turn out to be, somebody has decided on it.
        let context = self.context.clone();
        if parked::is_skipped(context.backend(), &context.build, position, guessed).await? {
            return Ok(Some(late));
        }
        let Ok(keys) = self.context.runner.keys(&event) else { return Ok(None) };
        event.replay = position <= self.share.progress.replay;
        // For the key that was guessed it is parked.
        let here = |key: &String| {
            row.value.slices().has(key) && self.share.slices.has(key) && key != guessed
        };
        late.keys = keys.into_iter().filter(here).collect();
        late.event = Some(event);
        Ok(Some(late))
    }

    /// Takes in one event, in one commit with what is left of its row: for each key it is handled, or queues up behind what
    /// is parked of it. `false` if that is to be tried again later.
    async fn take_in(&mut self, late: Late<'_>) -> Result<bool, StepError> {
        self.flush_folded().await?;
        let (context, position) = (self.context.clone(), late.position);
        let mut skips = parked::Skips::new();
        loop {
            let open = self.open();
            let (queues, handled): (BTreeSet<String>, BTreeSet<String>) =
                late.keys.iter().cloned().partition(|key| open.parked.contains_key(key));
            let mut left_out: Vec<LeftOut> =
                queues.into_iter().map(|key| LeftOut { key, position, parked: true }).collect();
            if let Some(event) = &late.event
                && !handled.is_empty()
            {
                let mut admission = Admission::of_keys(&handled, &skips);
                if let Err(failure) = self.session().fold(&[event], &mut admission).await {
                    self.renew();
                    if !self.blames(&failure).await {
                        self.postpone("taking in an event that can be decoded now", &failure);
                        return Ok(false);
                    }
                    self.leave_out_late(failure, &mut skips);
                    continue;
                }
            }
            left_out.extend(skips.keys().map(|(position, key)| LeftOut { key: key.clone(), position: *position, parked: false }));
            let now = context.now();
            let (mut rows, queued) =
                parked::write_left_out(&context.build, &self.open().parked, &skips, &left_out, now)?;
            rows.extend(without(&context.build, &late, self.share.slices)?);
            self.flush_with(rows).await?;
            let queued = queued.into_iter().map(|sequence| (sequence.key.clone(), sequence.written()));
            self.open.as_mut().expect("it is open").parked.extend(queued);
            return Ok(true);
        }
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
            rows.push(build.undecoded().put(&Row { value: Undecoded { last, ..row.value.clone() }, ..(*row).clone() })?);
        } else {
            rows.push(passed(build, Slices { first, last }, *position, row.value.key.clone())?);
        }
    }
    if (own.first..=own.last).contains(&row.value.first) {
        rows.push(build.undecoded().delete(row));
    }
    Ok(rows)
}
