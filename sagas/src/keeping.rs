//! For how long what has ended is kept: the one rule of runs, of instances of processes and of decisions. Late is allowed, early is
//! not.

use std::time::Duration;

use es_core::Timestamp;

/// The least of it: whoever waits for an end looks at it in between.
const SHORTEST: Duration = Duration::from_hours(1);
/// By so much a clock may have gone wrong between an end and now, and nothing goes too early.
const OFF: Duration = Duration::from_mins(30);

/// Why this is too brief for what has ended to be kept. `keeps`: what keeps it, and what that is.
pub(crate) fn brief(keeps: &str, keep: Duration) -> Option<String> {
    let is_brief = keep < SHORTEST;
    is_brief.then(|| format!("{keeps} for {keep:?}: it has to be an hour at least"))
}

/// What has ended before this may go. `clocks`: what time it is in the store, and by the app: whichever is behind counts.
/// `None`: nothing may go.
pub(crate) fn ended_before(clocks: [Timestamp; 2], keep: Duration) -> Option<Timestamp> {
    let [store, app] = clocks;
    store.min(app).checked_sub(keep).ok()?.checked_sub(OFF).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_clocks_the_one_that_is_behind_counts_and_half_an_hour_is_left() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (early, late) = (at("2026-01-03T00:30:00Z"), at("2027-01-01T00:00:00Z"));
        let day = Duration::from_hours(24);
        for clocks in [[early, late], [late, early], [early, early]] {
            assert_eq!(ended_before(clocks, day), Some(at("2026-01-02T00:00:00Z")));
        }
        assert_eq!(ended_before([late, late], Duration::MAX), None);
        assert!(brief("keeps it", Duration::from_mins(59)).is_some() && brief("", SHORTEST).is_none());
    }
}
