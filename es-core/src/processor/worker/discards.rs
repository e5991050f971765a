//! What was discarded in the build that queries read, after a build under way had passed it.
//!
//! What was discarded before that is left out page by page. Here the rows of its keys are rebuilt, or, where rows cannot be told
//! apart, the build begins again. A row next to those of what was left out says that it is done: queries are not switched before.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{BuildContext, Role};
use super::failure::StepError;
use super::run::Worker;
use super::take_over::{TakeOver, made_by};
use crate::processor::parked::{self, Parked};
use crate::state::{Afresh, Skipped, afresh};
use crate::store::{Position, RecordedEvent, Row, RowWrite, StoreError, at_first};

/// Rows that are read together.
const PAGE: usize = 500;

impl Worker {
    /// Leaves out what was discarded since this range has passed it. `false` if the build begins again for that.
    pub(super) async fn leave_out_discarded(&mut self) -> Result<bool, StepError> {
        let context = self.context.clone();
        let Role::Building { current, honours_skips: true, .. } = &context.role else { return Ok(true) };
        let mut after = None::<String>;
        loop {
            let page = current.skipped().page(context.backend(), after.as_deref(), PAGE).await?;
            let ended = page.len() < PAGE;
            after = page.last().map(|row| row.key.clone());
            let late = self.discarded_late(page).await?;
            if !late.is_empty() && !self.leave_out_late_ones(late).await? {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }

    /// Those of a page that this range has passed and not left out.
    async fn discarded_late(&mut self, page: Vec<Row<Skipped>>) -> Result<Vec<Skipped>, StepError> {
        let (slices, seen) = (self.share.slices, self.open().seen);
        let is_late = |row: &Row<Skipped>| {
            row.value.discarded && row.value.position <= seen && slices.has(&row.value.key)
        };
        let passed: Vec<Row<Skipped>> = page.into_iter().filter(is_late).collect();
        if passed.is_empty() {
            return Ok(Vec::new());
        }
        // It says what was left out.
        self.flush_folded().await?;
        let keys: Vec<String> = passed.iter().map(|row| row.key.clone()).collect();
        let known = self.context.backend().rows(self.context.build.skipped().name(), &keys).await?;
        let late = passed.into_iter().zip(known).filter(|(_, known)| known.is_none());
        Ok(late.map(|(row, _)| row.value).collect())
    }

    async fn leave_out_late_ones(&mut self, late: Vec<Skipped>) -> Result<bool, StepError> {
        let (context, folds) = (self.context.clone(), self.context.folds());
        let build = &context.build;
        let mut rows =
            late.iter().map(|skipped| parked::skip(build, skipped.clone())).collect::<Result<Vec<_>, _>>()?;
        // Of those that could not be decoded, the key is a guess.
        let looked_up =
            late.iter().filter(|skipped| !folds || skipped.undecoded).map(|skipped| skipped.position);
        let events = events_at(&context, looked_up.collect::<BTreeSet<_>>().into_iter().collect()).await?;
        if !folds && events.iter().any(|event| context.wants(event)) {
            return self.begin_again().await.map(|()| false);
        }
        let (unparked, sequences, mut keys) = unpark(&context, &self.open().parked, &late).await?;
        rows.extend(unparked);
        if folds {
            keys.extend(events.iter().flat_map(|event| context.runner.keys(event).unwrap_or_default()));
            rows.extend(ask_afresh(&context, keys).await?);
        }
        self.flush_with(rows).await?;
        let parked = &mut self.open.as_mut().expect("it is open").parked;
        for (key, sequence) in sequences {
            match sequence.value.events {
                0 => drop(parked.remove(&key)),
                _ => drop(parked.insert(key, sequence.written())),
            }
        }
        Ok(true)
    }

    /// The build begins again from the start of the log.
    async fn begin_again(&mut self) -> Result<(), StepError> {
        let context = self.context.clone();
        let made_by = made_by(context.backend(), &context.build).await?.value;
        let (over, lease) = (TakeOver::from(made_by.known()), context.node.settings.lease);
        let why = "an event that it has handled was discarded";
        over.begin_again(context.backend(), &*context.runner, &context.build, lease, why).await?;
        self.open = None;
        Ok(())
    }
}

async fn events_at(
    context: &BuildContext,
    positions: Vec<Position>,
) -> Result<Vec<RecordedEvent>, StoreError> {
    let (mut all, mut left) = (Vec::new(), &positions[..]);
    while !left.is_empty() {
        let (events, answered) = at_first(context.backend(), left).await?;
        all.extend(events);
        left = &left[answered..];
    }
    Ok(all)
}

/// Takes events out of the sequences that they are parked in: as rows, the sequences as they are then, and the keys for which
/// events were handled.
async fn unpark(
    context: &BuildContext,
    all: &BTreeMap<String, Parked>,
    late: &[Skipped],
) -> Result<(Vec<RowWrite>, BTreeMap<String, Parked>, BTreeSet<String>), StoreError> {
    let build = &context.build;
    let (mut rows, mut sequences, mut handled) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for Skipped { key, position, .. } in late {
        let begun = |parked: &&Parked| parked.value.first <= *position;
        let Some(parked) = all.get(key).filter(begun).cloned() else {
            handled.insert(key.clone());
            continue;
        };
        let (table, row) = (build.parked_events(), parked::event_key(&parked, *position));
        if let Some(event) = table.get(context.backend(), &row).await? {
            rows.push(table.delete(&event));
            sequences.entry(key.clone()).or_insert(parked).value.events -= 1;
        }
    }
    for sequence in sequences.values() {
        rows.push(match sequence.value.events {
            0 => build.parked().delete(sequence),
            _ => build.parked().put(sequence)?,
        });
    }
    Ok((rows, sequences, handled))
}

/// The requests to rebuild the rows of some keys, of whichever range.
async fn ask_afresh(context: &BuildContext, keys: BTreeSet<String>) -> Result<Vec<RowWrite>, StoreError> {
    let (table, keys) = (afresh(&context.build), keys.into_iter().collect::<Vec<_>>());
    let known = context.backend().rows(table.name(), &keys).await?;
    let ask = |(key, known): (String, Option<crate::store::StoredRow>)| {
        let rev = known.map_or(0, |row| row.rev);
        table.put(&Row { key, rev, value: Afresh::default() })
    };
    keys.into_iter().zip(known).map(ask).collect()
}
