//! A backend that behaves as badly as the contract allows, from a seed.
//!
//! Under it lies a [`MemoryBackend`]. Run it on tokio's current-thread runtime with paused time: then
//! the delays cost nothing, and a seed gives the same run again.

mod chance;
mod fate;
mod store;
mod tx;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use self::chance::Dice;
pub use self::chance::{Counts, Faults};
use self::fate::Fates;
pub use self::tx::SimTx;
use crate::clock::{Clock, Timestamp};
use crate::memory::{MemoryBackend, Rows};
use crate::store::{Position, RowWakes};

/// A store in memory with faults. Clones share one store.
///
/// From its seed: every call takes a random time. A commit goes through, fails before it is applied, or
/// has an unknown outcome: applied, not applied, or applied later, unless
/// [`resolve`](crate::EventStore::resolve) fences it first. A dropped commit may still be applied. A read
/// sees what was stored when it began, and fails now and then. Wake-ups come late or never.
#[derive(Clone, Debug)]
pub struct SimStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: MemoryBackend,
    dice: Dice,
    fates: Fates,
    calm: AtomicBool,
    /// The seed to repeat a failed test with.
    run: AtomicU64,
    /// A channel for each reader: one channel would wake its readers in an order of its own chance.
    readers: Mutex<Vec<watch::Sender<Position>>>,
    row_wakes: RowWakes,
}

impl SimStore {
    /// An empty store with the faults that belong to a seed. Its clock goes with tokio's, which may be paused.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_clock(seed, RuntimeClock::default())
    }

    /// The same, with another clock.
    #[must_use]
    pub fn with_clock(seed: u64, clock: impl Clock) -> Self {
        Self(Arc::new(Shared {
            memory: MemoryBackend::with_clock(clock),
            dice: Dice::new(seed, Faults::default()),
            fates: Fates::default(),
            calm: AtomicBool::new(false),
            run: AtomicU64::new(seed),
            readers: Mutex::default(),
            row_wakes: RowWakes::default(),
        }))
    }

    /// The seed from the environment, or this one: see [`seed_from_env_or`].
    #[must_use]
    pub fn from_env_or(seed: u64) -> Self {
        Self::new(seed_from_env_or(seed))
    }

    /// Other faults than the usual ones, from now on.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        self.0.dice.load(faults);
        self
    }

    /// One of several stores of a run with a seed of its own: that one is printed if the test fails.
    #[must_use]
    pub fn in_run(self, seed: u64) -> Self {
        self.0.run.store(seed, Ordering::Relaxed);
        self
    }

    /// No more faults, only delays: what was promised must now come true.
    pub fn heal(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
    }

    /// A committed row of the user's own.
    #[must_use]
    pub fn row(&self, table: &str, key: &str) -> Option<Vec<u8>> {
        self.0.memory.row(table, key)
    }

    /// All committed rows of one table of the user's own, by key.
    #[must_use]
    pub fn table(&self, table: &str) -> Rows {
        self.0.memory.table(table)
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.dice.counts()
    }

    /// The seed of this run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.dice.seed()
    }
}

/// The seed from the environment variable `ES_SIM_SEED`, or this one: how a failed run is repeated.
///
/// # Panics
///
/// If the variable is set and not a number.
#[must_use]
pub fn seed_from_env_or(seed: u64) -> u64 {
    match std::env::var("ES_SIM_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("ES_SIM_SEED is {text:?}, not a number")),
        Err(_) => seed,
    }
}

impl Drop for Shared {
    #[expect(clippy::print_stderr, reason = "the one command that repeats a failed test")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "es-core".to_owned());
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let seed = self.run.load(Ordering::Relaxed);
        eprintln!("repeat with: ES_SIM_SEED={seed} cargo test -p {package} --features testing -- {test}");
    }
}

/// The time of the runtime: where that is paused, leases run out as fast as everything else.
#[derive(Debug)]
struct RuntimeClock(tokio::time::Instant);

impl Default for RuntimeClock {
    fn default() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        const BEGIN: i64 = 1_700_000_000_000_000;
        let elapsed = i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX - BEGIN);
        Timestamp::from_microsecond(BEGIN + elapsed).expect("centuries lie between here and the last time")
    }
}
