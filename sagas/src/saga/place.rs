//! Where steps live, and how each place is entered and left.

use std::any::TypeId;
use std::marker::PhantomData;

use es_core::BoxError;
use es_core::services::Services;
use es_core::store::Transaction;
use uuid::Uuid;

use super::step::{StepError, Unknown};
use crate::data::Data;
use crate::transaction::{Answer, Staging};

/// Where a step lives: it decides what the step is handed, and what is known when no answer comes.
pub trait Place: Send + Sync + 'static {
    /// What the step is handed.
    type At: Send;

    /// What is done with a step there that may have run, unless it says otherwise.
    const UNKNOWN: Unknown = Unknown::Settle;

    /// Whether a refusal of a step there is one of all its calls, unless it says otherwise.
    const REFUSES_FOR_GOOD: bool = false;
}

/// In the database of the journal: what the step does through the transaction and the record of it are one commit. It is
/// the `Tx` of the backend that the app runs on.
#[derive(Debug)]
pub struct Journal<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Place for Journal<T> {
    type At = T;
}

/// In the database of the journal, without a transaction of it: what the step leaves in the [`Staging`] and the record of it
/// are one commit, which shares its sync to the disk with those of other runs. Steps there that follow each other share one
/// commit: as long as the next one is such a step too, it runs on what those before it have staged. Those that a saga begins
/// with share the commit of its start, for which they are waited for 100 ms at most.
///
/// A step that fails leaves nothing of what it has staged. If by itself it is refused because another writer was faster, it runs
/// again after a brief pause; only the ninth time in a row counts as a try that failed.
///
/// **Such a step has no effect but what it stages.** If the commit is refused, since another writer was faster with a stream
/// or a row, say, or the node is gone before it, then all that was staged since the last commit of the run is thrown away,
/// and those steps run again: what they did otherwise would be done twice, or though nothing was recorded. A call of a
/// service belongs to [`Remote`], a statement of SQL to [`Journal`].
///
/// ```
/// use std::convert::Infallible;
///
/// use sagas::es_core::store::Table;
/// use sagas::es_core::{App, BoxError, memory::MemoryBackend};
/// use sagas::saga::{Cx, OrRetry, Outcome, Ran, Saga, SagaApp, SagaInput, Sagas, Staging, StepError, step};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Order { seats: u32 }
/// # impl SagaInput for Order {}
///
/// fn free() -> Table<u32> {
///     Table::new("free").expect("a name that is not reserved")
/// }
///
/// /// Takes seats, as a row says how many are left.
/// struct Seats;
/// #[step(name = "seats", undo = free_again)]
/// impl Seats {
///     async fn take(&self, cx: Cx<'_, Order>, at: &mut Staging) -> Result<u32, StepError<String>> {
///         let row = at.row(&free(), "hall").await.or_retry()?.ok_or(StepError::Refused("no hall".to_owned()))?;
///         let left = row.value.checked_sub(cx.input.seats).ok_or(StepError::Refused("sold out".to_owned()))?;
///         at.write(free().put(&row.with(left)).or_retry()?).or_retry()?;
///         Ok(cx.input.seats)
///     }
///     async fn free_again(&self, _: Cx<'_, Order>, ran: Ran<u32>, at: &mut Staging) -> Result<(), BoxError> {
///         // What is staged has run, or it has not.
///         if let (Ran::Yes(seats), Some(row)) = (ran, at.row(&free(), "hall").await?) {
///             let left = row.value + seats;
///             at.write(free().put(&row.with(left))?)?;
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # use sagas::es_core::store::write_rows;
/// let backend = MemoryBackend::new();
/// let saga = Saga::new("seats", 1).step(Seats).build();
/// let app = App::on(backend.clone()).saga(saga).start().await?;
/// # let _won = write_rows(&backend, vec![free().insert("hall", 3)?]).await?;
/// assert_eq!(app.run_saga("ada", Order { seats: 2 }).await?, Outcome::Completed);
/// assert_eq!(free().get(&backend, "hall").await?.map(|row| row.value), Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a place without a value")]
pub struct Staged;

impl Place for Staged {
    type At = Staging;
}

/// Elsewhere, by a call. Without an answer it may have run; it is called again under the same key.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a place without a value")]
pub struct Remote;

impl Place for Remote {
    type At = Call;
}

/// A call to somewhere else.
#[derive(Debug)]
pub struct Call {
    key: String,
    does: Does,
    /// What it is made with, as a hash: of what the journal has, which is the same each time.
    fingerprint: u128,
}

/// What a call does.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "forward, back, or for good")]
pub enum Does {
    /// It runs a step, or reserves a branch.
    Run,
    /// It undoes that.
    Undo,
    /// It confirms what is reserved.
    Confirm,
}

impl Does {
    /// What its key has behind that of the step.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Run => "",
            Self::Undo => "/undo",
            Self::Confirm => "/confirm",
        }
    }
}

impl Call {
    /// The key of the call: the same each time, and never that of another one. Whoever is called is to act once under it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key under which the step is called: in an undo, the key of what is to be undone, or never to act again; in a
    /// confirmation, of what is reserved.
    #[must_use]
    pub fn step_key(&self) -> &str {
        self.key.strip_suffix(self.does.suffix()).unwrap_or(&self.key)
    }

    pub(crate) const fn fingerprint(&self) -> u128 {
        self.fingerprint
    }
}

/// What a step answers, as data.
#[doc(hidden)]
pub type Told = Result<Data, StepError<String>>;

impl From<Told> for Answer {
    fn from(told: Told) -> Self {
        match told {
            Ok(output) => Self::Done(output),
            Err(StepError::Refused(why)) => Self::Refused(why),
            Err(StepError::Retry(error)) => Self::Failed(error),
        }
    }
}

/// A call to somewhere else, before it is known to which place.
#[doc(hidden)]
#[derive(Debug)]
pub struct Outside<'a> {
    pub(crate) run: Uuid,
    /// Which step of which saga.
    pub(crate) name: String,
    /// What it is called with, as a hash.
    pub(crate) fingerprint: u128,
    pub(crate) does: Does,
    pub(crate) services: &'a Services,
}

/// What is handed to a step, before it is known which place it is in.
#[doc(hidden)]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a transaction, what is staged, or elsewhere")]
pub enum At<'a, T> {
    Tx(&'a mut T),
    Staged(&'a mut Staging),
    Outside(Outside<'a>),
}

/// Being at a place, for one call.
#[doc(hidden)]
pub trait Visit<A>: Send {
    /// What the step is handed.
    fn at(&mut self) -> &mut A;

    /// What an undo is told of the step, where the journal says this.
    fn ran(&self, heard: Option<Data>) -> Option<Data> {
        heard
    }

    /// Leaves with an answer. What is told then.
    fn leave(self, told: Told) -> impl Future<Output = Told> + Send;
}

/// A place that a saga with a journal in `T` can have steps in.
#[diagnostic::on_unimplemented(
    message = "a step at `{Self}` cannot run in a saga whose journal is written through `{T}`",
    note = "the second parameter of the saga's type is the `Tx` of the backend that the app runs on"
)]
pub trait PlaceOn<T>: Place {
    /// Whether it is the database of the journal.
    const LOCAL: bool;

    /// Whether what is done there is only staged.
    #[doc(hidden)]
    const STAGED: bool = false;

    /// Which database it is, if calls act once there by guard rows.
    #[doc(hidden)]
    #[must_use]
    fn guards() -> Option<TypeId> {
        None
    }

    #[doc(hidden)]
    type Visit<'a>: Visit<Self::At>
    where
        T: 'a;

    /// Enters it; or what the call came to already. `heard`: for an undo, whether the step is known to have run.
    #[doc(hidden)]
    fn enter<'a>(at: At<'a, T>, heard: bool) -> impl Future<Output = Result<Self::Visit<'a>, Told>> + Send
    where
        T: 'a;

    /// Whether it is there, when an app starts.
    #[doc(hidden)]
    fn check(services: &Services) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<A: Send> Visit<A> for &mut A {
    fn at(&mut self) -> &mut A {
        self
    }

    async fn leave(self, told: Told) -> Told {
        told
    }
}

impl Visit<Self> for Call {
    fn at(&mut self) -> &mut Self {
        self
    }

    async fn leave(self, told: Told) -> Told {
        told
    }
}

impl<T: Transaction> PlaceOn<T> for Journal<T> {
    const LOCAL: bool = true;

    type Visit<'a>
        = &'a mut T
    where
        T: 'a;

    async fn enter<'a>(at: At<'a, T>, _: bool) -> Result<&'a mut T, Told>
    where
        T: 'a,
    {
        match at {
            At::Tx(tx) => Ok(tx),
            At::Staged(_) | At::Outside(_) => Err(elsewhere()),
        }
    }

    async fn check(_: &Services) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<T: Transaction> PlaceOn<T> for Staged {
    const LOCAL: bool = true;
    const STAGED: bool = true;

    type Visit<'a>
        = &'a mut Staging
    where
        T: 'a;

    async fn enter<'a>(at: At<'a, T>, _: bool) -> Result<&'a mut Staging, Told>
    where
        T: 'a,
    {
        match at {
            At::Staged(staging) => Ok(staging),
            At::Tx(_) | At::Outside(_) => Err(elsewhere()),
        }
    }

    async fn check(_: &Services) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<T: Transaction> PlaceOn<T> for Remote {
    const LOCAL: bool = false;

    type Visit<'a>
        = Call
    where
        T: 'a;

    async fn enter<'a>(at: At<'a, T>, _: bool) -> Result<Call, Told>
    where
        T: 'a,
    {
        let At::Outside(outside) = at else { return Err(elsewhere()) };
        let Outside { run, name, fingerprint, does, .. } = outside;
        let (saga, step) = name.split_once('/').unwrap_or((&name, ""));
        let key = format!("{saga}/{}/{step}{}", run.simple(), does.suffix());
        Ok(Call { key, does, fingerprint })
    }

    async fn check(_: &Services) -> Result<(), BoxError> {
        Ok(())
    }
}

/// It was called where it does not live.
pub(super) fn elsewhere() -> Told {
    Err(StepError::Retry("it was called where it does not live: a mistake of the engine".into()))
}
