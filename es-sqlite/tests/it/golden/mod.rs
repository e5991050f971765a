//! Files of older versions are read, and the work on them continues where it was.
//!
//! `tests/golden/store-v1.db` was written by [`write`], with the code of the first schema, and kept while a node was
//! alive: it holds events, outcomes, snapshots and rows of every kind, ranges that were split and merged, parked
//! sequences, requests that no node had seen, and builds in every state. `es-core/tests/golden` has its rows one by one.

mod domain;
mod log;
mod work;
mod write;

use es_sqlite::SqliteBackend;
use tempfile::TempDir;

use self::domain::Pay;

const FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1.db");

/// A copy of the first version's store, opened with today's code.
async fn copy(folder: &TempDir) -> SqliteBackend {
    let file = folder.path().join("store.db");
    std::fs::copy(FIRST, &file).unwrap();
    SqliteBackend::open(file).await.unwrap()
}

fn pay(amount: i64) -> Pay {
    Pay { amount, note: String::new() }
}
