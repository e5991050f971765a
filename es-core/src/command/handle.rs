//! What an aggregate decides on a command.

use super::Command;
use crate::BoxError;
use crate::aggregate::Apply;
use crate::services::FromServices;

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
