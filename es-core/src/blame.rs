//! Errors by which a handler says whose fault it is that it failed.

use crate::BoxError;

/// What an event needs cannot be reached now: its tables, the receiver of its message. That is not its fault. However long it
/// lasts, the event is tried again and never given up, and its range [shows](crate::processor::ProcessorState::Failing) why
/// it waits.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be reached now")]
pub struct NotTheEvent {
    what: &'static str,
    #[source]
    source: BoxError,
}

impl NotTheEvent {
    /// So many words name what cannot be reached: "the broker".
    #[must_use]
    pub fn new(what: &'static str, source: impl Into<BoxError>) -> Self {
        Self { what, source: source.into() }
    }
}

/// The event is to blame, and to try it again does not help: it is given up without that. So says a handler that passes events
/// on which it does not know: its other errors with such an event are taken for those of a program that is too old.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Definite(String);

impl Definite {
    /// Why, for an operator.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}
