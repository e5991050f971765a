//! What an operator does to a store, and how they look at it. The command `es-postgres` (feature `cli`) is made of this.

mod adopt;
mod copy;
mod import;
mod inspect;
mod maintain;

pub use self::adopt::Adopt;
pub use self::import::{ImportError, ImportSummary, Imported};
pub use self::inspect::{Finding, Stats};
