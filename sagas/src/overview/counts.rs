//! How many transactions there are, by what they do.

use std::collections::BTreeMap;

use es_core::limits::MAX_PAGE;
use es_core::store::StoreError;
use serde::Serialize;

use super::all::{Overview, Unasked};
use super::filter::Filter;
use super::listed::{Pattern, Status};

/// How many transactions of one kind do the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Count {
    /// Their pattern.
    pub pattern: Pattern,
    /// Which saga, TCC or process.
    pub kind: String,
    /// What they do.
    pub status: Status,
    /// How many.
    pub n: u64,
}

/// How many transactions there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// By pattern, kind and status; what there is none of is left out.
    pub all: Vec<Count>,
    /// What could not be asked, and is not counted.
    pub unasked: Vec<Unasked>,
    /// Whether there are more than were counted.
    pub more: bool,
}

impl Counts {
    /// How many of a pattern do this.
    #[must_use]
    pub fn of(&self, pattern: Pattern, status: Status) -> u64 {
        let of = |count: &&Count| count.pattern == pattern && count.status == status;
        self.all.iter().filter(of).map(|count| count.n).sum()
    }
}

impl Overview {
    /// Counts those that a filter wants, a page at a time, until there are `most` of them or no more: nothing is kept but
    /// the numbers. One that changes meanwhile may be counted twice, or not.
    ///
    /// # Errors
    ///
    /// None that can be met: what cannot be read is [named](Counts::unasked).
    pub async fn counts(&self, filter: &Filter, most: u64) -> Result<Counts, StoreError> {
        let (mut by, mut counts, mut n, mut after) = (BTreeMap::new(), Counts::default(), 0_u64, None);
        loop {
            let page = self.page(filter, after.as_ref(), MAX_PAGE).await?;
            for listed in &page.transactions {
                if n == most {
                    counts.more = true;
                    break;
                }
                n += 1;
                let (pattern, kind) = (listed.which.pattern, listed.which.kind.clone());
                *by.entry((pattern, kind, listed.status)).or_insert(0) += 1;
            }
            counts.unasked.extend(page.unasked);
            match page.next {
                Some(next) if !counts.more => after = Some(next),
                _ => break,
            }
        }
        let count = |((pattern, kind, status), n)| Count { pattern, kind, status, n };
        counts.all = by.into_iter().map(count).collect();
        Ok(counts)
    }
}
