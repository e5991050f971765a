//! Slices: how keys are shared out among nodes.
//!
//! Every key belongs to one of 1,024 slices, by a hash that is the same in every process and version. A range of slices
//! has one owner, so order is kept per key however many owners there are. The idea is that of the
//! virtual nodes of Dynamo (`DeCandia` et al., 2007) and of the slices of Akka Projections.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

/// How many slices there are. Stored checkpoints depend on it.
pub const SLICES: u16 = 1_024;

/// The slice of a key.
#[must_use]
pub fn slice_of(key: &str) -> u16 {
    // The upper ten bits: 1,024 = 2^10. They always fit.
    u16::try_from(xxh3_64(key.as_bytes()) >> 54).unwrap_or_default()
}

/// A range of slices, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a range is its two ends")]
pub struct Slices {
    /// The first slice.
    pub first: u16,
    /// The last slice.
    pub last: u16,
}

impl Slices {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: SLICES - 1 };

    /// How many there are in it.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// Whether the slice of a key is in it.
    #[must_use]
    pub fn has(self, key: &str) -> bool {
        self == Self::ALL || (self.first..=self.last).contains(&slice_of(key))
    }

    /// Those that are in both.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }

    /// Those that are not in the other one: before it, and behind it.
    pub(crate) fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let before = (other.first > self.first)
            .then(|| Self { first: self.first, last: self.last.min(other.first - 1) });
        let behind =
            (other.last < self.last).then(|| Self { first: self.first.max(other.last + 1), last: self.last });
        // What does not overlap lies before it or behind it, whole.
        before.into_iter().chain(behind)
    }

    /// The first `count` of them and the rest; `None` if one of the two would be empty.
    #[must_use]
    pub const fn split(self, count: u16) -> Option<(Self, Self)> {
        if count == 0 || count >= self.count() {
            return None;
        }
        let middle = self.first + count;
        Some((Self { first: self.first, last: middle - 1 }, Self { first: middle, last: self.last }))
    }
}

impl fmt::Display for Slices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Any slices, not only neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceSet([u64; SLICES as usize / 64]);

impl SliceSet {
    /// All of them.
    pub const ALL: Self = Self([u64::MAX; SLICES as usize / 64]);

    /// Adds a slice; one that does not exist is ignored.
    pub fn insert(&mut self, slice: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slice / 64)) {
            *word |= 1 << (slice % 64);
        }
    }

    /// Adds those of another set.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }

    /// Whether a slice is in it.
    #[must_use]
    pub fn has(&self, slice: u16) -> bool {
        self.0.get(usize::from(slice / 64)).is_some_and(|word| word & (1 << (slice % 64)) != 0)
    }

    /// Whether any slice of a range is in it.
    #[must_use]
    pub fn meets(&self, slices: Slices) -> bool {
        (slices.first..=slices.last).any(|slice| self.has(slice))
    }

    /// Its slices as ranges of neighbours, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Slices> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..SLICES).find(|slice| self.has(*slice))?;
            let last = (first..SLICES).take_while(|slice| self.has(*slice)).last()?;
            next = last + 1;
            Some(Slices { first, last })
        })
    }
}

impl From<Slices> for SliceSet {
    fn from(slices: Slices) -> Self {
        let mut set = Self::default();
        (slices.first..=slices.last).for_each(|slice| set.insert(slice));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P5: a slice is stored with every checkpoint, so it must never change.
    #[test]
    fn slices_of_keys_are_pinned() {
        let slices = ["", "1", "ada", "account-1", "ä", "customer-00042"].map(slice_of);
        assert_eq!(slices, [180, 407, 420, 384, 336, 185]);
    }

    /// P5
    #[test]
    fn keys_spread_over_all_slices() {
        let mut seen = std::collections::BTreeMap::<u16, u32>::new();
        (0..102_400).for_each(|i| *seen.entry(slice_of(&format!("key-{i}"))).or_default() += 1);
        assert_eq!(seen.len(), usize::from(SLICES));
        assert!(seen.values().all(|n| (50..=160).contains(n)), "about 100 each: {seen:?}");
    }

    #[test]
    fn a_split_loses_no_slice() {
        for count in 1..SLICES {
            let (low, high) = Slices::ALL.split(count).unwrap();
            assert_eq!((low.count(), low.last + 1, high.last), (count, high.first, SLICES - 1));
        }
        assert_eq!((Slices::ALL.split(0), Slices::ALL.split(SLICES)), (None, None));
    }

    #[test]
    fn a_set_of_slices_comes_apart_into_its_ranges() {
        let mut set = SliceSet::default();
        assert_eq!(set.ranges().count(), 0);
        [0, 1, 63, 64, 65, 1_023].into_iter().for_each(|slice| set.insert(slice));
        let ranges: Vec<String> = set.ranges().map(|slices| slices.to_string()).collect();
        assert_eq!(ranges, ["0-1", "63-65", "1023-1023"]);
        assert!(set.meets(Slices { first: 60, last: 63 }) && !set.meets(Slices { first: 2, last: 62 }));
        assert_eq!(SliceSet::from(Slices::ALL), SliceSet::ALL);
    }
}
