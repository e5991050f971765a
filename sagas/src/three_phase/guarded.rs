//! A participant that remembers where it stands in a guard row of its own database.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::clock::{Clock, SystemClock};
use es_core::guard::{
    self, Confirming, Guard, GuardError, GuardKey, GuardRows as _, GuardedDatabase, Undoing,
};
use es_core::store::StoreError;
use es_core::{BoxError, Timestamp};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::decisions::Decisions;
use super::participant::{ThreePhase, Txn};
use super::standing::{Standing, Then, Told, asks_for};
use crate::data::Data;
use crate::saga::{SagaInput, StepError};
use crate::two_phase::Decision;

/// For how long another participant, or the journal, is waited for in a round, unless it is said.
const LIMIT: Duration = Duration::from_secs(5);
/// Rounds of a look that are under way at the same time.
const ROUNDS: usize = 16;

/// What a participant does, through transactions of its own database. `T` is the transaction of that: `GuardedTx` of
/// `es-postgres` or `es-sqlite`.
///
/// Each of these is called in the transaction that also says that it was done, so it need not remember that itself.
///
/// ```
/// use es_sqlite::GuardedTx;
/// use sagas::es_core::BoxError;
/// use sagas::saga::{OrRetry as _, SagaInput, StepError};
/// use sagas::three_phase::Holds;
/// use serde::{Deserialize, Serialize};
/// use uuid::Uuid;
///
/// #[derive(Serialize, Deserialize)]
/// struct Booking {
///     seats: i64,
/// }
/// impl SagaInput for Booking {}
///
/// /// A table `seats` with how many are `free`, and a table `held` with the transactions that hold some.
/// struct Seats;
///
/// impl Holds<GuardedTx> for Seats {
///     type Input = Booking;
///     type Held = i64;
///     async fn hold(&self, txn: Uuid, booking: &Booking, tx: &mut GuardedTx) -> Result<i64, StepError<String>> {
///         let take = sqlx::query("update seats set free = free - ?1 where free >= ?1").bind(booking.seats);
///         if take.execute(&mut **tx).await.or_retry()?.rows_affected() == 0 {
///             return Err(StepError::Refused("sold out".to_owned()));
///         }
///         let hold = sqlx::query("insert into held values (?)").bind(txn.to_string());
///         hold.execute(&mut **tx).await.or_retry()?;
///         Ok(booking.seats)
///     }
///     async fn commit(&self, txn: Uuid, _: i64, tx: &mut GuardedTx) -> Result<(), BoxError> {
///         sqlx::query("delete from held where txn = ?").bind(txn.to_string()).execute(&mut **tx).await?;
///         Ok(())
///     }
///     async fn release(&self, txn: Uuid, seats: i64, tx: &mut GuardedTx) -> Result<(), BoxError> {
///         sqlx::query("update seats set free = free + ?").bind(seats).execute(&mut **tx).await?;
///         sqlx::query("delete from held where txn = ?").bind(txn.to_string()).execute(&mut **tx).await?;
///         Ok(())
///     }
///     async fn held(&self, tx: &mut GuardedTx) -> Result<Vec<Uuid>, BoxError> {
///         let held: Vec<String> = sqlx::query_scalar("select txn from held").fetch_all(&mut **tx).await?;
///         Ok(held.iter().map(|txn| Uuid::try_parse(txn)).collect::<Result<_, _>>()?)
///     }
/// }
/// ```
pub trait Holds<T>: Send + Sync + 'static {
    /// What a transaction is about.
    type Input: SagaInput;
    /// What it holds once it has voted yes.
    type Held: Serialize + DeserializeOwned + Send;

    /// Checks, and holds what it needs: neither commit nor release can be refused after that. With
    /// [`StepError::Refused`] it votes no.
    fn hold(
        &self,
        txn: Uuid,
        input: &Self::Input,
        tx: &mut T,
    ) -> impl Future<Output = Result<Self::Held, StepError<String>>> + Send;

    /// Uses what it holds.
    fn commit(
        &self,
        txn: Uuid,
        held: Self::Held,
        tx: &mut T,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Lets go of what it holds.
    fn release(
        &self,
        txn: Uuid,
        held: Self::Held,
        tx: &mut T,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The transactions that it holds something for. What it writes when it holds has to say so: that is how one that
    /// nobody speaks of any more is found after a restart.
    fn held(&self, tx: &mut T) -> impl Future<Output = Result<Vec<Uuid>, BoxError>> + Send;
}

/// How a participant asks another one, by its name, where it stands.
///
/// ```
/// use sagas::es_core::BoxError;
/// use sagas::three_phase::{Peers, Standing};
/// use uuid::Uuid;
///
/// /// Participants that are servers.
/// struct Servers;
///
/// impl Servers {
///     /// Asks a server, which answers with its standing as JSON.
///     async fn get(&self, url: String) -> Result<String, BoxError> {
/// #       drop(url);
///         Ok(r#""pre-committed""#.to_owned())
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl Peers for Servers {
///     async fn standing(&self, participant: &str, txn: Uuid) -> Result<Standing, BoxError> {
///         let answer = self.get(format!("http://{participant}.internal/transactions/{txn}")).await?;
///         Ok(serde_json::from_str(&answer)?)
///     }
/// }
/// ```
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Where another participant stands.
    ///
    /// # Errors
    ///
    /// It cannot be reached. That says nothing, neither that it is pre-committed nor that it is not.
    async fn standing(&self, participant: &str, txn: Uuid) -> Result<Standing, BoxError>;
}

/// A participant with guard rows: what it does and where it stands are one commit of its database.
///
/// What comes to it over a wire, a service hands to [`can_commit`](Self::can_commit), [`pre_commit`](Self::pre_commit),
/// [`do_commit`](Self::do_commit), [`abort`](Self::abort) and [`standing`](Self::standing); and it calls
/// [`look`](Self::look) now and then, which asks for a decision about what has waited for too long. In the program of the
/// coordinator it is a [`ThreePhase`] participant itself.
///
/// | state | in its guard row |
/// | --- | --- |
/// | voted, pre-committed | `done`, with what it holds and who else takes part |
/// | committed | `confirmed` |
/// | aborted | `undone`; `tomb` if it had not voted, or has voted no |
pub struct GuardedParticipant<D, W>(Arc<Inner<D, W>>, Set);

/// What can be set of one.
#[derive(Clone)]
struct Set {
    clock: Arc<dyn Clock>,
    limit: Duration,
}

struct Inner<D, W> {
    name: String,
    call: String,
    database: D,
    work: W,
    peers: Arc<dyn Peers>,
    decisions: Arc<dyn Decisions>,
}

impl<D, W> Clone for GuardedParticipant<D, W> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1.clone())
    }
}

impl<D, W> fmt::Debug for GuardedParticipant<D, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuardedParticipant").field(&self.0.name).finish()
    }
}

/// What a guard row keeps of one that is in doubt. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Voted, or pre-committed.
    standing: Standing,
    participants: Vec<String>,
    held: Data,
    /// When it voted: its time-out counts from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Kept {
    fn read(output: &str) -> Result<Self, GuardError> {
        let corrupt = |error| StoreError::Corrupt { what: format!("what is held cannot be read: {error}") };
        Ok(serde_json::from_str(output).map_err(corrupt)?)
    }

    fn held<H: DeserializeOwned>(&self) -> Result<H, BoxError> {
        self.held.read().map_err(|error| format!("what is held cannot be read: {error}").into())
    }
}

/// Why a participant did not do what it was told, or does not know.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParticipantError {
    /// What it is told, or holds, cannot be where it stands: an operator has to look.
    #[error(
        "{participant:?} is {standing:?} in transaction {txn}, and holds something or is told otherwise: an operator has to look"
    )]
    Odd {
        /// Which participant.
        participant: String,
        /// The transaction.
        txn: Uuid,
        /// Where it stands.
        standing: Standing,
    },
    /// Its guard row cannot be used, or has no answer.
    #[error("its guard row has no answer")]
    Guard(#[from] GuardError),
    /// What it does has failed: it can be told again.
    #[error("{0}")]
    Work(#[source] BoxError),
    /// The decision cannot be asked for: it stays in doubt, and can ask again.
    #[error("the decision cannot be asked for: it stays in doubt")]
    Undecided(#[source] BoxError),
}

impl From<StoreError> for ParticipantError {
    fn from(error: StoreError) -> Self {
        Self::Guard(error.into())
    }
}

impl<D: GuardedDatabase, W: Holds<D::Tx>> GuardedParticipant<D, W> {
    /// A participant of this name. `peers`: how it asks the others; `decisions`: where it is decided.
    ///
    /// All who coordinate transactions that it takes part in decide in one journal, the one of `decisions`: it asks there about
    /// each of them. If another store coordinates some, or a copy of that store does, one of them may be committed here and
    /// aborted elsewhere. Give each store participants of its own, with names of their own.
    ///
    /// The name is part of where it remembers what it has voted: under another one it knows of none of its votes.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        database: D,
        work: W,
        peers: Arc<dyn Peers>,
        decisions: Arc<dyn Decisions>,
    ) -> Self {
        let name = name.into();
        let call = format!("three-phase/{name}");
        let set = Set { clock: Arc::new(SystemClock), limit: LIMIT };
        Self(Arc::new(Inner { name, call, database, work, peers, decisions }), set)
    }

    /// The same with another clock than that of the machine: the one that [`look`](Self::look) is told the time of.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self(self.0, Set { clock, ..self.1 })
    }

    /// For how long another participant, or the journal, is waited for in a round: 5 seconds, unless this says otherwise.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self(self.0, Set { limit, ..self.1 })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether its database has the tables for guard rows: for the start of a service.
    ///
    /// # Errors
    ///
    /// [`StoreError`], which says what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        guard::check(&self.0.database).await
    }

    /// With no fingerprint of what it is asked about: a transaction is about one thing, which two programs may write differently.
    fn guard(&self, txn: Uuid) -> Result<Guard<'_, D>, GuardError> {
        Ok(Guard::new(&self.0.database, self.key(txn)?, 0))
    }

    fn key(&self, txn: Uuid) -> Result<GuardKey, GuardError> {
        GuardKey::new(txn, self.0.call.clone())
    }

    /// Votes. One that has voted before gives the same vote; one that has aborted says no.
    ///
    /// # Errors
    ///
    /// [`StepError::Refused`]: it votes no, for good. [`StepError::Retry`]: it has not voted, or nobody heard: ask again.
    pub async fn can_commit(
        &self,
        txn: Uuid,
        input: &W::Input,
        participants: &[String],
    ) -> Result<(), StepError<String>> {
        let again = |error: ParticipantError| StepError::Retry(error.into());
        let guard = self.guard(txn).map_err(|error| again(error.into()))?;
        let mut tx = match guard.forward().await {
            Ok(guard::Guarded::Run(tx)) => tx,
            Ok(guard::Guarded::Done(_)) => return Ok(()),
            Ok(guard::Guarded::Refused(why)) => return Err(StepError::Refused(why)),
            Err(GuardError::Hanging) => {
                return Err(StepError::Refused("it has aborted before it was asked".to_owned()));
            }
            Err(error) => return Err(again(error.into())),
        };
        let kept = match self.0.work.hold(txn, input, &mut tx).await {
            Ok(held) => Data::of(&held).map(|held| {
                let (participants, since) = (participants.to_vec(), Some(self.1.clock.now()));
                Kept { standing: Standing::Voted, participants, held, since }
            }),
            Err(StepError::Refused(why)) => {
                return match guard.refused(tx, why).await {
                    Ok(Err(why)) => Err(StepError::Refused(why)),
                    Ok(Ok(_)) => Ok(()),
                    Err(error) => Err(again(error.into())),
                };
            }
            Err(StepError::Retry(error)) => Err(error),
        };
        match kept.and_then(|kept| Ok(serde_json::to_string(&kept)?)) {
            Ok(output) => guard.done(tx, output).await.map_err(|error| again(error.into())),
            Err(error) => {
                // What it has failed with counts; a transaction that cannot be rolled back ends with its connection.
                drop(tx.rollback().await);
                Err(StepError::Retry(error))
            }
        }
    }

    /// Takes note that all have voted yes. `Ok(false)`: it has aborted, or its vote is lost: it is not to be committed.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`]: it can be told again.
    pub async fn pre_commit(&self, txn: Uuid) -> Result<bool, ParticipantError> {
        let key = self.key(txn)?;
        let mut tx = self.0.database.begin().await?;
        let (standing, kept) = match self.find(&key, &mut tx).await {
            // It is not known what it holds.
            Err(ParticipantError::Guard(GuardError::Expired)) => (Standing::Unvoted, None),
            found => found?,
        };
        match (standing.then(Told::PreCommit), kept) {
            (Then::Goes(standing), Some(kept)) => {
                let output = serde_json::to_string(&Kept { standing, ..kept });
                let output = output.map_err(|error| ParticipantError::Work(error.into()))?;
                tx.change(&key, &guard::Standing::Done(output)).await?;
                tx.commit().await?;
                Ok(true)
            }
            (then, _) => {
                tx.rollback().await?;
                match then {
                    Then::Stays => Ok(true),
                    Then::HasAborted => Ok(false),
                    Then::Goes(_) | Then::Odd => Err(self.odd(txn, standing)),
                }
            }
        }
    }

    /// Commits: that is decided.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`]: it can be told again; one that has not voted, or has aborted, is [odd](ParticipantError::Odd).
    pub async fn do_commit(&self, txn: Uuid) -> Result<(), ParticipantError> {
        let guard = self.guard(txn)?;
        let (mut tx, output) = match guard.confirm().await {
            Ok(Confirming::Run(tx, output)) => (tx, output),
            Ok(Confirming::Nothing) => return Ok(()),
            Err(GuardError::Hanging) => return Err(self.odd(txn, Standing::Aborted)),
            Err(GuardError::NoTrace) => return Err(self.odd(txn, Standing::Unvoted)),
            Err(error) => return Err(error.into()),
        };
        let kept = Kept::read(&output)?;
        let done = match kept.held() {
            Ok(held) => self.0.work.commit(txn, held, &mut tx).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => Ok(guard.confirmed(tx, output).await?),
            Err(error) => {
                drop(tx.rollback().await);
                Err(ParticipantError::Work(error))
            }
        }
    }

    /// Aborts: that is decided. One that has not voted never votes yes after that.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`]: it can be told again; one that has committed is [odd](ParticipantError::Odd).
    pub async fn abort(&self, txn: Uuid) -> Result<(), ParticipantError> {
        let guard = self.guard(txn)?;
        let (mut tx, output) = match guard.undo(false).await {
            Ok(Undoing::Run(tx, output)) => (tx, output),
            Ok(Undoing::Nothing) => return Ok(()),
            Err(GuardError::Confirmed) => return Err(self.odd(txn, Standing::Committed)),
            Err(error) => return Err(error.into()),
        };
        let done = match output.as_deref().map(Kept::read).transpose()?.map(|kept| kept.held()) {
            Some(Ok(held)) => self.0.work.release(txn, held, &mut tx).await,
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        match done {
            Ok(()) => Ok(guard.undone(tx).await?),
            Err(error) => {
                drop(tx.rollback().await);
                Err(ParticipantError::Work(error))
            }
        }
    }

    /// Where it stands.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::Guard`]: the database cannot be asked, or its row may have been forgotten.
    pub async fn standing(&self, txn: Uuid) -> Result<Standing, ParticipantError> {
        let mut tx = self.0.database.begin().await?;
        let (standing, _) = self.find(&self.key(txn)?, &mut tx).await?;
        tx.rollback().await?;
        Ok(standing)
    }

    async fn find(
        &self,
        key: &GuardKey,
        tx: &mut D::Tx,
    ) -> Result<(Standing, Option<Kept>), ParticipantError> {
        let Some(row) = tx.find(key).await? else {
            // In a statement behind that one: if the row was forgotten before it, the floor is raised by now.
            let is_forgotten = key.run() < tx.floor().await?;
            return if is_forgotten {
                Err(GuardError::Expired.into())
            } else {
                Ok((Standing::Unvoted, None))
            };
        };
        Ok(match row.standing {
            guard::Standing::Done(output) => {
                let kept = Kept::read(&output)?;
                (kept.standing, Some(kept))
            }
            guard::Standing::Confirmed(_) => (Standing::Committed, None),
            guard::Standing::Undone | guard::Standing::Tomb(_) => (Standing::Aborted, None),
            guard::Standing::Intent => return Err(GuardError::InProgress.into()),
        })
    }

    fn odd(&self, txn: Uuid, standing: Standing) -> ParticipantError {
        ParticipantError::Odd { participant: self.0.name.clone(), txn, standing }
    }

    /// The termination round, of a transaction that it has waited for: it asks the others where they stand, asks for the
    /// decision that follows, and goes by the one that stands, whoever has inserted it. `None`: it is in no doubt.
    ///
    /// It never decides by itself: without an answer from where transactions are decided it stays as it is. Whoever does not
    /// answer within its [`limit`](Self::limit) is not reached.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`]: it may stay in doubt, and can be asked again.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves open whether it has gone by a decision: ask again.
    pub async fn terminate(&self, txn: Uuid) -> Result<Option<Decision>, ParticipantError> {
        let mut tx = self.0.database.begin().await?;
        let (own, kept) = self.find(&self.key(txn)?, &mut tx).await?;
        // Nothing is held while others are asked.
        tx.rollback().await?;
        let Some(kept) = kept else { return Ok(None) };
        let others = kept.participants.iter().filter(|name| **name != self.0.name);
        let heard = join_all(others.map(|name| self.standing_of(name, txn))).await;
        let asked = asks_for(own, heard.into_iter().flatten());
        let stands = tokio::time::timeout(self.1.limit, self.0.decisions.decide(txn, asked)).await;
        let stands = stands.unwrap_or_else(|elapsed| Err(elapsed.into()));
        let stands = stands.map_err(ParticipantError::Undecided)?;
        let told = match stands {
            Decision::Commit => Told::DoCommit,
            Decision::Abort => Told::Abort,
        };
        self.tell(txn, told).await?;
        Ok(Some(stands))
    }

    /// Whether it goes by what it is told: it does, or says that it has aborted.
    pub(super) async fn tell(&self, txn: Uuid, told: Told) -> Result<bool, ParticipantError> {
        match told {
            Told::PreCommit => self.pre_commit(txn).await,
            Told::DoCommit => self.do_commit(txn).await.map(|()| true),
            Told::Abort => self.abort(txn).await.map(|()| true),
        }
    }

    /// Where another one stands, if it says so in time.
    async fn standing_of(&self, name: &str, txn: Uuid) -> Option<Standing> {
        let asked = self.0.peers.standing(name, txn);
        tokio::time::timeout(self.1.limit, asked).await.ok()?.ok()
    }

    /// Does so for each transaction that it holds something for and that it has waited for so long, since its vote: its
    /// time-out. One that cannot be ended keeps no other, nor does one that does not answer. What came of each, in no order.
    ///
    /// What it holds without a vote is [odd](ParticipantError::Odd) each time: nobody ever tells it what becomes of that. It has
    /// another name than it had, say, or its guard rows were restored and what it holds was not.
    ///
    /// A service calls it every few seconds. `waits` is longer than a transaction takes; were it nothing at all, none would
    /// be mixed, and many would be aborted.
    ///
    /// # Errors
    ///
    /// [`ParticipantError`] if it cannot be found out what it holds.
    ///
    /// # Cancellation
    ///
    /// As of [`terminate`](Self::terminate).
    pub async fn look(
        &self,
        now: Timestamp,
        waits: Duration,
    ) -> Result<Vec<(Uuid, Result<Option<Decision>, ParticipantError>)>, ParticipantError> {
        let mut tx = self.0.database.begin().await?;
        let held = self.0.work.held(&mut tx).await;
        tx.rollback().await?;
        let mut rounds = Vec::new();
        for txn in held.map_err(ParticipantError::Work)? {
            rounds.push(self.looks_at(txn, now, waits));
        }
        let came = stream::iter(rounds).buffer_unordered(ROUNDS);
        Ok(came.filter_map(async |came| came).collect().await)
    }

    /// What came of one that it holds something for, if it has waited for that long.
    async fn looks_at(
        &self,
        txn: Uuid,
        now: Timestamp,
        waits: Duration,
    ) -> Option<(Uuid, Result<Option<Decision>, ParticipantError>)> {
        let is_due = |since: Timestamp| since.saturating_add(waits).is_ok_and(|due| due <= now);
        // It has not voted before it was begun.
        if begun(txn).is_some_and(|begun| !is_due(begun)) {
            return None;
        }
        let came = match self.voted(txn).await {
            Ok(Some(kept)) if kept.since.is_some_and(|since| !is_due(since)) => return None,
            Ok(Some(_)) => self.terminate(txn).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        Some((txn, came))
    }

    /// What is kept of one that it holds something for, if it is in doubt.
    async fn voted(&self, txn: Uuid) -> Result<Option<Kept>, ParticipantError> {
        let mut tx = self.0.database.begin().await?;
        let (standing, kept) = self.find(&self.key(txn)?, &mut tx).await?;
        tx.rollback().await?;
        // A vote and what is held are one commit, and the row of a vote stays: whoever holds something has one.
        if standing == Standing::Unvoted { Err(self.odd(txn, standing)) } else { Ok(kept) }
    }
}

/// When a transaction was begun, by its id.
fn begun(txn: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = txn.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

impl<D: GuardedDatabase, W: Holds<D::Tx>> ThreePhase<W::Input> for GuardedParticipant<D, W> {
    fn name(&self) -> &str {
        self.name()
    }

    async fn can_commit(&self, txn: Txn<'_, W::Input>) -> Result<(), StepError<String>> {
        self.can_commit(txn.id, txn.input, txn.participants).await
    }

    async fn pre_commit(&self, txn: Txn<'_, W::Input>) -> Result<(), StepError<String>> {
        match self.pre_commit(txn.id).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StepError::Refused("it has aborted, or its vote is lost".to_owned())),
            Err(error) => Err(StepError::Retry(error.into())),
        }
    }

    async fn do_commit(&self, txn: Txn<'_, W::Input>) -> Result<(), BoxError> {
        Ok(self.do_commit(txn.id).await?)
    }

    async fn abort(&self, txn: Txn<'_, W::Input>) -> Result<(), BoxError> {
        Ok(self.abort(txn.id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        what_is_kept_of_one_that_is_in_doubt: Kept = ["three-phase-kept", "three-phase-kept-since"];
    }

    #[test]
    fn an_id_says_when_its_transaction_was_begun() {
        let txn = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[7; 10]).into_uuid();
        assert_eq!(begun(txn).map(|at| at.as_millisecond()), Some(1_700_000_000_123));
        assert_eq!(begun(Uuid::nil()), None);
    }
}
