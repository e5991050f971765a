//! A branch that only runs: its database undoes it.

use std::fmt::Display;
use std::time::Duration;

use es_core::BoxError;
use es_core::guard::{GuardedDatabase, UndoLog};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::branch::Tcc;
use crate::saga::{Cx, Guarded, Ran, Retry, SagaInput, StepError};
use crate::transaction::OwnFault;

/// A branch of a TCC with this input, in a database that undoes by itself what is written there: `PgUndoLog` of
/// `es-postgres`. It has one function, which does what it does at once; it is a branch as [`Tracked`]. Confirmed, its images
/// are forgotten; cancelled, they are taken back; until then no other run changes its rows.
///
/// Unlike a [`Tcc`] that holds something back, others *see* what it has done before it is decided.
///
/// ```
/// use es_core::guard::{GuardedDatabase, UndoLog};
/// use es_core::memory::Tx;
/// use sagas::es_core;
/// use sagas::saga::{Cx, SagaInput, StepError};
/// use sagas::tcc::{TccTransaction, Tracked, Undoable};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     item: String,
/// }
/// impl SagaInput for Order {}
///
/// /// Writes through a transaction of its database, `PgUndoLog` for example.
/// struct TakeFromStock<D>(fn() -> D);
///
/// impl<D: UndoLog> Undoable<Order> for TakeFromStock<D> {
///     const NAME: &'static str = "take-from-stock";
///     type Output = ();
///     type Refusal = String;
///     type Database = D;
///
///     async fn run(&self, cx: Cx<'_, Order>, tx: &mut D::Tx) -> Result<(), StepError<String>> {
///         // sqlx::query("update items set left_over = left_over - 1 where name = $1")
///         //     .bind(&cx.input.item).execute(&mut **tx).await.or_retry()?;
///         # drop((cx, tx));
///         Ok(())
///     }
/// }
///
/// fn order<D: UndoLog>(database: fn() -> D) -> TccTransaction<Order, Tx> {
///     TccTransaction::new("order", 1).branch(Tracked(TakeFromStock(database))).build()
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a branch that its database undoes, of TCCs with the input `{In}`",
    note = "write `impl Undoable<{In}> for {Self}`, or give the TCC the input that its branches have"
)]
pub trait Undoable<In: SagaInput>: Send + Sync + 'static {
    /// Its stored name.
    const NAME: &'static str;
    /// What it has come to: stored with its guard row.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// What it says no with.
    type Refusal: Display + Send;
    /// Where it writes: a service of the app, `.provide(..)`.
    type Database: UndoLog;

    /// Does what it does. What it writes through the transaction is one commit; only what it writes to tables that are
    /// tracked is undone. An error of a row that another run has locked is to be returned: it is tried again.
    fn run(
        &self,
        cx: Cx<'_, In>,
        tx: &mut <Self::Database as GuardedDatabase>::Tx,
    ) -> impl Future<Output = Result<Self::Output, StepError<Self::Refusal>>> + Send;

    /// How it is tried, as in [`Tcc::retry`]. If it is tried in vain, also because another run has its rows, all is cancelled:
    /// so two runs that wait for each other do not wait for ever.
    fn retry(&self) -> Retry {
        Retry::default()
    }

    /// How long a call may take: 30 seconds, unless it says otherwise.
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Who is called, as in [`Step::destination`](crate::saga::Step::destination).
    fn destination(&self) -> Option<&str> {
        None
    }
}

/// An [`Undoable`] as a branch: `.branch(Tracked(TakeFromStock))`.
///
/// If a row has changed since, or the database refuses to take it back, the branch waits for a person at once, and nothing of
/// it is undone. Set the row right (`PgUndoLog::mend`), or tell the database to accept all of its rows as they are
/// (`PgUndoLog::accept`), and [retry](crate::saga::Verb::Retry). A [skip](crate::saga::Verb::Skip) ends the run as well, but nobody tells the database:
/// the rows stay locked until they are accepted there.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a branch, and nothing else")]
pub struct Tracked<B>(pub B);

impl<In: SagaInput, B: Undoable<In>> Tcc<In> for Tracked<B> {
    const NAME: &'static str = B::NAME;
    type Held = B::Output;
    type Refusal = B::Refusal;
    type Place = Guarded<B::Database>;

    async fn reserve(
        &self,
        cx: Cx<'_, In>,
        tx: &mut <B::Database as GuardedDatabase>::Tx,
    ) -> Result<B::Output, StepError<B::Refusal>> {
        self.0.run(cx, tx).await.map_err(|error| match error {
            // Its database is well: others call it.
            StepError::Retry(error) if B::Database::is_taken(&*error) => {
                StepError::Retry(OwnFault::boxed(error))
            }
            error => error,
        })
    }

    /// The guard row is confirmed after this, and its images are forgotten with that.
    async fn confirm(
        &self,
        _: Cx<'_, In>,
        _: B::Output,
        _: &mut <B::Database as GuardedDatabase>::Tx,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    /// The guard row is undone after this, and all of it is taken back with that.
    async fn cancel(
        &self,
        _: Cx<'_, In>,
        _: Ran<B::Output>,
        _: &mut <B::Database as GuardedDatabase>::Tx,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    fn retry(&self) -> Retry {
        self.0.retry()
    }

    fn limit(&self) -> Duration {
        self.0.limit()
    }

    fn destination(&self) -> Option<&str> {
        self.0.destination()
    }
}
