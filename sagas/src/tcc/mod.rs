//! TCC, try-confirm-cancel: branches that reserve first, and are then all confirmed or all cancelled.
//!
//! A saga does what it does at once, and undoes it if something later says no: others see the middle of it. A [`Tcc`] branch
//! only *reserves* at first. When all branches have reserved, it is decided to confirm, and each uses what it holds; when one
//! says no, or it takes too long, what is held is released. Nobody acts on what is only reserved. The idea is from Pat
//! Helland ("Life beyond distributed transactions", 2007), the three calls are those of Atomikos' and Seata's TCC.
//!
//! What a business has to bring is a place for what is reserved: a column `held` next to `balance`, say. If it has none,
//! take a [`saga`](crate::saga), or let a database that notes changes take them back: [`Undoable`].
//!
//! ```
//! use std::time::Duration;
//!
//! use sagas::es_core::memory::{MemoryBackend, Tx};
//! use sagas::es_core::{App, BoxError};
//! use sagas::saga::{Call, Cx, Outcome, Ran, SagaInput, StepError};
//! use sagas::tcc::{TccApp, TccTransaction, Tccs, tcc};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Transfer {
//!     from: String,
//!     cents: u64,
//! }
//! impl SagaInput for Transfer {}
//!
//! /// In the database of the journal.
//! struct Debit;
//! #[tcc(name = "debit")]
//! impl Debit {
//!     async fn reserve(&self, cx: Cx<'_, Transfer>, tx: &mut Tx) -> Result<u64, StepError<String>> {
//!         if cx.input.cents > 1_000 {
//!             return Err(StepError::Refused(format!("{} has not that much", cx.input.from)));
//!         }
//!         tx.put("held", cx.key, cx.input.cents.to_string());
//!         Ok(cx.input.cents)
//!     }
//!     async fn confirm(&self, cx: Cx<'_, Transfer>, held: u64, tx: &mut Tx) -> Result<(), BoxError> {
//!         tx.delete("held", cx.key);
//!         tx.put("taken", cx.key, held.to_string());
//!         Ok(())
//!     }
//!     async fn cancel(&self, cx: Cx<'_, Transfer>, _: Ran<u64>, tx: &mut Tx) -> Result<(), BoxError> {
//!         tx.delete("held", cx.key);
//!         Ok(())
//!     }
//! }
//!
//! /// At another bank, which is called.
//! struct Credit;
//! #[tcc(name = "credit")]
//! impl Credit {
//!     async fn reserve(&self, _: Cx<'_, Transfer>, call: &mut Call) -> Result<(), StepError<String>> {
//!         assert!(call.key().ends_with("/credit")); // to be sent along, so that it reserves once
//!         Ok(())
//!     }
//!     async fn confirm(&self, _: Cx<'_, Transfer>, _: (), call: &mut Call) -> Result<(), BoxError> {
//!         assert!(call.key().ends_with("/credit/confirm") && call.step_key().ends_with("/credit"));
//!         Ok(())
//!     }
//!     async fn cancel(&self, _: Cx<'_, Transfer>, held: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
//!         // If it may have reserved, its bank is told that this key is never to reserve again.
//!         drop((held, call.step_key()));
//!         Ok(())
//!     }
//! }
//!
//! fn transfer() -> TccTransaction<Transfer, Tx> {
//!     TccTransaction::new("transfer", 1).deadline(Duration::from_secs(60)).branch(Debit).branch(Credit).build()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let app = App::on(MemoryBackend::new()).tcc(transfer()).start().await?;
//! let of = |cents| Transfer { from: "ada".to_owned(), cents };
//! assert_eq!(app.run_tcc("t-1", of(500)).await?, Outcome::Completed);
//! let why = app.run_tcc("t-2", of(5_000)).await?.to_string();
//! assert_eq!(why, "undone: debit was refused: ada has not that much");
//! # Ok(())
//! # }
//! ```
//!
//! # What can go wrong with a branch
//!
//! | hazard | what becomes of it |
//! | --- | --- |
//! | a cancel of what never reserved | [`Guarded`](crate::saga::Guarded): nothing is called, and a row bars the reservation. [`Remote`](crate::saga::Remote): `cancel` is called with [`Ran::Maybe`](crate::saga::Ran::Maybe) |
//! | a reservation that arrives after its cancel | the row refuses it (`Hanging`); whoever is called by key has to |
//! | any of the three arrives twice | the row answers what it came to the first time; the key is the same |
//! | a cancel while the reservation runs | it waits for the reservation's transaction |
//! | an effect outside of any database | the branch is [`Remote`](crate::saga::Remote): one key for each of the three |

mod app;
mod branch;
mod builder;
mod erased;
#[cfg(test)]
mod explored;
mod foreseen;
mod machine;
#[cfg(feature = "testing")]
mod probed;
mod protocol;
mod shown;
mod tracked;

/// The label of its metrics.
const PATTERN: &str = "tcc";

pub use es_macros::tcc;

pub use self::app::{TccApp, TccStarter, Tccs};
pub use self::branch::Tcc;
pub use self::builder::{TccBuilder, TccTransaction};
pub use self::tracked::{Tracked, Undoable};
