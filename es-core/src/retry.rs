//! When something is tried again: a policy, as a value.

use std::time::Duration;

use crate::id::Ids;

/// Bounded tries with exponential back-off and full jitter.
///
/// Only conflicts, transient errors of the store and outcomes found to be "never" are tried again, each
/// time on fresh state. Full jitter: Marc Brooker, "Exponential Backoff And Jitter", AWS, 2015.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    attempts: u32,
    base: Duration,
    cap: Duration,
}

impl Default for RetryPolicy {
    /// Eight tries, 2 ms doubling to at most 500 ms.
    fn default() -> Self {
        Self { attempts: 8, base: Duration::from_millis(2), cap: Duration::from_millis(500) }
    }
}

impl RetryPolicy {
    /// One try.
    #[must_use]
    pub const fn never() -> Self {
        Self { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO }
    }

    /// At most this many tries, at least one.
    #[must_use]
    pub const fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// The first and the longest wait.
    #[must_use]
    pub const fn with_backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.base = base;
        self.cap = cap;
        self
    }

    /// How often a command is tried at most.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long to wait after try `attempt` (from 1); `None` after the last.
    #[must_use]
    pub fn wait_after(&self, attempt: u32, ids: &Ids) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = self.base.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        Some(doubled.min(self.cap).mul_f64(ids.fraction()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_end_with_the_last_try() {
        let policy = RetryPolicy::default()
            .with_attempts(40)
            .with_backoff(Duration::from_millis(10), Duration::from_millis(100));
        let ids = Ids::default();
        for attempt in 1..40 {
            let most = Duration::from_millis(10 << attempt.min(5)).min(Duration::from_millis(100));
            assert!(policy.wait_after(attempt, &ids).unwrap() <= most);
        }
        assert_eq!(policy.wait_after(40, &ids), None);
        assert_eq!(RetryPolicy::never().wait_after(1, &ids), None);
    }
}
