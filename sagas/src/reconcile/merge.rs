//! Two streams in the order of their keys, merged: pure. It holds one entry of each side, and the next one.

use es_core::Timestamp;

/// An entry of a side: a key, and what is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<K, V> {
    /// Its key.
    pub key: K,
    /// What is compared.
    pub value: V,
    /// When it was changed last, if that is known: what is younger than the settling time is no difference yet.
    pub changed: Option<Timestamp>,
    /// Whether a transaction that goes on may change it: then it is no difference.
    pub live: bool,
}

impl<K, V> Entry<K, V> {
    /// An entry of which it is not known when it was changed.
    pub const fn new(key: K, value: V) -> Self {
        Self { key, value, changed: None, live: false }
    }

    /// When it was changed last.
    #[must_use]
    pub fn changed_at(self, at: Timestamp) -> Self {
        Self { changed: Some(at), ..self }
    }

    /// Whether a transaction that goes on may change it.
    #[must_use]
    pub fn live(self, live: bool) -> Self {
        Self { live, ..self }
    }
}

impl<K, V> From<(K, V)> for Entry<K, V> {
    fn from((key, value): (K, V)) -> Self {
        Self::new(key, value)
    }
}

impl<K, V> From<(K, V, Timestamp)> for Entry<K, V> {
    fn from((key, value, changed): (K, V, Timestamp)) -> Self {
        Self::new(key, value).changed_at(changed)
    }
}

/// One of two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

/// What both sides have of a key: one entry of each, if there is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair<K, V> {
    pub(crate) key: K,
    pub(crate) left: Option<Entry<K, V>>,
    pub(crate) right: Option<Entry<K, V>>,
    /// Whether a side has more than one of it.
    pub(crate) twice: bool,
}

/// A key came that is not behind the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfOrder {
    pub(crate) side: Side,
}

/// Entries of one key, of one side.
#[derive(Debug)]
struct Of<K, V> {
    first: Entry<K, V>,
    twice: bool,
}

#[derive(Debug)]
struct Half<K, V> {
    side: Side,
    now: Option<Of<K, V>>,
    /// The first of the next key: what is before it is complete.
    next: Option<Entry<K, V>>,
    over: bool,
}

impl<K: Ord, V> Half<K, V> {
    const fn new(side: Side) -> Self {
        Self { side, now: None, next: None, over: false }
    }

    const fn is_complete(&self) -> bool {
        self.over || self.next.is_some()
    }

    fn feed(&mut self, entry: Option<Entry<K, V>>) -> Result<(), OutOfOrder> {
        let Some(entry) = entry else {
            self.over = true;
            return Ok(());
        };
        match &mut self.now {
            None => self.now = Some(Of { first: entry, twice: false }),
            Some(now) if entry.key == now.first.key => now.twice = true,
            Some(now) if entry.key > now.first.key => self.next = Some(entry),
            Some(_) => return Err(OutOfOrder { side: self.side }),
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Of<K, V>> {
        let now = self.now.take();
        self.now = self.next.take().map(|first| Of { first, twice: false });
        now
    }
}

/// A merge that is under way.
#[derive(Debug)]
pub(crate) struct Merge<K, V> {
    left: Half<K, V>,
    right: Half<K, V>,
}

impl<K: Ord + Clone, V> Merge<K, V> {
    pub(crate) const fn new() -> Self {
        Self { left: Half::new(Side::Left), right: Half::new(Side::Right) }
    }

    /// The side whose next entry it needs before it can say more; `None`: [`take`](Self::take) says it.
    pub(crate) const fn wants(&self) -> Option<Side> {
        match (self.left.is_complete(), self.right.is_complete()) {
            (false, _) => Some(Side::Left),
            (true, false) => Some(Side::Right),
            (true, true) => None,
        }
    }

    /// The next entry of a side; `None`: there are no more.
    pub(crate) fn feed(&mut self, side: Side, entry: Option<Entry<K, V>>) -> Result<(), OutOfOrder> {
        match side {
            Side::Left => self.left.feed(entry),
            Side::Right => self.right.feed(entry),
        }
    }

    /// What both sides have of the lowest key, once nothing is wanted; `None`: that was all.
    pub(crate) fn take(&mut self) -> Option<Pair<K, V>> {
        let key = |half: &Half<K, V>| half.now.as_ref().map(|of| of.first.key.clone());
        let (left, right) = (key(&self.left), key(&self.right));
        let lowest = left.iter().chain(&right).min()?.clone();
        let left = if left.as_ref() == Some(&lowest) { self.left.take() } else { None };
        let right = if right.as_ref() == Some(&lowest) { self.right.take() } else { None };
        let twice = left.iter().chain(&right).any(|of| of.twice);
        let first = |of: Option<Of<K, V>>| of.map(|of| of.first);
        Some(Pair { key: lowest, left: first(left), right: first(right), twice })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    type Found = Vec<(u8, Option<u8>, Option<u8>, bool)>;

    fn merged(left: &[(u8, u8)], right: &[(u8, u8)]) -> Result<Found, OutOfOrder> {
        let (mut merge, mut found) = (Merge::new(), Vec::new());
        let (mut left, mut right) = (left.iter(), right.iter());
        loop {
            if let Some(side) = merge.wants() {
                let next = if side == Side::Left { left.next() } else { right.next() };
                merge.feed(side, next.map(|entry| Entry::from(*entry)))?;
            } else if let Some(Pair { key, left, right, twice }) = merge.take() {
                let value = |entry: Option<Entry<u8, u8>>| entry.map(|entry| entry.value);
                found.push((key, value(left), value(right), twice));
            } else {
                return Ok(found);
            }
        }
    }

    /// All in memory, and looked up key by key.
    fn oracle(left: &[(u8, u8)], right: &[(u8, u8)]) -> Found {
        let by_key = |side: &[(u8, u8)]| {
            let mut all = BTreeMap::<u8, Vec<u8>>::new();
            side.iter().for_each(|(key, value)| all.entry(*key).or_default().push(*value));
            all
        };
        let (left, right) = (by_key(left), by_key(right));
        let keys: std::collections::BTreeSet<u8> = left.keys().chain(right.keys()).copied().collect();
        let of = |side: &BTreeMap<u8, Vec<u8>>, key| side.get(&key).cloned().unwrap_or_default();
        let found = keys.into_iter().map(|key| {
            let (left, right) = (of(&left, key), of(&right, key));
            (key, left.first().copied(), right.first().copied(), left.len() > 1 || right.len() > 1)
        });
        found.collect()
    }

    /// In order; some keys twice.
    fn side(random: &mut StdRng) -> Vec<(u8, u8)> {
        let n = random.random_range(0..12);
        let mut all: Vec<(u8, u8)> =
            (0..n).map(|_| (random.random_range(0..10), random.random_range(0..3))).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    #[test]
    fn a_merge_finds_what_a_comparison_of_all_finds() {
        for seed in 0..20_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let (left, right) = (side(&mut random), side(&mut random));
            assert_eq!(
                merged(&left, &right).unwrap(),
                oracle(&left, &right),
                "seed {seed}: {left:?} {right:?}"
            );
        }
    }

    #[test]
    fn what_is_not_in_order_is_refused_with_its_side() {
        for seed in 0..2_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut left, right) = (side(&mut random), side(&mut random));
            let n = random.random_range(1..5);
            left.insert(0, (20, 0));
            left.insert(n.min(left.len()), (1, 0));
            assert_eq!(merged(&left, &right), Err(OutOfOrder { side: Side::Left }), "seed {seed}");
            assert_eq!(merged(&right, &left), Err(OutOfOrder { side: Side::Right }), "seed {seed}");
        }
    }
}
