//! Commands: requests to one aggregate, sent through the bus.

mod attempt;
mod bus;
mod call;
mod context;
mod decide;
mod error;
mod handle;
mod interceptor;
mod named;
mod newness;
mod outcome;
mod registry;
mod sender;
mod sending;
mod shown;
mod stage;
mod within_tx;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::attempt::resolve;
pub(crate) use self::bus::Bus;
pub use self::context::Context;
pub use self::error::{CommandError, NoAnswer};
pub use self::handle::{Failure, Handle, Target};
pub use self::interceptor::{Dispatch, Halted, Interceptor, Next};
pub use self::named::{NamedCommand, NamedDone, SendError, SendingNamed};
pub(crate) use self::newness::Newness;
pub use self::registry::Registry;
pub use self::sender::Sender;
pub(crate) use self::sending::Via;
pub use self::sending::{Done, Sending};
pub(crate) use self::shown::commit;
pub(crate) use self::within_tx::{OnStage, WithinTx};
pub use crate::retry::RetryPolicy;
use crate::services::{FromServices as _, Services};
use crate::{Aggregate, Apply};

/// A request to one aggregate type. `#[commands]` writes this impl for every command it finds; for a
/// command in another crate it is three lines by hand.
#[diagnostic::on_unimplemented(
    message = "no aggregate handles `{Self}`",
    label = "this is not a command",
    note = "add a method that takes `{Self}` to an aggregate's `#[commands]` block"
)]
pub trait Command: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Stored: part of what an idempotency key stands for.
    const NAME: &'static str;
    /// The aggregate that decides.
    type Aggregate: Handle<Self>;
}

/// The id type that a command is sent to.
pub type IdOf<C> = <<C as Command>::Aggregate as Aggregate>::Id;
/// The events that a command leads to.
pub type EventsOf<C> = <<C as Command>::Aggregate as Aggregate>::Event;
/// The refusals that a command can meet.
pub type ErrorOf<C> = <<C as Command>::Aggregate as Aggregate>::Error;

/// Written by `#[commands]`: lets `.aggregate::<A>()` check at start what the methods ask for, and makes the commands known
/// by their stored names.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no commands",
    note = "put `#[commands]` on an `impl {Self}` block, or write `impl Commands for {Self}`"
)]
pub trait Commands: Apply {
    /// A line for each service that a command asks for and nobody provided.
    fn missing(services: &Services) -> Vec<String>;
    /// Adds each command of the aggregate, so that it can be [sent by name](Sender::send_named).
    fn register(registry: &mut Registry);
}

/// What the handler of `C` asks for and nobody provided, a line each.
#[must_use]
pub fn missing_for<C: Command>(services: &Services) -> Vec<String> {
    let mut missing = Vec::new();
    <<C::Aggregate as Handle<C>>::Env<'_>>::missing(services, &mut missing);
    // Each command brings its own.
    missing.retain(|m| !m.is::<Context>());
    let of = |m| format!("command {} of {}: {m}", C::NAME, C::Aggregate::NAME);
    missing.into_iter().map(of).collect()
}
