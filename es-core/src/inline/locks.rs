//! Turns within one process: commits that write the same rows wait for each other, instead of being refused.

use std::collections::BTreeSet;

use tokio::sync::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64;

/// More of them cost memory; fewer make commits wait for strangers.
const STRIPES: usize = 256;

/// One lock for many keys each, so there is nothing to clean up.
#[derive(Debug)]
pub(crate) struct Locks(Vec<Mutex<()>>);

impl Locks {
    pub(crate) fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::default()).collect())
    }

    /// Waits for the locks of all these keys, in an order that all callers keep.
    pub(crate) async fn hold(&self, keys: impl Iterator<Item = String>) -> Vec<MutexGuard<'_, ()>> {
        let stripe = |key: String| usize::try_from(xxh3_64(key.as_bytes())).unwrap_or_default() % STRIPES;
        let stripes: BTreeSet<usize> = keys.map(stripe).collect();
        let mut held = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            held.push(self.0[stripe].lock().await);
        }
        held
    }
}
