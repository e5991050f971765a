//! Three programs of one service, deployed one after the other on one store: what they have in common.
//!
//! Each is a binary with a domain of its own, in `src/bin`: `old`, `new`, `newest`. A test starts them, gives them orders,
//! kills them, and asks each whether its projections equal a plain fold of the log.

mod check;
mod effects;
mod protocol;
mod serve;

pub use check::{Check, Row};
pub use effects::Effects;
pub use protocol::{Order, Report};
pub use serve::{Program, Sent, main, sent};
