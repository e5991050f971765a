//! A clock that stands still until it is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp, truncate};

/// A clock that a test sets. Clones show the same time.
///
/// ```
/// use std::time::Duration;
///
/// use es_core::clock::Clock;
/// use es_core::testing::TestClock;
///
/// let clock = TestClock::default();
/// let before = clock.now();
/// clock.clone().advance(Duration::from_secs(60));
/// assert_eq!(clock.now().duration_since(before).as_secs(), 60);
/// ```
#[derive(Clone, Debug)]
pub struct TestClock(Arc<Mutex<Timestamp>>);

impl Default for TestClock {
    /// At [`epoch`](super::epoch).
    fn default() -> Self {
        Self::at(super::epoch())
    }
}

impl TestClock {
    /// A clock that shows this time, cut to whole microseconds.
    #[must_use]
    pub fn at(time: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(truncate(time))))
    }

    /// Shows another time from now on; an earlier one too, as clocks do.
    pub fn set(&self, time: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = truncate(time);
    }

    /// Moves on.
    ///
    /// # Panics
    ///
    /// If time would leave the range of [`Timestamp`].
    pub fn advance(&self, by: Duration) {
        let later = self.now().checked_add(by).expect("a time within the range of a timestamp");
        self.set(later);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
