//! Two-phase commit: a transaction across several databases, all of which commit, or none.
//!
//! A saga does one thing after the other, and undoes what it did if something later says no. Two-phase commit holds all of it
//! back until it is decided. That costs locks in each database until then, and if the store is away at the wrong moment, for
//! as long as it is. Take it where two databases are close to each other and must agree; else a [saga](crate::saga), or a
//! [TCC](crate::tcc).
//!
//! ```no_run
//! use es_postgres::{PgBackend, PgParticipant};
//! use sagas::es_core::store::Transaction as _;
//! use sagas::es_core::{App, BoxError};
//! use sagas::two_phase::{TwoPhase, TwoPhaseApp};
//!
//! # async fn example(stock: sqlx::PgPool, billing: sqlx::PgPool) -> Result<(), BoxError> {
//! let store = PgBackend::connect("postgres://localhost/shop").await?;
//! let stock = PgParticipant::new("stock", stock)?;
//! let billing = PgParticipant::new("billing", billing)?;
//! stock.install().await?; // a table for markers, once
//! billing.install().await?;
//!
//! let two_phase = TwoPhase::on(store.clone())?.participant(stock.clone()).participant(billing.clone()).build()?;
//! let app = App::on(store).two_phase(&two_phase).start().await?; // recovers what others have left
//!
//! let mut tx = two_phase.begin();
//! let branch = tx.branch(&stock).await?;
//! sqlx::query("update stock set left = left - 1 where item = $1").bind("lamp").execute(&mut **branch).await?;
//! let branch = tx.branch(&billing).await?;
//! sqlx::query("insert into bills (item) values ($1)").bind("lamp").execute(&mut **branch).await?;
//! let committed = tx.commit().await?;
//! committed.wait_all().await?; // if others are to see it in every database
//! # Ok(())
//! # }
//! ```
//!
//! With [`GlobalTx::journal`] the store itself takes part: events that are appended in its transaction, and rows of your own
//! next to them, are committed together with the decision, and are never prepared.
//!
//! # The words of X/Open
//!
//! | X/Open DTP | here |
//! | --- | --- |
//! | application program | whoever calls [`TwoPhase::begin`] |
//! | transaction manager | [`TwoPhase`]; its log is a table of the store, the journal |
//! | resource manager | [`Participant`](es_core::store::Participant); of PostgreSQL, `PgParticipant` |
//! | global transaction, branch | [`GlobalTx`], [`Branch`](es_core::store::Branch); XID: [`BranchId`](es_core::store::BranchId) |
//! | `xa_start`, `xa_end` | [`GlobalTx::branch`], and `has_written` when it is committed |
//! | `xa_prepare` with `XA_RDONLY` | a branch that has written nothing is ended, and not prepared |
//! | `xa_commit` with `TMONEPHASE` | one branch alone that has written is committed without a decision |
//! | `xa_recover` | [`Participant::prepared`](es_core::store::Participant::prepared), for one store only |
//! | presumed abort | what has no decision is aborted; only a decision to commit is waited for |
//! | last resource | [`GlobalTx::journal`] |
//! | heuristic outcome, `xa_forget` | [`PendingState::Parked`], [`TwoPhase::accept`]; while it is undecided, [`TwoPhase::strays`], [`TwoPhase::adopt`] |
//!
//! # What it promises
//!
//! - A transaction is decided once: by a row that can be inserted once. The coordinator inserts *commit*; whoever finds a
//!   branch that has been prepared for long inserts *abort*. The loser goes by the winner's.
//! - Nothing is done at the same time in two databases: for a moment others see it in one and not in the other.
//! - Any node recovers what any other has left. A participant that cannot be asked is not taken for one where nothing waits.
//! - What somebody commits or rolls back by hand is seen, by a marker that each branch writes, and waits for an operator. Not
//!   seen is a commit by hand of one branch alone: its coordinator is gone, nothing was decided, and no other is prepared.
//! - Recovery decides nothing once it has found another branch committed. That is written down: it stays so when nobody can be
//!   asked any more. [`TwoPhase::strays`] shows such a transaction, and an operator decides ([`TwoPhase::adopt`]): about what is
//!   prepared. What the store itself had of it is not committed with it, and a coordinator that still runs says so
//!   ([`TwoPhaseError::WithoutJournal`]).
//! - A participant that cannot be asked whether it has committed its branch is not taken for one that has not, for
//!   [`TwoPhaseBuilder::outage`]. After that it is decided without it: what was committed there by hand is then found, and parked.
//!   One that answers, only too slowly for a look, is asked in the next, however long that takes.
//! - The store must not lose commits: a standby that takes over has to be synchronous, a file `Synchronous::Full`. Of a store
//!   that was restored from a backup, or cloned, recovery rolls back what is prepared under its name, unless a branch is
//!   committed: end by hand what is prepared before you start it.
//! - What was decided is known for 30 days from the beginning on ([`TwoPhaseBuilder::remember`]), or until it is done;
//!   decisions to abort are kept for good. Markers are guard rows, which [`forget`](es_core::guard::forget) deletes. Forget none
//!   that is younger than the longest outage.
//! - A call to a participant is waited for as long as [`TwoPhaseBuilder::limit`] says, and no longer. One that is slow each time
//!   has twice that in a look of recovery; then the others go on. So has the store.
//! - A participant is known by its name. While anything waits under it, it is not to be renamed: what is prepared or committed is
//!   found all the same where it is in the same database, and has to be ended by an operator if it is not undecided.
//! - Stop all programs of an earlier version before the first one with lists of what is not committed
//!   (`hot.two-phase.aside`): they decide about what this one leaves to an operator.
//!
//! | metric | of |
//! | --- | --- |
//! | `es_two_phase_in_doubt`, `es_two_phase_in_doubt_seconds` | branches that are prepared, and the age of the oldest that does not wait for an operator, by `participant` |
//! | `es_two_phase_unfinished` | branches that are decided, and not committed yet, by `participant` |
//! | `es_two_phase_parked` | branches that wait for an operator, by `participant`; rows of the list that cannot be read, as `unread` |
//! | `es_two_phase_torn` | transactions that wait for an operator to decide |
//! | `es_two_phase_looked_timestamp_seconds` | when a `participant` last said what is prepared there |
//! | `es_two_phase_recovered_total` | branches that recovery has ended, by `outcome` |
//! | `es_two_phase_failed_looks_total` | looks at a `participant` that could not be asked, or ended |
//!
//! [`Health::engines`](es_core::Health) has alerts of each node: `TwoPhaseInDoubt` and `TwoPhaseUnasked` from 30 seconds on,
//! `TwoPhaseTorn`, `TwoPhaseParked`, `TwoPhaseMissing` (not urgent if all that waits is to be rolled back).
//! [`alerts`](crate::alerts) has rules for Prometheus.

mod asked;
mod committed;
mod drive;
mod engine;
mod erased;
mod error;
#[cfg(test)]
mod explored;
mod forget;
mod global;
mod list;
mod machine;
mod manager;
mod overview;
mod pending;
mod recovery;
mod rows;
mod strays;

pub use self::committed::Committed;
pub use self::engine::TwoPhaseApp;
pub use self::error::{AbortedBy, InDoubt, TwoPhaseError};
pub use self::global::GlobalTx;
pub use self::machine::{Decision, Odd};
pub use self::manager::{TwoPhase, TwoPhaseBuilder};
pub use self::pending::{PendingBranch, PendingState};
pub use self::recovery::{Recovered, Waiting};
pub use self::strays::{Stray, Strays};
