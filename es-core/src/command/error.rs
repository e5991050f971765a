//! Why a command did not do what was asked.

use crate::codec::{DecodeError, EncodeError};
use crate::limits::LimitError;
use crate::repository::LoadError;
use crate::services::MissingService;
use crate::store::{CommitError, IdempotencyKey, StoreError, StreamId};
use crate::{BoxError, ErrorKind};

/// What happened instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub(crate) &'static str);

/// Why a command did not do what was asked. `E` is the aggregate's own refusal, untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The domain said no: tell the user. (Over HTTP: 409 or 422.)
    #[error("refused")]
    Refused(#[source] E),
    /// There is no such aggregate. (404)
    #[error("{stream:?} does not exist")]
    NotFound {
        /// Its stream.
        stream: StreamId,
    },
    /// The command creates, and it is there already. (409)
    #[error("{stream:?} exists already")]
    AlreadyExists {
        /// Its stream.
        stream: StreamId,
    },
    /// The aggregate has ended and takes no more commands. (410)
    #[error("{stream:?} has ended and takes no more commands")]
    Ended {
        /// Its stream.
        stream: StreamId,
    },
    /// Others were faster, every time: load again, decide again. (409, may be repeated)
    #[error("others were faster (attempts: {attempts})")]
    Conflict {
        /// How often it was tried.
        attempts: u32,
        /// The last conflict.
        #[source]
        source: CommitError,
    },
    /// It may have happened. Send it again with the same idempotency key, or look. (504)
    // Whoever handles an event with this command finds the source: it is no failure of the event.
    #[error("the outcome is unknown")]
    Unknown {
        /// What happened instead of an answer.
        #[source]
        why: NoAnswer,
    },
    /// A service that the handler asked failed. Nothing was written. (502)
    #[error("a service failed")]
    Service(#[source] BoxError),
    /// An interceptor refused or failed.
    #[error("an interceptor refused the command")]
    Intercepted(#[source] BoxError),
    /// An interceptor failed after the command: what that did stands, or its outcome was unknown. Send it again with the
    /// same idempotency key, or look. [Within](crate::Sending::within) a transaction, its events may be staged: whoever
    /// commits that commits them.
    #[error("an interceptor failed after the command, which may have gone through")]
    InterceptedAfter(#[source] BoxError),
    /// The handler panicked. Nothing was written; other commands are not affected. (500)
    #[error("the handler of {command} panicked: {panic}")]
    Panicked {
        /// The command.
        command: &'static str,
        /// The text of the panic.
        panic: String,
    },
    /// The app is shutting down and takes no new commands. (503)
    #[error("the app is shutting down")]
    ShuttingDown,
    /// The idempotency key was used by another request: take another key. (422)
    #[error("idempotency key {key} was used before, by another request")]
    KeyReused {
        /// The key.
        key: IdempotencyKey,
    },
    /// The handler asks for something that nobody provided: fix the wiring.
    #[error(transparent)]
    Missing(#[from] MissingService),
    /// An id, key, payload or number is over its limit: nothing was sent. (400)
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// An event of the aggregate could not be read. Its stream needs a person.
    // Not transparent: who looks for a newer program's event among the sources finds it.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A new event could not be written: fix its type.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The command or a stored refusal is not what its type expects.
    #[error("{what} is not readable as its type")]
    Codec {
        /// What was read or written.
        what: &'static str,
        /// What serde said.
        #[source]
        source: BoxError,
    },
    /// The store could not be reached, or refused. Nothing was written.
    #[error("the command was not stored")]
    Store(#[source] StoreError),
    /// The store refused the commit for a reason that repeating does not mend. Nothing was written.
    #[error("the commit was refused")]
    Commit(#[source] CommitError),
}

impl<E> CommandError<E> {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_)
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::Ended { .. }
            | Self::Intercepted(_) => ErrorKind::Refused,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Unknown { .. } | Self::InterceptedAfter(_) => ErrorKind::Unknown,
            Self::Service(_) | Self::ShuttingDown => ErrorKind::Transient,
            Self::Decode(_) | Self::Codec { .. } => ErrorKind::Corrupt,
            Self::Store(e) => e.kind(),
            Self::Commit(e) => e.kind(),
            Self::Panicked { .. }
            | Self::KeyReused { .. }
            | Self::Missing(_)
            | Self::Limit(_)
            | Self::Encode(_) => ErrorKind::Misuse,
        }
    }

    /// The domain's refusal, if that is what it is.
    pub const fn refusal(&self) -> Option<&E> {
        match self {
            Self::Refused(e) => Some(e),
            _ => None,
        }
    }
}

impl<E> From<StoreError> for CommandError<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Limit(e) => Self::Limit(e),
            e => Self::Store(e),
        }
    }
}

impl<E> From<CommitError> for CommandError<E> {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::KeyReused { key } => Self::KeyReused { key },
            CommitError::Store(e) => e.into(),
            CommitError::Conflict { .. }
            | CommitError::ConditionFailed { .. }
            | CommitError::OtherHistory
            | CommitError::Fenced { .. } => Self::Conflict { attempts: 1, source: error },
            CommitError::Unknown(_) => Self::Unknown { why: NoAnswer("the store did not answer") },
            e => Self::Commit(e),
        }
    }
}

impl<E> From<LoadError> for CommandError<E> {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Limit(e) => Self::Limit(e),
            LoadError::Store(e) => e.into(),
            LoadError::Decode(e) => Self::Decode(e),
            LoadError::Panicked { aggregate, panic } => Self::Panicked { command: aggregate, panic },
        }
    }
}

impl<E> CommandError<E> {
    pub(crate) fn into_box(self) -> Box<Self> {
        Box::new(self)
    }
}

/// On the way of a command errors are boxed; `?` boxes them.
macro_rules! boxed { ($($from:ty),+) => { $(
    impl<E> From<$from> for Box<CommandError<E>> {
        fn from(error: $from) -> Self {
            Self::new(error.into())
        }
    }
)+ } }
boxed!(CommitError, DecodeError, EncodeError, LimitError, LoadError, MissingService, StoreError);
