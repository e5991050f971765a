//! For how long a step is tried, and when it is tried again.

use std::time::Duration;

use es_core::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::step::Retry;
use crate::transaction::Call;

/// Failures in a row, all of the forward call or all of the undo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    pub(crate) error: String,
    /// Since when it is tried in vain, without the time in which nobody could call anything.
    since: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Failures {
    pub(crate) fn add(&mut self, error: &str, at: Timestamp) {
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert(at);
        (self.last, self.error) = (Some(at), error.to_owned());
    }

    /// Nobody could call anything for so long: that was no time of trying.
    pub(crate) fn rested(&mut self, rested: Duration) {
        self.since = self.since.map(|since| since.saturating_add(rested).unwrap_or(since));
    }

    /// Whether what has to succeed was tried for long enough.
    pub(crate) fn are_too_many(&self, retry: &Retry, now: Timestamp) -> bool {
        let tried_for = self.since.and_then(|since| Duration::try_from(now - since).ok());
        self.count >= retry.late_tries.max(1)
            || self.count > 0 && tried_for.is_some_and(|tried_for| tried_for >= retry.late_for)
    }

    /// When a step is tried again that has failed: a part of its pause later, which is the same whoever asks, and another one
    /// for each run.
    pub(crate) fn again(&self, retry: &Retry, step: &str, run: Uuid, call: Call) -> Option<Timestamp> {
        let last = self.last?;
        let pause = retry.pause(self.count);
        let of = format!("{run}/{step}/{}/{}", call.undo, self.count);
        #[expect(clippy::cast_precision_loss, reason = "a part between 0 and 1")]
        let part = (xxh3_64(of.as_bytes()) >> 32) as f64 / f64::from(u32::MAX);
        last.saturating_add(pause.mul_f64(part.min(1.0))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_could_call_is_no_time_of_trying() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let retry = Retry::default().late(20, Duration::from_secs(100));
        let mut failures = Failures::default();
        failures.add("away", at(0));
        assert!(!failures.are_too_many(&retry, at(99)) && failures.are_too_many(&retry, at(100)));
        failures.rested(Duration::from_secs(1_000));
        assert!(!failures.are_too_many(&retry, at(1_099)) && failures.are_too_many(&retry, at(1_100)));
    }

    #[test]
    fn what_has_not_been_tried_is_not_given_up() {
        let at = Timestamp::from_second(0).expect("a time");
        let never = Retry::default().late(0, Duration::ZERO);
        assert!(!Failures::default().are_too_many(&never, at));
    }
}
