//! What the engine stores of its own: a file for each format, and the tables that they are in.
//!
//! Every row is JSON, read and written through a [`Table`]. Formats are read by other versions of the framework, and by
//! operators: fields are added with a default, and none changes its meaning. A test reads what earlier versions wrote.
//!
//! | table | key | file | what |
//! | --- | --- | --- | --- |
//! | `nodes` | node | `node` | until when a node is believed to be alive, and what it runs |
//! | `checkpoints` | `build#first slice` | `share`, `checkpoint` | who has a range of slices of a processor, and the position that it has reached |
//! | `es.shares` | `name#first slice` | `share` | the same of what has no log |
//! | `generations` | processor | `generations` | which builds a projection has, and which one queries read |
//! | `es.codes` | build | `code` | which code makes a build |
//! | `es.control` | processor | `control` | what an operator asked of a whole processor |
//! | `asked` | build | `control` | counts requests: its revision changes with each |
//! | `es.versions` | projection | `versions` | which version of it has the plain names of its tables, and which ones no node runs |
//! | `build/parked` | key | `parked` | a sequence that failed |
//! | `build/parked/events` | sequence and position | `parked` | the events of those sequences |
//! | `build/requests` | key | `parked` | what an operator asked to be done with a sequence |
//! | `build/skipped` | position and key | `parked` | an event that was left out for good |
//! | `build/undecoded` | position and first slice | `parked` | an event that some slices passed though it could not be decoded |
//! | `build/afresh` | key | `control` | a row that is to be rebuilt |
//! | `inline` | `set` | `inline` | which projections are inline |
//! | `inline/turns` | projection | `inline` | who had the turn: its revision changes with each |
//!
//! A row that fences others is never deleted while it can be named, for its revisions would begin again: a range that
//! was merged, a version that has gone and a set without projections keep theirs.

mod build;
mod checkpoint;
mod code;
mod control;
mod generations;
#[cfg(test)]
mod golden;
mod inline;
mod node;
mod parked;
mod share;
mod versions;

pub use self::build::Build;
pub(crate) use self::build::sortable;
pub(crate) use self::checkpoint::{Checkpoint, Halt};
pub(crate) use self::code::{CodeRecord, codes};
pub(crate) use self::control::{Afresh, Asked, Control, afresh, asked, control};
pub(crate) use self::generations::{Building, Freeze, Generations, KeptAs, SetBack, generations};
pub(crate) use self::inline::{InlineSet, turns};
pub(crate) use self::node::{NodeRecord, nodes};
pub use self::parked::Skipped;
pub(crate) use self::parked::{ParkedEvent, Request, Sequence, Undecoded};
pub use self::share::Progress;
pub(crate) use self::share::ShareRecord;
pub(crate) use self::versions::{Versions, versions};

/// The table of the shares of processors.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The table of all other shares.
pub(crate) const SHARES: &str = "es.shares";
