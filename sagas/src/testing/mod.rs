//! The test kit: a process without a store, and a saga that crashes wherever it can.
//!
//! | for | there is |
//! | --- | --- |
//! | a process | [`process`]: events, a time or a refusal, and what it must send, set and keep |
//! | a saga, a TCC | [`crash_matrix`]: every fail point of a run, with each fault |

pub(crate) mod crash;
mod process;

pub use self::crash::{
    Checked, CrashMatrix, Failure, Failures, InMemory, Opens, Provided, Tried, VirtualClock, World,
    crash_matrix,
};
pub use self::process::{Given, Then, process};
