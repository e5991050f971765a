//! What a processor is made of: a [`Runner`] says what it is, a [`Session`] does the work of one range.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::admission::{Admission, Failure};
use super::effects::{Calls, Effects};
use crate::BoxError;
use crate::clock::Timestamp;
use crate::command::Sender;
use crate::id::Ids;
use crate::projection::{Code, OnFailure};
use crate::services::Services;
use crate::slices::Slices;
use crate::store::{
    Commit, CommitError, EventFilter, Generation, Position, RecordedEvent, RowWrite, StoreError, Tables,
};

/// One kind of processing, as the engine sees it.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// Its stored name: of a projection `name/version`.
    fn name(&self) -> String;
    /// The name that it had before, if that is not its name any more. Only of what has no tables.
    fn was(&self) -> Option<&'static str> {
        None
    }
    /// What it wants to see.
    fn filter(&self) -> EventFilter;
    /// Which code it is.
    fn code(&self) -> Code {
        Code::of(&self.filter())
    }
    /// What it keeps.
    fn keeps(&self) -> Keeps;
    /// How it is run.
    fn execution(&self) -> Execution {
        Execution::default()
    }
    /// The keys that an event belongs to: order is kept for each of them. Where [`State`](Keeps::State) is kept, a session may
    /// find more.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError>;
    /// Looks at what is stored before the app starts, on a node that works: what this program cannot go on with, a line
    /// each. Then the app does not start. It may run on several nodes at once, and beside those that work already.
    ///
    /// # Errors
    ///
    /// It cannot be looked at: the app does not start either.
    async fn check(&self) -> Result<Vec<String>, BoxError> {
        Ok(Vec::new())
    }
    /// Begins to work on a range.
    fn open(&self, opening: Opening<'_>) -> Box<dyn Session>;
}

/// What a processor keeps, and so what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the engine must know every one")]
pub enum Keeps {
    /// Rows by key, folded in memory, page after page before they are written. They can be rebuilt, all or some.
    Rows(Tables),
    /// Tables that its handlers write, in the transaction of the checkpoint. They can be rebuilt as a whole.
    Tables(Tables),
    /// State of its own, which decides what it does next. It begins at the head of the log, and is never set back.
    State,
    /// Nothing: it has side effects, which are never repeated. It begins at the head of the log.
    Nothing,
}

impl Keeps {
    /// What a rebuild makes again.
    #[must_use]
    pub const fn tables(self) -> Option<Tables> {
        match self {
            Self::Rows(tables) | Self::Tables(tables) => Some(tables),
            Self::State | Self::Nothing => None,
        }
    }

    /// Whether all of its effects are in the commit of the checkpoint, so that a late one is refused.
    #[must_use]
    pub const fn is_fenced(self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// What a session works with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Opening<'o> {
    /// Which build.
    pub generation: Generation,
    /// Its slices.
    pub slices: Slices,
    /// New ids, and the clock of the app.
    pub ids: &'o Ids,
    /// What handlers ask for by type.
    pub services: &'o Arc<Services>,
    /// Sends commands: under an idempotency key, for what was sent before a flush that fails is sent again.
    pub sender: &'o Sender,
    /// What belongs to the lease, such as a transaction, must not outlive so much silence.
    pub idle: Duration,
    /// The longest that a call of a handler may take.
    pub handler_limit: Duration,
    /// How many bytes of rows to keep in memory, about.
    pub bytes: usize,
    /// Wakes the worker of the range, for what comes to a session from outside, such as the answer to a command: then
    /// [`due`](Session::due) is called. A wake-up while it works is not lost.
    pub wake: &'o Arc<Notify>,
    /// Side effects of before, and whether more may begin.
    pub(crate) effects: &'o Arc<Effects>,
}

impl Opening<'_> {
    /// Calls with side effects. Only for a runner that [keeps nothing](Keeps::Nothing): it is told which of them were made.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls::new(self.effects.clone())
    }
}

/// How a processor is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Execution {
    /// Whether ranges of slices may be worked on beside each other.
    pub splits: bool,
    /// What becomes of an event that fails.
    pub on_failure: OnFailure,
    /// How many events are taken in at once, at most.
    pub page: usize,
    /// Whether the same event may come again after a reset to a position.
    pub idempotent: bool,
}

impl Default for Execution {
    fn default() -> Self {
        Self { splits: false, on_failure: OnFailure::Park, page: 1_000, idempotent: false }
    }
}

/// The work of one range. Nothing is durable before [`flush`](Self::flush); a session that failed is dropped, and with
/// it everything since the last flush.
#[async_trait]
pub trait Session: Send {
    /// Handles some events, those that are admitted.
    ///
    /// # Errors
    ///
    /// The first handler that failed.
    async fn fold(&mut self, events: &[&RecordedEvent], admission: &mut Admission<'_>)
    -> Result<(), Failure>;

    /// Does what is due at a time. Every event up to `head` was handled, and with them every event that was recorded before
    /// `now`: what an event called off is not due any more. At the end of the log `now` is the time of the app's clock; on
    /// the way there it is the time of the last event, so that what is due is not kept waiting by a long log.
    ///
    /// Gives when it is to be called again. It is called after each page in any case, when its worker is
    /// [woken](Opening::wake), about once a second while it waits,
    /// and never while its range is halted or its processor is paused. A time that has passed means: immediately if
    /// something was flushed, else after a short pause.
    ///
    /// `parked` says of a key whether events of it are set aside: of those, not every event was handled.
    ///
    /// What it leads to is flushed, with the checkpoint and in one commit, if anything [waits](Self::waiting) then.
    ///
    /// # Errors
    ///
    /// Why it could not be done, or a panic: the session is dropped, it is tried again later and shown as
    /// [`Failing`](crate::processor::ProcessorState::Failing). Events are handled meanwhile, and none is parked.
    async fn due(
        &mut self,
        _now: Timestamp,
        _head: Position,
        _parked: &(dyn for<'k> Fn(&'k str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, BoxError> {
        Ok(None)
    }

    /// Makes durable what was handled, together with these rows.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing was written, unless it is unknown.
    async fn flush(&mut self, rows: Vec<RowWrite>) -> Result<(), CommitError>;

    /// About how many rows wait for the flush.
    fn waiting(&self) -> usize {
        0
    }

    /// About how many bytes the rows take that it keeps in memory, whether they wait for the flush or not.
    fn bytes(&self) -> usize {
        0
    }

    /// For how long it has held a transaction, if it has one: since that was open, not since it was asked for.
    fn held(&self) -> Option<Duration> {
        None
    }

    /// The key that the last flush failed for, if it is known.
    fn failed(&self) -> Option<&str> {
        None
    }

    /// The same, where what it keeps can be rebuilt.
    fn rebuildable(&mut self) -> Option<&mut dyn Rebuildable> {
        None
    }
}

/// A session whose rows can be rebuilt.
#[async_trait]
pub trait Rebuildable: Session {
    /// Makes durable what was handled, with more than rows: how a projection becomes inline.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; nothing was written, unless it is unknown.
    async fn flush_with(&mut self, commit: Commit) -> Result<(), CommitError>;

    /// Empties the rows of some keys, in memory: what is folded next builds them up again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if rows cannot be told apart by key, which is the default.
    async fn forget(&mut self, _keys: &[String]) -> Result<(), StoreError> {
        Err(StoreError::misuse("only the rows of a keyed view can be rebuilt one by one"))
    }
}
