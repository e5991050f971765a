//! Calls, undos and forgetting, on any database with guard rows.

use uuid::Uuid;

use super::row::{self, Confirm, Forward, Found, Outcome, Undo};
use super::{GuardError, GuardRow, GuardRows, GuardedDatabase, Standing};
use crate::Timestamp;
use crate::store::StoreError;

/// Bytes of the name of a call: two stored names, and what is between them.
const MAX_CALL: usize = 600;

/// Names a call: of one run, and among its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardKey {
    run: Uuid,
    call: String,
}

impl GuardKey {
    /// A call of a run.
    ///
    /// # Errors
    ///
    /// [`GuardError::Key`] if the id does not say when the run was begun (a UUIDv7 does), or the name of the call is none.
    pub fn new(run: Uuid, call: impl Into<String>) -> Result<Self, GuardError> {
        let call = call.into();
        if run.get_version_num() != 7 {
            return Err(GuardError::Key(format!("{run} does not say when its run was begun: take a UUIDv7")));
        }
        if call.is_empty() || call.len() > MAX_CALL || call.contains('\0') {
            return Err(GuardError::Key(format!(
                "a call is named by 1 to {MAX_CALL} bytes, and has no NUL in its name"
            )));
        }
        Ok(Self { run, call })
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> Uuid {
        self.run
    }

    /// The call.
    #[must_use]
    pub fn call(&self) -> &str {
        &self.call
    }
}

/// What a call is to do.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it runs, or has an answer")]
pub enum Guarded<T> {
    /// It runs, in this transaction: end it with [`Guard::done`] or [`Guard::refused`], or drop it.
    Run(T),
    /// It has run: this is its output.
    Done(String),
    /// It has refused, for good.
    Refused(String),
}

/// What an undo is to do.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is something to undo, or not")]
pub enum Undoing<T> {
    /// It is undone in this transaction: it has run with this output, or may have. End it with [`Guard::undone`], or drop it.
    Run(T, Option<String>),
    /// There is nothing to undo.
    Nothing,
}

/// What a confirmation is to do.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it is confirmed now, or was before")]
pub enum Confirming<T> {
    /// It is confirmed in this transaction: it has run with this output. End it with [`Guard::confirmed`], or drop it.
    Run(T, String),
    /// It was confirmed before.
    Nothing,
}

/// One call to a database with guard rows.
#[derive(Debug)]
pub struct Guard<'d, D> {
    database: &'d D,
    key: GuardKey,
    fingerprint: u128,
}

impl<'d, D: GuardedDatabase> Guard<'d, D> {
    /// A call of this name, made with what has this fingerprint.
    #[must_use]
    pub const fn new(database: &'d D, key: GuardKey, fingerprint: u128) -> Self {
        Self { database, key, fingerprint }
    }

    /// Makes the call, or finds what came of it.
    ///
    /// # Errors
    ///
    /// [`GuardError`] if it neither runs nor has an answer.
    pub async fn forward(&self) -> Result<Guarded<D::Tx>, GuardError> {
        let (tx, found) = self.meet(Standing::Intent).await?;
        match row::forward(self.key.run, self.fingerprint, found) {
            Ok(Forward::Run) => Ok(Guarded::Run(tx)),
            Ok(Forward::Done(output)) => left(tx, Ok(Guarded::Done(output))).await,
            Ok(Forward::Refused(why)) => left(tx, Ok(Guarded::Refused(why))).await,
            Err(error) => left(tx, Err(error)).await,
        }
    }

    /// Commits what a call has done, with its output as JSON.
    ///
    /// # Errors
    ///
    /// [`GuardError::Store`]: it may have been committed. Whoever calls again finds out.
    pub async fn done(&self, tx: D::Tx, output: String) -> Result<(), GuardError> {
        self.end(tx, Standing::Done(output)).await
    }

    /// Takes back what a call has done, and leaves its refusal: a repetition refuses as well. What came of it, if another
    /// one was faster in between.
    ///
    /// # Errors
    ///
    /// [`GuardError`]: it may refuse, or run, when it is called again.
    pub async fn refused(&self, tx: D::Tx, why: String) -> Result<Result<String, String>, GuardError> {
        tx.rollback().await?;
        let (tx, found) = self.meet(Standing::Tomb(Some(why.clone()))).await?;
        match row::forward(self.key.run, self.fingerprint, found) {
            Ok(Forward::Run) => {
                tx.commit().await?;
                Ok(Err(why))
            }
            Ok(Forward::Done(output)) => left(tx, Ok(Ok(output))).await,
            Ok(Forward::Refused(why)) => left(tx, Ok(Err(why))).await,
            Err(error) => left(tx, Err(error)).await,
        }
    }

    /// Undoes the call, or bars it if it has not come. `known`: whether it is known to have run.
    ///
    /// # Errors
    ///
    /// [`GuardError`] if it must not be undone, or cannot be here.
    pub async fn undo(&self, known: bool) -> Result<Undoing<D::Tx>, GuardError> {
        let (tx, found) = self.meet(Standing::Tomb(None)).await?;
        let inserted = matches!(found, Found::Inserted(_));
        match row::undo(self.key.run, known, found) {
            Ok(Undo::Run(output)) => Ok(Undoing::Run(tx, output)),
            // A call that is still on its way must not run: not even if a person has to look.
            nothing @ (Ok(Undo::Nothing) | Err(GuardError::NoTrace)) if inserted => {
                tx.commit().await?;
                nothing.map(|_| Undoing::Nothing)
            }
            other => left(tx, other.map(|_| Undoing::Nothing)).await,
        }
    }

    /// Commits what an undo has done.
    ///
    /// # Errors
    ///
    /// [`GuardError::Store`]: it may have been committed. Whoever undoes it again finds out.
    pub async fn undone(&self, tx: D::Tx) -> Result<(), GuardError> {
        self.end(tx, Standing::Undone).await
    }

    /// Confirms the call, after which it cannot be undone any more.
    ///
    /// # Errors
    ///
    /// [`GuardError`] if there is nothing to confirm: it has not run, was undone, or may have been forgotten.
    pub async fn confirm(&self) -> Result<Confirming<D::Tx>, GuardError> {
        let mut tx = self.database.begin().await?;
        let found = match tx.find(&self.key).await? {
            Some(row) => Ok(row),
            // In a statement behind that one: if the row was forgotten before it, the floor is raised by now.
            None => Err(tx.floor().await?),
        };
        match row::confirm(self.key.run, found) {
            Ok(Confirm::Run(output)) => Ok(Confirming::Run(tx, output)),
            Ok(Confirm::Nothing) => left(tx, Ok(Confirming::Nothing)).await,
            Err(error) => left(tx, Err(error)).await,
        }
    }

    /// Commits what a confirmation has done. `output`: that of the call.
    ///
    /// # Errors
    ///
    /// [`GuardError::Store`]: it may have been committed. Whoever confirms it again finds out.
    pub async fn confirmed(&self, tx: D::Tx, output: String) -> Result<(), GuardError> {
        self.end(tx, Standing::Confirmed(output)).await
    }

    /// Whether the call has run. One that has not never will.
    ///
    /// # Errors
    ///
    /// [`GuardError`] if nobody can know, or not now.
    pub async fn outcome(&self) -> Result<Outcome, GuardError> {
        let (tx, found) = self.meet(Standing::Tomb(None)).await?;
        let inserted = matches!(found, Found::Inserted(_));
        match row::outcome(self.key.run, found) {
            Ok(outcome) if inserted => {
                tx.commit().await?;
                Ok(outcome)
            }
            other => left(tx, other).await,
        }
    }

    async fn end(&self, mut tx: D::Tx, standing: Standing) -> Result<(), GuardError> {
        // The last statement: a transaction that has failed in between shows here.
        tx.change(&self.key, &standing).await?;
        Ok(tx.commit().await?)
    }

    /// Tries to be the first.
    async fn meet(&self, standing: Standing) -> Result<(D::Tx, Found), GuardError> {
        let mut tx = self.database.begin().await?;
        let row = GuardRow { fingerprint: self.fingerprint, standing };
        if tx.insert(&self.key, &row).await? {
            // In a statement behind the insert: if the row was forgotten before it, the floor is raised by now.
            let floor = tx.floor().await?;
            return Ok((tx, Found::Inserted(floor)));
        }
        match tx.find(&self.key).await? {
            Some(row) => Ok((tx, Found::Standing(row))),
            None => {
                let gone = std::io::Error::other("its row was forgotten at this moment");
                Err(StoreError::transient("reading a guard row", gone).into())
            }
        }
    }
}

/// Leaves a transaction in which nothing is to be done.
async fn left<T>(tx: impl GuardRows, answer: Result<T, GuardError>) -> Result<T, GuardError> {
    tx.rollback().await?;
    answer
}

/// Forgets the guard rows of runs that were begun before a time, and refuses those runs from now on. How many rows that were.
///
/// Choose a time that no run goes on from: one that does cannot go on here, and waits for a person. The crate `sagas` gives the
/// latest one for the runs of a store (`Runs::guards_needed_since`).
///
/// # Errors
///
/// [`StoreError`]: it may have been done, and can be done again.
pub async fn forget<D: GuardedDatabase>(database: &D, before: Timestamp) -> Result<u64, StoreError> {
    let mut tx = database.begin().await?;
    let n = tx.forget(first_of(before)).await?;
    tx.commit().await?;
    Ok(n)
}

/// Whether the tables are there, and of a form that this program knows.
///
/// # Errors
///
/// [`StoreError`], which says what to do.
pub async fn check<D: GuardedDatabase>(database: &D) -> Result<(), StoreError> {
    let mut tx = database.begin().await?;
    tx.check().await?;
    tx.rollback().await
}

/// The id before which those are that were begun before a time.
fn first_of(time: Timestamp) -> Uuid {
    let millis = u64::try_from(time.as_millisecond()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_below_what_was_begun_at_its_time() {
        let at = Timestamp::from_millisecond(1_700_000_000_000).expect("a time");
        let [earlier, exact] = [-1, 0].map(|by| {
            let millis = u64::try_from(at.as_millisecond() + by).expect("after 1970");
            uuid::Builder::from_unix_timestamp_millis(millis, &[0xFF; 10]).into_uuid()
        });
        let floor = first_of(at);
        assert!(earlier < floor && floor <= exact);
        assert!(floor > Uuid::nil());
    }

    #[test]
    fn a_key_says_when_its_run_was_begun() {
        let run = first_of(Timestamp::UNIX_EPOCH);
        assert!(GuardKey::new(run, "order/stock").is_ok());
        assert!(matches!(GuardKey::new(Uuid::nil(), "order/stock"), Err(GuardError::Key(_))));
        assert!(matches!(GuardKey::new(run, ""), Err(GuardError::Key(_))));
    }
}
