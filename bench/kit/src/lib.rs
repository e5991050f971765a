//! What every side of a comparison shares: the work, a process that does it, and what that reports.
//!
//! A side is the framework, a driver alone, or a peer. Each round of each side is a process of its own,
//! so that peers may need other versions of a driver, and peaks of memory belong to one side.

mod deposit;
mod flows;
mod job;
mod pace;
mod side;
mod worker;

pub use deposit::{Deposited, deposit};
pub use flows::{AT_ONCE, Flows, flows};
pub use job::{Done, Job, Listed, Peak, Until, Work};
pub use side::Side;
pub use worker::{say, serve, work};
