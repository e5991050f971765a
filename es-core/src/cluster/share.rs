//! A share: a range of slices as it is stored, with its owner and its progress.
//!
//! One row, in the commit that writes what the work led to. A row is written only at the revision that was read, so a
//! claim by another node fences the owner of before: its next commit finds another revision. The epoch says how often the
//! share changed hands or shape. A row is never deleted while anybody can name it: its revisions would begin again, and a
//! late commit could find the one that it has read.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use uuid::Uuid;

use super::StateStore;
use crate::limits::MAX_PAGE;
use crate::slices::Slices;
pub use crate::state::Progress;
use crate::state::{CHECKPOINTS, SHARES, ShareRecord};
use crate::store::keys::behind;
use crate::store::{Filling, Row, RowStore, RowWrite, Span, StoreError, StoredRow, Table, write_rows};

/// How often a row is written again that its worker has just written.
const TRIES: usize = 500;

/// A range of slices of some work, and the revision of its row; 0 for one that is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what is stored, and where")]
pub struct Share<P> {
    /// The name of what it is a share of.
    pub group: Arc<str>,
    /// Its slices.
    pub slices: Slices,
    /// The revision of its row.
    pub rev: u64,
    /// How often it changed hands or shape.
    pub epoch: u64,
    /// The node that has it.
    pub owner: Option<Uuid>,
    /// How far the work has come.
    pub progress: P,
}

impl<P: Progress> Share<P> {
    /// All slices, of work that is new.
    #[must_use]
    pub fn whole(group: impl Into<Arc<str>>, progress: P) -> Self {
        Self { group: group.into(), slices: Slices::ALL, rev: 0, epoch: 0, owner: None, progress }
    }

    /// The share with another progress.
    #[must_use]
    pub fn with(&self, progress: P) -> Self {
        Self { progress, ..self.clone() }
    }

    /// The share once it has been written.
    #[must_use]
    pub fn written(self) -> Self {
        Self { rev: self.rev + 1, ..self }
    }

    /// The share with another owner, or none.
    pub(crate) fn owned_by(&self, owner: Option<Uuid>) -> Self {
        Self { owner, epoch: self.epoch + 1, ..self.clone() }
    }

    /// Two shares in the place of this one, the first with so many slices. The revision of the second is still to be
    /// looked up.
    pub(crate) fn split(&self, count: u16) -> Option<[Self; 2]> {
        let (low, high) = self.slices.split(count)?;
        let low = Self { slices: low, epoch: self.epoch + 1, ..self.clone() };
        let high = Self { slices: high, rev: 0, ..low.clone() };
        Some([low, high])
    }

    /// The shares in the place of this one if a part of it is to be one by itself, in order; none if it is no part. The
    /// first one has the row of this one, and the revisions of the others are still to be looked up.
    pub(crate) fn cut(&self, part: Slices) -> Vec<Self> {
        let Slices { first, last } = self.slices;
        if part.first < first || part.last > last || part.first > part.last {
            return Vec::new();
        }
        let low = (first < part.first).then(|| Slices { first, last: part.first - 1 });
        let high = (part.last < last).then(|| Slices { first: part.last + 1, last });
        let piece = |slices: Slices| {
            let rev = if slices.first == first { self.rev } else { 0 };
            Self { slices, rev, epoch: self.epoch + 1, ..self.clone() }
        };
        [low, Some(part), high].into_iter().flatten().map(piece).collect()
    }

    /// One share in the place of this one and the one behind it.
    pub(crate) fn merge(&self, next: &Self) -> Option<Self> {
        self.with_next(next, P::can_merge)
    }

    /// The same, where there are to be no parts any more.
    pub(crate) fn join(&self, next: &Self) -> Option<Self> {
        self.with_next(next, P::can_join)
    }

    fn with_next(&self, next: &Self, fits: impl Fn(&P, &P) -> bool) -> Option<Self> {
        let fits = self.slices.last + 1 == next.slices.first && fits(&self.progress, &next.progress);
        let slices = Slices { first: self.slices.first, last: next.slices.last };
        let epoch = self.epoch.max(next.epoch) + 1;
        fits.then(|| Self { slices, epoch, ..self.clone() })
    }
}

/// The shares of one kind of work, as rows.
#[derive(Debug)]
pub struct Shares<P> {
    table: Table<ShareRecord<P>>,
    progress: PhantomData<fn() -> P>,
}

impl<P> Clone for Shares<P> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), progress: PhantomData }
    }
}

impl<P: Progress> Default for Shares<P> {
    /// Those of work without a log.
    fn default() -> Self {
        Self { table: Table::own(SHARES), progress: PhantomData }
    }
}

fn key(group: &str, first: u16) -> String {
    format!("{group}#{first:04}")
}

/// The name and the first slice that a key names.
pub(crate) fn parse_key(key: &str) -> Option<(&str, u16)> {
    let (group, first) = key.rsplit_once('#')?;
    Some((group, first.parse().ok()?))
}

/// The rows of a table but those whose keys begin with one of these texts, which are in order; those of one group are in
/// the order of their keys.
pub(crate) async fn rows_without(
    rows: &dyn RowStore,
    table: &str,
    left_out: &[String],
) -> Result<Vec<StoredRow>, StoreError> {
    let (mut spans, mut after) = (Vec::new(), String::new());
    for prefix in left_out {
        spans.push(Span { after, before: Some(prefix.clone()), limit: MAX_PAGE });
        after = behind(prefix);
    }
    spans.push(Span { after, before: None, limit: MAX_PAGE });
    let mut found = Vec::new();
    while !spans.is_empty() {
        let (read, mut cut) = (rows.scan_many(table, &spans).await?, Vec::new());
        for (span, page) in spans.iter().zip(read) {
            let mut filling = Filling::shared(spans.len());
            for row in &page {
                let _ = filling.takes(row);
            }
            if let Some(last) = page.last().filter(|_| filling.is_full() || page.len() >= MAX_PAGE) {
                cut.push(Span { after: last.key.clone(), ..span.clone() });
            }
            found.extend(page);
        }
        spans = cut;
    }
    Ok(found)
}

impl<P: Progress> Shares<P> {
    /// Those of processors.
    pub(crate) fn checkpoints() -> Self {
        Self { table: Table::own(CHECKPOINTS), progress: PhantomData }
    }

    /// The table that they are in.
    #[must_use]
    pub fn table(&self) -> &Arc<str> {
        self.table.name()
    }

    /// The row with what a share is now, over the revision that was read. It goes into the commit that writes what the
    /// work led to.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the progress cannot be written as JSON.
    pub fn put(&self, share: &Share<P>) -> Result<RowWrite, StoreError> {
        self.record(share, Some(share.slices.last))
    }

    /// No share any more; its row stays, for its revision.
    pub(crate) fn retire(&self, share: &Share<P>) -> Result<RowWrite, StoreError> {
        self.record(&Share { epoch: share.epoch + 1, owner: None, ..share.clone() }, None)
    }

    /// No row any more, whatever it held.
    pub(crate) fn delete(&self, row: StoredRow) -> RowWrite {
        self.table.delete_at(row.key, row.rev)
    }

    /// The row of the first share of a name, or of the one that was retired; `None` if nothing has ever worked on it.
    pub(crate) async fn first_row(
        &self,
        rows: &dyn RowStore,
        group: &str,
    ) -> Result<Option<StoredRow>, StoreError> {
        Ok(rows.rows(self.table.name(), &[key(group, 0)]).await?.pop().flatten())
    }

    /// Writes a row as it is: refused if it has moved.
    pub(crate) fn unchanged(&self, row: &StoredRow) -> RowWrite {
        let StoredRow { key, rev, data } = row.clone();
        RowWrite { table: self.table.name().clone(), key, rev, row: Some(data) }
    }

    fn record(&self, share: &Share<P>, last: Option<u16>) -> Result<RowWrite, StoreError> {
        let Share { group, slices, rev, epoch, owner, progress } = share.clone();
        let value = ShareRecord { progress, epoch, owner, last };
        self.table.put(&Row { key: key(&group, slices.first), rev, value })
    }

    /// `None` for one that was retired.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if it cannot be read.
    pub(crate) fn decode(&self, row: StoredRow) -> Result<Option<Share<P>>, StoreError> {
        let Row { key, rev, value: ShareRecord { progress, epoch, owner, last } } = self.table.decode(row)?;
        let Some((group, first)) = parse_key(&key) else {
            let what = format!("row {key:?} of {} cannot be read: its key names no slice", self.table.name());
            return Err(StoreError::Corrupt { what });
        };
        let slices = |last| Slices { first, last };
        Ok(last.map(|last| Share { group: group.into(), slices: slices(last), rev, epoch, owner, progress }))
    }

    /// The shares of one name, in the order of their slices. It only reads: dropping its future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn of(&self, rows: &dyn RowStore, group: &str) -> Result<Vec<Share<P>>, StoreError> {
        let found = self.rows_of(rows, group).await?.into_iter();
        found.filter_map(|row| self.decode(row).transpose()).collect()
    }

    /// Whether there are shares of a name, also if they cannot be read.
    pub(crate) async fn exist(&self, rows: &dyn RowStore, group: &str) -> Result<bool, StoreError> {
        let mut found = self.rows_of(rows, group).await?.into_iter();
        Ok(found.any(|row| !matches!(self.decode(row), Ok(None))))
    }

    /// The names that begin with a text and have shares, whoever runs them now.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn names(&self, rows: &dyn RowStore, prefix: &str) -> Result<BTreeSet<String>, StoreError> {
        let found = self.below(rows, prefix).await?.into_iter();
        let name = |row: StoredRow| {
            let name = parse_key(&row.key)?.0.to_owned();
            (!matches!(self.decode(row), Ok(None))).then_some(name)
        };
        Ok(found.filter_map(name).collect())
    }

    /// The rows of one name, those that were retired included. Another name may begin with this one and `#`.
    async fn rows_of(&self, rows: &dyn RowStore, group: &str) -> Result<Vec<StoredRow>, StoreError> {
        let mut found = self.below(rows, &format!("{group}#")).await?;
        found.retain(|row| parse_key(&row.key).is_some_and(|(name, _)| name == group));
        Ok(found)
    }

    /// The rows whose keys begin with a text, those that were retired included.
    pub(crate) async fn below(
        &self,
        rows: &dyn RowStore,
        prefix: &str,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.table.stored_below(rows, prefix, None, usize::MAX).await
    }

    /// One share as it is stored now. It only reads: dropping its future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn read(
        &self,
        rows: &dyn RowStore,
        group: &str,
        first: u16,
    ) -> Result<Option<Share<P>>, StoreError> {
        let found = rows.rows(self.table.name(), &[key(group, first)]).await?.pop().flatten();
        found.map_or(Ok(None), |row| self.decode(row))
    }

    /// Moves a share to the next epoch: whoever works on it does not find it any more, and its owner begins again. Done also
    /// if it has been split or merged since, for that does the same.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written, or its worker writes all the time.
    pub(crate) async fn interrupt(
        &self,
        store: &dyn StateStore,
        mut share: Share<P>,
    ) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let next = share.owned_by(share.owner);
            if write_rows(store, vec![self.put(&next)?]).await?.is_yes() {
                return Ok(());
            }
            match self.read(store, &share.group, share.slices.first).await? {
                Some(now) if now.epoch == share.epoch => share = now,
                _ => return Ok(()),
            }
        }
        let moving = std::io::Error::other("its worker writes all the time");
        Err(StoreError::transient("interrupting a share", moving))
    }

    /// A share over whatever row has its place.
    pub(crate) async fn placed(&self, rows: &dyn RowStore, share: Share<P>) -> Result<Share<P>, StoreError> {
        let key = key(&share.group, share.slices.first);
        let row = rows.rows(self.table.name(), &[key]).await?.pop().flatten();
        Ok(Share { rev: row.map_or(0, |row| row.rev), ..share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::state::{Checkpoint, Halt};
    use crate::store::Position;

    fn share() -> Share<Checkpoint> {
        let progress = Checkpoint::new(Position(42), Position(5));
        Share { rev: 3, epoch: 7, owner: Some(Uuid::from_u128(9)), ..Share::whole("balance/1~2", progress) }
    }

    fn stored(write: RowWrite) -> StoredRow {
        StoredRow { key: write.key, rev: write.rev + 1, data: write.row.unwrap() }
    }

    #[test]
    fn a_share_is_read_as_it_was_written() {
        let shares = Shares::checkpoints();
        let write = shares.put(&share()).unwrap();
        assert_eq!((&*write.table, &*write.key, write.rev), ("checkpoints", "balance/1~2#0000", 3));
        assert_eq!(shares.decode(stored(write)).unwrap(), Some(share().written()));
    }

    #[test]
    fn a_share_is_cut_at_both_ends() {
        let cut = |first, last| {
            let pieces = share().cut(Slices { first, last }).into_iter();
            pieces.map(|share| (share.slices.to_string(), share.rev, share.epoch)).collect::<Vec<_>>()
        };
        let piece = |slices: &str, rev| (slices.to_owned(), rev, 8);
        assert_eq!(cut(0, 1_023), [piece("0-1023", 3)]);
        assert_eq!(cut(0, 99), [piece("0-99", 3), piece("100-1023", 0)]);
        assert_eq!(cut(100, 1_023), [piece("0-99", 3), piece("100-1023", 0)]);
        assert_eq!(cut(100, 200), [piece("0-99", 3), piece("100-200", 0), piece("201-1023", 0)]);
        let [low, _] = share().split(100).unwrap();
        assert_eq!(low.cut(Slices { first: 50, last: 100 }), []);
    }

    #[test]
    fn a_split_share_merges_again_at_one_progress_only() {
        let [low, high] = share().split(100).unwrap();
        assert_eq!((low.rev, high.rev, low.slices.last + 1), (3, 0, high.slices.first));
        assert_eq!(low.merge(&high).unwrap().slices, Slices::ALL);
        let ahead = high.with(high.progress.at(Position(43), Vec::new()));
        assert!(low.merge(&ahead).is_none() && high.merge(&low).is_none() && low.join(&ahead).is_none());
        let halt = Halt { since: Timestamp::UNIX_EPOCH, error: "no".to_owned(), resumes: 0 };
        let halted = high.with(Checkpoint { halt: Some(halt), ..high.progress.clone() });
        assert!(low.merge(&halted).is_none(), "it would stop the other part");
        assert_eq!(low.join(&halted).unwrap().slices, Slices::ALL, "they are to be handled in one order");
        let shares = Shares::checkpoints();
        let gone = shares.retire(&high).unwrap();
        assert_eq!(gone.key, "balance/1~2#0100");
        assert_eq!(shares.decode(stored(gone)).unwrap(), None, "its revision is kept, and it is no share");
    }
}
