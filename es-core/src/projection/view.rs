//! Keyed views: one row per key, folded in memory, written as data. They run on every backend.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Payload, Recorded};
use crate::projection::Projection;
use crate::store::RecordedEvent;
use crate::{AggregateId, BoxError};

/// A keyed view. `#[view]` writes this impl over the handlers of its block.
///
/// Law: folding the whole log and folding it in any two parts give the same rows.
pub trait View: Projection + Default + Clone + Serialize + DeserializeOwned {
    /// Names a row.
    type Key: AggregateId;
    /// What one event changes, decoded once.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError>;
}

/// One handler of a view. Two handlers for one payload are two impls, hence a compile error.
pub trait Fold<P: Payload>: View {
    /// The rows that the event belongs to.
    ///
    /// # Errors
    ///
    /// The event names no key of this view.
    fn keys(event: Recorded<'_, P>) -> Result<Vec<Self::Key>, BoxError>;

    /// Takes in one event.
    ///
    /// # Errors
    ///
    /// Whatever the handler returns.
    fn fold(&mut self, event: Recorded<'_, P>) -> Result<(), BoxError>;
}

/// A row's key, and what happens to the row.
pub struct Change<'e, V: View> {
    key: V::Key,
    apply: Box<dyn FnOnce(&mut V) -> Result<(), BoxError> + Send + 'e>,
}

impl<V: View> fmt::Debug for Change<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<'e, V: View> Change<'e, V> {
    /// A change of one row.
    pub fn new(key: V::Key, apply: impl FnOnce(&mut V) -> Result<(), BoxError> + Send + 'e) -> Self {
        Self { key, apply: Box::new(apply) }
    }

    /// What handler `Fold<P>` does with this payload, row by row.
    ///
    /// # Errors
    ///
    /// The event names no key of this view.
    pub fn of<P: Payload>(payload: P, event: &'e RecordedEvent, to: &mut Vec<Self>) -> Result<(), BoxError>
    where
        V: Fold<P>,
    {
        let keys = V::keys(Recorded::new(&payload, event))?;
        let payload = Arc::new(payload);
        to.extend(keys.into_iter().map(|key| {
            let payload = payload.clone();
            Self::new(key, move |row| row.fold(Recorded::new(&payload, event)))
        }));
        Ok(())
    }

    /// The text of the row's key.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.to_string()
    }

    /// Makes the change.
    ///
    /// # Errors
    ///
    /// Whatever the handler returns.
    pub fn apply(self, row: &mut V) -> Result<(), BoxError> {
        (self.apply)(row)
    }
}

/// What `#[on(by = ..)]` may name: a key, or an `Option` or a `Vec` of keys.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key of this view",
    label = "the view's rows are named by `{K}`",
    note = "`by` names a field or a method that gives the key, an `Option` or a `Vec` of keys"
)]
pub trait IntoKeys<K> {
    /// The keys, each once.
    fn to_keys(&self) -> Vec<K>;
}

impl<K: Clone> IntoKeys<K> for K {
    fn to_keys(&self) -> Vec<K> {
        vec![self.clone()]
    }
}

impl<K: Clone> IntoKeys<K> for Option<K> {
    fn to_keys(&self) -> Vec<K> {
        self.iter().cloned().collect()
    }
}

impl<K: Clone> IntoKeys<K> for Vec<K> {
    fn to_keys(&self) -> Self {
        self.clone()
    }
}
