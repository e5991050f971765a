//! Why a statement on a tracked table was refused, and what an error of the log means.

use es_core::guard::Taken;
use es_core::store::StoreError;
use uuid::Uuid;

use crate::{error, guarded};

/// A row of another run, met by a run.
const BUSY: &str = "ESU01";
/// A row of a run, met by a writer without one.
const LOCKED: &str = "ESU02";
/// A row that is not as its call has left it.
const CHANGED: &str = "ESU03";
/// A later call of the same run is to be undone first.
const LATER: &str = "ESU04";
/// What cannot be tracked, or not undone as the tables are.
const UNFIT: &str = "ESU05";
/// `undefined_function`: of a log that is not there.
const NO_FUNCTION: &str = "42883";

/// Why a row of a tracked table could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another run has changed the row, and is not decided: try again later. SQLSTATE `ESU01`.
    Busy {
        /// That run.
        run: Uuid,
        /// The server's words, with the row.
        what: String,
    },
    /// A run has changed the row, and the writer is within none: try again later. SQLSTATE `ESU02`.
    Locked {
        /// That run.
        run: Uuid,
        /// The server's words, with the row.
        what: String,
    },
}

impl Refusal {
    /// The refusal in an error of the driver, if it is one.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        let code = error::code(error).filter(|code| matches!(*code, BUSY | LOCKED))?;
        let run = error::detail(error)?.parse().ok()?;
        let what = error.as_database_error()?.message().to_owned();
        Some(if code == BUSY { Self::Busy { run, what } } else { Self::Locked { run, what } })
    }
}

/// What an error of the log's own means. `what` was being done.
pub(super) fn failed(what: &'static str, error: sqlx::Error) -> StoreError {
    match error::code(&error) {
        Some(CHANGED) => StoreError::Blocked { what: error::words(&error) },
        Some(BUSY | LOCKED | LATER) => StoreError::transient(what, Taken(error.into())),
        Some(UNFIT) => StoreError::misuse(error::words(&error)),
        // Of the log, and not of a table of the user's own.
        Some(code) if (code == NO_FUNCTION || guarded::MISSING.contains(&code)) && is_of_log(&error) => {
            missing(&error.to_string())
        }
        _ => error::store(what, error),
    }
}

/// What an error of an undo means: whatever is in its way by what is stored, an operator has to see to it.
pub(super) fn not_undone(what: &'static str, error: sqlx::Error) -> StoreError {
    let class = error::code(&error).and_then(|code| code.get(..2)).unwrap_or_default();
    match class {
        // Data, constraints, privileges and names, a trigger of the user's own.
        "22" | "23" | "42" | "44" | "P0" => StoreError::Blocked { what: error::words(&error) },
        _ if error::code(&error) == Some(UNFIT) => StoreError::Blocked { what: error::words(&error) },
        _ => failed(what, error),
    }
}

fn is_of_log(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.message().contains("es_undo"))
}

pub(super) fn missing(why: &str) -> StoreError {
    StoreError::misuse(format!("the database has no undo log: call `PgUndoLog::install` ({why})"))
}
