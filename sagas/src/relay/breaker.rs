//! Whether a receiver is asked at all: after a few failures only one message at a time finds out whether it is back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After so many failures in a row one message at a time is tried.
const FAILURES: u32 = 3;
/// The longest pause that a receiver can ask for.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    is_probed: bool,
    /// The receiver wants nothing before this.
    rests_until: Option<Instant>,
}

/// Why nothing is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("it asked for a pause, of which {0:?} are left")]
    Rests(Duration),
    #[error("it failed, and another message finds out whether it is back")]
    IsProbed,
}

/// A message may be tried. Dropped without an outcome, nothing was learned.
#[must_use]
pub(super) struct Pass<'b> {
    breaker: &'b Breaker,
    probes: bool,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pass(&self) -> Result<Pass<'_>, Closed> {
        let mut state = self.state();
        let left = state.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return Err(Closed::Rests(left));
        }
        let probes = state.failures >= FAILURES;
        if probes && state.is_probed {
            return Err(Closed::IsProbed);
        }
        state.is_probed |= probes;
        Ok(Pass { breaker: self, probes })
    }
}

impl Pass<'_> {
    /// The receiver has answered. A pause that it has asked another message for stays: this one may be older.
    pub(super) fn answered(self) {
        self.breaker.state().failures = 0;
    }

    /// It has not, or wants nothing for a while.
    pub(super) fn failed(self, rests: Option<Duration>) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        state.rests_until = rests.map(|rests| Instant::now() + rests.min(LONGEST)).max(state.rests_until);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probes {
            self.breaker.state().is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_few_failures_one_at_a_time_is_tried_until_one_is_answered() {
        let breaker = Breaker::default();
        for _ in 0..FAILURES {
            let all: Vec<_> = (0..3).map(|_| breaker.pass().ok()).collect();
            all.into_iter().next().flatten().expect("open").failed(None);
        }
        let probe = breaker.pass().expect("one may find out");
        assert_eq!(breaker.pass().err(), Some(Closed::IsProbed));
        drop(probe);
        breaker.pass().expect("nothing was learned: another one may").failed(None);
        breaker.pass().expect("again one").answered();
        let open = [breaker.pass().is_ok(), breaker.pass().is_ok()];
        assert_eq!(open, [true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_older_message_ends_no_pause() {
        let breaker = Breaker::default();
        let [asked, older] = [breaker.pass(), breaker.pass()].map(|pass| pass.expect("open"));
        asked.failed(Some(Duration::from_secs(60)));
        older.answered();
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(Duration::from_secs(60))));
        tokio::time::advance(Duration::from_secs(60)).await;
        breaker.pass().expect("it is over").answered();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_it_asks_for_is_kept_but_not_for_ever() {
        let breaker = Breaker::default();
        breaker.pass().expect("open").failed(Some(Duration::from_secs(30)));
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(Duration::from_secs(30))));
        tokio::time::advance(Duration::from_secs(30)).await;
        breaker.pass().expect("it is over").failed(Some(Duration::MAX));
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(LONGEST)));
    }
}
