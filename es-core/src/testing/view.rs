//! Given recorded events, then rows: a keyed view, without a store.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use pretty_assertions::assert_eq;

use super::SeededEntropy;
use super::fixture::recorded;
use crate::aggregate::EventOf;
use crate::event::{Event, IntoEvents};
use crate::id::Ids;
use crate::projection::{Change, View, fold};
use crate::repository::stream_of;
use crate::store::{NewEvent, Position, RecordedEvent, StreamId, Version};
use crate::{Aggregate, BoxError};

/// Begins a test of a keyed view.
///
/// Rows go through their stored form after each event, as they do between two pages of a processor.
///
/// ```
/// # use es_core::testing::conformance::{domain::*, readside::Balance};
/// # use es_core::testing::view;
/// # let (ada, bob) = ("ada".to_owned(), "bob".to_owned());
/// view::<Balance>()
///     .given::<Account>(&ada, [opened("ada"), deposited(10)])
///     .then_row(&ada, Balance { amount: 10, n_payments: 1 })
///     .then_no_row(&bob);
/// ```
pub fn view<V: View>() -> ViewFixture<V> {
    ViewFixture { rows: BTreeMap::new(), streams: BTreeMap::new(), position: Position(0) }
}

/// A keyed view and what it has taken in.
#[must_use = "a test without `.then_row(..)` checks nothing"]
#[derive(Debug)]
pub struct ViewFixture<V> {
    rows: BTreeMap<String, V>,
    streams: BTreeMap<StreamId, Version>,
    position: Position,
}

impl<V: View> ViewFixture<V> {
    /// Further events of one aggregate, recorded in the order of the calls.
    ///
    /// # Panics
    ///
    /// If an event cannot be written, or the view fails on it.
    #[track_caller]
    pub fn given<A: Aggregate>(mut self, id: &A::Id, events: impl IntoEvents<A::Event>) -> Self
    where
        A::Event: EventOf<Aggregate = A>,
    {
        let stream = stream_of::<A>(id).unwrap_or_else(|e| panic!("{e}"));
        for event in events.into_events() {
            if let Err(error) = self.take(&stream, &event) {
                panic!("the view failed: {}", crate::chain(&*error));
            }
        }
        self
    }

    fn take<E: Event>(&mut self, stream: &StreamId, event: &E) -> Result<(), BoxError> {
        self.position.0 += 1;
        let version = self.streams.entry(stream.clone()).or_default();
        version.0 += 1;
        let id =
            Ids::new(Arc::new(super::TestClock::default()), Arc::new(SeededEntropy::new(self.position.0)))
                .next();
        let new = NewEvent::new(id, event.encode()?, Arc::default());
        let stored = recorded(new, stream.clone(), *version, self.position);
        if !V::filter().matches(&stored) {
            return Ok(());
        }
        for (key, change) in fold::storable_changes::<V>(&stored)? {
            change_row(&mut self.rows, &stored, key, change)?;
        }
        Ok(())
    }
}

/// By way of the stored form, as a processor does it.
fn change_row<V: View>(
    rows: &mut BTreeMap<String, V>,
    event: &RecordedEvent,
    key: String,
    change: Change<'_, V>,
) -> Result<(), BoxError> {
    let row = rows.remove(&key);
    if let Some(row) = fold::apply(event, change, row)? {
        rows.extend(fold::decode(&key, &fold::encode(&key, &row)?)?.map(|row| (key, row)));
    }
    Ok(())
}

impl<V: View + Debug + PartialEq> ViewFixture<V> {
    /// The row of a key is this one.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
    pub fn then_row(&self, key: &V::Key, expected: V) -> &Self {
        let row = self.rows.get(&key.to_string());
        assert_eq!(Some(&expected), row, "row {key} of view {} (expected < > actual)", V::NAME);
        self
    }

    /// The key has no row.
    ///
    /// # Panics
    ///
    /// If it has one.
    #[track_caller]
    pub fn then_no_row(&self, key: &V::Key) -> &Self {
        assert_eq!(
            None,
            self.rows.get(&key.to_string()),
            "row {key} of view {} (expected < > actual)",
            V::NAME
        );
        self
    }
}
