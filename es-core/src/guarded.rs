//! Calls of user code: it may panic, and it may not end. For extensions, whose handlers are user code, too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::FutureExt as _;

use crate::BoxError;
use crate::event::{EventId, noting_unknown, noting_unknown_in};
use crate::store::RecordedEvent;

/// The text of a panic. What the code has changed so far is in an unknown state: whoever calls drops it.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a text")]
pub struct Panic(
    /// What it said.
    pub String,
);

impl Panic {
    fn of(caught: &(dyn Any + Send)) -> Self {
        let text = caught.downcast_ref::<&str>().map(|t| (*t).to_owned());
        Self(
            text.or_else(|| caught.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned()),
        )
    }

    /// As an error.
    #[must_use]
    pub fn boxed(self) -> BoxError {
        format!("a panic: {}", self.0).into()
    }
}

/// Runs what has await points, for as long as it takes.
pub fn caught<T>(code: impl Future<Output = T>) -> impl Future<Output = Result<T, Panic>> {
    AssertUnwindSafe(code).catch_unwind().map(|outcome| outcome.map_err(|panic| Panic::of(&*panic)))
}

/// Runs what has no await points.
pub(crate) fn caught_now<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Panic::of(&*panic))
}

/// Calls the handler of an event on the read side: a panic is its error, and so is a call that takes longer than `limit`.
pub(crate) async fn call<T>(
    limit: Duration,
    event: &RecordedEvent,
    handler: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    match tokio::time::timeout(limit, noting(Some(event.id), handler)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("the handler did not end within its limit of {limit:?}").into()),
    }
}

/// Calls code that has await points, and no event, for as long as it takes: a panic is its error. That what it loads has an
/// event of a newer program is noted, whatever its error says of that.
///
/// # Errors
///
/// The code's own, or its panic.
pub async fn called<T>(code: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    noting(None, code).await
}

async fn noting<T>(
    event: Option<EventId>,
    code: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    let code = caught(code).map(|outcome| outcome.unwrap_or_else(|panic| Err(panic.boxed())));
    noting_unknown_in(event, code).await
}

/// Calls code of the read side that has no await points, and no event: a panic is its error.
///
/// # Errors
///
/// The code's own, or its panic.
pub fn call_now<T>(code: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    noting_unknown(None, || caught_now(code).unwrap_or_else(|panic| Err(panic.boxed())))
}

/// Calls the handler of an event that has no await points: a panic is its error. That the event is one of a newer program is
/// noted, whatever its error says of that.
///
/// # Errors
///
/// The handler's own, or its panic.
pub fn handle_now<T>(
    event: &RecordedEvent,
    handler: impl FnOnce() -> Result<T, BoxError>,
) -> Result<T, BoxError> {
    noting_unknown(Some(event.id), || caught_now(handler).unwrap_or_else(|panic| Err(panic.boxed())))
}
