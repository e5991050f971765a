//! A half message whose local transaction the caller runs.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use es_core::guard::{Guard, GuardError, GuardKey, Guarded, GuardedDatabase};
use es_core::services::Services;
use es_core::store::StoreError;

use super::machine::HINTS;
use crate::transaction::{Handle, Outcome, RunError, Runs};

/// A half message whose local transaction the caller runs, in a database `D` with guard rows.
///
/// Begin it with [`begin`](Self::begin), and commit it. Then [`commit`](Self::commit) or [`rollback`](Self::rollback) says so: that
/// only saves time. If the caller dies, or says something else than is so, a check finds out by the guard row, which is there if and
/// only if the transaction has committed.
///
/// While it is open, a check waits for it on another connection: let the pool have one that is free. Where a lock of the database is
/// waited for longer than [usual](crate::half::HalfMessages::limit), raise the limit of a check as well.
///
/// ```
/// use es_sqlite::SqliteGuarded;
/// use sagas::es_core::{App, BoxError};
/// use sagas::half::{Begun, ByCaller, HalfMessage, Halves as _};
/// use sagas::saga::{Outcome, SagaInput};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Pay {}
/// # impl SagaInput for Pay {}
/// # impl ByCaller for Pay { type Database = SqliteGuarded; }
///
/// async fn pay(app: &App, order: &str) -> Result<Outcome, BoxError> {
///     let message = HalfMessage::new("paid", order, &"5 euros")?;
///     let half = app.send_half(order, message, Pay {}).await?;
///     match half.begin().await? {
///         Begun::Open(mut tx) => {
///             let book = sqlx::query("insert into payments (order_id) values (?)").bind(order);
///             book.execute(&mut **tx).await?; // if it fails here, a check rolls back
///             tx.commit().await?;
///             half.commit().await?;
///         }
///         // It is the same request again.
///         Begun::Committed | Begun::RolledBack(_) => {}
///     }
///     Ok(half.outcome().await?)
/// }
/// ```
pub struct Half<D> {
    pub(super) handle: Handle,
    pub(super) key: GuardKey,
    pub(super) fingerprint: u128,
    pub(super) runs: Runs,
    pub(super) services: Arc<Services>,
    pub(super) database: PhantomData<fn() -> D>,
}

impl<D> fmt::Debug for Half<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Half").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<D: GuardedDatabase> Half<D> {
    /// The run.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The key of the guard row, for whoever writes that by themselves: it is the first statement of the local transaction, with
    /// the [fingerprint](Self::fingerprint), and says `done` at its end.
    #[must_use]
    pub const fn guard_key(&self) -> &GuardKey {
        &self.key
    }

    /// What the guard row says of the input.
    #[must_use]
    pub const fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Begins the local transaction, with its guard row as the first statement; or finds what has become of it. That a person has
    /// abandoned it, or has taken it for rolled back, leaves no guard row, and bars nothing.
    ///
    /// # Errors
    ///
    /// [`GuardError`], of which [`InProgress`](GuardError::InProgress) and a transient one of the database pass by themselves.
    ///
    /// # Cancellation
    ///
    /// Dropping its future, or what it gives, rolls back.
    pub async fn begin(&self) -> Result<Begun<'_, D>, GuardError> {
        let missing = |error: es_core::services::MissingService| StoreError::misuse(error.to_string());
        let database = self.services.get::<D>().map_err(missing)?;
        let guard = Guard::new(database, self.key.clone(), self.fingerprint);
        match guard.forward().await {
            Ok(Guarded::Run(tx)) => Ok(Begun::Open(LocalTx { guard, tx })),
            Ok(Guarded::Done(_)) => Ok(Begun::Committed),
            Ok(Guarded::Refused(why)) => Ok(Begun::RolledBack(why)),
            Err(GuardError::Hanging) => Ok(Begun::RolledBack("a check came first".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Says that the local transaction has committed: it is checked now, and not after the immunity.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`]: then it is checked later.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it is checked now, or later.
    pub async fn commit(&self) -> Result<(), RunError> {
        self.runs.0.hint(self.handle.run(), HINTS[0]).await
    }

    /// Says that the local transaction was rolled back, or will not be begun: it is checked now, and then it never commits.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`]: then it is checked later.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it is checked now, or later.
    pub async fn rollback(&self) -> Result<(), RunError> {
        self.runs.0.hint(self.handle.run(), HINTS[1]).await
    }

    /// Waits until it is known what becomes of the message, and it stands in the log, if it does.
    ///
    /// # Errors
    ///
    /// As [`Handle::outcome`].
    ///
    /// # Cancellation
    ///
    /// Dropping its future changes nothing for the message.
    pub async fn outcome(&self) -> Result<Outcome, RunError> {
        self.handle.outcome().await
    }
}

/// A local transaction that was to be begun.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "it is open, or over one way or the other")]
pub enum Begun<'h, D: GuardedDatabase> {
    /// It is open.
    Open(LocalTx<'h, D>),
    /// It has committed before.
    Committed,
    /// It was rolled back before, or a check came first: it does not run any more. Why.
    RolledBack(String),
}

/// A local transaction that is open. Derefs to that of its database: of `es-sqlite` and `es-postgres`, `&mut **tx` is the
/// connection. Dropping it rolls back.
pub struct LocalTx<'h, D: GuardedDatabase> {
    guard: Guard<'h, D>,
    tx: D::Tx,
}

impl<D: GuardedDatabase> fmt::Debug for LocalTx<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTx").finish_non_exhaustive()
    }
}

impl<D: GuardedDatabase> Deref for LocalTx<'_, D> {
    type Target = D::Tx;
    fn deref(&self) -> &D::Tx {
        &self.tx
    }
}

impl<D: GuardedDatabase> DerefMut for LocalTx<'_, D> {
    fn deref_mut(&mut self) -> &mut D::Tx {
        &mut self.tx
    }
}

impl<D: GuardedDatabase> LocalTx<'_, D> {
    /// Commits it: the message will be sent.
    ///
    /// # Errors
    ///
    /// [`GuardError::Store`]: it may have been committed. A check finds out, and so does whoever [begins](Half::begin) it again.
    pub async fn commit(self) -> Result<(), GuardError> {
        self.guard.done(self.tx, "null".to_owned()).await
    }

    /// Rolls it back, for good: the message will not be sent.
    ///
    /// # Errors
    ///
    /// [`GuardError`]: it is rolled back, and it is not known whether it can be begun again. A check bars that.
    pub async fn roll_back(self, why: impl Into<String>) -> Result<(), GuardError> {
        self.guard.refused(self.tx, why.into()).await.map(drop)
    }
}
