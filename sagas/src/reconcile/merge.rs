//! Two streams in the order of their keys, merged: pure. It holds one entry of each side, and the next one.

use std::fmt::Debug;

use es_core::Timestamp;

/// Values of a key that a side has more than once, of which it is known what they say; of the others how many there are.
const KEPT: usize = 100;

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

/// What both sides have of a key: the first entry of each, if there is any, and what they have of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair<K, V> {
    pub(crate) key: K,
    pub(crate) left: Option<Entry<K, V>>,
    pub(crate) right: Option<Entry<K, V>>,
    left_more: More<V>,
    right_more: More<V>,
}

/// The values of a key behind its first one: how many, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct More<V> {
    n: u64,
    kept: Vec<V>,
}

impl<V> More<V> {
    const NONE: Self = Self { n: 0, kept: Vec::new() };
}

impl<K, V> Pair<K, V> {
    /// Of one entry of each side at most.
    pub(crate) const fn new(key: K, left: Option<Entry<K, V>>, right: Option<Entry<K, V>>) -> Self {
        Self { key, left, right, left_more: More::NONE, right_more: More::NONE }
    }

    /// Whether a side has more than one of it.
    pub(crate) const fn is_twice(&self) -> bool {
        self.left_more.n > 0 || self.right_more.n > 0
    }

    fn sides(&self) -> [(Option<&Entry<K, V>>, &More<V>); 2] {
        [(self.left.as_ref(), &self.left_more), (self.right.as_ref(), &self.right_more)]
    }
}

impl<K, V: PartialEq> Pair<K, V> {
    /// Whether both looks have found the same, changed at the same time; in which order values of one key come is all one.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let mut sides = self.sides().into_iter().zip(other.sides());
        sides.all(|((one, more), (two, others))| match (one, two) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                more.n == others.n && one.changed == two.changed && {
                    let mut left: Vec<&V> = std::iter::once(&two.value).chain(&others.kept).collect();
                    let mut all = std::iter::once(&one.value).chain(&more.kept);
                    all.all(|value| {
                        left.iter().position(|of| *of == value).map(|at| left.swap_remove(at)).is_some()
                    })
                }
            }
            _ => false,
        })
    }
}

impl<K, V: Debug> Pair<K, V> {
    /// What a side says, all of it, as text.
    pub(super) fn says(&self) -> [Option<String>; 2] {
        self.sides().map(|(entry, more)| {
            let entry = entry?;
            if more.n == 0 {
                return Some(format!("{:?}", entry.value));
            }
            let all = std::iter::once(&entry.value).chain(&more.kept);
            let mut all: Vec<String> = all.map(|value| format!("{value:?}")).collect();
            all.sort();
            Some(format!("{} times: {}", more.n + 1, all.join(", ")))
        })
    }
}

/// A key came that is not behind the one before it, of its side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutOfOrder<K> {
    pub(crate) side: Side,
    pub(crate) after: K,
}

/// Entries of one key, of one side.
#[derive(Debug)]
struct Of<K, V> {
    first: Entry<K, V>,
    more: More<V>,
}

impl<K, V> Of<K, V> {
    const fn one(first: Entry<K, V>) -> Self {
        Self { first, more: More::NONE }
    }

    /// One more: what is live or young of it is so of all.
    fn add(&mut self, Entry { value, changed, live, .. }: Entry<K, V>) {
        self.first.live |= live;
        self.first.changed = self.first.changed.max(changed);
        self.more.n += 1;
        if self.more.kept.len() < KEPT {
            self.more.kept.push(value);
        }
    }
}

#[derive(Debug)]
struct Half<K, V> {
    side: Side,
    now: Option<Of<K, V>>,
    /// The first of the next key: what is before it is complete.
    next: Option<Entry<K, V>>,
    over: bool,
}

impl<K: Ord + Clone, V> Half<K, V> {
    const fn new(side: Side) -> Self {
        Self { side, now: None, next: None, over: false }
    }

    const fn is_complete(&self) -> bool {
        self.over || self.next.is_some()
    }

    fn feed(&mut self, entry: Option<Entry<K, V>>) -> Result<(), OutOfOrder<K>> {
        let Some(entry) = entry else {
            self.over = true;
            return Ok(());
        };
        match &mut self.now {
            None => self.now = Some(Of::one(entry)),
            Some(now) if entry.key == now.first.key => now.add(entry),
            Some(now) if entry.key > now.first.key => self.next = Some(entry),
            Some(now) => return Err(OutOfOrder { side: self.side, after: now.first.key.clone() }),
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Of<K, V>> {
        let now = self.now.take();
        self.now = self.next.take().map(Of::one);
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
    pub(crate) fn feed(&mut self, side: Side, entry: Option<Entry<K, V>>) -> Result<(), OutOfOrder<K>> {
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
        let parts = |of: Option<Of<K, V>>| of.map_or((None, More::NONE), |of| (Some(of.first), of.more));
        let ((left, left_more), (right, right_more)) = (parts(left), parts(right));
        Some(Pair { key: lowest, left, right, left_more, right_more })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    type Found = Vec<(u8, Option<u8>, Option<u8>, bool)>;

    fn merged(left: &[(u8, u8)], right: &[(u8, u8)]) -> Result<Found, OutOfOrder<u8>> {
        let (mut merge, mut found) = (Merge::new(), Vec::new());
        let (mut left, mut right) = (left.iter(), right.iter());
        loop {
            if let Some(side) = merge.wants() {
                let next = if side == Side::Left { left.next() } else { right.next() };
                merge.feed(side, next.map(|entry| Entry::from(*entry)))?;
            } else if let Some(pair) = merge.take() {
                let value = |entry: &Option<Entry<u8, u8>>| entry.as_ref().map(|entry| entry.value);
                found.push((pair.key, value(&pair.left), value(&pair.right), pair.is_twice()));
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
            assert_eq!(merged(&left, &right), Err(OutOfOrder { side: Side::Left, after: 20 }), "seed {seed}");
            assert_eq!(
                merged(&right, &left),
                Err(OutOfOrder { side: Side::Right, after: 20 }),
                "seed {seed}"
            );
        }
    }

    fn pair(left: &[Entry<u8, u8>]) -> Pair<u8, u8> {
        let mut merge = Merge::new();
        left.iter().for_each(|entry| merge.feed(Side::Left, Some(entry.clone())).unwrap());
        merge.feed(Side::Left, None).unwrap();
        merge.feed(Side::Right, None).unwrap();
        merge.take().unwrap()
    }

    #[test]
    fn a_key_that_is_there_more_than_once_is_all_that_is_there_of_it() {
        let of = |values: &[u8]| pair(&values.iter().map(|value| Entry::new(1, *value)).collect::<Vec<_>>());
        assert!(of(&[5, 7]).is_as(&of(&[7, 5])), "in whichever order they come");
        assert_eq!(of(&[5, 7]).says(), of(&[7, 5]).says());
        for other in [&[5][..], &[5, 5], &[5, 7, 7], &[5, 9]] {
            assert!(!of(&[5, 7]).is_as(&of(other)), "{other:?}");
            assert_ne!(of(&[5, 7]).says(), of(other).says(), "{other:?}");
        }
        let many = of(&[1; 300]);
        assert!(many.is_as(&of(&[1; 300])) && !many.is_as(&of(&[1; 299])));
        let at = |second| Timestamp::from_second(second).unwrap();
        let young =
            pair(&[Entry::new(1, 5).changed_at(at(1)), Entry::new(1, 5).changed_at(at(9)).live(true)]);
        let first = young.left.as_ref().unwrap();
        assert!(first.live && first.changed == Some(at(9)), "{first:?}");
        // The same value, written once more, is not the same.
        let one = |second| pair(&[Entry::new(1, 5).changed_at(at(second))]);
        assert!(one(1).is_as(&one(1)) && !one(1).is_as(&one(2)));
    }
}
