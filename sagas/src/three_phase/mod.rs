//! Three-phase commit, for services that take part in it: can-commit, pre-commit, do-commit.
//!
//! **You almost never want this.** Take [two-phase commit](crate::two_phase) for databases that are close to each other, a
//! [saga](crate::saga) where others may see the middle of it, a [TCC](crate::tcc) where they may not. Three-phase commit has
//! one more round of calls than those, holds what it holds for longer, and needs participants that speak it. It is here for
//! services that already do.
//!
//! What it buys: a participant that was told that *all* have voted yes can have the transaction committed when its
//! coordinator is gone. In two-phase commit whoever asks about a transaction that is not decided has it aborted, though all
//! of its work is done. Here another node follows a coordinator that dies, which buys nearly the same.
//!
//! What it does not buy: progress for one that is cut off. The textbook says that three-phase commit does not block, since a
//! participant that waits for too long decides by itself: to commit if it is pre-committed, else to abort. That holds
//! only if no message is ever slow. With one that is, one participant commits and another one aborts. A test of this crate
//! shows it, and needs neither a crash nor a partition for it. So here **a time-out decides nothing**. It
//! [starts a round](GuardedParticipant::terminate): the participant asks the others where they stand, asks for the decision
//! that follows from it, and goes by the one that stands. A decision is a row of the journal that can be inserted once. One
//! that does not reach the journal waits: a partition blocks, and never mixes.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex};
//!
//! use sagas::es_core::memory::MemoryBackend;
//! use sagas::es_core::{App, BoxError};
//! use sagas::saga::{Outcome, SagaInput, StepError};
//! use sagas::three_phase::{ThreePhase, ThreePhaseApp, ThreePhaseTransaction, ThreePhases, Txn};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Transfer {
//!     cents: u64,
//! }
//! impl SagaInput for Transfer {}
//!
//! /// A bank in this program, which has no database: one that has is a `GuardedParticipant`.
//! #[derive(Clone)]
//! struct Bank {
//!     name: &'static str,
//!     has: u64,
//!     standings: Arc<Mutex<BTreeMap<String, &'static str>>>,
//! }
//!
//! impl Bank {
//!     fn comes_to(&self, txn: Txn<'_, Transfer>, standing: &'static str) {
//!         self.standings.lock().expect("nobody panics").insert(txn.key.to_owned(), standing);
//!     }
//! }
//!
//! impl ThreePhase<Transfer> for Bank {
//!     fn name(&self) -> &str {
//!         self.name
//!     }
//!     async fn can_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
//!         if txn.input.cents > self.has {
//!             return Err(StepError::Refused("it has not that much".to_owned()));
//!         }
//!         self.comes_to(txn, "voted");
//!         Ok(())
//!     }
//!     async fn pre_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), StepError<String>> {
//!         self.comes_to(txn, "pre-committed");
//!         Ok(())
//!     }
//!     async fn do_commit(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
//!         self.comes_to(txn, "committed");
//!         Ok(())
//!     }
//!     async fn abort(&self, txn: Txn<'_, Transfer>) -> Result<(), BoxError> {
//!         self.comes_to(txn, "aborted");
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let bank = |name, has| Bank { name, has, standings: Arc::default() };
//! let (left, right) = (bank("left", 1_000), bank("right", 9_000));
//! let transfer = ThreePhaseTransaction::new("transfer", 1).participant(left.clone()).participant(right.clone());
//! let app = App::on(MemoryBackend::new()).three_phase(transfer.build()).start().await?;
//!
//! assert_eq!(app.run_three_phase("t-1", Transfer { cents: 500 }).await?, Outcome::Completed);
//! let why = app.run_three_phase("t-2", Transfer { cents: 5_000 }).await?.to_string();
//! assert_eq!(why, "undone: left was refused: it has not that much");
//! let standings = right.standings.lock().expect("nobody panics").clone();
//! assert_eq!(standings["t-1"], "committed");
//! assert_eq!(standings["t-2"], "aborted");
//! # Ok(())
//! # }
//! ```
//!
//! # Its parts
//!
//! | there is | for |
//! | --- | --- |
//! | [`ThreePhase`] | a participant, as its coordinator calls it: in the same program, or elsewhere |
//! | [`ThreePhaseTransaction`], [`ThreePhaseApp`], [`ThreePhases`] | the coordinator: a kind of transactions of the app, as sagas are. Votes and the decision are in its journal; a node that dies is followed by another one |
//! | [`GuardedParticipant`], [`Holds`] | the other side, in a service: it remembers where it stands in a guard row of its own database |
//! | [`Peers`], [`Standing`] | how participants ask each other |
//! | [`Decisions`], [`StoredDecisions`] | where it is decided, once |
//!
//! # What it promises
//!
//! - All participants commit, or all abort. Whoever commits, or aborts after it has voted yes, has read the decision that
//!   stands. It is to commit only if all have voted yes.
//! - Before it is decided, one that has voted yes keeps what it holds, however long it waits. It waits while it does not
//!   reach the journal.
//! - The coordinator is told of an abort that a participant has asked for once it asks for a decision itself.
//! - Nothing happens at the same time in two places: for a moment others see it in one and not in the other.
//! - A question for a vote that comes after the abort is refused. Any call may come twice.
//! - A decision is kept for good, in a row of about 100 bytes. So one that was away for years still goes by it. A guard
//!   row is deleted by [`forget`](es_core::guard::forget) only: forget none that is younger than the longest outage, nor one of
//!   a participant that is in doubt, as after `Abandon`. What it holds is held for good then, and each look says so.
//! - A participant that has lost its vote says so when it is told that all have voted, and that is a no.
//! - Not covered: a participant that loses what it has promised after that, a journal that loses commits, and two journals: see
//!   [`GuardedParticipant::new`].
//!
//! # What can go wrong
//!
//! | hazard | what becomes of it |
//! | --- | --- |
//! | the coordinator dies | another node of the app goes on; if there is none, participants end it once they have waited for too long |
//! | a participant does not vote | it is asked again, and then it is decided to abort |
//! | a participant is away for the pre-commit | it is told again, and then it is decided: to commit if another one is pre-committed, else to abort |
//! | a participant is away once it is decided | it is told until it has an answer, then an operator is asked; it can find out by itself |
//! | participants do not reach each other, and reach the journal | each asks for what it knows, and the first one is the decision of all |
//! | a participant does not reach the journal | it waits |
//! | a participant, or the journal, does not answer one that asks | it is waited for 5 seconds ([`limit`](GuardedParticipant::limit)), and keeps none of the others |
//! | a participant has lost its vote | it says so at the pre-commit: the decision to abort is asked for. Later it is *odd*, and an operator is asked |
//! | a participant holds something without a vote | its look says so each time |

#[cfg(test)]
mod agrees;
mod app;
mod builder;
mod decisions;
mod erased;
#[cfg(test)]
mod explored;
mod guarded;
mod machine;
mod participant;
mod protocol;
mod shown;
mod standing;

/// The label of its metrics.
const PATTERN: &str = "three-phase";

pub use self::app::{ThreePhaseApp, ThreePhaseStarter, ThreePhases};
pub use self::builder::{ThreePhaseBuilder, ThreePhaseTransaction};
pub use self::decisions::{Decisions, StoredDecisions};
pub use self::guarded::{GuardedParticipant, Holds, ParticipantError, Peers};
pub use self::participant::{ThreePhase, Txn};
pub use self::standing::{Standing, asks_for};
pub use crate::two_phase::Decision;
