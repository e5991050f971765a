//! The read side: projections turn events into rows, reactors turn them into effects outside.

pub(crate) mod code;
pub(crate) mod fold;
pub(crate) mod live;
mod projecting;
mod reactor;
mod view;
mod views;

pub use self::code::Code;
pub(crate) use self::projecting::projected;
pub use self::reactor::{React, Reactor, missing_for as missing_for_reactor};
pub use self::view::{Change, Fold, IntoKeys, RowResult, View};
pub use self::views::Views;
use crate::BoxError;
use crate::event::{Event, Payload, Recorded};
use crate::query::Answers;
use crate::store::{EventFilter, RecordedEvent, Tables};

/// Name and filter: what does not depend on the backend, for SQL projections and keyed views alike.
pub trait Projection: Send + Sync + 'static {
    /// Stored: names its checkpoint and its rows. `[A-Za-z0-9_.:-]`.
    const NAME: &'static str;
    /// Another version is another projection: it starts from nothing.
    const VERSION: u32 = 1;
    /// The DDL of its tables, in the backend's SQL.
    const SCHEMA: &'static str = "";
    /// What becomes of an event that its handler cannot take in.
    const ON_FAILURE: OnFailure = OnFailure::Park;
    /// What of a SQL projection may be worked on at the same time. A view always goes by its keys.
    const PARTITION: Partition = Partition::Whole;
    /// Whether its handlers may see an event again that they have taken in: a reset to a position needs that.
    const IDEMPOTENT: bool = false;
    /// What it wants to see.
    fn filter() -> EventFilter;
    /// Which code it is. Nodes with another one do not work on the same build. A view that finds its rows by other keys than
    /// before says so with [`Code::keyed_by`]; `#[view]` does.
    #[must_use]
    fn code() -> Code {
        Code::of(&Self::filter())
    }
}

/// What becomes of an event that its handler cannot take in, after it was tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// The event is set aside, and later events of its key queue up behind it. Other keys go on.
    #[default]
    Park,
    /// The event is left out for good, and that is recorded.
    Skip,
    /// The slices that it belongs to stop until somebody resumes them.
    Stop,
}

/// What of a SQL projection may be worked on at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partition {
    /// Everything in the order of the log: handlers may touch any row.
    #[default]
    Whole,
    /// The streams are independent: the handlers of one stream touch no row that those of another touch.
    Stream,
}

/// Name, version and schema of `P`, as a value.
#[must_use]
pub const fn tables_of<P: Projection>() -> Tables {
    Tables { name: P::NAME, version: P::VERSION, schema: P::SCHEMA }
}

/// One handler of a SQL projection. Two handlers for one payload are two impls, hence a compile error.
pub trait On<P: Payload, T>: Projection {
    /// Takes in one event, through the transaction that moves the checkpoint.
    fn on(&self, event: Recorded<'_, P>, tx: &mut T) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// A SQL projection: dispatch over its handlers. `T` is the transaction that the handlers name.
#[diagnostic::on_unimplemented(
    message = "projection `{Self}` cannot write through `{T}`",
    label = "its handlers name the `Tx` of another backend",
    note = "import `Tx` from the backend crate this app runs on"
)]
pub trait Project<T>: Projection {
    /// What `.projection(..)` has to know if the type also answers queries: `Answers::of::<Self>()`. `#[projection]`
    /// finds out by itself.
    const ANSWERS: Answers = Answers::NONE;
    /// Takes in one event: writes rows of its own tables. A command or a saga's start [within](crate::Sending::within) `tx`
    /// fails, for it would happen again with each rebuild.
    fn project(&self, event: &RecordedEvent, tx: &mut T)
    -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// What a handler of the read side may return: nothing, or a `Result` with any error.
#[diagnostic::on_unimplemented(
    message = "a handler of the read side cannot return `{Self}`",
    label = "neither nothing nor a `Result<(), _>`",
    note = "return `Result<(), E>` with any error `E`, or nothing"
)]
pub trait HandlerResult {
    /// With the error boxed.
    ///
    /// # Errors
    ///
    /// The handler's own.
    fn boxed(self) -> Result<(), BoxError>;
}

impl HandlerResult for () {
    fn boxed(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> HandlerResult for Result<(), E> {
    fn boxed(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The payload `P` in the `nth` of the events that one stored event decodes to.
///
/// Dispatch asks for the first of every handler, then for the second, and so on while `more`: so the
/// handlers of an event that was split run in the order of the split.
///
/// # Errors
///
/// The event cannot be decoded.
pub fn nth<P: Payload>(event: &RecordedEvent, nth: usize, more: &mut bool) -> Result<Option<P>, BoxError> {
    if !P::SOURCES.contains(&&*event.name) {
        return Ok(None);
    }
    let mut decoded = P::Event::decode(event)?.into_iter().skip(nth);
    let Some(found) = decoded.next() else { return Ok(None) };
    *more |= decoded.next().is_some();
    Ok(P::from_event(found).ok())
}
