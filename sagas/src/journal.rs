//! Inputs of an instance, as they are stored, and the events that they name.

use std::collections::BTreeMap;

use es_core::RecordedEvent;
use es_core::limits::{LimitError, MAX_PAGE};
use es_core::store::{EventStore, Position, RowStore, Span, StoreError, StoredRow, is_full};

use crate::definition::RawStep;
use crate::instance::Instance;
use crate::rows::{Input, Noted, Tables, input_key};

/// Where some inputs of an instance are, behind a number.
pub(crate) fn span(of: &Instance, number: u64, limit: usize) -> Result<Span, LimitError> {
    let after = input_key(&of.key, of.id, number)?;
    Ok(Span { after, before: Some(input_key(&of.key, of.id, u64::MAX)?), limit })
}

/// The number of an input, from the key of its row.
pub(crate) fn number(key: &str) -> u64 {
    key.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Some inputs behind a number, each with its own, and whether there may be more.
pub(crate) async fn behind(
    store: &dyn RowStore,
    of: &Instance,
    tables: &Tables,
    after: u64,
    limit: usize,
) -> Result<(Vec<(u64, StoredRow)>, bool), StoreError> {
    let page = store.scan_many(tables.inputs.name(), &[span(of, after, limit)?]).await?;
    let page = page.into_iter().next().unwrap_or_default();
    let full = is_full(&page, limit);
    Ok((numbered(page), full))
}

/// The next inputs of some instances, read together; of each as many as fit.
pub(crate) async fn next_of(
    store: &dyn RowStore,
    tables: &Tables,
    of: &[Instance],
    limit: usize,
) -> Result<Vec<Vec<(u64, StoredRow)>>, StoreError> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let spans = of.iter().map(|of| span(of, of.taken, limit)).collect::<Result<Vec<_>, _>>()?;
    let pages = store.scan_many(tables.inputs.name(), &spans).await?;
    Ok(pages.into_iter().map(numbered).collect())
}

fn numbered(page: Vec<StoredRow>) -> Vec<(u64, StoredRow)> {
    page.into_iter().map(|row| (number(&row.key), row)).collect()
}

/// Whether the event of an input is asked what it means to an instance: nothing is done in its place, and it still matters.
pub(crate) fn asks(of: &Instance, noted: &Noted) -> bool {
    noted.instead.is_none() && of.is_running()
}

/// Which step of its event an input of an instance is.
pub(crate) fn step_of<'s, 'e>(
    of: &Instance,
    noted: &Noted,
    steps: &'s [RawStep<'e>],
) -> Option<&'s RawStep<'e>> {
    // It was there: what would start it was not for it.
    let means = |step: &&RawStep<'_>| {
        let found = || step.associations().any(|association| of.associations.contains(association));
        !step.starts && (step.keys().any(|key| key == of.key) || found())
    };
    match noted.input {
        Input::Event { step: Some(nth), .. } => steps.get(nth as usize),
        Input::Event { step: None, .. } => steps.iter().find(means),
        _ => None,
    }
}

/// The events of some inputs.
pub(crate) async fn events(
    store: &dyn EventStore,
    inputs: impl Iterator<Item = &'_ Noted> + Send,
) -> Result<BTreeMap<Position, RecordedEvent>, StoreError> {
    let position = |noted: &Noted| match noted.input {
        Input::Event { position, .. } => Some(position),
        _ => None,
    };
    at(store, inputs.filter_map(position).collect()).await
}

/// The events at some positions, those that are there.
pub(crate) async fn at(
    store: &dyn EventStore,
    mut positions: Vec<Position>,
) -> Result<BTreeMap<Position, RecordedEvent>, StoreError> {
    positions.sort_unstable();
    positions.dedup();
    let (mut left, mut events) = (&positions[..], BTreeMap::new());
    while !left.is_empty() {
        let some = &left[..left.len().min(MAX_PAGE)];
        let found = store.at(some).await?;
        // It may have ended at the bytes of a page; without any, none of these is there.
        let done = found.last().map(RecordedEvent::place).or_else(|| some.last().copied());
        events.extend(found.into_iter().map(|event| (event.place(), event)));
        left = &left[left.partition_point(|position| Some(*position) <= done)..];
    }
    Ok(events)
}
