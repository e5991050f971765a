//! Reactors: events into effects outside. Services by type, nothing to write through.

use crate::BoxError;
use crate::event::{Payload, Recorded};
use crate::projection::{Code, OnFailure, Partition};
use crate::services::{FromServices, Scope, Services};
use crate::store::{EventFilter, RecordedEvent};

/// Effects outside, at least once per event and in order. `#[reactor]` writes this impl.
///
/// It starts with the events after its first activation, and a rebuild of a projection does not
/// call it again.
///
/// One call is made after the other, with a commit for each, unless it is [partitioned](Self::PARTITION). Then nodes share
/// its streams; the events of one stream come in order and one at a time, those of different streams at the same time, and
/// one commit covers a batch of them, up to eight for each call that may be in flight. A crash repeats no more than the
/// batches that were under way. A shutdown begins no call, waits for those in flight, and repeats none. If a call fails, its
/// stream is parked, or what [`ON_FAILURE`](Self::ON_FAILURE) says; no other call is repeated for that.
pub trait Reactor: Send + Sync + 'static {
    /// Stored: names its checkpoint. `[A-Za-z0-9_.:-]`.
    const NAME: &'static str;
    /// The name that it had before. A program that runs it for the first time under its name continues where that one is,
    /// with all that is parked, skipped and asked of it: in one commit, from which on nothing is done under the name of
    /// before. A program that knows it by that name stands by for as long as a node runs it under the new one, and then
    /// takes it back. One that was renamed from the new name has to say the name that it was taken back to: its start
    /// is refused until it does.
    const WAS: Option<&'static str> = None;
    /// What becomes of an event that its handler cannot act on.
    const ON_FAILURE: OnFailure = OnFailure::Park;
    /// Whether its streams are independent, so that one need not wait for another.
    const PARTITION: Partition = Partition::Whole;
    /// If it is partitioned: how many calls are in flight at most, at least 1, for each range of slices: a node works on as
    /// many ranges as it has [workers](crate::processor::ProcessorOptions::workers).
    const IN_FLIGHT: usize = 16;
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
