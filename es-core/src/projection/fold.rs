//! The fold of a keyed view, wherever its rows are: in memory between two flushes, in the commit of a command, or only for
//! the one who reads.
//!
//! Handlers and the types of rows are the user's, so each call here may panic: that is an error of the event or the row.

use bytes::Bytes;

use super::{Change, View, tables_of};
use crate::codec::json_len;
use crate::guarded::{call_now, handle_now};
use crate::store::RecordedEvent;
use crate::{AggregateId as _, BoxError};

/// What an event changes, in order, each with the text of its row's key.
pub(crate) fn changes<V: View>(event: &RecordedEvent) -> Result<Vec<(String, Change<'_, V>)>, BoxError> {
    handle_now(event, || {
        let changes = V::changes(event)?.into_iter().map(|change| (change.key(), change));
        Ok(changes.collect())
    })
}

/// The same, of rows that are to be stored. A key that cannot be stored is a fault of the event as a whole.
pub(crate) fn storable_changes<V: View>(
    event: &RecordedEvent,
) -> Result<Vec<(String, Change<'_, V>)>, BoxError> {
    let changes = changes::<V>(event)?;
    changes.iter().try_for_each(|(key, _)| crate::limits::row_key(key))?;
    Ok(changes)
}

/// The key that an event most likely has whose payload cannot be read: that of its aggregate, if it can be a key of this
/// view; else its stream. What comes after it for this key waits behind it.
pub(crate) fn key_of_undecodable<V: View>(event: &RecordedEvent) -> String {
    let stream = event.stream.as_str();
    let id = stream.split_once('-').and_then(|(_, id)| V::Key::parse(id));
    id.map_or_else(|| stream.to_owned(), |key| key.to_string())
}

/// Makes one change of a row that an event makes, if there is one: the row as it is then, `None` if it goes.
pub(crate) fn apply<V: View>(
    event: &RecordedEvent,
    change: Change<'_, V>,
    row: Option<V>,
) -> Result<Option<V>, BoxError> {
    handle_now(event, || change.apply(row))
}

/// The data of a row that is no more, where its revision has to stay: one that comes after it must not be taken for the
/// one of before. No JSON reads like this.
pub(crate) const GONE: Bytes = Bytes::from_static(b"-");

/// A row as it is stored. An error names it.
pub(crate) fn encode<V: View>(key: &str, row: &V) -> Result<Bytes, BoxError> {
    let data = call_now(|| Ok(serde_json::to_vec(row)?));
    data.map(Bytes::from).map_err(|e| about::<V>(key, "as JSON: ", &*e))
}

/// How many bytes a row has as it is stored; none if it cannot be written.
pub(crate) fn size<V: View>(row: &V) -> usize {
    call_now(|| Ok(json_len(row)?)).unwrap_or_default()
}

/// What a stored row holds, `None` for one that is [`GONE`]. An error names it.
pub(crate) fn decode<V: View>(key: &str, data: &[u8]) -> Result<Option<V>, BoxError> {
    if data == GONE {
        return Ok(None);
    }
    call_now(|| Ok(Some(serde_json::from_slice(data)?))).map_err(|e| about::<V>(key, "", &*e))
}

fn about<V: View>(key: &str, what: &str, error: &(dyn std::error::Error + 'static)) -> BoxError {
    format!("row {key:?} of view {}: {what}{}", tables_of::<V>().stored_name(), crate::chain(error)).into()
}
