//! What a user writes: a process and its handlers.

use std::fmt::{self, Debug};
use std::time::Duration;

use es_core::command::{ErrorOf, NamedCommand};
use es_core::projection::Code;
use es_core::store::EventFilter;
use es_core::{AggregateId, AppBuilder, Backend, BoxError, Command, Payload, Recorded, RecordedEvent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::definition::Definition;
use crate::next::Next;
use crate::step::{Step, To};

/// A process: reacts to events with commands and timers, and remembers in between.
///
/// Each key has an instance: its state, a value of this type. Handlers are pure: the same state and the same input lead to
/// the same state and the same [`Next`], always. What a handler wants to happen is data, and it is stored together with the
/// state, in the commit in which the input is taken in.
///
/// Limits: a state has up to 64 KiB as JSON, one call up to 1,000 effects and 2 MiB of commands, an instance up to 1,000
/// timers and 1,000 associations, 256 KiB of each. What is more parks the instance.
pub trait Process: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Stored: names its rows and its checkpoint. `[A-Za-z0-9_.:-]`, up to 200 bytes.
    const NAME: &'static str;
    /// Of this definition. An instance keeps the one that it began with.
    const VERSION: u32 = 1;
    /// What becomes of a start for a key whose instance has ended.
    const AFTER_END: AfterEnd = AfterEnd::Once;
    /// How long an instance is kept after it has ended: its tombstone, what came to it and what was asked of it; an hour at
    /// least, and about half an hour more, by the clock that is behind of those of the store and of the app; `None`: for ever.
    /// With less the app does not start. After that its key is as one that never was: a start event that comes so late begins another instance, also where
    /// it would have been a [duplicate](AfterEnd::Once) before. So keep it for longer than whoever causes such events repeats
    /// them. What is not answered yet keeps an instance from its end, and one of whose key events are
    /// [set aside](es_core::processor::Processor::parked) is not forgotten either. Instances are forgotten a few at a time, and
    /// those that ended before the newest definition said for how long they are kept, never.
    const KEEP_ENDED: Option<Duration> = None;
    /// Names an instance.
    type Key: AggregateId;
    /// What it wants to see.
    fn filter() -> EventFilter;
    /// Which code it is. Nodes with another one stand by while one with the newer runs.
    #[must_use]
    fn code() -> Code {
        Code::of(&Self::filter())
    }
    /// Whether every event names the keys that it is for. Then nodes share the keys; a process that finds instances by
    /// [associations](To::Found) is worked on as a whole, in the order of the log.
    const BY_KEY: bool = true;
    /// Whether a handler's [`EARLY`](On::EARLY) is [`Early::Stash`]. If none is, events that wait are not looked up when an
    /// instance starts.
    const STASHES: bool = true;
    /// Definitions of before, of which there may still be instances.
    #[must_use]
    fn earlier() -> Vec<Definition> {
        Vec::new()
    }
    /// Makes the commands known that it [sends](Sends): `app.command::<C>()` for each. And those of its
    /// [earlier](Self::earlier) definitions: instances of theirs send them, too.
    fn wire<B: Backend>(app: AppBuilder<B>) -> AppBuilder<B>;
    /// What an event means to instances, in order.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded, or does not say whom it is for.
    fn steps(event: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError>;
    /// Handles that a command was refused; `None` if no handler takes it.
    ///
    /// # Errors
    ///
    /// What was stored cannot be decoded.
    fn refused(&mut self, refused: &RefusedCommand) -> Result<Option<Next<Self>>, BoxError> {
        let _ = refused;
        Ok(None)
    }
    /// Handles that the time of a timer has come; `None` if no handler takes it.
    ///
    /// # Errors
    ///
    /// What was stored cannot be decoded.
    fn elapsed(&mut self, timer: &Elapsed) -> Result<Option<Next<Self>>, BoxError> {
        let _ = timer;
        Ok(None)
    }
}

/// What becomes of a start for a key whose instance has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "once, or again")]
pub enum AfterEnd {
    /// It is a duplicate, and is ignored.
    #[default]
    Once,
    /// If it comes behind the end, it begins another instance of the key.
    Again,
}

/// What becomes of an event for an instance that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is nothing else to do with it")]
pub enum Early {
    /// It is ignored.
    #[default]
    Ignore,
    /// It waits for the start, and is handled right after it: up to 1,000 wait for a key.
    Stash,
}

/// One handler of an event. Two handlers for one payload are two impls, hence a compile error.
pub trait On<E: Payload>: Process {
    /// Whether it starts an instance where there is none. Where there is one already, the event is ignored. It names the
    /// [key](To::Key).
    const STARTS: bool = false;
    /// What becomes of it where there is none, if it does not start one. An [association](To::Found) finds only those that
    /// are there: nothing waits for others.
    const EARLY: Early = Early::Ignore;
    /// Which instances it is for.
    ///
    /// # Errors
    ///
    /// The event names none.
    fn to(event: Recorded<'_, E>) -> Result<Vec<To<Self::Key>>, BoxError>;
    /// Handles it.
    ///
    /// # Errors
    ///
    /// Why it cannot: the instance is parked.
    fn on(&mut self, event: Recorded<'_, E>) -> Result<Next<Self>, BoxError>;
}

/// A command that the process may send. Commands that it does not declare do not compile.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not declare that it sends `{C}`",
    label = "undeclared command",
    note = "add it: `#[process(.., sends(.., {C}))]`"
)]
pub trait Sends<C: Command>: Process {}

/// The handler of a refusal. Two handlers for one command are two impls, hence a compile error.
pub trait OnRefused<C: Command>: Sends<C> {
    /// Handles that a command was refused.
    ///
    /// # Errors
    ///
    /// Why it cannot: the instance is parked.
    fn on(&mut self, refused: Refused<C>) -> Result<Next<Self>, BoxError>;
}

/// The handler of a timer. Two handlers for one timer are two impls, hence a compile error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for the timer `{T}`",
    note = "add `#[timer] fn name(&mut self, t: {T}) -> Next<Self>` to its `#[process]` block"
)]
pub trait OnTimer<T: Timer>: Process {
    /// Handles that its time has come.
    ///
    /// # Errors
    ///
    /// Why it cannot: the instance is parked.
    fn on(&mut self, timer: T) -> Result<Next<Self>, BoxError>;
}

/// A timer of a process. An instance has at most one of a name: setting it again replaces it.
pub trait Timer: Serialize + DeserializeOwned + Send + 'static {
    /// Stored.
    const NAME: &'static str;
}

/// Whether the stored name of a timer is none of these: what `#[process]` asks of each.
#[doc(hidden)]
#[track_caller]
pub const fn timer_differs<T: Timer>(names: &[&str]) {
    let (own, mut i) = (T::NAME.as_bytes(), 0);
    while i < names.len() {
        let (other, mut same) = (names[i].as_bytes(), 0);
        while same < own.len() && same < other.len() && own[same] == other[same] {
            same += 1;
        }
        assert!(
            same < own.len() || same < other.len(),
            "two timers of this process have the same stored name, and setting one would replace the other: give this \
             one another, `#[timer(name = \"..\")]`"
        );
        i += 1;
    }
}

/// A command that was refused.
#[non_exhaustive]
pub struct Refused<C: Command> {
    /// The command.
    pub command: C,
    /// The id of the aggregate that it was for, as text.
    pub id: String,
    /// Why.
    pub why: Rejected<ErrorOf<C>>,
}

// By hand: commands need no `Debug` to be commands.
impl<C: Command> Debug for Refused<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("command", &C::NAME).field("id", &self.id).finish_non_exhaustive()
    }
}

impl<C: Command> Refused<C> {
    /// The domain's refusal, if that is what it is.
    pub const fn error(&self) -> Option<&ErrorOf<C>> {
        match &self.why {
            Rejected::Domain(error) => Some(error),
            Rejected::Otherwise(_) | Rejected::Intercepted(_) => None,
        }
    }
}

/// Why a command was refused. `E` is the aggregate's own refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "by its handler, or before it was asked")]
pub enum Rejected<E> {
    /// The domain said no.
    Domain(E),
    /// Its handler was not asked: there is no such aggregate, or there is one already, or it has ended. In words.
    Otherwise(String),
    /// An interceptor said no, or failed, each of the times that it was tried. In words.
    Intercepted(String),
}

/// A refusal as it is stored.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefusedCommand {
    /// The command.
    pub command: NamedCommand,
    /// Why.
    pub why: Rejected<Data>,
}

impl RefusedCommand {
    /// What handler `OnRefused<C>` of `P` does with it; `None` if it is another command.
    ///
    /// # Errors
    ///
    /// It cannot be decoded, or what the handler returns.
    pub fn hand_to<P: OnRefused<C>, C: Command>(&self, process: &mut P) -> Result<Option<Next<P>>, BoxError> {
        use es_core::Aggregate as _;
        let NamedCommand { aggregate, id, name, payload, .. } = &self.command;
        if aggregate != C::Aggregate::NAME || name != C::NAME {
            return Ok(None);
        }
        let why = match &self.why {
            Rejected::Domain(error) => Rejected::Domain(error.read()?),
            Rejected::Otherwise(why) => Rejected::Otherwise(why.clone()),
            Rejected::Intercepted(why) => Rejected::Intercepted(why.clone()),
        };
        let refused = Refused { command: C::deserialize(payload)?, id: id.clone(), why };
        process.on(refused).map(Some)
    }
}

/// A timer whose time has come, as it is stored.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Elapsed {
    /// Its name.
    pub name: String,
    /// The timer.
    pub data: Data,
}

impl Elapsed {
    /// What handler `OnTimer<T>` of `P` does with it; `None` if it is another timer.
    ///
    /// # Errors
    ///
    /// It cannot be decoded, or what the handler returns.
    pub fn hand_to<P: OnTimer<T>, T: Timer>(&self, process: &mut P) -> Result<Option<Next<P>>, BoxError> {
        if self.name != T::NAME {
            return Ok(None);
        }
        process.on(self.data.read()?).map(Some)
    }
}
