//! Reconciliation: two sides that are to say the same are compared, key by key.
//!
//! What is kept in two places drifts apart: somebody repairs a row by hand, a database is restored, a job is left out. A
//! [`Reconciliation`] reads both sides in the order of their keys, a page at a time, and merges them.
//!
//! ```
//! use std::time::Duration;
//!
//! use es_core::BoxError;
//! use es_core::memory::MemoryBackend;
//! use futures::stream;
//! use sagas::reconcile::{Class, Reconciliation};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a program: rows of two queries, `select id, cents from orders order by id` and the like.
//! let orders = || stream::iter([(1, 500), (2, 70), (3, 20)].map(Ok::<_, BoxError>));
//! let ledger = || stream::iter([(1, 500), (2, 75)].map(Ok::<_, BoxError>));
//! let books = Reconciliation::between("orders-ledger", MemoryBackend::new(), orders, ledger)?
//!     .looks_again_after(Duration::ZERO)
//!     .redrive(Class::MissingRight, |order| async move {
//!         println!("order {} is booked again", order.key); // start a saga, send a command
//!         Ok(())
//!     });
//! let report = books.run().await?;
//! assert!(!report.is_clean());
//! assert_eq!((report.of(Class::Mismatch), report.of(Class::MissingRight)), (1, 1));
//! println!("{report}");
//!
//! // A person has looked at it: it is not reported again before it changes.
//! let mismatch = report.first.iter().find(|difference| difference.class == Class::Mismatch).unwrap();
//! books.accept(mismatch, "ada", "a discount of June").await?;
//! assert_eq!(books.run().await?.of(Class::Mismatch), 0);
//! # Ok(())
//! # }
//! ```
//!
//! | a key is | if |
//! | --- | --- |
//! | [missing left](Class::MissingLeft), [missing right](Class::MissingRight) | one side has not got it |
//! | a [mismatch](Class::Mismatch) | both have it, and say something else |
//! | a [duplicate](Class::Duplicate) | a side has it more than once |
//! | pending | a transaction that goes on may change it, it was changed less than the [settling time](Reconciliation::settles) before it was read, or between two looks |
//! | [unsettled](Class::Unsettled) | it differs, and was young or has moved in three runs in a row: 1,000 such keys are counted |
//! | accepted | a person has [accepted](Reconciliation::accept) it as it is |
//!
//! The two sides are not of one moment. So a difference is reported only if a second look, at the end, finds the same one. The
//! second look reads both sides again, up to the last key that seemed to differ. Keys that seem to differ and are too many for
//! that are counted as [unconfirmed](Report::unconfirmed).
//!
//! A side is to be read where what is written is seen: on a replica that is behind, what was written has not been.
//!
//! # By itself
//!
//! ```no_run
//! # use std::time::Duration;
//! # use es_core::{App, StartError};
//! # use es_core::memory::MemoryBackend;
//! use sagas::reconcile::{self, Reconciles as _};
//!
//! # async fn example() -> Result<(), StartError> {
//! # let store = MemoryBackend::new();
//! let nightly = Duration::from_secs(24 * 60 * 60);
//! let app = App::on(store.clone()).reconcile(nightly, |all| reconcile::journals(&all, store)).start().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | metric | of |
//! | --- | --- |
//! | `es_reconcile_differences` | what the last run has found, by `reconciliation` and `class`; `unconfirmed` is one of them |
//! | `es_reconcile_pending` | keys that were pending |
//! | `es_reconcile_ran_timestamp_seconds` | when that was |
//! | `es_reconcile_failing` | 1 if the last run came to no end, or none has for twice as long as it should and an hour |
//! | `es_reconcile_failed_total` | runs that came to no end |
//!
//! As long as the last run has found a difference, or came to no end, or none comes to its end for too long, each node has the
//! alert `Unreconciled` in [`Health::engines`](es_core::Health::engines), in an entry `reconcile.NAME`;
//! [`App::reconciliations`](Reconciliations) says more. [`alerts`](crate::alerts) has the rule for Prometheus.
//!
//! # Built in
//!
//! | | left | right |
//! | --- | --- | --- |
//! | [`journals`] | what is stored of a run: its status and how many records it has | its journal, folded |
//! | [`guards`] | the journals of runs | the guard rows of a database |
//! | [`chains`] | the journals of chains | the guard rows of their links |
//! | [`decisions`] | decisions across databases | what is prepared and committed at the participants |
//! | [`messages`] | the log of a sender | the marks of an inbox |
//!
//! It compares what is there; what both sides have lost is not seen.

mod app;
mod chains;
mod decisions;
mod guards;
mod handle;
mod journals;
mod look;
mod merge;
mod messages;
mod report;
mod rows;
mod run;

pub use self::app::Reconciles;
pub use self::chains::chains;
pub use self::decisions::decisions;
pub use self::guards::guards;
pub use self::handle::{Reconciliations, Scheduled};
pub use self::journals::journals;
pub(crate) use self::merge::Pair;
pub use self::merge::{Entry, Side};
pub use self::messages::messages;
pub use self::report::{Class, Difference, Redriven, Report};
pub use self::run::{Accepted, Found, ReconcileError, Reconciliation};
