//! The contract, on a store that behaves as badly as it may: each rule under several seeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use es_core::BoxError;
use es_core::memory::MemoryBackend;
use es_core::services::Services;
use es_core::testing::conformance::Subject;
use es_core::testing::{SimStore, SimTx, TestClock, seed_from_env_or};

/// Every store that a rule opens gets a seed of its own, made from this one.
struct Sim {
    seed: u64,
    n_opened: AtomicU64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self { seed: seed_from_env_or(seed), n_opened: AtomicU64::new(0) }
    }

    fn next_seed(&self) -> u64 {
        self.seed + 1_000 * self.n_opened.fetch_add(1, Ordering::Relaxed)
    }
}

impl Subject for Sim {
    type Backend = SimStore;

    async fn open(&self) -> SimStore {
        SimStore::new(self.next_seed()).in_run(self.seed)
    }

    async fn open_at(&self, clock: TestClock) -> SimStore {
        SimStore::with_clock(self.next_seed(), clock).in_run(self.seed)
    }

    async fn again(&self, backend: &SimStore) -> SimStore {
        backend.clone()
    }

    async fn put_row(&self, tx: &mut SimTx, key: &str, row: &str) {
        tx.put("rows", key, row);
    }

    async fn row(&self, backend: &SimStore, key: &str) -> Option<String> {
        backend.row("rows", key).map(|row| String::from_utf8(row).unwrap())
    }

    const PAID: &'static str = "";

    async fn pay(tx: &mut SimTx, key: &str, amount: i64) -> Result<(), BoxError> {
        let before = tx.get("paid", key).map_or(Ok(0), |row| crate::number(&row))?;
        tx.put("paid", key, (before + amount).to_string());
        Ok(())
    }

    async fn fail(_: &mut SimTx) -> BoxError {
        "a statement that fails".into()
    }

    async fn paid(backend: &SimStore) -> Result<BTreeMap<String, i64>, BoxError> {
        backend.table("paid").into_iter().map(|(key, row)| Ok((key, crate::number(&row)?))).collect()
    }

    async fn paid_through(services: &Services) -> Result<BTreeMap<String, i64>, BoxError> {
        let backend = services.get::<MemoryBackend>()?;
        backend.table("paid").into_iter().map(|(key, row)| Ok((key, crate::number(&row)?))).collect()
    }
}

macro_rules! seeds { ($($name:ident = $seed:literal;)+) => { $(
    mod $name {
        use super::*;
        es_core::conformance!(Sim::new($seed), tokio::test(start_paused = true));
    }
)+ } }

seeds! {
    seed_1 = 1;
    seed_2 = 2;
    seed_3 = 3;
    seed_4 = 4;
}
