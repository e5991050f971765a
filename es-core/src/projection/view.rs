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

    /// Takes in one event: gives the row as it is then, or `None` if it goes. The next event of its key begins with a new
    /// one.
    ///
    /// # Errors
    ///
    /// Whatever the handler returns.
    fn fold(self, event: Recorded<'_, P>) -> Result<Option<Self>, BoxError>;
}

/// What becomes of a row.
type Apply<'e, V> = Box<dyn FnOnce(V) -> Result<Option<V>, BoxError> + Send + 'e>;

/// A row's key, and what happens to the row.
pub struct Change<'e, V: View> {
    key: V::Key,
    apply: Apply<'e, V>,
}

impl<V: View> fmt::Debug for Change<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<'e, V: View> Change<'e, V> {
    /// A change of one row, which is there afterwards.
    pub fn new(key: V::Key, apply: impl FnOnce(&mut V) -> Result<(), BoxError> + Send + 'e) -> Self {
        Self::replace(key, move |mut row| {
            apply(&mut row)?;
            Ok(Some(row))
        })
    }

    /// Another row in the place of one, or none. Where there is none, it gets a default one.
    pub fn replace(key: V::Key, apply: impl FnOnce(V) -> Result<Option<V>, BoxError> + Send + 'e) -> Self {
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
            Self::replace(key, move |row| row.fold(Recorded::new(&payload, event)))
        }));
        Ok(())
    }

    /// The text of the row's key.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.to_string()
    }

    /// Makes the change of a row, if there is one: gives the row as it is then, `None` if it goes.
    ///
    /// # Errors
    ///
    /// Whatever the handler returns.
    pub fn apply(self, row: Option<V>) -> Result<Option<V>, BoxError> {
        (self.apply)(row.unwrap_or_default())
    }
}

/// What a view's handler may return that takes the row as `self`: the row as it is then, or `None` if it goes.
#[diagnostic::on_unimplemented(
    message = "a view's handler that takes `self` cannot return `{Self}`",
    label = "neither `Option<Self>` nor a `Result` with one",
    note = "return `Some(self)` to keep the row and `None` to delete it; a handler that takes `&mut self` keeps it"
)]
pub trait RowResult<V> {
    /// With the error boxed.
    ///
    /// # Errors
    ///
    /// The handler's own.
    fn boxed(self) -> Result<Option<V>, BoxError>;
}

impl<V> RowResult<V> for Option<V> {
    fn boxed(self) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl<V, E: Into<BoxError>> RowResult<V> for Result<Option<V>, E> {
    fn boxed(self) -> Result<Option<V>, BoxError> {
        self.map_err(Into::into)
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
