//! PostgreSQL's SQLSTATE codes, by what the caller does about them.
//!
//! Classes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::fmt;

use es_core::store::StoreError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// What an error of a write means for what it would have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not written, for what was given: take the batch apart to find whose it was.
    Data,
    /// Not written, for what others did meanwhile or what the server lacks: try again.
    Again,
    /// Not written, and never will be.
    Never,
    /// The connection or its server ended: nobody knows.
    Unknown,
}

/// What became of a write that was sent and failed.
pub(crate) fn fate(error: &sqlx::Error) -> Fate {
    let Some(error) = database(error) else { return Fate::Unknown };
    // A backend that is ended may have committed before it says so.
    if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) {
        return Fate::Unknown;
    }
    if is_partition(error) {
        return Fate::Again;
    }
    match (class(error), error.code()) {
        (_, FENCED) => Fate::Never,
        (_, STALE_PLAN | READ_ONLY | RENAMED | OTHER_HISTORY) | ("40" | "53" | "55" | "57", _) => Fate::Again,
        // The server's own trouble: it is nobody's data.
        ("58" | "XX", _) => Fate::Never,
        // A trigger of the user's own may raise anything.
        _ => Fate::Data,
    }
}

/// Raised by `append` for an attempt that is fenced.
const FENCED: &str = "ES001";
/// Raised by `flush` for a request that is refused.
const REFUSED: &str = "ES002";
/// A row of it is at another revision.
const ROW_MOVED: &str = "ES006";
/// Raised by `append` for a type whose number stands for another one.
const RENAMED: &str = "ES008";
/// Raised beside `append` for what was decided on another history.
const OTHER_HISTORY: &str = "ES009";
/// The server does not write: a standby, or one that an operator has made read-only.
const READ_ONLY: &str = "25006";
/// `lock_not_available`: a lock was not had in time.
const LOCKED: &str = "55P03";
/// `query_canceled`: by the statement timeout, or by an operator.
const CANCELED: &str = "57014";
/// `cached plan must not change result type`: it repeats until the connection is closed.
pub(crate) const STALE_PLAN: &str = "0A000";

/// What is done first of all.
pub(crate) const CONNECTING: &str = "connecting to the database";

/// What an error of the driver means for the caller. `what` was being done.
pub(crate) fn store(what: &'static str, error: sqlx::Error) -> StoreError {
    let Some(found) = database(&error) else {
        return match error {
            sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => {
                StoreError::misuse(format!("{what}: {error}"))
            }
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                StoreError::Corrupt { what: format!("{what}: {error}") }
            }
            _ => StoreError::transient(what, error),
        };
    };
    if is_read_only(found) {
        return StoreError::transient(what, NotWriting(error));
    }
    if matches!(found.code(), RENAMED | OTHER_HISTORY) {
        return StoreError::transient(what, error);
    }
    let advice = match (class(found), found.code()) {
        ("ES", _) => return StoreError::misuse(format!("{what}: {}", found.message())),
        (_, "25P02") => {
            "a statement before this one failed and ended the transaction: nothing of it is stored"
        }
        ("28", _) => "mend the user or the password in the URL",
        // Later it is being swapped for another one.
        ("3D", _) if what == CONNECTING => "make the database, or name another in the URL",
        (_, "42501") => "the account lacks a privilege; `es-postgres roles` prints what is needed",
        ("XX", _) => return StoreError::Corrupt { what: format!("{what}: {error}") },
        _ if is_partition(found) => return StoreError::transient(what, error),
        ("0A" | "22" | "23" | "2B" | "42" | "54" | "P0", _) => {
            return StoreError::misuse(format!("{what}: {error}"));
        }
        _ => return StoreError::transient(what, error),
    };
    StoreError::misuse(format!("{what}: {}; {advice}", found.message()))
}

/// A server that takes no writes now.
#[derive(Debug)]
struct NotWriting(sqlx::Error);

impl fmt::Display for NotWriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the server takes no writes: it is a standby, or it, the database or the account was made read-only \
             (`default_transaction_read_only`)",
        )
    }
}

impl std::error::Error for NotWriting {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Whether a connection is not to be used again after this.
pub(crate) fn breaks_connection(error: &sqlx::Error) -> bool {
    database(error).is_none_or(|e| {
        matches!(e.code(), STALE_PLAN | OTHER_HISTORY)
            || is_read_only(e)
            || !matches!(e.severity(), PgSeverity::Error)
    })
}

/// Whether the server does not write: the next connection may reach one that does.
fn is_read_only(error: &PgDatabaseError) -> bool {
    let in_recovery = || matches!(error.routine(), Some("AssignTransactionId" | "GetNewTransactionId"));
    error.code() == READ_ONLY || error.code() == "XX000" && in_recovery()
}

/// Whether it has waited too long for a lock, or has outlasted its time: what one request asks for holds up those beside it.
/// Who waits for the gate waits for what all of them need.
pub(crate) fn is_late(error: &sqlx::Error, gate: i64) -> bool {
    let at_gate = format!("pg_advisory_xact_lock({gate})");
    let waits = |e: &PgDatabaseError| e.r#where().is_some_and(|context| context.contains(&at_gate));
    database(error).is_some_and(|e| matches!(e.code(), LOCKED | CANCELED) && !waits(e))
}

/// Whether the number of a type stands for another one: the store has another history.
pub(crate) fn is_renamed(error: &sqlx::Error) -> bool {
    code(error) == Some(RENAMED)
}

/// Whether the store has another history than the one that was named: the next connection says which.
pub(crate) fn is_of_another_history(error: &sqlx::Error) -> bool {
    code(error) == Some(OTHER_HISTORY)
}

/// The code of an error that the server raised.
pub(crate) fn code(error: &sqlx::Error) -> Option<&str> {
    database(error).map(PgDatabaseError::code)
}

/// `invalid_text_representation`: what statements of ours fail with that say why by a text which is no number.
const NO_NUMBER: &str = "22P02";

/// Whether a statement of ours has failed with these words.
pub(crate) fn says(error: &sqlx::Error, words: &str) -> bool {
    database(error).is_some_and(|e| e.code() == NO_NUMBER && e.message().contains(words))
}

/// What the server says of an error, with its details.
pub(crate) fn words(error: &sqlx::Error) -> String {
    match database(error).map(|e| (e.message(), e.detail())) {
        Some((message, Some(detail))) => format!("{message} ({detail})"),
        _ => error.to_string(),
    }
}

/// What the server says of an error beside its message.
pub(crate) fn detail(error: &sqlx::Error) -> Option<&str> {
    database(error)?.detail()
}

/// Whether what is staged is refused by what is stored.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(REFUSED | ROW_MOVED))
}

/// Whether a number of the log would pass the largest that there is: `numeric_value_out_of_range`, raised by `append` itself.
pub(crate) fn is_overflow(error: &sqlx::Error) -> bool {
    database(error).is_some_and(|e| {
        e.code() == "22003" && e.r#where().is_some_and(|context| context.contains("append("))
    })
}

/// Whether no partition takes these positions: `add_partition` makes one.
pub(crate) fn lacks_partition(error: &sqlx::Error) -> bool {
    database(error).is_some_and(is_partition)
}

/// A constraint or a trigger of the user's own, which has the same code, names itself or no table. `events_first` is
/// the store's: it stands while partitions are made, and goes the same way.
fn is_partition(error: &PgDatabaseError) -> bool {
    error.code() == "23514"
        && error.table() == Some("events")
        && matches!(error.constraint(), None | Some("events_first"))
}

fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn class(error: &PgDatabaseError) -> &str {
    error.code().get(..2).unwrap_or_default()
}
