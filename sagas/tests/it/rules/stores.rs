//! The stores that the rules run on.

use std::sync::atomic::{AtomicU64, Ordering};

use es_core::memory::MemoryBackend;
use es_core::testing::{SimStore, TestClock, seed_from_env_or};
use es_postgres::testing::Database;
use es_postgres::{PgBackend, PgGuarded, PgOptions};
use es_sqlite::{SqliteBackend, SqliteGuarded, SqliteOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::Subject;
use super::list::{rules, rules_across, rules_of_others, rules_of_servers};
use super::shaky::{self, WithOther};

struct Memory;

impl Subject for Memory {
    type Backend = MemoryBackend;
    async fn open(&self, clock: TestClock) -> MemoryBackend {
        MemoryBackend::with_clock(clock)
    }
    async fn again(&self, backend: &MemoryBackend, _: &TestClock) -> MemoryBackend {
        backend.clone()
    }
}

/// A store that behaves as badly as it may.
struct Sim(u64, AtomicU64);

impl Sim {
    fn new(seed: u64) -> Self {
        Self(seed_from_env_or(seed), AtomicU64::new(0))
    }
}

impl Subject for Sim {
    type Backend = SimStore;
    async fn open(&self, clock: TestClock) -> SimStore {
        let seed = self.0 + 1_000 * self.1.fetch_add(1, Ordering::Relaxed);
        SimStore::with_clock(seed, clock).in_run(self.0)
    }
    async fn again(&self, backend: &SimStore, _: &TestClock) -> SimStore {
        backend.clone()
    }
}

/// A file of its own.
struct Sqlite(TempDir);

impl Subject for Sqlite {
    type Backend = SqliteBackend;
    async fn open(&self, clock: TestClock) -> SqliteBackend {
        let options = SqliteOptions::new(self.0.path().join("rules.db")).with_clock(clock);
        SqliteBackend::open_with(options).await.unwrap()
    }
    async fn again(&self, _: &SqliteBackend, clock: &TestClock) -> SqliteBackend {
        self.open(clock.clone()).await
    }
}

/// A database of its own.
#[derive(Default)]
struct Postgres(OnceCell<Database>, OnceCell<Database>);

impl Subject for Postgres {
    type Backend = PgBackend;
    async fn open(&self, clock: TestClock) -> PgBackend {
        let database = self.0.get_or_init(es_postgres::testing::database).await;
        let options = PgOptions::new(database.url()).unwrap().with_clock(clock);
        PgBackend::connect_with(options).await.unwrap()
    }
    async fn again(&self, _: &PgBackend, clock: &TestClock) -> PgBackend {
        self.open(clock.clone()).await
    }
}

impl WithOther for Sqlite {
    type Other = SqliteGuarded;
    async fn other(&self) -> SqliteGuarded {
        shaky::file(self.0.path().join("other.db")).await
    }
}

impl WithOther for Postgres {
    type Other = PgGuarded;
    async fn other(&self) -> PgGuarded {
        shaky::database(self.1.get_or_init(es_postgres::testing::database).await.url()).await
    }
}

macro_rules! with_another_database {
    ($($file:ident { $($rule:ident)* })*) => {
        mod sqlite_and_another { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Sqlite(tempfile::tempdir().unwrap())).await;
            }
        )*)* }
        mod postgres_and_another { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Postgres::default()).await;
            }
        )*)* }
    };
}
rules_of_others!(with_another_database);

macro_rules! across_databases {
    ($($file:ident { $($rule:ident)* })*) => {
        mod sqlite_across { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Sqlite(tempfile::tempdir().unwrap())).await;
            }
        )*)* }
        mod postgres_across { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Postgres::default()).await;
            }
        )*)* }
    };
}
rules_across!(across_databases);

macro_rules! on_its_own_server {
    ($($file:ident { $($rule:ident)* })*) => {
        mod postgres_servers { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule().await;
            }
        )*)* }
    };
}
rules_of_servers!(on_its_own_server);

macro_rules! on_each_store {
    ($($file:ident { $($rule:ident)* })*) => {
        mod memory { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Memory).await;
            }
        )*)* }
        mod sqlite { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Sqlite(tempfile::tempdir().unwrap())).await;
            }
        )*)* }
        mod postgres { $($(
            #[tokio::test]
            async fn $rule() {
                super::super::$file::$rule(&super::Postgres::default()).await;
            }
        )*)* }
        mod sim { $($(
            #[tokio::test(start_paused = true)]
            async fn $rule() {
                for seed in 1..=4 {
                    super::super::$file::$rule(&super::Sim::new(seed)).await;
                }
            }
        )*)* }
    };
}
rules!(on_each_store);
