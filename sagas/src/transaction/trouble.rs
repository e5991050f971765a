//! Runs that cannot go on as they are: when each is tried again, and how many of them at once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// When one is tried again: at first after this long, then ever later, up to this.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// So many of them are tried at one look, which has others to see to; and so many of those that a person asks something of.
const AT_ONCE: usize = 16;

/// The runs of a share that cannot go on.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    all: HashMap<Uuid, Trouble>,
    /// Those that are tried at this look.
    turn: HashSet<Uuid>,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    tried: Instant,
    pause: Duration,
}

impl Troubles {
    /// A look begins, at which these are due: those of them are tried that have waited for longest. Whether a person asks
    /// something of one, who may have repaired it: nobody else is in the way of those.
    pub(super) fn look(&mut self, due: impl IntoIterator<Item = (Uuid, bool)>, now: Instant) {
        let mut urgent = HashMap::new();
        for (run, is_urgent) in due {
            *urgent.entry(run).or_insert(false) |= is_urgent;
        }
        let mut waiting: [Vec<(Instant, Uuid)>; 2] = Default::default();
        for (run, is_urgent) in urgent {
            let Some(Trouble { tried, pause, .. }) = self.all.get(&run) else { continue };
            let pause = if is_urgent { PAUSE.0 } else { *pause };
            if now.duration_since(*tried) >= pause {
                waiting[usize::from(is_urgent)].push((*tried, run));
            }
        }
        self.turn.clear();
        for mut waiting in waiting {
            waiting.sort_unstable();
            self.turn.extend(waiting.into_iter().take(AT_ONCE).map(|(_, run)| run));
        }
    }

    /// Whether a run is left alone at this look.
    pub(super) fn rests(&self, run: Uuid) -> bool {
        self.all.contains_key(&run) && !self.turn.contains(&run)
    }

    /// A run cannot go on. Whether that is news.
    pub(super) fn note(&mut self, run: Uuid, why: &str, now: Instant) -> bool {
        self.turn.remove(&run);
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
        troubles.look([(run, is_urgent)], begun);
        assert!(!troubles.rests(run), "nothing is known of it");
        assert!(troubles.note(run, "odd", begun) && !troubles.note(run, "odd", begun));
        troubles.over(run);
        troubles.note(run, "odd", begun);
        let mut tries = Vec::new();
        for n in 1..=seconds {
            let now = begun + SECOND * n;
            troubles.look([(run, is_urgent)], now);
            if !troubles.rests(run) {
                troubles.note(run, "odd", now);
                assert!(troubles.rests(run), "once at a look");
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

    /// Which of them are tried at a look, where none of them goes on.
    fn tried_at(troubles: &mut Troubles, due: &[(Uuid, bool)], now: Instant) -> Vec<Uuid> {
        troubles.look(due.iter().copied(), now);
        let tried: Vec<Uuid> = due.iter().map(|(run, _)| *run).filter(|run| !troubles.rests(*run)).collect();
        assert!(!tried.iter().any(|run| troubles.note(*run, "odd", now)));
        tried
    }

    fn of_many(n: u128, begun: Instant) -> (Troubles, Vec<(Uuid, bool)>) {
        let mut troubles = Troubles::default();
        let runs: Vec<(Uuid, bool)> = (0..n).map(|n| (Uuid::from_u128(n), false)).collect();
        assert!(runs.iter().all(|(run, _)| troubles.note(*run, "odd", begun)));
        (troubles, runs)
    }

    #[test]
    fn of_many_some_are_tried_at_each_look_and_all_in_turn() {
        let begun = Instant::now();
        let (mut troubles, runs) = of_many(40, begun);
        let at_each: Vec<usize> =
            (5..=8).map(|n| tried_at(&mut troubles, &runs, begun + SECOND * n).len()).collect();
        assert_eq!(at_each, [16, 16, 8, 0]);
    }

    #[test]
    fn what_a_person_asks_of_one_is_tried_while_thousands_wait() {
        let begun = Instant::now();
        let (mut troubles, mut runs) = of_many(2_000, begun);
        for n in 1..=100 {
            tried_at(&mut troubles, &runs, begun + SECOND * n);
        }
        // It is due last: what is asked is due now.
        let asked = Uuid::from_u128(1_999);
        runs.push((asked, true));
        let looks: Vec<usize> = (101..=150)
            .filter(|n| tried_at(&mut troubles, &runs, begun + SECOND * *n).contains(&asked))
            .map(|n| usize::try_from(n).unwrap())
            .collect();
        assert_eq!(looks.len(), 10, "each five seconds: {looks:?}");
    }

    #[test]
    fn of_thousands_that_nobody_asks_for_each_is_tried() {
        let begun = Instant::now();
        let (mut troubles, runs) = of_many(2_000, begun);
        let mut tried = HashSet::new();
        for n in 1..=200 {
            tried.extend(tried_at(&mut troubles, &runs, begun + SECOND * n));
        }
        assert_eq!(tried.len(), runs.len());
    }

    #[test]
    fn those_that_persons_ask_for_are_some_at_a_look_and_in_nobodys_way() {
        let begun = Instant::now();
        let (mut troubles, mut runs) = of_many(100, begun);
        runs.extend((0..50).map(|n| (Uuid::from_u128(n), true)));
        let tried = tried_at(&mut troubles, &runs, begun + SECOND * 5);
        let is_asked = |run: &&Uuid| run.as_u128() < 50;
        assert_eq!(tried.iter().filter(is_asked).collect::<HashSet<_>>().len(), AT_ONCE);
        assert_eq!(tried.iter().filter(|run| !is_asked(run)).count(), AT_ONCE);
    }
}
