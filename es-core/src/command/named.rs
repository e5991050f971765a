//! Commands as data: named by what is stored, not by a type.

use std::future::IntoFuture;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sending::{Options, Via, options};
use super::{Bus, Command, CommandError, ErrorOf, IdOf, Sending};
use crate::aggregate::AggregateId;
use crate::store::{Position, Version};
use crate::{Aggregate, BoxError, ErrorKind, limits};

/// A command as data: kept in a row, read back after a deployment, sent by [`Sender::send_named`](super::Sender::send_named).
///
/// Its stored form is part of the contract: four fields, the payload as the command's own JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NamedCommand {
    /// The stored name of the aggregate: [`Aggregate::NAME`].
    pub aggregate: String,
    /// The text of the aggregate's id.
    pub id: String,
    /// The stored name of the command: [`Command::NAME`].
    pub name: String,
    /// The command, as JSON.
    pub payload: Value,
}

impl NamedCommand {
    /// A command by its names.
    pub fn new(
        aggregate: impl Into<String>,
        id: impl Into<String>,
        name: impl Into<String>,
        payload: Value,
    ) -> Self {
        Self { aggregate: aggregate.into(), id: id.into(), name: name.into(), payload }
    }

    /// A command of a type, to be kept.
    ///
    /// # Errors
    ///
    /// [`SendError::Unwritable`] if it cannot be written as JSON: it holds a NaN, say.
    pub fn of<C: Command>(id: &IdOf<C>, cmd: &C) -> Result<Self, SendError> {
        let payload = crate::codec::to_value(cmd)
            .map_err(|source| SendError::Unwritable { command: full_name::<C>(), source })?;
        Ok(Self::new(C::Aggregate::NAME, id.to_string(), C::NAME, payload))
    }
}

fn full_name<C: Command>() -> String {
    format!("{} of {}", C::NAME, C::Aggregate::NAME)
}

/// What a command that was sent by name led to; its events are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedDone {
    /// The position of its last event; of the aggregate's last event if it decided none.
    pub position: Position,
    /// The aggregate's version after it.
    pub version: Version,
    /// How many events it decided.
    pub events: usize,
    /// Whether this is the first outcome of a request that was repeated.
    pub repeated: bool,
}

/// Why a command that was sent by name did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The domain said no. An outcome like any other: the same request under the same key is refused again.
    #[error("{command} was refused")]
    Refused {
        /// Which command.
        command: String,
        /// The aggregate's refusal, as JSON.
        refusal: Value,
        /// The same, as the error that it is.
        #[source]
        source: BoxError,
    },
    /// No command is registered under these names.
    #[error("no command {name:?} of aggregate {aggregate:?} is registered: {known}")]
    UnknownCommand {
        /// The aggregate that was asked for.
        aggregate: String,
        /// The command that was asked for.
        name: String,
        /// What is registered, in words.
        known: String,
    },
    /// The text is no id of the aggregate.
    #[error("{id:?} is no id for {command}")]
    Id {
        /// Which command.
        command: String,
        /// The text.
        id: String,
    },
    /// The payload is not this command.
    #[error("the payload is not that of {command}")]
    Payload {
        /// Which command.
        command: String,
        /// What serde said.
        #[source]
        source: BoxError,
    },
    /// The command cannot be kept as JSON.
    #[error("{command} cannot be written as JSON")]
    Unwritable {
        /// Which command.
        command: String,
        /// What serde said.
        #[source]
        source: BoxError,
    },
    /// The app is shutting down, or gone.
    #[error("the app is shutting down")]
    ShuttingDown,
    /// An interceptor refused it, or failed: nothing was done.
    #[error("{command} did not get past an interceptor")]
    Intercepted {
        /// Which command.
        command: String,
        /// The [`CommandError`].
        #[source]
        source: BoxError,
    },
    /// Anything else that keeps a command from its outcome.
    #[error("{command} failed")]
    Failed {
        /// Which command.
        command: String,
        /// What the caller can do.
        kind: ErrorKind,
        /// The [`CommandError`].
        #[source]
        source: BoxError,
    },
}

impl SendError {
    /// What an error of a command comes to, whatever its type: for code that sends by type as well as by name.
    pub fn of<C: Command>(error: CommandError<ErrorOf<C>>) -> Self {
        let (command, kind) = (full_name::<C>(), error.kind());
        match error {
            CommandError::ShuttingDown => Self::ShuttingDown,
            CommandError::Refused(refusal) => match serde_json::to_value(&refusal) {
                Ok(json) => Self::Refused { command, refusal: json, source: Box::new(refusal) },
                Err(source) => Self::Failed { command, kind: ErrorKind::Misuse, source: source.into() },
            },
            error @ CommandError::Intercepted(_) => Self::Intercepted { command, source: Box::new(error) },
            error => Self::Failed { command, kind, source: Box::new(error) },
        }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } | Self::Intercepted { .. } => ErrorKind::Refused,
            Self::UnknownCommand { .. } | Self::Unwritable { .. } => ErrorKind::Misuse,
            Self::Id { .. } | Self::Payload { .. } => ErrorKind::Corrupt,
            Self::ShuttingDown => ErrorKind::Transient,
            Self::Failed { kind, .. } => *kind,
        }
    }

    /// The domain's refusal, if that is what it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Value> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// A command by its names, with its options; sent by `.await`.
///
/// Dropping the future leaves the outcome unknown, as that of [`Sending`].
#[must_use = "a command is sent by `.await`"]
#[derive(Debug)]
pub struct SendingNamed {
    pub(super) via: Via<'static>,
    pub(super) command: NamedCommand,
    pub(super) options: Option<Box<Options>>,
}

impl SendingNamed {
    options!();
}

impl IntoFuture for SendingNamed {
    type Output = Result<NamedDone, SendError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { via, command, options } = self;
            let mut held = None;
            let bus = via.bus(&mut held).ok_or(SendError::ShuttingDown)?;
            bus.commands.find(&command)?(bus, &command, options).await
        })
    }
}

/// Sends a command whose type is known again.
pub(super) fn send<'a, C: Command>(
    bus: &'a Bus,
    command: &'a NamedCommand,
    options: Option<Box<Options>>,
) -> BoxFuture<'a, Result<NamedDone, SendError>> {
    Box::pin(async move {
        let id = IdOf::<C>::parse(&command.id)
            .ok_or_else(|| SendError::Id { command: full_name::<C>(), id: limits::cut(&command.id) })?;
        let cmd = C::deserialize(&command.payload)
            .map_err(|e| SendError::Payload { command: full_name::<C>(), source: e.into() })?;
        let mut sending = Sending::<C>::new(Via::App(bus), &id, cmd);
        sending.options = options;
        let done = sending.await.map_err(SendError::of::<C>)?;
        let (position, version, events) = (done.position, done.version, done.events.len());
        Ok(NamedDone { position, version, events, repeated: done.repeated })
    })
}
