//! How calls are counted while many callers make them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Done, Peak};

#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    calls: AtomicU64,
    units: AtomicU64,
    thousands: Mutex<Vec<f64>>,
    waits: Mutex<Vec<Duration>>,
}

impl Pace {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            calls: AtomicU64::new(0),
            units: AtomicU64::new(0),
            thousands: Mutex::default(),
            waits: Mutex::default(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn count(&self, units: u64) {
        self.units.fetch_add(units, Ordering::Relaxed);
        if (self.calls.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(1_000) {
            let at = self.elapsed().as_secs_f64();
            self.thousands.lock().expect("nobody panics with it").push(at);
        }
    }

    /// How long a call was waited for, from when it was due.
    pub(crate) fn waited(&self, due: Duration) {
        let wait = self.elapsed().saturating_sub(due);
        self.waits.lock().expect("nobody panics with it").push(wait);
    }

    pub(crate) fn done(&self) -> Done {
        let seconds = self.elapsed().as_secs_f64();
        let mut waits = std::mem::take(&mut *self.waits.lock().expect("nobody panics with it"));
        waits.sort_unstable();
        let share = |percent: usize| {
            let at = waits.len() * percent / 100;
            waits.get(at.min(waits.len().saturating_sub(1))).map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
        };
        let mut thousands = std::mem::take(&mut *self.thousands.lock().expect("nobody panics with it"));
        thousands.sort_by(f64::total_cmp);
        Done {
            calls: self.calls.load(Ordering::Relaxed),
            units: self.units.load(Ordering::Relaxed),
            seconds,
            thousands,
            p50: share(50),
            p99: share(99),
            peak: Peak::now(),
        }
    }
}
