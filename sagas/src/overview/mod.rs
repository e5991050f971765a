//! One view over all transactions of a store, whatever their pattern: which there are, which need a person, and what is done
//! about them.
//!
//! ```
//! use es_core::App;
//! use es_core::memory::MemoryBackend;
//! use sagas::Schedule;
//! use sagas::Processes as _;
//! use sagas::overview::{Filter, Transactions as _};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = App::on(MemoryBackend::new()).process::<Schedule>().start().await?;
//! let all = app.transactions();
//! let failures = all.page(&Filter::needs_person(), None, 100).await?;
//! for failure in &failures.transactions {
//!     println!("{} is {}: {}", failure.which, failure.status, failure.reason.as_deref().unwrap_or_default());
//! }
//! assert!(failures.transactions.is_empty() && failures.unasked.is_empty() && failures.next.is_none());
//! # app.shutdown(std::time::Duration::ZERO).await;
//! # Ok(())
//! # }
//! ```
//!
//! | pattern | its kinds | what is listed | [acts](Act) that it knows |
//! | --- | --- | --- | --- |
//! | [`saga`](crate::saga) | each saga | its runs | retry, skip, resolve, cancel, go forward, abandon |
//! | [`tcc`](crate::tcc) | each TCC, as `tcc.NAME` | its runs | retry, skip, resolve, cancel, abandon |
//! | [`three-phase`](crate::three_phase) | each three-phase commit, as `three-phase.NAME` | its runs | retry, skip, resolve, cancel, abandon |
//! | [`half`](crate::half) | each half message, as `half.NAME` | its runs | retry, skip, resolve, abandon |
//! | [`process`](crate::Process) | each process | its instances | retry, skip, cancel |
//! | [`two-phase`](crate::two_phase) | one | what was decided, and what is prepared | retry, skip, decide |
//!
//! There is no table of all transactions: each pattern is asked for its own rows, one after the other, a page at a time. So
//! nothing here can differ from what is so, and nothing has to be written for it. What is seen is not of one moment: one that
//! begins, goes on or ends meanwhile may be missed, or be in two pages.
//!
//! A source that cannot be asked now, or does not answer, a participant's database, say, is [named](Page::unasked), and keeps
//! no other from being listed.
//!
//! # What a node watches
//!
//! Each node counts what needs a person, over all patterns, a page at a time and at most every 15 seconds. The gauge
//! `es_transactions_waiting`, by `pattern` and `kind`, is set once all were counted; of a source that could not be asked it
//! stays as it was. As long as there are any, [`Health::engines`](es_core::Health::engines) has an entry `transactions` with
//! the alert `TransactionsWaiting`, which is urgent if there are more than ten. [`alerts`](crate::alerts) has the rule for
//! Prometheus.
//!
//! Parked instances of a process have no rows of their own: the list of them reads all its instances, those that have ended
//! as well ([`Process::KEEP_ENDED`](crate::Process::KEEP_ENDED)), 2,000 for each page. A node pauses for two seconds between two
//! pages: with a million instances it takes a quarter of an hour until what needs a person is counted anew. Each page of what is
//! prepared asks every participant.

mod act;
mod all;
mod counts;
mod filter;
mod instances;
mod listed;
mod runs;
mod source;
mod watch;

pub use self::act::{Act, ActError, ActName, Acted};
pub use self::all::{Cursor, Overview, Page, Transactions, Unasked};
pub use self::counts::{Count, Counts};
pub use self::filter::Filter;
pub(crate) use self::instances::OfProcess;
pub use self::listed::{Listed, Pattern, Status, Which};
pub(crate) use self::source::{Part, READS, Source, Sources, add, runs_of};
