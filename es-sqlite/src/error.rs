//! SQLite's result codes, by what the caller does about them.

use es_core::store::StoreError;

/// Primary result codes of SQLite, <https://sqlite.org/rescode.html>.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const NOTADB: i32 = 26;
}

/// What an error of the driver means for the caller. `what` was being done.
pub(crate) fn store(what: &'static str, error: sqlx::Error) -> StoreError {
    match primary(&error) {
        Some(code::CORRUPT) => StoreError::Corrupt { what: format!("{what}: {error}") },
        Some(code::NOTADB) => {
            StoreError::misuse(format!("{what}: the file is no SQLite database; name another"))
        }
        Some(code::READONLY | code::PERM) => StoreError::misuse(format!(
            "{what}: the database is read-only; mend the file's permissions ({error})"
        )),
        Some(code::CANTOPEN) => {
            StoreError::misuse(format!("{what}: the file cannot be opened; is its folder there? ({error})"))
        }
        Some(code::CONSTRAINT | code::TOOBIG | code::MISMATCH) => {
            StoreError::misuse(format!("{what}: {error}"))
        }
        // Busy, locked, full, interrupted, out of memory, or the connection is gone.
        _ => StoreError::transient(what, error),
    }
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
