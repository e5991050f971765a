//! SQLite's result codes, by what the caller does about them.

use std::error::Error;

use es_core::ErrorKind;
use es_core::store::{CommitError, StoreError};

/// Primary result codes of SQLite, <https://sqlite.org/rescode.html>.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const ABORT: i32 = 4;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const PROTOCOL: i32 = 15;
    pub(super) const SCHEMA: i32 = 17;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const NOTADB: i32 = 26;
}

/// What an error of the driver means for the caller. `what` was being done.
pub(crate) fn store(what: &'static str, error: sqlx::Error) -> StoreError {
    if is_now(&error) {
        return StoreError::transient(what, error);
    }
    match (primary(&error), &error) {
        (Some(code::CORRUPT), _) | (_, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. }) => {
            StoreError::Corrupt { what: format!("{what}: {error}") }
        }
        (Some(code::NOTADB), _) => {
            StoreError::misuse(format!("{what}: the file is no SQLite database; name another"))
        }
        (Some(code::READONLY | code::PERM), _) => StoreError::misuse(format!(
            "{what}: the database is read-only; mend the file's permissions ({error})"
        )),
        (Some(code::CANTOPEN), _) => {
            StoreError::misuse(format!("{what}: the file cannot be opened; is its folder there? ({error})"))
        }
        _ => StoreError::misuse(format!("{what}: {error}")),
    }
}

/// The same for SQL that is the user's: said in words about it, unless the database is what failed.
pub(crate) fn of_user(
    what: &'static str,
    error: sqlx::Error,
    say: impl FnOnce(sqlx::Error) -> String,
) -> StoreError {
    if is_now(&error) { store(what, error) } else { StoreError::misuse(say(error)) }
}

/// Whether the same would go well another time: the database is busy, full or not to be reached.
pub(crate) fn is_now(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => matches!(
            primary(error),
            Some(
                code::ABORT
                    | code::BUSY
                    | code::LOCKED
                    | code::NOMEM
                    | code::INTERRUPT
                    | code::IOERR
                    | code::FULL
                    | code::PROTOCOL
                    | code::SCHEMA
            )
        ),
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// The same for an error of a handler's: what it says of the database, wherever in its chain it does so first.
pub(crate) fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(transient) = verdict(error) {
            return transient;
        }
        next = error.source();
    }
    false
}

fn verdict(error: &(dyn Error + 'static)) -> Option<bool> {
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return Some(is_now(error));
    }
    let store = error.downcast_ref::<StoreError>().map(StoreError::kind);
    let kind = store.or_else(|| error.downcast_ref::<CommitError>().map(CommitError::kind))?;
    Some(matches!(kind, ErrorKind::Transient | ErrorKind::Unknown))
}

/// Whether the statement failed for what it was given: then its batch is taken apart to find whose it was.
pub(crate) fn is_about_data(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(code::CONSTRAINT | code::TOOBIG | code::MISMATCH))
}

/// Whether another connection has what is asked for.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(code::BUSY | code::LOCKED))
}

fn primary(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
