//! The engine of transactions: a run is rows, a protocol says what follows, and the row at its head fences every write.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `rows.rs` | what is stored, and under which keys |
//! | `protocol.rs` | what a protocol is: a pure state machine on records |
//! | `instance.rs` | a run as it is in memory, and the rows of its next commit |
//! | `drive.rs` | the task of one run: asks the protocol, makes calls, commits records |
//! | `scheduler.rs` | the work on a share: what is due is loaded and driven |
//! | `door.rs` | how its commits go to the store |
//! | `clock.rs` | the time of the store, without asking it each time |
//! | `kind.rs` | a kind of transactions on one node: its engine |
//! | `start.rs` | how a run begins: once for each key |
//! | `outcome.rs` | whoever waits for the end of a run, on any node |
//! | `operate.rs` | what an operator sees of runs and has done to them |
//!
//! A wake-up is a row of a queue: who a run is, and a time. A run that has not ended has at least one. Whoever wants
//! something of a run writes one that is due now and carries it; only the owner takes it, in the commit that writes the
//! head. So each counts once, whoever else believes to be the owner.

mod clock;
mod door;
mod drive;
mod instance;
mod kind;
mod operate;
mod outcome;
mod protocol;
mod rows;
mod scheduler;
mod start;

pub(crate) use self::kind::Kind;
pub(crate) use self::operate::AnyKind;
pub use self::operate::{RunShown, RunStatus, Runs, StepShown, Waiting};
pub use self::outcome::{Handle, Outcome, RunError, Why};
pub(crate) use self::protocol::{Acts, Answer, Call, Next, Protocol, Site};
pub use self::rows::Verb;
pub(crate) use self::rows::{Asked, Record, Written};
#[cfg(feature = "testing")]
pub(crate) use self::rows::{Head, Tables, head_key, journal_of, start_key};
