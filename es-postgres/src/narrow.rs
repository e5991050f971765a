//! How much a page is asked for. One that outlasts the time limit of a statement would do so again, so it is halved until
//! it comes; those after it begin with that size, and grow again.

use std::sync::atomic::{AtomicU32, Ordering};

use es_core::store::StoreError;

use crate::error;

/// `query_canceled`: by the statement timeout, or by an operator.
const CANCELED: &str = "57014";
/// After so many pages that came in time, the next ones are twice as large.
const CALM: u32 = 16;
/// No page is halved more often: 50,000 positions are then one.
const MOST: u32 = 16;

/// What the pages of a process are divided by now.
#[derive(Debug, Default)]
pub(crate) struct Narrow {
    halvings: AtomicU32,
    /// Pages of that size that came in time.
    came: AtomicU32,
}

/// One page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    halvings: u32,
}

impl Ask {
    /// Whether it is for all of it.
    pub(crate) const fn is_whole(self) -> bool {
        self.halvings == 0
    }

    /// So much of what would be asked for at most.
    pub(crate) const fn of(self, most: usize) -> usize {
        let part = most >> self.halvings;
        if part == 0 && most > 0 { 1 } else { part }
    }

    /// Whether a smaller part can be asked for.
    const fn may_be_smaller(self, most: usize) -> bool {
        self.of(most) > 1 && self.halvings < MOST
    }
}

impl Narrow {
    pub(crate) fn ask(&self) -> Ask {
        Ask { halvings: self.halvings.load(Ordering::Relaxed) }
    }

    /// The next one of a call whose last one has outlasted its time: smaller than that, whatever others have met meanwhile. So
    /// no call asks for ever.
    pub(crate) fn after(&self, ask: Ask) -> Ask {
        Ask { halvings: self.ask().halvings.max(ask.halvings + 1) }
    }

    /// It came in time.
    pub(crate) fn came(&self, ask: Ask) {
        if ask.halvings == 0 || !(self.came.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(CALM) {
            return;
        }
        self.move_from(ask.halvings, ask.halvings - 1);
    }

    /// Whether it is to be asked for again: it has outlasted its time, and was more than one. `most` is what it would have
    /// been at most.
    pub(crate) fn outlasted(&self, ask: Ask, most: usize, error: &StoreError) -> bool {
        if !ask.may_be_smaller(most) || !is_canceled(error) {
            return false;
        }
        self.came.store(0, Ordering::Relaxed);
        self.move_from(ask.halvings, ask.halvings + 1);
        true
    }

    /// Unless another reader has moved it meanwhile.
    fn move_from(&self, from: u32, to: u32) {
        let moved = self.halvings.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() && to > from {
            tracing::warn!(parts = 1_u32 << to, "a page outlasts the statement timeout: it is read in parts");
        }
    }
}

fn is_canceled(error: &StoreError) -> bool {
    let StoreError::Transient { source, .. } = error else { return false };
    source.downcast_ref().is_some_and(|error| error::code(error) == Some(CANCELED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_halved_down_to_one_and_grows_again() {
        let narrow = Narrow::default();
        assert_eq!(narrow.ask().of(10_000), 10_000);
        for _ in 0..MOST {
            let ask = narrow.ask();
            narrow.move_from(ask.halvings, ask.halvings + 1);
        }
        assert_eq!((narrow.ask().of(10_000), narrow.ask().of(50_000), narrow.ask().of(0)), (1, 1, 0));
        for _ in 0..MOST * CALM {
            narrow.came(narrow.ask());
        }
        assert_eq!(narrow.ask().of(10_000), 10_000);
    }

    #[test]
    fn what_two_readers_meet_at_once_halves_it_once() {
        let narrow = Narrow::default();
        let (a, b) = (narrow.ask(), narrow.ask());
        narrow.move_from(a.halvings, a.halvings + 1);
        narrow.move_from(b.halvings, b.halvings + 1);
        assert_eq!(narrow.ask().of(8), 4);
    }

    #[test]
    fn a_call_that_outlasts_its_time_each_time_ends_whatever_others_meet() {
        let (narrow, mut turns) = (Narrow::default(), 0);
        let mut ask = narrow.ask();
        while ask.may_be_smaller(10_000) {
            narrow.move_from(ask.halvings, ask.halvings + 1);
            turns += 1;
            // Pages of others come in time, and set back what all begin with.
            for _ in 0..MOST * CALM {
                narrow.came(narrow.ask());
            }
            assert_eq!(narrow.ask().of(10_000), 10_000);
            assert!(turns <= MOST, "it asks for ever");
            ask = narrow.after(ask);
        }
        assert_eq!(turns, 13);
    }

    #[test]
    fn what_is_no_time_out_is_not_asked_for_again() {
        let narrow = Narrow::default();
        let refused = StoreError::misuse("no");
        assert!(!narrow.outlasted(narrow.ask(), 100, &refused));
        let away = StoreError::transient("reading", sqlx::Error::PoolClosed);
        assert!(!narrow.outlasted(narrow.ask(), 100, &away));
    }
}
