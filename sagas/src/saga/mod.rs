//! Orchestrated sagas: typed steps, each with an undo, a pivot, and steps after it that cannot refuse.
//!
//! A saga runs its steps one after the other, or some of them together. If one says no before the pivot has run, what had
//! run is undone, in the opposite order. After the pivot it only goes forward. The idea is that of Garcia-Molina and Salem
//! ("Sagas", 1987); that steps before the pivot can be undone and those behind it be tried until they succeed is from
//! Mehrotra et al. ("A transaction model for multidatabase systems", 1992).
//!
//! A step lives in the database of the journal ([`Journal`]): what it does and the record of it are one commit, so it runs
//! exactly once. Without SQL it is faster there ([`Staged`]): it leaves events, rows and messages for a commit that it shares with
//! the steps next to it. Or in another database ([`Guarded`]): what it does and a row that says so are one commit there, so it acts
//! once. Or elsewhere ([`Remote`]): it is called at least once, under a key that is always the same, and an answer that is
//! lost means that it may have run. Over HTTP, with the feature `http`, `Call::send` and `Call::send_or_refuse` send the key along.
//! Or nowhere: a [`Signal`] is a step that waits for what others send, a [`Child`] is a saga of its own, and a
//! [lock](SagaLock) says what is this run's own until it ends.
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! use sagas::es_core::memory::{MemoryBackend, Tx};
//! use sagas::es_core::{App, BoxError};
//! use sagas::saga::{Call, Cx, Outcome, Ran, Saga, SagaApp, SagaInput, Sagas, StepError, step};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     item: String,
//!     cents: u64,
//! }
//! impl SagaInput for Order {}
//!
//! /// A row in the database of the journal.
//! struct Reserve;
//! #[step(name = "reserve", undo = release)]
//! impl Reserve {
//!     async fn reserve(&self, cx: Cx<'_, Order>, tx: &mut Tx) -> Result<String, StepError<Infallible>> {
//!         tx.put("reserved", cx.key, cx.input.item.clone());
//!         Ok(cx.input.item.clone())
//!     }
//!     async fn release(&self, cx: Cx<'_, Order>, _: Ran<String>, tx: &mut Tx) -> Result<(), BoxError> {
//!         tx.put("reserved", cx.key, "");
//!         Ok(())
//!     }
//! }
//!
//! /// A call of a service, which may say no.
//! struct Charge;
//! #[step(name = "charge")]
//! impl Charge {
//!     async fn charge(&self, cx: Cx<'_, Order, (Reserve,)>, call: &mut Call) -> Result<(), StepError<String>> {
//!         assert!(call.key().ends_with("/charge")); // to be sent along, so that nothing is charged twice
//!         if cx.input.cents > 1_000 { Err(StepError::Refused("declined".to_owned())) } else { Ok(()) }
//!     }
//! }
//!
//! fn place_order() -> Saga<Order, Tx> {
//!     Saga::new("place-order", 1).deadline(Duration::from_secs(900)).step(Reserve).pivot(Charge).build()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let app = App::on(MemoryBackend::new()).saga(place_order()).start().await?;
//! let tea = |cents| Order { item: "tea".to_owned(), cents };
//! assert_eq!(app.run_saga("order-1", tea(500)).await?, Outcome::Completed);
//! assert_eq!(app.run_saga("order-2", tea(5_000)).await?.to_string(), "undone: charge was refused: declined");
//! // The same request again: the same run.
//! assert!(app.start_saga("order-1", &tea(500)).await?.was_started_before());
//! # Ok(())
//! # }
//! ```

mod app;
mod builder;
mod child;
mod erased;
#[cfg(test)]
mod explored;
mod family;
mod foreseen;
mod guarded;
#[cfg(feature = "http")]
mod http;
mod lock;
mod machine;
mod pace;
mod place;
#[cfg(feature = "testing")]
mod probed;
mod protocol;
mod shown;
mod signal;
mod starter;
mod step;

pub use self::app::{SagaApp, Sagas};
pub use self::builder::{
    AllIn, BeforePivot, BehindPivot, Branches, Compensating, Contains, Here, Retrying, Saga, SagaBuilder,
    There, WithoutPivot,
};
pub use self::child::{Child, IfItRefuses, SubSaga};
pub use self::guarded::{Guarded, GuardedVisit};
pub(crate) use self::guarded::{enter, has_guards, is_there, outcome};
#[cfg(feature = "http")]
pub use self::http::Reply;
pub use self::lock::{Lock, SagaLock};
pub(crate) use self::pace::Failures;
pub use self::place::{At, Call, Does, Journal, Outside, Place, PlaceOn, Remote, Staged, Told, Visit};
#[cfg(feature = "testing")]
pub(crate) use self::probed::{Outline, OutlineStep, again};
pub use self::signal::{Awaited, SagaSignal, Signal, Signals};
pub use self::starter::Starter;
pub(crate) use self::starter::{SagaKind, WithDeadline};
pub(crate) use self::step::ActedInPart;
pub use self::step::{
    Awaits, CannotRefuse, Cx, Needs, OrRetry, Outputs, Ran, Retry, SagaInput, Step, StepError, Undo, Unknown,
};
pub use crate::lock::{LockCursor, LockMode, LockOf, LockPage, LockRefused, LockShown, Locks, Resource};
pub use crate::transaction::{
    Announce, Answered, DryRun, Frozen, Handle, HowUndone, IfItFailed, Kin, Outcome, RunCursor, RunError,
    RunFilter, RunId, RunListed, RunPage, RunShown, RunStatus, Runs, SagaEnded, SagaEvent, SagaLife,
    SagaParked, SagaStarted, SagaUndoing, SagaWentOn, Staging, StepShown, Verb, Waiting, Why, WouldUndo,
};
pub use es_macros::step;
