//! Steps that take locks: what a run says is its own until it ends.

use std::convert::Infallible;
use std::fmt;

use es_core::BoxError;

use super::signal::Awaited;
use super::step::{Cx, Needs, Outputs, Ran, Retry, SagaInput, Step, StepError, Undo};
use crate::lock::{LockRefused, Resource};
use crate::transaction::{OwnFault, Site};

/// Locks that a run of a saga with the input `In` takes, by `.lock(..)`, before its pivot: other runs that want the same wait
/// until it has ended. Sagas have no isolation; a lock is what they have in its place, between those that ask for it. Nobody
/// else is kept from anything.
///
/// A lock has a name, which is the same for all sagas of a store: `seat/42`. It is [exclusive](Resource::exclusive), or
/// [shared](Resource::shared) with others that have it shared. Who comes first is next: one that wants it exclusive is not
/// overtaken by those that would share it.
///
/// A run has it from the commit of this step on, and until its own end: completed, undone with all undos, or abandoned. While
/// it waits, its deadline and a cancellation count as in any step; then it waits no more. What one step takes it takes together.
/// Runs that wait for each other's locks are found: the youngest of them is cancelled. A run that has it shared cannot have it
/// exclusive later ([`LockRefused::Upgrade`]), for two of those would wait for each other. A saga within another one has locks
/// of its own, which are not those of the saga around it.
///
/// A later step that is to run only under the lock says so: `Needs = (Lock<Seat>,)`.
///
/// ```
/// # use std::convert::Infallible;
/// # use sagas::es_core::memory::{MemoryBackend, Tx};
/// # use sagas::es_core::{App, BoxError};
/// # use sagas::saga::{Cx, Lock, Outcome, Resource, Saga, SagaApp, SagaInput, SagaLock, Sagas, StepError, step};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct Sale {
///     seat: u32,
/// }
/// impl SagaInput for Sale {}
///
/// struct Seat;
/// impl SagaLock<Sale> for Seat {
///     const NAME: &'static str = "seat";
///     type Needs = ();
///     fn resources(&self, cx: Cx<'_, Sale>) -> Vec<Resource> {
///         vec![Resource::exclusive(format!("seat/{}", cx.input.seat))]
///     }
/// }
///
/// struct Sell;
/// #[step(name = "sell")]
/// impl Sell {
///     // No other run of any saga has this seat now.
///     async fn sell(&self, cx: Cx<'_, Sale, (Lock<Seat>,)>, tx: &mut Tx) -> Result<(), StepError<String>> {
///         tx.put("sold", cx.key, cx.input.seat.to_string());
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let sale = Saga::new("sale", 1).lock(Seat).pivot(Sell).build();
/// let app = App::on(MemoryBackend::new()).saga(sale).start().await?;
/// assert_eq!(app.run_saga("order-1", Sale { seat: 42 }).await?, Outcome::Completed);
/// // Nobody has it any more.
/// assert!(app.saga_locks()?.lock("seat/42").await?.held.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// Behind the pivot there are no locks:
///
/// ```compile_fail,E0277
/// # use sagas::es_core::memory::Tx;
/// # use sagas::saga::{Cx, Resource, Saga, SagaInput, SagaLock, StepError, step};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Sale {}
/// # impl SagaInput for Sale {}
/// # struct Seat;
/// # impl SagaLock<Sale> for Seat {
/// #     const NAME: &'static str = "seat";
/// #     type Needs = ();
/// #     fn resources(&self, _: Cx<'_, Sale>) -> Vec<Resource> { Vec::new() }
/// # }
/// # struct Sell;
/// # #[step(name = "sell")]
/// # impl Sell {
/// #     async fn sell(&self, _: Cx<'_, Sale>, _: &mut Tx) -> Result<(), StepError<String>> { Ok(()) }
/// # }
/// let sale: Saga<Sale, Tx> = Saga::new("sale", 1).pivot(Sell).lock(Seat).build();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` takes no locks in sagas with the input `{In}`",
    note = "write `impl SagaLock<{In}> for {Self}`: it says what is locked"
)]
pub trait SagaLock<In: SagaInput>: Send + Sync + 'static {
    /// The stored name of the step.
    const NAME: &'static str;
    /// Earlier steps whose outputs it reads, as a tuple of at most four.
    type Needs: Needs<In>;

    /// What is locked, and how. It is a function of what it is given, and of nothing else. One that is named twice is taken
    /// once, exclusive if it is so in one of both.
    fn resources(&self, cx: Cx<'_, In, Self::Needs>) -> Vec<Resource>;

    /// How it is tried, if [`resources`](Self::resources) panics, or names what cannot be locked.
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// A step that takes locks, for `Needs` of later steps: see [`SagaLock`]. `.lock(..)` makes it.
pub struct Lock<L>(pub(super) L);

impl<L> fmt::Debug for Lock<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

impl<In: SagaInput, L: SagaLock<In>> Step<In> for Lock<L> {
    const NAME: &'static str = L::NAME;
    type Needs = L::Needs;
    type Output = ();
    type Refusal = LockRefused;
    type Place = Awaited;

    async fn run(&self, _: Cx<'_, In, L::Needs>, at: &mut Infallible) -> Result<(), StepError<LockRefused>> {
        match *at {}
    }

    fn retry(&self) -> Retry {
        self.0.retry()
    }

    #[expect(private_interfaces, reason = "only the engine asks")]
    fn locks(&self) -> Option<&dyn Claims<In>> {
        Some(self)
    }
}

impl<In: SagaInput, L: SagaLock<In>> Undo<In> for Lock<L> {
    async fn undo(&self, _: Cx<'_, In, L::Needs>, _: Ran<()>, at: &mut Infallible) -> Result<(), BoxError> {
        match *at {}
    }
}

/// A step that takes locks, as the engine knows it.
pub(super) trait Claims<In>: Send + Sync {
    /// Which ones.
    fn wanted(&self, input: &In, outputs: &Outputs, site: &Site) -> Result<Vec<Resource>, BoxError>;
}

impl<In: SagaInput, L: SagaLock<In>> Claims<In> for Lock<L> {
    fn wanted(&self, input: &In, outputs: &Outputs, site: &Site) -> Result<Vec<Resource>, BoxError> {
        let needs = L::Needs::read(outputs).map_err(OwnFault::boxed)?;
        Ok(self.0.resources(Cx::new(input, needs, &site.key, site.run, &site.sender)))
    }
}
