//! The test kit: fixtures for your domain, fakes for its surroundings, suites for a backend.
//!
//! | for | there is |
//! | --- | --- |
//! | an aggregate | [`given`]: events, a command, the events or the error it must lead to |
//! | a keyed view | [`view()`]: recorded events, the rows they must fold to |
//! | time and randomness | [`TestClock`], [`SeededEntropy`] |
//! | what was sent | [`Recorder`], an interceptor |
//! | what is logged, traced and counted | [`Log`], [`Trace`], [`Numbers`] |
//! | a service under faults | [`SimStore`], a backend that behaves as badly as the contract allows |
//! | a backend | [`conformance!`](crate::conformance): a test for each rule of the contract |

mod clock;
pub mod conformance;
mod entropy;
mod fixture;
mod log;
mod numbers;
mod recorder;
mod sim;
mod trace;
mod view;

pub use self::clock::TestClock;
pub use self::entropy::SeededEntropy;
pub use self::fixture::{Given, Then, given};
pub use self::log::Log;
pub use self::numbers::Numbers;
pub use self::recorder::{Outcome, Recorder, Sent};
pub use self::sim::{Counts, Faults, SimStore, SimTx, seed_from_env_or};
pub use self::trace::{CaughtSpan, Trace};
pub use self::view::{ViewFixture, view};
use crate::clock::Timestamp;

/// Where tests begin to count time: 2026-01-01 00:00 UTC.
#[must_use]
pub const fn epoch() -> Timestamp {
    Timestamp::constant(1_767_225_600, 0)
}
