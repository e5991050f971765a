//! Aggregates: your own types, folded from events, deciding on commands.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::services::FromServices;
use crate::snapshot::SnapshotPolicy;
use crate::{BoxError, Command, Event};

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

/// What must be true of the stream before the handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a stream is there, or not, or it does not matter")]
pub enum Target {
    /// Methods with `&self`: it must exist.
    Existing,
    /// Functions without `self`: it must not exist yet.
    New,
    /// `#[create_if_missing]` on a method with `&self`.
    Either,
}

/// Why a handler did not decide.
///
/// Only a refusal is the caller's `E`, and only it is remembered under an idempotency key.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "the domain said no, or something else failed")]
pub enum Failure<E> {
    /// The domain said no.
    #[error("refused")]
    Refused(#[source] E),
    /// A service that the handler asked could not answer.
    #[error("a service failed")]
    Service(#[source] BoxError),
}

impl<E> From<E> for Failure<E> {
    fn from(refusal: E) -> Self {
        Self::Refused(refusal)
    }
}

impl<E> Failure<E> {
    /// For `.map_err(Failure::service)`.
    pub fn service(error: impl Into<BoxError>) -> Self {
        Self::Service(error.into())
    }
}

/// One command of an aggregate. `#[commands]` writes an impl per method.
///
/// The handler may run more than once for one command (a conflict is retried on fresh state), so it
/// asks services, and changes nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for `{C}`",
    label = "no command method of `{Self}` takes `{C}`",
    note = "add `fn name(&self, cmd: {C}) -> Result<.., ..>` to its `#[commands]` block, or write `impl Handle<{C}> for {Self}`"
)]
pub trait Handle<C: Command>: Apply {
    /// What must be true of the stream.
    const TARGET: Target = Target::Existing;
    /// What it asks for: `()` or a tuple of references to services.
    type Env<'e>: FromServices<'e>;

    /// Decides: events, or a refusal.
    fn handle<'a>(
        &'a self,
        cmd: C,
        env: Self::Env<'a>,
    ) -> impl Future<Output = Result<Vec<Self::Event>, Failure<Self::Error>>> + Send;
}
