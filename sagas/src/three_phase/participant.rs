//! What takes part, as its coordinator calls it.

use std::time::Duration;

use es_core::BoxError;
use uuid::Uuid;

use crate::saga::{Retry, SagaInput, StepError};

/// A transaction that a participant is called for.
#[derive(Debug)]
#[non_exhaustive]
pub struct Txn<'a, In> {
    /// Its id: a UUIDv7, never that of another one. What a participant does under it, it does once.
    pub id: Uuid,
    /// The key that it was started under.
    pub key: &'a str,
    /// What it was started with.
    pub input: &'a In,
    /// The names of all who take part: a participant that waits for too long asks the others.
    pub participants: &'a [String],
}

impl<'a, In> Txn<'a, In> {
    pub(crate) const fn new(id: Uuid, key: &'a str, input: &'a In, participants: &'a [String]) -> Self {
        Self { id, key, input, participants }
    }
}

impl<In> Clone for Txn<'_, In> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<In> Copy for Txn<'_, In> {}

/// A participant in three-phase commits with this input, as their coordinator calls it: in the same program, or elsewhere.
///
/// Each of the four is called again until it has an answer, also by another node, and a call may arrive long after whoever
/// made it is gone. So each acts once under [`Txn::id`], and the participant remembers where it stands:
/// [`GuardedParticipant`](super::GuardedParticipant) does, in a database of its own.
///
/// | it | is told | and then |
/// | --- | --- | --- |
/// | has not voted | can-commit | votes; with yes it holds all that it needs, and cannot let go of it by itself any more |
/// | has voted yes | pre-commit | knows that all have voted yes |
/// | has voted yes, or is pre-committed | do-commit | uses what it holds |
/// | has not committed | abort | lets go of what it holds; one that has not voted never votes yes after that |
///
/// ```
/// use sagas::es_core::BoxError;
/// use sagas::saga::{SagaInput, StepError};
/// use sagas::three_phase::{ThreePhase, Txn};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Transfer {
///     cents: u64,
/// }
/// impl SagaInput for Transfer {}
///
/// /// A bank that is called over a wire.
/// struct Bank {
///     name: String,
/// }
///
/// impl Bank {
///     /// Sends a request: the verb, the id of the transaction, and what it is about.
///     async fn send(&self, verb: &str, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
/// #       drop((verb, txn.id, txn.participants));
///         Ok(())
///     }
/// }
///
/// impl ThreePhase<Transfer> for Bank {
///     fn name(&self) -> &str {
///         &self.name
///     }
///     async fn can_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
///         self.send("can-commit", txn).await.map_err(StepError::Retry)
///     }
///     async fn pre_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
///         self.send("pre-commit", txn).await.map_err(StepError::Retry)
///     }
///     async fn do_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
///         self.send("do-commit", txn).await
///     }
///     async fn abort(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
///         self.send("abort", txn).await
///     }
/// }
/// ```
pub trait ThreePhase<In: SagaInput>: Send + Sync + 'static {
    /// Its stored name, which no other participant of the transaction has.
    fn name(&self) -> &str;

    /// Asks for its vote. `Ok` is yes: it holds what it needs, so that neither commit nor abort can be refused.
    /// [`StepError::Refused`] is no, for good; anything else says nothing, and it is asked again.
    fn can_commit(&self, txn: Txn<'_, In>) -> impl Future<Output = Result<(), StepError<String>>> + Send;

    /// Tells it that all have voted yes. [`StepError::Refused`]: it has aborted, which it does only by a decision, or it has no
    /// vote of it any more. Say that, and not that it failed: what only fails is committed if another one is pre-committed.
    fn pre_commit(&self, txn: Txn<'_, In>) -> impl Future<Output = Result<(), StepError<String>>> + Send;

    /// Tells it to commit. That is decided, and cannot be refused.
    fn do_commit(&self, txn: Txn<'_, In>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Tells it to abort. That is decided, and cannot be refused. It may come before the question for its vote.
    fn abort(&self, txn: Txn<'_, In>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// How it is called: as a step before the pivot of a saga until it is decided, and after that as what has to succeed.
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
