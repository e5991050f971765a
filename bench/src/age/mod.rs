//! What becomes of a store with time: what an operator does to it beside commands that come at a steady rate, and what
//! appends and conditions cost as it grows.

mod fill;
mod load;
mod phases;
mod size;

pub use self::phases::run as phases;
pub use self::size::run as size;

/// Events of the log, unless another number is asked for.
pub const EVENTS: u64 = 1_000_000;
/// Outcomes of keys from the past, for each event of the log.
const OUTCOMES: u64 = 5;
/// Partitions of the log, with one that is empty.
const PARTITIONS: u64 = 30;
