//! What is remembered of lanes, of as many as fit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lane::Lane;

/// Lanes that are remembered.
const LANES: usize = 1_000;
/// What nobody has asked for so long makes room for others.
const STALE: Duration = Duration::from_secs(600);
/// So often a sender is told to come again.
pub(super) const TRIES: u32 = 10;

/// Something of each lane. While there are too many, new ones find no place, and those that have one come to an end.
#[derive(Debug)]
pub(super) struct Remembered<T>(HashMap<Lane, (T, Instant)>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Remembered<T> {
    pub(super) fn get(&self, lane: &Lane) -> Option<&T> {
        self.0.get(lane).map(|(value, _)| value)
    }

    /// `needs`: what does not make room for others as long as somebody asks for it.
    pub(super) fn put(&mut self, lane: &Lane, value: T, needs: impl Fn(&T) -> bool) {
        if !self.0.contains_key(lane) && self.0.len() >= LANES {
            self.0.retain(|_, (value, at)| needs(value) && at.elapsed() < STALE);
            if self.0.len() >= LANES {
                return;
            }
        }
        self.0.insert(lane.clone(), (value, Instant::now()));
    }

    pub(super) fn remove(&mut self, lane: &Lane) {
        self.0.remove(lane);
    }
}

/// How often the sender of a lane was told to come again, for one reason.
#[derive(Debug)]
pub(super) struct Tries<R>(Mutex<Remembered<(R, u32)>>);

impl<R> Default for Tries<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R: PartialEq> Tries<R> {
    /// It has come again for this reason: whether it is to do so once more.
    pub(super) fn once_more(&self, lane: &Lane, reason: R) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(lane).filter(|(of, _)| *of == reason).map_or(0, |(_, tries)| *tries);
        let tries = before.saturating_add(1);
        all.put(lane, (reason, tries), |(_, tries)| *tries < TRIES);
        tries < TRIES
    }

    /// Whether it is to come again no more.
    pub(super) fn is_over(&self, lane: &Lane, reason: &R) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(lane).is_some_and(|(of, tries)| of == reason && *tries >= TRIES)
    }

    /// The last time did not count.
    pub(super) fn undo(&self, lane: &Lane, reason: &R) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(((of, tries), _)) = all.0.get_mut(lane)
            && of == reason
        {
            *tries = tries.saturating_sub(1);
        }
    }

    pub(super) fn forget(&self, lane: &Lane) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_lane_comes_to_its_end_however_many_there_are() {
        let (tries, mut lanes) = (Tries::default(), Vec::new());
        lanes.extend((0..2 * LANES + 500).map(|n| Lane::of_message("/shop", n.to_string())));
        let mut rounds = 0;
        while !lanes.is_empty() {
            lanes.retain(|lane| tries.once_more(lane, ()));
            rounds += 1;
            assert!(rounds <= 3 * TRIES, "{} are told to come again", lanes.len());
        }
        // And those that do not come again are in nobody's way for long.
        let tries = Tries::default();
        for n in 0..LANES {
            assert!(tries.once_more(&Lane::of_message("/mails", n.to_string()), ()));
        }
        tokio::time::advance(STALE).await;
        let lane = Lane::of_message("/shop", "1");
        assert_eq!((0..TRIES).filter(|_| tries.once_more(&lane, ())).count(), 9);
        assert!(!tries.once_more(&lane, ()), "it stays so");
        tries.forget(&lane);
        assert!(tries.once_more(&lane, ()));
    }
}
