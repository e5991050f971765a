//! Aggregates: your own types, folded from events.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{DecodeError, Event, Payload, Recorded};
use crate::snapshot::SnapshotPolicy;

/// A typed id with one text form: whatever is `Display` and `FromStr`.
///
/// `String`, integers and `Uuid` are ids as they are; `#[derive(AggregateId)]` makes one of a newtype.
/// Law: `parse(text)` of an id's text gives the same id.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no id of an aggregate",
    label = "not an id",
    note = "put `#[derive(AggregateId, Clone, Debug)]` on a newtype, or use a `String`, an integer or a `Uuid`"
)]
pub trait AggregateId: Clone + Debug + Display + Send + Sync + 'static {
    /// The id with this text.
    fn parse(text: &str) -> Option<Self>;
}

#[diagnostic::do_not_recommend]
impl<T: Clone + Debug + Display + FromStr + Send + Sync + 'static> AggregateId for T {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A domain refusal. It is stored (idempotency keys), hence serde.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of an aggregate",
    note = "a refusal is stored: it needs `std::error::Error`, `Serialize` and `Deserialize`"
)]
pub trait Refusal: std::error::Error + Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: std::error::Error + Serialize + DeserializeOwned + Send + Sync + 'static> Refusal for T {}

/// A consistency boundary with its own stream, `{NAME}-{id}`. Written by `#[derive(Aggregate)]`.
pub trait Aggregate: Default + Clone + Send + Sync + 'static {
    /// Stored: the first part of every stream id. Lower case, without `-`.
    const NAME: &'static str;
    /// Names one of them.
    type Id: AggregateId;
    /// What happens to it.
    type Event: Event;
    /// Why it says no.
    type Error: Refusal;

    /// When snapshots are taken, and how the state is stored in them. Never, by default.
    #[must_use]
    fn snapshots() -> SnapshotPolicy<Self> {
        SnapshotPolicy::never()
    }
}

/// The fold. Written by hand: your `match`, and rustc asks for every arm.
///
/// Law: pure. The same state and event give the same state, always: no clock, no randomness, no IO.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how its events change it",
    note = "write `impl Apply for {Self} {{ fn apply(&mut self, event: &..) {{ match event {{ .. }} }} }}`"
)]
pub trait Apply: Aggregate {
    /// Takes in one event.
    fn apply(&mut self, event: &Self::Event);

    /// Whether it takes no more commands. Its events stay readable.
    #[must_use]
    fn ended(&self) -> bool {
        false
    }
}

/// Which aggregate an event enum belongs to; written by `#[derive(Aggregate)]`.
///
/// It gives [`Recorded::aggregate_id`] its type and makes "one enum, one aggregate" a rule of the compiler.
pub trait EventOf: Event {
    /// The aggregate whose events these are.
    type Aggregate: Aggregate<Event = Self>;
}

impl<P: Payload<Event: EventOf>> Recorded<'_, P> {
    /// The id of the aggregate that decided it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the stream is not one of this aggregate's.
    pub fn aggregate_id(&self) -> Result<<<P::Event as EventOf>::Aggregate as Aggregate>::Id, DecodeError> {
        let name = <<P::Event as EventOf>::Aggregate as Aggregate>::NAME;
        let text = self.stream().as_str().strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        text.and_then(AggregateId::parse).ok_or_else(|| DecodeError::stream(self.record(), name))
    }
}
