//! Local transactions: what a user writes, and what a check answers.

use std::fmt::Display;
use std::time::Duration;

use es_core::BoxError;
use es_core::guard::GuardedDatabase;

use crate::saga::{Cx, Retry, SagaInput, StepError};

/// A transaction in a database with guard rows that decides whether a message is sent, and that the engine runs.
///
/// It is begun with its guard row as the first statement, and committed with it, so it acts once however often it is called.
///
/// ```
/// use es_sqlite::SqliteGuarded;
/// use sagas::half::LocalTransaction;
/// use sagas::saga::{Cx, OrRetry as _, SagaInput, StepError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Pay {
///     order: String,
///     cents: i64,
/// }
/// impl SagaInput for Pay {}
///
/// struct Book;
/// impl LocalTransaction<Pay> for Book {
///     type Database = SqliteGuarded;
///     type Refusal = &'static str;
///     async fn execute(
///         &self,
///         cx: Cx<'_, Pay>,
///         tx: &mut es_sqlite::GuardedTx,
///     ) -> Result<(), StepError<&'static str>> {
///         if cx.input.cents <= 0 {
///             return Err(StepError::Refused("there is nothing to pay"));
///         }
///         let book = sqlx::query("insert into payments (order_id, cents) values (?, ?)");
///         book.bind(&cx.input.order).bind(cx.input.cents).execute(&mut **tx).await.or_retry()?;
///         Ok(())
///     }
/// }
/// ```
pub trait LocalTransaction<In: SagaInput>: Send + Sync + 'static {
    /// Its database: a service of the app, `.provide(..)`.
    type Database: GuardedDatabase;
    /// What it says no with.
    type Refusal: Display + Send;

    /// Does the work, through the transaction. `Ok`: it is committed, and the message is sent. [`StepError::Refused`]: it is rolled
    /// back, and nothing of it or the message is ever seen. Anything else is tried again; after the last try it is found out
    /// whether one of them has committed, and if none has, none will.
    ///
    /// # Cancellation
    ///
    /// Its future is dropped once it takes longer than its [limit](Self::limit), and when its node ends.
    fn execute(
        &self,
        cx: Cx<'_, In>,
        tx: &mut <Self::Database as GuardedDatabase>::Tx,
    ) -> impl Future<Output = Result<(), StepError<Self::Refusal>>> + Send;

    /// How it is tried before it is given up: [`Retry::tries`]; and how the message is appended once it has committed.
    fn retry(&self) -> Retry {
        Retry::default()
    }

    /// How long one try, or one check, may take: 30 seconds, unless it says otherwise. Let it be longer than the database waits for
    /// a lock: a check that is given up before that has not heard that the local transaction runs, and counts.
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// The input of half messages whose local transaction the caller runs: its own code, in its own process.
///
/// ```
/// use sagas::half::ByCaller;
/// use sagas::saga::SagaInput;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// struct Pay {}
/// impl SagaInput for Pay {}
/// impl ByCaller for Pay {
///     type Database = es_sqlite::SqliteGuarded;
/// }
/// ```
pub trait ByCaller: SagaInput {
    /// The database that it runs in: a service of the app, `.provide(..)`.
    type Database: GuardedDatabase;
}

/// What is known of a local transaction, by whoever brings a check of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "four answers, each of which leads to something else")]
pub enum LocalState {
    /// It has committed: the message is sent.
    Commit,
    /// It was rolled back, and does not commit any more: the message is never seen.
    Rollback,
    /// Neither is certain: it is asked again.
    Unknown,
    /// This instance does not know it. It is asked again later, by whichever node has the message then.
    NotMine,
}

/// A local transaction without a guard row, with a check of the user's own: the two calls of RocketMQ's `TransactionListener`.
///
/// Nothing bars a local transaction that is late, so `execute_local` is called once at most, and a check's
/// [`Rollback`](LocalState::Rollback) is believed only after that call has returned in the process that made it. If that process is
/// lost in between, only a [`Commit`](LocalState::Commit) is believed; else the message waits for a person. With a database that
/// can have guard rows, [`LocalTransaction`] does not need one.
///
/// ```
/// use sagas::es_core::BoxError;
/// use sagas::half::{LocalState, TransactionListener};
/// use sagas::saga::{Cx, SagaInput};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Pay {
///     cents: i64,
/// }
/// impl SagaInput for Pay {}
///
/// struct Bank;
/// # impl Bank {
/// #     async fn pay(&self, _key: &str, _cents: i64) -> Result<bool, BoxError> { Ok(true) }
/// #     async fn find(&self, _key: &str) -> Result<Option<bool>, BoxError> { Ok(None) }
/// # }
/// impl TransactionListener<Pay> for Bank {
///     async fn execute_local(&self, cx: Cx<'_, Pay>) -> Result<LocalState, BoxError> {
///         // An error is `Unknown`.
///         Ok(if self.pay(cx.key, cx.input.cents).await? { LocalState::Commit } else { LocalState::Rollback })
///     }
///     async fn check_local(&self, cx: Cx<'_, Pay>) -> Result<LocalState, BoxError> {
///         Ok(match self.find(cx.key).await? {
///             Some(true) => LocalState::Commit,
///             Some(false) => LocalState::Rollback,
///             None => LocalState::NotMine,
///         })
///     }
/// }
/// ```
pub trait TransactionListener<In: SagaInput>: Send + Sync + 'static {
    /// Runs the local transaction. An error, a panic, and no answer within the limit are [`LocalState::Unknown`]; the last two
    /// are no return.
    ///
    /// # Cancellation
    ///
    /// Its future is dropped once it takes longer than its [limit](Self::limit), and when its node ends: it has not returned then.
    fn execute_local(&self, cx: Cx<'_, In>) -> impl Future<Output = Result<LocalState, BoxError>> + Send;

    /// What has become of it. Called after the immunity, with pauses that grow, until it says commit or rollback.
    fn check_local(&self, cx: Cx<'_, In>) -> impl Future<Output = Result<LocalState, BoxError>> + Send;

    /// How the message is appended, once it has committed.
    fn retry(&self) -> Retry {
        Retry::default()
    }

    /// How long one of the two calls may take: 30 seconds, unless it says otherwise.
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}
