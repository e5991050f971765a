//! What an operator does to a store, and how they look at it. The command `es-postgres` (feature `cli`) is made of this.

mod adopt;
mod forget;
mod import;
mod inspect;
mod maintain;

pub use self::forget::Forgotten;
pub use self::import::{ImportError, ImportSummary, Imported};
pub use self::inspect::{Finding, Stats};
pub use self::maintain::ArchivePlan;
