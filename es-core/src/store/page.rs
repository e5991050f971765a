//! Where a page ends: a read is bounded by a number and by bytes, and whoever reads can tell whether a page was cut.

use super::{RecordedEvent, StoredRow};
use crate::limits::{MAX_PAGE, PAGE_BYTES};

/// What a page is made of.
pub trait PageItem {
    /// How many bytes it takes, without what every one takes.
    fn size(&self) -> usize;
}

impl PageItem for RecordedEvent {
    /// Payload, tags and texts of the metadata.
    fn size(&self) -> usize {
        crate::event::size(&self.data, &self.tags, &self.metadata)
    }
}

impl PageItem for StoredRow {
    fn size(&self) -> usize {
        self.key.len() + self.data.len()
    }
}

/// Fills a page: it is full with the item by which it reaches [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    bytes: usize,
    bound: usize,
}

impl Default for Filling {
    fn default() -> Self {
        Self::shared(1)
    }
}

impl Filling {
    /// One of so many pages that are read together and have the bytes of one. Each has room for one item.
    #[must_use]
    pub const fn shared(pages: usize) -> Self {
        let pages = if pages == 0 { 1 } else { pages };
        let share = PAGE_BYTES / pages;
        Self { bytes: 0, bound: if share == 0 { 1 } else { share } }
    }

    /// Whether nothing more belongs to the page.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes >= self.bound
    }

    /// Whether the next item still belongs to the page: then it is counted.
    pub fn takes(&mut self, item: &impl PageItem) -> bool {
        let takes = !self.is_full();
        if takes {
            self.bytes += item.size();
        }
        takes
    }
}

/// Whether a page is as large as a read of at most `limit` makes it: then there may be more behind it. A smaller one is
/// the last.
#[must_use]
pub fn is_full<T: PageItem>(page: &[T], limit: usize) -> bool {
    page.len() >= limit.min(MAX_PAGE) || page.iter().map(PageItem::size).sum::<usize>() >= PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(size: usize) -> StoredRow {
        StoredRow { key: String::new(), rev: 1, data: vec![0; size].into() }
    }

    #[test]
    fn a_page_ends_with_what_fills_it() {
        let mut filling = Filling::default();
        assert!(filling.takes(&row(PAGE_BYTES - 1)));
        assert!(filling.takes(&row(1)), "there was room left");
        assert!(filling.is_full() && !filling.takes(&row(0)));
        for mut filling in [Filling::default(), Filling::shared(1_000), Filling::shared(usize::MAX)] {
            assert!(filling.takes(&row(2 * PAGE_BYTES)), "one is given however large");
            assert!(filling.is_full());
        }
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last() {
        assert!(is_full(&[row(1), row(1)], 2));
        assert!(!is_full(&[row(1), row(1)], 3));
        assert!(is_full(&[row(1), row(PAGE_BYTES - 1)], 3));
        assert!(!is_full(&[row(1), row(PAGE_BYTES - 2)], 3));
        let all: Vec<StoredRow> = (0..MAX_PAGE).map(|_| row(1)).collect();
        assert!(is_full(&all, usize::MAX));
    }
}
