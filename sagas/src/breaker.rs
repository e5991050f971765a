//! Whether a receiver is asked at all: after a few failures only one call at a time finds out whether it is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After so many failures in a row one call at a time is tried.
const FAILURES: u32 = 3;
/// The longest pause that a receiver can ask for.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Since when a call is under way that finds out whether it is back.
    probed_since: Option<Instant>,
    /// The receiver wants nothing before this, or is not asked before.
    rests_until: Option<Instant>,
    /// For how long it was left alone last.
    rested: Duration,
}

/// Why nothing is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    #[error("it asked for a pause, of which {0:?} are left")]
    Rests(Duration),
    #[error("it failed, and another message finds out whether it is back")]
    IsProbed(Duration),
}

/// A call may be tried. Dropped without an outcome, nothing was learned.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pass {
    breaker: Arc<Breaker>,
    probes: bool,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pass(self: &Arc<Self>) -> Result<Pass, Closed> {
        let mut state = self.state();
        let left = state.rests_until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return Err(Closed::Rests(left));
        }
        let probes = state.failures >= FAILURES;
        if probes && let Some(since) = state.probed_since {
            return Err(Closed::IsProbed(since.elapsed()));
        }
        if probes {
            state.probed_since = Some(Instant::now());
        }
        Ok(Pass { breaker: self.clone(), probes })
    }

    /// How often it has failed in a row, and for how long it was left alone last.
    pub(crate) fn failures(&self) -> (u32, Duration) {
        let state = self.state();
        (state.failures, state.rested)
    }
}

impl Pass {
    /// The receiver has answered. A pause that it has asked another one for stays: this one may be older.
    pub(crate) fn answered(self) {
        self.breaker.state().failures = 0;
    }

    /// It has not, or wants nothing for a while.
    pub(crate) fn failed(self, rests: Option<Duration>) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        state.rest(rests);
    }

    /// It has not, and whoever calls it leaves it alone for a while once it has failed a few times in a row: for how long,
    /// by how often it was tried since.
    pub(crate) fn failed_again(self, rests: impl FnOnce(u32) -> Duration) {
        let failures = self.breaker.state().failures;
        // One that was begun before the others had failed says nothing new.
        if self.probes || failures < FAILURES {
            let tried = failures.saturating_add(2).saturating_sub(FAILURES);
            self.failed((tried > 0).then(|| rests(tried)));
        }
    }
}

impl State {
    fn rest(&mut self, rests: Option<Duration>) {
        let Some(rests) = rests.map(|rests| rests.min(LONGEST)) else { return };
        self.rests_until = Some(Instant::now() + rests).max(self.rests_until);
        self.rested = rests;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probes {
            self.breaker.state().probed_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_few_failures_one_at_a_time_is_tried_until_one_is_answered() {
        let breaker = Arc::<Breaker>::default();
        for _ in 0..FAILURES {
            let all: Vec<_> = (0..3).map(|_| breaker.pass().ok()).collect();
            all.into_iter().next().flatten().expect("open").failed(None);
        }
        let probe = breaker.pass().expect("one may find out");
        for seconds in [0, 7] {
            let so_far = Duration::from_secs(seconds);
            tokio::time::advance(so_far).await;
            assert_eq!(breaker.pass().err(), Some(Closed::IsProbed(so_far)));
        }
        drop(probe);
        breaker.pass().expect("nothing was learned: another one may").failed(None);
        breaker.pass().expect("again one").answered();
        let open = [breaker.pass().is_ok(), breaker.pass().is_ok()];
        assert_eq!(open, [true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_older_message_ends_no_pause() {
        let breaker = Arc::<Breaker>::default();
        let [asked, older] = [breaker.pass(), breaker.pass()].map(|pass| pass.expect("open"));
        asked.failed(Some(Duration::from_secs(60)));
        older.answered();
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(Duration::from_secs(60))));
        tokio::time::advance(Duration::from_secs(60)).await;
        breaker.pass().expect("it is over").answered();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_it_asks_for_is_kept_but_not_for_ever() {
        let breaker = Arc::<Breaker>::default();
        breaker.pass().expect("open").failed(Some(Duration::from_secs(30)));
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(Duration::from_secs(30))));
        tokio::time::advance(Duration::from_secs(30)).await;
        breaker.pass().expect("it is over").failed(Some(Duration::MAX));
        assert_eq!(breaker.pass().err(), Some(Closed::Rests(LONGEST)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_paces_calls_leaves_it_alone_for_longer_each_time() {
        let breaker = Arc::<Breaker>::default();
        let seconds = |n: u32| Duration::from_secs(n.into());
        let many: Vec<_> = (0..10).map(|_| breaker.pass().expect("open")).collect();
        // What was begun before counts no more.
        many.into_iter().for_each(|pass| pass.failed_again(seconds));
        for n in 1..4 {
            assert_eq!(breaker.pass().err(), Some(Closed::Rests(seconds(n))));
            assert_eq!(breaker.failures(), (FAILURES + n - 1, seconds(n)));
            tokio::time::advance(seconds(n)).await;
            breaker.pass().expect("one may find out").failed_again(seconds);
        }
        tokio::time::advance(seconds(4)).await;
        breaker.pass().expect("one may find out").answered();
        assert!([breaker.pass(), breaker.pass()].iter().all(Result::is_ok));
    }
}
