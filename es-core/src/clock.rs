//! Time as a parameter.

use std::fmt::Debug;

pub use jiff::Timestamp;

/// Tells the time. The framework asks nobody else, so a test owns time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, in whole microseconds: what every backend can store.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that all others stand in for")]
    fn now(&self) -> Timestamp {
        truncate(Timestamp::now())
    }
}

/// Cuts a time to whole microseconds.
#[must_use]
pub fn truncate(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
