//! Commits and filters are checked against the [limits](crate::limits): every backend calls this before it does anything,
//! so that all refuse alike.

use super::{Commit, EventFilter, NewEvent, Position, StoreError};
use crate::limits::{
    HARD_MAX_EVENTS, LimitError, MAX_FILTER_ITEMS, MAX_FILTER_TERMS, MAX_METADATA, MAX_NAME, MAX_PAGE,
    MAX_PAYLOAD, MAX_TAGS, cut, json_depth, name, no_nul, row_key, size, stored_name,
};

/// Longest bound of a scan, in bytes.
const MAX_BOUND: usize = 4 * MAX_NAME;

/// Checks a whole commit: every backend calls this first, so that all refuse alike.
///
/// # Errors
///
/// The first [`LimitError`] found.
pub fn commit(commit: &Commit) -> Result<(), LimitError> {
    let events = || commit.appends.iter().flat_map(|a| &a.events);
    let count = events().count();
    size("commit", count, HARD_MAX_EVENTS, "events", || format!("{} streams", commit.appends.len()))?;
    events().try_for_each(event)?;
    commit.rows.iter().try_for_each(|row| name("table", &row.table).and_then(|()| row_key(&row.key)))?;
    commit.condition.iter().try_for_each(|condition| filter(&condition.fail_if_events_match))?;
    // The usual commit: there is only one of anything.
    if count < 2 && commit.outcomes.len() < 2 && commit.rows.len() < 2 {
        return Ok(());
    }
    nothing_twice(commit)
}

/// Checks a filter: every backend calls this before it reads.
///
/// # Errors
///
/// Too many alternatives, or too many types and tags in them; a type that is empty or too long, or has a control character.
pub fn filter(filter: &EventFilter) -> Result<(), LimitError> {
    let items = filter.items();
    let terms: usize = items.iter().map(|item| item.types().len() + item.tags().len()).sum();
    let shown =
        || items.iter().flat_map(|item| item.types()).map(|name| cut(name)).next().unwrap_or_default();
    size("filter", items.len(), MAX_FILTER_ITEMS, "alternatives", shown)?;
    size("filter", terms, MAX_FILTER_TERMS, "types and tags", shown)?;
    items.iter().flat_map(|item| item.types()).try_for_each(|asked| name("event type", asked))
}

/// Keys of rows that are asked for, like those that are written: every backend calls this before it reads.
///
/// # Errors
///
/// The first [`LimitError`] found.
pub fn rows(table: &str, keys: &[String]) -> Result<(), LimitError> {
    name("table", table)?;
    keys.iter().try_for_each(|key| row_key(key))
}

/// Where a scan of rows begins and ends. That need not be a key: none has more than four times as many bytes, so that what
/// stands behind all of them can be named.
///
/// # Errors
///
/// The first [`LimitError`] found.
pub fn bounds<B: AsRef<str>>(table: &str, bounds: impl IntoIterator<Item = B>) -> Result<(), LimitError> {
    name("table", table)?;
    bounds.into_iter().try_for_each(|bound| {
        let bound = bound.as_ref();
        size("bound of a scan", bound.len(), MAX_BOUND, "bytes", || cut(bound))?;
        no_nul("bound of a scan", bound)
    })
}

/// Positions to be read together, in order and each once.
///
/// # Errors
///
/// Too many of them.
pub fn positions(positions: &[Position]) -> Result<Vec<Position>, LimitError> {
    size("read", positions.len(), MAX_PAGE, "positions", || "events at positions".to_owned())?;
    let mut positions = positions.to_vec();
    positions.sort_unstable();
    positions.dedup();
    Ok(positions)
}

/// The payload of an event of this type: also one that takes the place of another.
///
/// # Errors
///
/// [`LimitError`] if it is too large, or as JSON too deep.
pub fn payload(name: &str, codec: &str, data: &[u8]) -> Result<(), LimitError> {
    size("payload", data.len(), MAX_PAYLOAD, "bytes", || name.to_owned())?;
    if codec == crate::codec::JSON { json_depth(name, data) } else { Ok(()) }
}

fn event(event: &NewEvent) -> Result<(), LimitError> {
    stored_name("event type", &event.name)?;
    if event.id.is_nil() {
        let why = "is the nil UUID; take one from the app's ids";
        return Err(LimitError::Invalid { field: "event id", value: event.id.to_string(), why });
    }
    payload(&event.name, &event.codec, &event.data)?;
    size("event", event.tags.len(), MAX_TAGS, "tags", || event.name.to_string())?;
    if event.codec != crate::codec::JSON {
        stored_name("codec", &event.codec)?;
    }
    if !event.metadata.is_plain() {
        size("metadata", event.metadata.stored_size(), MAX_METADATA, "bytes", || event.name.to_string())?;
    }
    Ok(())
}

/// What an operator puts in the place of a stored payload: as an append checks it, and that it is JSON where JSON was. Whether
/// the event type reads it, only the program knows.
///
/// # Errors
///
/// [`StoreError::Limit`] if it is too large or too deep, [`StoreError::Misuse`] if it is no JSON.
pub fn replacement(name: &str, codec: &str, data: &[u8]) -> Result<(), StoreError> {
    payload(name, codec, data)?;
    if codec != crate::codec::JSON {
        return Ok(());
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(data) {
        Ok(_) => Ok(()),
        Err(e) => Err(StoreError::misuse(format!("the payload for {name} is no JSON: {e}"))),
    }
}

/// Two lines about one key or row would say two things.
fn nothing_twice(commit: &Commit) -> Result<(), LimitError> {
    let ids = commit.appends.iter().flat_map(|a| &a.events).map(|e| e.id);
    once("event id", ids, ToString::to_string)?;
    once("idempotency key", commit.outcomes.iter().map(|o| &o.key), |key| cut(key.as_str()))?;
    let rows = commit.rows.iter().map(|row| (&*row.table, &*row.key));
    once("row", rows, |(table, key)| cut(&format!("{table} {key}")))
}

fn once<K: Clone + Eq + std::hash::Hash>(
    field: &'static str,
    mut keys: impl Iterator<Item = K> + Clone,
    text: impl Fn(&K) -> String,
) -> Result<(), LimitError> {
    // Most commits have at most one of each kind.
    if keys.clone().nth(1).is_none() {
        return Ok(());
    }
    let mut seen = std::collections::HashSet::new();
    match keys.find(|key| !seen.insert(key.clone())) {
        None => Ok(()),
        Some(twice) => {
            Err(LimitError::Invalid { field, value: text(&twice), why: "stands twice in one commit" })
        }
    }
}
