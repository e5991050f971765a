//! Runs that cannot go on as they are: when each is tried again, and how many of them at once.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// When one is tried again: at first after this long, then ever later, up to this.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// So many of them are tried at one look, which has others to see to.
const AT_ONCE: usize = 16;

/// The runs of a share that cannot go on.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    all: HashMap<Uuid, Trouble>,
    /// How many are tried at this look.
    tried: usize,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    tried: Instant,
    pause: Duration,
}

impl Troubles {
    /// A look begins.
    pub(super) const fn look(&mut self) {
        self.tried = 0;
    }

    /// Whether a run is left alone at this look. `is_urgent`: a person asks something of it, who may have repaired it.
    pub(super) fn rests(&mut self, run: Uuid, is_urgent: bool, now: Instant) -> bool {
        let Some(trouble) = self.all.get(&run) else { return false };
        let pause = if is_urgent { PAUSE.0 } else { trouble.pause };
        let rests = now.duration_since(trouble.tried) < pause || self.tried == AT_ONCE;
        self.tried += usize::from(!rests);
        rests
    }

    /// A run cannot go on. Whether that is news.
    pub(super) fn note(&mut self, run: Uuid, why: &str, now: Instant) -> bool {
        let before = self.all.remove(&run);
        let pause = before.as_ref().map_or(PAUSE.0, |before| (before.pause * 2).min(PAUSE.1));
        self.all.insert(run, Trouble { why: why.to_owned(), tried: now, pause });
        before.is_none_or(|before| before.why != why)
    }

    /// It goes on, or is gone.
    pub(super) fn over(&mut self, run: Uuid) {
        self.all.remove(&run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds it is tried in so many of them, if it never goes on.
    fn tries(seconds: u32, is_urgent: bool) -> Vec<u32> {
        let (run, begun, mut troubles) = (Uuid::from_u128(1), Instant::now(), Troubles::default());
        assert!(!troubles.rests(run, is_urgent, begun), "nothing is known of it");
        assert!(troubles.note(run, "odd", begun) && !troubles.note(run, "odd", begun));
        troubles.over(run);
        troubles.note(run, "odd", begun);
        let mut tries = Vec::new();
        for n in 1..=seconds {
            let now = begun + SECOND * n;
            troubles.look();
            if !troubles.rests(run, is_urgent, now) {
                troubles.note(run, "odd", now);
                tries.push(n);
            }
        }
        tries
    }

    #[test]
    fn one_that_cannot_go_on_is_tried_ever_later() {
        assert_eq!(tries(200, false), [5, 15, 35, 75, 135, 195]);
        assert_eq!(tries(20, true), [5, 10, 15, 20], "somebody waits for an answer");
    }

    #[test]
    fn of_many_some_are_tried_at_each_look_and_all_in_turn() {
        let (begun, mut troubles) = (Instant::now(), Troubles::default());
        let runs: Vec<Uuid> = (0..40).map(Uuid::from_u128).collect();
        assert!(runs.iter().all(|run| troubles.note(*run, "odd", begun)));
        let mut at_each = Vec::new();
        for n in 5..=8 {
            troubles.look();
            let now = begun + SECOND * n;
            let tried: Vec<Uuid> =
                runs.iter().copied().filter(|run| !troubles.rests(*run, false, now)).collect();
            assert!(!tried.iter().any(|run| troubles.note(*run, "odd", now)));
            at_each.push(tried.len());
        }
        assert_eq!(at_each, [16, 16, 8, 0]);
    }
}
