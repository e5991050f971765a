//! The engine of transactions: a run is rows, a protocol says what follows, and the row at its head fences every write.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `rows.rs` | what is stored, and under which keys |
//! | `protocol.rs` | what a protocol is: a pure state machine on records |
//! | `look.rs` | what one look at a run finds |
//! | `instance.rs` | a run as it is in memory, and the rows of its next commit |
//! | `drive.rs` | the task of one run: asks the protocol, makes calls, commits records |
//! | `batch.rs` | steps that only stage: one after the other, in one commit |
//! | `staging.rs` | what such steps are handed |
//! | `scheduler.rs` | the work on a share: what is due is loaded and driven |
//! | `trouble.rs` | runs that cannot go on: when they are tried again |
//! | `attended.rs` | which versions of a definition have nodes |
//! | `destination.rs` | who is called, and whether it is called at all |
//! | `door.rs` | how its commits go to the store |
//! | `clock.rs` | the time of the store, without asking it each time |
//! | `kind.rs` | a kind of transactions on one node: its engine |
//! | `start.rs` | how a run begins: once for each key |
//! | `ahead.rs` | steps that are in the commit that begins their run |
//! | `life.rs` | what happens to a run, as events of the log |
//! | `outcome.rs` | whoever waits for the end of a run, on any node |
//! | `damaged.rs` | runs that cannot go on as they are stored are noted for people |
//! | `operate.rs`, `request.rs` | what an operator has done to a run; the one door to what follows · asked of the run, and answered |
//! | `signal.rs` | something that is sent to a run from outside |
//! | `family.rs` | a step of a run that is a run of its own |
//! | `claim.rs` | locks that a run takes, waits for and leaves |
//! | `show.rs`, `told.rs` | one run: its steps, what it waits for, who will wake it; its journal, in words |
//! | `list.rs`, `fingerprint.rs` | which runs there are · what errors have in common |
//! | `foresee.rs` | what would come of a failure, or of a request |
//! | `forget.rs`, `portion.rs` | runs that ended long ago are forgotten: when, and by whom · which of them, and their rows |
//! | `live.rs` | the oldest run that goes on |
//! | `audit.rs` | heads and journals side by side, and what journals say of calls to other databases |
//! | `traces.rs` | what steps leave in databases that only they know |
//! | `bulk.rs` | the same asked of many runs |
//! | `numbers.rs`, `census.rs` | what a node counts of runs · in rows, a few at a time |
//! | `watch.rs` | keeps the rules of [`alerts`](crate::alerts) by those numbers |
//!
//! A wake-up is a row of a queue: who a run is, and a time. A run that has not ended has at least one. Whoever wants
//! something of a run writes one that is due now and carries it; only the owner takes it, in the commit that writes the
//! head. So each counts once, whoever else believes to be the owner.

mod ahead;
mod attended;
mod audit;
mod batch;
mod bulk;
mod census;
mod claim;
mod clock;
mod damaged;
mod destination;
mod door;
mod drive;
mod family;
pub(crate) mod fingerprint;
mod foresee;
mod forget;
mod instance;
mod kind;
mod life;
mod list;
mod live;
mod look;
mod numbers;
mod operate;
mod outcome;
mod portion;
mod protocol;
mod request;
mod rows;
mod scheduler;
mod show;
mod signal;
mod staging;
mod start;
mod told;
mod traces;
mod trouble;
mod watch;

pub(crate) use self::audit::{Audited, Claim, Claims};
pub use self::bulk::{Answered, Frozen};
pub(crate) use self::census::born;
pub(crate) use self::clock::StoreClock;
pub(crate) use self::damaged::About;
pub(crate) use self::destination::Destinations;
pub use self::family::Kin;
pub(crate) use self::family::{ChildIs, Errand, Parent, Word, cancels, wake_up};
pub use self::foresee::{DryRun, HowUndone, IfItFailed, WouldUndo};
pub(crate) use self::forget::REMEMBER;
#[cfg(feature = "testing")]
pub(crate) use self::kind::group_of;
pub(crate) use self::kind::{Kind, LOCAL, OF_HALF, OF_TCC, OF_THREE_PHASE};
pub use self::life::{
    Announce, RunId, SagaEnded, SagaEvent, SagaLife, SagaParked, SagaStarted, SagaUndoing, SagaWentOn,
};
pub use self::list::{RunCursor, RunFilter, RunListed, RunPage};
pub(crate) use self::look::{Look, cut, is_over};
pub(crate) use self::operate::AnyKind;
pub use self::operate::{Runs, Waiting};
pub use self::outcome::{Handle, Outcome, RunError, Why};
pub(crate) use self::protocol::{Acts, Answer, Call, Next, No, OwnFault, Protocol, Site};
pub(crate) use self::rows::{Asked, Heard, Record, Tables, Written, head_key, journal_of};
#[cfg(feature = "testing")]
pub(crate) use self::rows::{Head, run_of, start_key};
pub use self::rows::{Status as RunStatus, Verb};
pub use self::show::{RunShown, StepShown};
pub(crate) use self::signal::{MAX_SENT, OTHER_SENT};
pub use self::staging::Staging;
pub(crate) use self::traces::Traces;
