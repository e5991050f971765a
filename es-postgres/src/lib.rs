#![doc = include_str!("../README.md")]

mod address;
mod admission;
mod args;
mod backend;
mod batch;
mod begun;
mod branch;
mod check;
mod connect;
mod db;
mod error;
mod explain;
mod filter;
mod guarded;
mod history;
mod lane;
mod narrow;
mod operate;
mod options;
mod participant;
mod partitions;
mod pools;
mod projection;
mod readers;
mod resolve;
mod row;
mod rows;
mod schema;
mod sessions;
mod snapshot;
mod spans;
mod store;
mod stream_cache;
mod streams;
#[cfg(feature = "testing")]
pub mod testing;
mod transient;
mod tx;
mod types;
mod undo_log;
mod verify;
mod wake;
mod witnesses;

pub use es_core::store::Adopt;

pub use self::backend::PgBackend;
pub use self::branch::PgBranch;
pub use self::db::Db;
pub use self::guarded::{GuardedTx, PgGuarded};
pub use self::operate::{ArchivePlan, Finding, Forgotten, ImportError, ImportSummary, Imported, Stats};
pub use self::options::PgOptions;
pub use self::participant::PgParticipant;
pub use self::schema::{Migration, migrations, roles};
pub use self::tx::{Savepoint, Tx};
pub use self::undo_log::{MendTx, PgUndoLog, Refusal, TrackedRow, UndecidedCall, UndoTx};

/// What a file that writes SQL for this backend imports: `use es_postgres::prelude::*;`.
pub mod prelude {
    pub use es_core::store::Transaction;

    pub use crate::{Db, PgBackend, PgOptions, Tx};
}
