//! Whether a handler failed because of the database.

use std::error::Error;
use std::io;
use std::iter::successors;

use es_core::ErrorKind;
use es_core::store::{CommitError, StoreError};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whether the same handler may succeed when the database is well again. Looks at all causes of an error.
pub(crate) fn is_transient(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return error.kind() == ErrorKind::Transient;
        }
        if let Some(error) = cause.downcast_ref::<CommitError>() {
            // What was decided on a history that is gone is decided again.
            return matches!(error, CommitError::OtherHistory | CommitError::BehindHead { .. })
                || matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unknown);
        }
        if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
            return of_driver(error);
        }
        // Behind an error that shows the driver's as its own (`#[error(transparent)]`).
        if let Some(error) = cause.downcast_ref::<Box<dyn DatabaseError>>() {
            return error.try_downcast_ref().is_some_and(of_server);
        }
        cause.downcast_ref::<io::Error>().is_some_and(|error| is_lost(error.kind()))
    })
}

/// An error, what caused it, what caused that, and so on.
pub(crate) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

fn of_driver(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>().is_some_and(of_server),
        _ => false,
    }
}

fn of_server(error: &PgDatabaseError) -> bool {
    // The session has ended, or was never begun: no statement did that.
    if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) {
        return true;
    }
    match error.code() {
        // A plan that a changed table has made useless.
        crate::error::STALE_PLAN => error.routine() == Some("RevalidateCachedQuery"),
        // A lock that was not had in time, an object in use, an idle transaction that was ended, a replica.
        "55P03" | "55006" | "25P03" | "25006" => true,
        // Lost connections, rollbacks for what others do, lack of resources, an operator, the system.
        code => matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58")),
    }
}

const fn is_lost(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut,
        UnexpectedEof,
    };
    matches!(
        kind,
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | NotConnected
            | TimedOut
            | UnexpectedEof
    )
}
