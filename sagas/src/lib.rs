//! Event-driven sagas for [`es_core`]: processes that react to events with commands and timers.
//!
//! A [`process`](macro@process) has an instance for each key: a state, and what it waits for. Its handlers are pure; what
//! they want to happen is a [`Next`]. All that an input changes is one commit with the checkpoint: the state, its timers
//! and associations, the input itself, and the commands, which go out after it. A command is sent at least once and acts
//! once; one that is refused comes back to a `#[refused]` handler, after the state that expects it.
//!
//! | there is | for |
//! | --- | --- |
//! | `#[process]`, [`Process`] | what a process does, by macro or by hand |
//! | [`Next`] | what a handler wants to happen |
//! | [`Processes`] | `.process::<P>()` on the builder of an app |
//! | [`schedule`] | commands that are sent at a time, and can be called off |
//! | [`message`] | messages, which are events of the log |
//! | `#[publishes]`, [`relay`] | events and messages on their way to other services |
//! | [`message::inbox`] | messages of other services, each taken once |
//! | [`Instances`] | which instances there are, what each waits for and who will wake it, what came to it; what an operator can have done to it ([`Verb`]) |
//! | [`saga`] | orchestrated sagas: steps in an order, each with an undo |
//! | [`tcc`] | try-confirm-cancel: branches that reserve, and are then all confirmed or all cancelled |
//! | [`half`] | half messages: sent if, and only if, a transaction in another database commits |
//! | [`two_phase`] | transactions across databases: two-phase commit |
//! | [`mirror`] | copies of aggregates elsewhere, and in memory, kept in step |
//! | [`chain`] | best-effort chains: ordered commits of several databases, with markers |
//! | [`three_phase`] | three-phase commit of services that take part in it |
//! | [`overview`] | all transactions in one list, whatever their pattern, and what is done about them |
//! | [`reconcile`] | two sides that are to say the same, compared |
//! | [`alerts`] | metrics of sagas, and when an operator has to look at them |
//! | `testing` | a process without a store; a saga that crashes wherever it can (feature `testing`) |
//!
//! An instance whose handler fails is parked: what comes to it is noted and waits, other instances continue. A handler sees
//! only its input and the state, so trying it again would give the same error: it is not called again by itself. It must not
//! read a clock, random numbers or anything else.

pub mod alerts;
mod ask;
mod blame;
mod book;
mod breaker;
pub mod chain;
mod damaged;
mod data;
mod definition;
pub mod half;
mod history;
mod instance;
mod journal;
mod keeping;
mod lock;
pub mod message;
pub mod mirror;
mod next;
mod operate;
mod outbox;
pub mod overview;
mod process;
pub mod reconcile;
pub mod relay;
mod rows;
mod runner;
pub mod saga;
pub mod schedule;
mod session;
mod show;
mod step;
pub mod tcc;
#[cfg(feature = "testing")]
pub mod testing;
pub mod three_phase;
mod transaction;
pub mod two_phase;
mod verb;
mod versions;

pub use self::ask::{AskError, Ticket};
pub use self::data::Data;
pub use self::definition::Definition;
pub use self::history::InputStatus;
pub use self::next::{Association, Effect, IntoNext, Next};
pub use self::operate::{InstanceStatus, Instances, Life, Rebuilt};
#[doc(hidden)]
pub use self::process::timer_differs;
pub use self::process::{
    AfterEnd, Early, Elapsed, On, OnRefused, OnTimer, Process, Refused, RefusedCommand, Rejected, Sends,
    Timer,
};
pub use self::runner::Processes;
pub use self::schedule::{Schedule, Scheduled, Schedules};
pub use self::show::{Asked, Came, InputShown, OpenCommand, Shown, WaitsFor};
pub use self::step::{Names, Step, To};
pub use self::verb::{Answer, By, Verb};
pub use es_core;
pub use es_macros::{Timer, process, publishes};

/// Its program is tried as documentation is.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
