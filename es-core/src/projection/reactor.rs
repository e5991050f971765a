//! Reactors: events into effects outside. Services by type, nothing to write through.

use crate::BoxError;
use crate::event::{Payload, Recorded};
use crate::projection::{Code, OnFailure};
use crate::services::{FromServices, Scope, Services};
use crate::store::{EventFilter, RecordedEvent};

/// Effects outside, at least once per event and in order. `#[reactor]` writes this impl.
///
/// It starts with the events after its first activation, and a rebuild of a projection does not
/// call it again.
pub trait Reactor: Send + Sync + 'static {
    /// Stored: names its checkpoint. `[A-Za-z0-9_.:-]`.
    const NAME: &'static str;
    /// What becomes of an event that its handler cannot act on.
    const ON_FAILURE: OnFailure = OnFailure::Park;
    /// What it wants to see.
    fn filter() -> EventFilter;
    /// Which code it is. Nodes with another one stand by while one with the newer runs.
    #[must_use]
    fn code() -> Code {
        Code::of(&Self::filter())
    }
    /// Acts on one event.
    fn react(
        &self,
        event: &RecordedEvent,
        scope: Scope<'_>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
    /// A line for each service that a handler asks for and nobody provided.
    #[must_use]
    fn missing(services: &Services) -> Vec<String>;
}

/// One handler of a reactor. Two handlers for one payload are two impls, hence a compile error.
pub trait React<P: Payload>: Reactor {
    /// What it asks for: `()` or a tuple of references to services.
    type Env<'e>: FromServices<'e>;
    /// Acts on one event.
    fn on<'a>(
        &'a self,
        event: Recorded<'a, P>,
        env: Self::Env<'a>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// What handler `React<P>` of `R` asks for and nobody provided, a line each.
#[must_use]
pub fn missing_for<R: React<P>, P: Payload>(services: &Services) -> Vec<String> {
    let mut missing = Vec::new();
    <R::Env<'_>>::missing(services, &mut missing);
    missing.into_iter().map(|m| format!("reactor {} on {}: {m}", R::NAME, P::NAME)).collect()
}
