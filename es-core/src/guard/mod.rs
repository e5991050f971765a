//! Guard rows: what makes a call to somebody else's database act once.
//!
//! What a call does and a row that says so are one transaction of the database that it is done in. Whoever comes again, or
//! wants to undo it, finds the row. So an answer that is lost is asked for again; an undo that comes first leaves a row that
//! bars the call; and one that comes while the call runs waits for it.
//!
//! | who comes | tries to insert | was the first | finds a row |
//! | --- | --- | --- | --- |
//! | a call | `intent` | runs, and leaves `done` with its output; a refusal rolls it back and leaves `tomb` with its reason | `done`, `confirmed`: its output · `tomb` with a reason: the same refusal · `intent`: [in progress](GuardError::InProgress) · `undone`, `tomb` of an undo: [hanging](GuardError::Hanging) |
//! | an undo | `tomb` | nothing to undo | `done`, `intent`: undoes it, and leaves `undone` · `undone`, `tomb`: nothing to undo · `confirmed`: [an error](GuardError::Confirmed) |
//! | a question | `tomb` | it never will | `done`, `confirmed`: it has run · `undone`, `tomb`: it has not · `intent`: in progress |
//! | a confirmation | nothing | – | `done`: leaves `confirmed` · `confirmed`: nothing · none: [no trace](GuardError::NoTrace), or [expired](GuardError::Expired) · else an error |
//!
//! An error on COMMIT says nothing: the row does, whoever asks next.
//!
//! Guard rows are forgotten by age. A run has an id that says when it was begun (UUIDv7). [`forget`] deletes the rows of
//! older runs and raises the floor, in one commit; whoever inserts a row reads the floor after that, and a run below it is
//! refused as [expired](GuardError::Expired): it may have run, and its row may be gone. Nobody but you calls it: the time has to be
//! one that no run goes on from, of any store that calls the database. The crate `sagas` gives it for each store
//! (`Runs::guards_needed_since`).
//!
//! A database may undo calls by itself: [`UndoLog`]. Whoever undoes one has then nothing to do between the undo and its end.
//!
//! Crates that have calls to make go through [`Guard`]; a database implements [`GuardedDatabase`].

mod call;
mod database;
mod row;

pub use self::call::{Confirming, Guard, GuardKey, Guarded, Undoing, check, forget};
pub use self::database::{GuardRows, GuardedDatabase, UndoLog};
pub use self::row::{Confirm, Forward, Found, GuardRow, Outcome, Standing, Undo};
pub use self::row::{confirm, forward, outcome, undo};

use crate::store::StoreError;
use crate::{BoxError, ErrorKind};

/// Why a guarded call was not made, and has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It came after its undo.
    #[error("it comes after its undo, and does not run any more")]
    Hanging,
    /// It was begun, and has not ended.
    #[error("it was begun, and has not ended")]
    InProgress,
    /// It was made before, with something else.
    #[error(
        "it was called before with another input: the step reads other outputs than it did then, which takes a new version \
         of the definition, or the journal is not the one that the guard rows are of"
    )]
    OtherInput,
    /// It is of a run that may have been forgotten here.
    #[error(
        "its run is older than what the guard rows of this database go back to: find out whether it has run"
    )]
    Expired,
    /// It was confirmed, and is to be undone.
    #[error("it was confirmed, and cannot be undone any more")]
    Confirmed,
    /// It is said to have run, and the database knows nothing of it.
    #[error(
        "it is said to have run, and this database has no trace of it: a person has resolved it, or the database has lost \
         it; see to it by hand, and then skip it if it was to be undone, or resolve it if it was to be confirmed"
    )]
    NoTrace,
    /// The key cannot be one.
    #[error("this cannot be the key of a guarded call: {0}")]
    Key(String),
    /// The database failed. On a commit, it may have been applied: ask again.
    #[error("the database with the guard rows failed")]
    Store(#[from] StoreError),
}

/// Another transaction has what a guarded one waits for, and has not let go of it in time: what a database says so with, as the
/// source of a [`StoreError::Transient`].
#[derive(Debug, thiserror::Error)]
#[error("another transaction has it, and has not ended in time")]
#[expect(clippy::exhaustive_structs, reason = "an error, and why")]
pub struct Locked(
    /// The words of the database.
    #[source]
    pub BoxError,
);

/// Another call has what a guarded one needs, and is to be decided first: what a database says so with, as the source of a
/// [`StoreError::Transient`].
#[derive(Debug, thiserror::Error)]
#[error("another call is to be decided first")]
#[expect(clippy::exhaustive_structs, reason = "an error, and why")]
pub struct Taken(
    /// The words of the database.
    #[source]
    pub BoxError,
);

impl GuardError {
    /// Whether only another call, or another transaction, is in the way: the database is well, and it can be tried again later.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let is_taken =
            matches!(self, Self::Store(StoreError::Transient { source, .. }) if source.is::<Taken>());
        is_taken || self.is_in_progress()
    }

    /// Whether the call may be running right now: it says so, or has what it would have to let go of first. Then nothing is
    /// wrong, and it can be asked again later.
    #[must_use]
    pub fn is_in_progress(&self) -> bool {
        match self {
            Self::InProgress => true,
            Self::Store(StoreError::Transient { source, .. }) => source.is::<Locked>(),
            _ => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::InProgress => ErrorKind::Transient,
            Self::Store(error) => error.kind(),
            Self::Key(_) => ErrorKind::Misuse,
            _ => ErrorKind::Conflict,
        }
    }
}

#[cfg(test)]
impl PartialEq for GuardError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}
