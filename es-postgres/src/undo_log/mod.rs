//! An undo log in a database of the user's own: calls to it act once, and are undone by themselves.

mod log;
mod mend;
mod refusal;
mod sql;
mod tx;

pub use self::log::{PgUndoLog, TrackedRow, UndecidedCall};
pub use self::mend::MendTx;
pub use self::refusal::Refusal;
pub use self::tx::UndoTx;
