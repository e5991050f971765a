//! What a user does with a message, and whose fault it is if that fails.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::time::Duration;

use es_core::command::SendError;
use es_core::event::is_of_a_newer_program;
use es_core::guarded::called;
use es_core::store::{CommitError, StoreError};
use es_core::{Backend, BoxError, CommandError, ErrorKind, QueryError};

use crate::blame::is_for_a_newer_program;
use crate::message::Envelope;

/// What is done with a message: one service of an application, with a stored name of its own.
pub trait Consumer<Tx>: Send + Sync + 'static {
    /// Does what the message asks for, within a transaction: commands by
    /// [`within`](es_core::Sending::within), rows by the backend's own methods. The inbox commits it, together with the
    /// fact that the message was taken. It may be called again for the same message, in another transaction, when this one
    /// was rolled back; so what it does outside the transaction is done at least once.
    ///
    /// # Errors
    ///
    /// Anything. After a few tries it is the message's fault, and its lane is parked. Except errors of the store and
    /// [`Busy`]: the sender is told to come again; and events that only a newer program can read: the sender is told that
    /// about ten times, and then to set the message aside. An [`io::Error`] of a lost connection may be the store's, where
    /// that is reached by one: the sender is told to come again about ten times, and then it is the message's.
    fn take(&self, message: &Envelope, tx: &mut Tx) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// What a [`Consumer`] fails with if that is not the message's fault: what it needs does not answer now.
#[derive(Debug, thiserror::Error)]
#[error("busy")]
pub struct Busy(#[source] BoxError);

impl Busy {
    /// For a reason.
    pub fn new(why: impl Into<BoxError>) -> Self {
        Self(why.into())
    }

    /// The error of a command as that of a consumer: `.within(tx).await.map_err(Busy::of_command)?`. It is [`Busy`] if it
    /// may go through later: a service did not answer, or the app is shutting down.
    pub fn of_command<E: Error + Send + Sync + 'static>(error: CommandError<E>) -> BoxError {
        match error.kind() {
            ErrorKind::Transient | ErrorKind::Unknown => Self::new(error).into(),
            _ => error.into(),
        }
    }
}

/// Whose fault an error of a consumer or of a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another writer was faster.
    Race,
    /// What it needs does not answer.
    Busy,
    /// The store's, if it was the store's line that was lost, and not one to something else.
    Suspected,
    /// It has met an event that only a newer program can read: that program takes it.
    Newer,
    /// The message's.
    Message,
}

pub(super) fn fault_of(backend: &impl Backend, error: &(dyn Error + 'static)) -> Fault {
    if is_of_a_newer_program(error) {
        return Fault::Newer;
    }
    if is_for_a_newer_program(error) {
        // Each of its messages would fail here.
        return Fault::Busy;
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        match kind_of(error) {
            Some(ErrorKind::Conflict) => return Fault::Race,
            Some(ErrorKind::Transient | ErrorKind::Unknown) => return Fault::Busy,
            _ => cause = error.source(),
        }
    }
    if !backend.is_transient(error) {
        return Fault::Message;
    }
    // A consumer has other lines as well, and reads files: their errors look the same.
    let mut causes = successors(Some(error), |&error| error.source());
    if causes.any(|cause| cause.is::<io::Error>()) { Fault::Suspected } else { Fault::Busy }
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let of_store = error.downcast_ref::<StoreError>().map(StoreError::kind);
    let of_commit = || error.downcast_ref::<CommitError>().map(CommitError::kind);
    let of_sender = || match error.downcast_ref::<SendError>()? {
        SendError::ShuttingDown => Some(ErrorKind::Transient),
        SendError::Failed { kind, .. } => Some(*kind),
        _ => None,
    };
    let of_query = || match error.downcast_ref::<QueryError>()? {
        QueryError::NotReady { .. } | QueryError::TimedOut { .. } => Some(ErrorKind::Transient),
        _ => None,
    };
    let busy = || error.is::<Busy>().then_some(ErrorKind::Transient);
    of_store.or_else(of_commit).or_else(of_sender).or_else(of_query).or_else(busy)
}

/// A call took too long. It is not made again: the sender would not wait for the answer.
#[derive(Debug, thiserror::Error)]
#[error("the consumer did not end within {0:?}")]
pub(super) struct Hung(Duration);

/// Calls a consumer: a panic is its error, and so is a call that takes longer than `limit`.
pub(super) async fn call(
    limit: Duration,
    consumer: impl Future<Output = Result<(), BoxError>> + Send,
) -> Result<(), BoxError> {
    tokio::time::timeout(limit, called(consumer)).await.unwrap_or_else(|_| Err(Hung(limit).into()))
}
