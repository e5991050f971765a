//! The contract, on the memory backend.

use std::collections::BTreeMap;

use es_core::BoxError;
use es_core::memory::{MemoryBackend, Tx};
use es_core::services::Services;
use es_core::testing::TestClock;
use es_core::testing::conformance::Subject;

struct Memory;

impl Subject for Memory {
    type Backend = MemoryBackend;

    async fn open(&self) -> MemoryBackend {
        MemoryBackend::new()
    }

    async fn open_at(&self, clock: TestClock) -> MemoryBackend {
        MemoryBackend::with_clock(clock)
    }

    async fn again(&self, backend: &MemoryBackend) -> MemoryBackend {
        backend.clone()
    }

    async fn put_row(&self, tx: &mut Tx, key: &str, row: &str) {
        tx.put("rows", key, row);
    }

    async fn row(&self, backend: &MemoryBackend, key: &str) -> Option<String> {
        backend.row("rows", key).map(|row| String::from_utf8(row).unwrap())
    }

    const PAID: &'static str = "";

    async fn pay(tx: &mut Tx, key: &str, amount: i64) -> Result<(), BoxError> {
        let before = tx.get("paid", key).map_or(Ok(0), |row| crate::number(&row))?;
        tx.put("paid", key, (before + amount).to_string());
        Ok(())
    }

    async fn fail(_: &mut Tx) -> BoxError {
        "a statement that fails".into()
    }

    async fn paid(backend: &MemoryBackend) -> Result<BTreeMap<String, i64>, BoxError> {
        backend.table("paid").into_iter().map(|(key, row)| Ok((key, crate::number(&row)?))).collect()
    }

    async fn paid_through(services: &Services) -> Result<BTreeMap<String, i64>, BoxError> {
        let backend = services.get::<MemoryBackend>()?;
        backend.table("paid").into_iter().map(|(key, row)| Ok((key, crate::number(&row)?))).collect()
    }
}

es_core::conformance!(Memory);
