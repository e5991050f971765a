//! Event-driven sagas for [`es_core`]: processes that react to events with commands and timers.

mod book;
mod data;
mod definition;
mod instance;
pub mod message;
mod next;
mod operate;
mod outbox;
mod process;
mod rows;
mod runner;
mod session;
mod step;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::data::Data;
pub use self::definition::Definition;
pub use self::next::{Association, Effect, IntoNext, Next};
pub use self::operate::{InstanceStatus, Instances, Life, Rebuilt};
pub use self::process::{
    AfterEnd, Early, Elapsed, On, OnRefused, OnTimer, Process, Refused, RefusedCommand, Rejected, Sends,
    Timer,
};
pub use self::runner::Processes;
pub use self::step::{Names, Step, To};
pub use es_core;
pub use es_macros::{Timer, process};
