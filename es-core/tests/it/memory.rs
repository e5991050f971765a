//! The contract, on the memory backend.

use es_core::memory::{MemoryBackend, Tx};
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
}

es_core::conformance!(Memory);
