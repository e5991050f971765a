#![doc = include_str!("../README.md")]

mod adopt;
mod attempt;
mod backend;
mod batch;
mod db;
mod error;
mod filter;
mod forget;
mod guard;
mod guarded;
mod history;
mod holding;
mod options;
mod place;
mod projection;
mod reading;
mod redact;
mod row;
mod rows;
mod schema;
mod snapshot;
mod stats;
mod store;
mod tx;
mod types;
mod verify;
mod wal;
mod writer;

pub use es_core::store::Adopt;

pub use self::backend::SqliteBackend;
pub use self::db::Db;
pub use self::forget::Forgotten;
pub use self::guarded::{GuardedTx, SqliteGuarded};
pub use self::options::{SqliteOptions, Synchronous};
pub use self::schema::{Migration, migrations};
pub use self::stats::Stats;
pub use self::tx::Tx;

/// What a file that writes SQL for this backend imports: `use es_sqlite::prelude::*;`.
pub mod prelude {
    pub use es_core::store::Transaction;

    pub use crate::{Db, SqliteBackend, SqliteOptions, Tx};
}
