//! What a handler wants to happen, as data.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use es_core::command::{IdOf, NamedCommand};
use es_core::{BoxError, Command};
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::message::{Publish, Topic};
use crate::process::{OnTimer, Process, Sends, Timer};

/// What finds an instance besides its key: a name and a value, the number of a payment, say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a name and a value")]
pub struct Association {
    /// What kind of value.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Association {
    /// Bytes of its texts.
    pub(crate) const fn bytes(&self) -> usize {
        self.name.len() + self.value.len()
    }

    /// Of a name and a value.
    #[expect(clippy::needless_pass_by_value, reason = "a value of any type is written in place")]
    pub fn new(name: impl Into<String>, value: impl ToString) -> Self {
        Self { name: name.into(), value: value.to_string() }
    }
}

/// One thing that a handler wants to happen.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever looks at effects must know every one")]
pub enum Effect {
    /// A command is sent, after the commit.
    Send(NamedCommand),
    /// A timer is set, or set again: so long after the input.
    Set {
        /// Its name.
        name: &'static str,
        /// How long after the input.
        after: Duration,
        /// The timer.
        data: Data,
    },
    /// A timer is called off.
    Clear(&'static str),
    /// From now on events with it find the instance.
    Associate(Association),
    /// From now on they do not.
    Dissociate(Association),
}

/// What a handler wants to happen, in order. `wait`, `end`, `send` and `publish` begin it, every other method continues it: a
/// timer alone is `Next::wait().timer(after, Expired {})`.
///
/// ```ignore
/// Next::send(&order.from, Withdraw { amount }).timer(Duration::from_secs(300), Expired {})
/// ```
#[must_use]
pub struct Next<P> {
    effects: Vec<Effect>,
    ends: bool,
    /// What could not be written as JSON.
    wrong: Option<BoxError>,
    of: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Next<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("effects", &self.effects)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl<P: Process> Next<P> {
    /// Nothing: the instance waits for its next input.
    pub const fn wait() -> Self {
        Self { effects: Vec::new(), ends: false, wrong: None, of: PhantomData }
    }

    /// The instance ends.
    pub fn end() -> Self {
        Self::wait().and_end()
    }

    /// A command is sent to an aggregate.
    pub fn send<C: Command>(id: &IdOf<C>, command: C) -> Self
    where
        P: Sends<C>,
    {
        Self::wait().and_send(id, command)
    }

    /// A message is published.
    pub fn publish<T: Serialize>(topic: &str, key: &str, body: &T) -> Self {
        Self::wait().and_publish(topic, key, body)
    }

    fn and(mut self, effect: Result<Effect, BoxError>) -> Self {
        match effect {
            Ok(effect) => self.effects.push(effect),
            Err(error) => self.wrong = self.wrong.or(Some(error)),
        }
        self
    }

    /// And a command is sent, after those before it were answered.
    #[expect(clippy::needless_pass_by_value, reason = "a command is written in place")]
    pub fn and_send<C: Command>(self, id: &IdOf<C>, command: C) -> Self
    where
        P: Sends<C>,
    {
        self.and(NamedCommand::of(id, &command).map(Effect::Send).map_err(Into::into))
    }

    /// And a command is sent that is data already. Whether it is known is for the caller to say.
    pub(crate) fn and_send_named(self, command: NamedCommand) -> Self {
        self.and(Ok(Effect::Send(command)))
    }

    /// And a message is published: appended to the log, as an event.
    pub fn and_publish<T: Serialize>(self, topic: &str, key: &str, body: &T) -> Self {
        let message = || {
            let id = Topic::new(topic, key)?;
            Ok(Effect::Send(NamedCommand::of(&id, &Publish::of(body)?)?))
        };
        self.and(message())
    }

    /// And a timer is set. If there is one of its name, this one takes its place. It is due so long after the time of the input:
    /// of an event, when it was recorded; of a timer, when it fired, which is later than it was due if no program ran.
    #[expect(clippy::needless_pass_by_value, reason = "a timer is written in place")]
    pub fn timer<T: Timer>(self, after: Duration, timer: T) -> Self
    where
        P: OnTimer<T>,
    {
        self.and(Data::of(&timer).map(|data| Effect::Set { name: T::NAME, after, data }))
    }

    /// And a timer is called off, if there is one.
    pub fn clear<T: Timer>(self) -> Self
    where
        P: OnTimer<T>,
    {
        self.and(Ok(Effect::Clear(T::NAME)))
    }

    /// And events that have this value find the instance. The value has up to 1,000 bytes.
    pub fn associate(self, name: &str, value: impl ToString) -> Self {
        self.and(Ok(Effect::Associate(Association::new(name, value))))
    }

    /// And they do not find it any more.
    pub fn dissociate(self, name: &str, value: impl ToString) -> Self {
        self.and(Ok(Effect::Dissociate(Association::new(name, value))))
    }

    /// And the instance ends: it takes no more events, and its timers are called off. If commands of it were not answered,
    /// it has ended once they are; a refusal among them is handled.
    pub fn and_end(mut self) -> Self {
        self.ends = true;
        self
    }

    /// And everything that another one says.
    pub fn then(mut self, other: Self) -> Self {
        self.effects.extend(other.effects);
        self.ends |= other.ends;
        self.wrong = self.wrong.or(other.wrong);
        self
    }

    /// What is to happen, and whether the instance ends.
    ///
    /// # Errors
    ///
    /// A command, a message or a timer cannot be written as JSON.
    pub fn into_effects(self) -> Result<(Vec<Effect>, bool), BoxError> {
        match self.wrong {
            Some(error) => Err(error),
            None => Ok((self.effects, self.ends)),
        }
    }
}

/// What a handler may return: a `Next`, or a `Result` with one.
#[diagnostic::on_unimplemented(
    message = "a process's handler cannot return `{Self}`",
    label = "neither `Next<Self>` nor a `Result` with one",
    note = "return `Next::wait()` if nothing is to happen"
)]
pub trait IntoNext<P> {
    /// With the error boxed.
    ///
    /// # Errors
    ///
    /// The handler's own.
    fn boxed(self) -> Result<Next<P>, BoxError>;
}

impl<P> IntoNext<P> for Next<P> {
    fn boxed(self) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl<P, E: Into<BoxError>> IntoNext<P> for Result<Next<P>, E> {
    fn boxed(self) -> Result<Next<P>, BoxError> {
        self.map_err(Into::into)
    }
}
