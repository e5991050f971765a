//! Inputs of an instance, as they are stored, and the events that they name.

use std::collections::BTreeMap;

use es_core::RecordedEvent;
use es_core::store::{EventStore, Position, Row, RowStore, Span, StoreError, StoredRow, is_full};

use crate::definition::RawStep;
use crate::instance::Instance;
use crate::rows::{Input, Noted, Tables, input_key};

/// Some inputs behind a number, each with its own, and whether there may be more.
pub(crate) async fn behind(
    store: &dyn RowStore,
    tables: &Tables,
    of: &Instance,
    number: u64,
    limit: usize,
) -> Result<(Vec<(u64, Row<Noted>)>, bool), StoreError> {
    let page = store.scan_many(tables.inputs.name(), &[span(of, number, limit)?]).await?;
    let page = page.into_iter().next().unwrap_or_default();
    let full = is_full(&page, limit);
    Ok((decoded(tables, page)?, full))
}

/// The next inputs of some instances, read together; of each as many as fit.
pub(crate) async fn next_of(
    store: &dyn RowStore,
    tables: &Tables,
    of: &[Instance],
    limit: usize,
) -> Result<Vec<Vec<(u64, Row<Noted>)>>, StoreError> {
    if of.is_empty() {
        return Ok(Vec::new());
    }
    let spans = of.iter().map(|of| span(of, of.taken, limit)).collect::<Result<Vec<_>, _>>()?;
    let pages = store.scan_many(tables.inputs.name(), &spans).await?;
    pages.into_iter().map(|page| decoded(tables, page)).collect()
}

fn span(of: &Instance, number: u64, limit: usize) -> Result<Span, StoreError> {
    let after = input_key(&of.key, of.id, number)?;
    let before = Some(input_key(&of.key, of.id, u64::MAX)?);
    Ok(Span { after, before, limit })
}

fn decoded(tables: &Tables, page: Vec<StoredRow>) -> Result<Vec<(u64, Row<Noted>)>, StoreError> {
    let number = |key: &str| key.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    let rows = page.into_iter().map(|row| Ok((number(&row.key), tables.inputs.decode(row)?)));
    rows.collect()
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
    let mut left: Vec<Position> = inputs.filter_map(position).collect();
    left.sort_unstable();
    left.dedup();
    let mut events = BTreeMap::new();
    while !left.is_empty() {
        let found = store.at(&left).await?;
        let Some(last) = found.last().map(RecordedEvent::place) else { break };
        events.extend(found.into_iter().map(|event| (event.place(), event)));
        left.retain(|position| *position > last);
    }
    Ok(events)
}
