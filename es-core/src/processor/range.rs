//! A range of slices as it is stored: who has it, and how far it has come.
//!
//! One row, in the commit that writes what the range's events led to. A row is written only at the revision that was
//! read, so a claim by somebody else fences whoever had the range before: its next commit finds another revision. The
//! epoch says in the row, and in the log, how often the range changed hands. A row is never deleted while its build
//! lives: its revisions would begin anew, and a late commit could find the one that it has read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::build::Build;
use crate::slices::Slices;
use crate::store::{Position, RowStore, RowWrite, StoreError, StoredRow};

/// The table of all checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// The data of a checkpoint's row, as JSON. The first slice is in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    position: Position,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Uuid>,
    /// `None`: the range was merged into the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u16>,
    /// Events up to here were recorded before the build began: a handler can know that.
    #[serde(default)]
    replay: Position,
}

/// A range, and the revision of its row; 0 for one that is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) build: Build,
    pub(crate) slices: Slices,
    pub(crate) rev: u64,
    pub(crate) epoch: u64,
    pub(crate) position: Position,
    pub(crate) owner: Option<Uuid>,
    pub(crate) replay: Position,
}

impl Range {
    /// The whole of a build that begins after a position.
    pub(crate) const fn new(build: Build, position: Position, replay: Position) -> Self {
        Self { build, slices: Slices::ALL, rev: 0, epoch: 0, position, owner: None, replay }
    }

    /// `None` for one that was merged.
    fn decode(row: &StoredRow) -> Result<Option<Self>, StoreError> {
        let corrupt = |why: &str| StoreError::Corrupt {
            what: format!("row {:?} of {CHECKPOINTS} cannot be read: {why}", row.key),
        };
        let (build, first) =
            Build::of_checkpoint(&row.key).ok_or_else(|| corrupt("its key names no build"))?;
        let stored: Stored = serde_json::from_slice(&row.data).map_err(|e| corrupt(&e.to_string()))?;
        let Stored { position, epoch, owner, last, replay } = stored;
        let slices = |last| Slices { first, last };
        let range = |last| Self { build, slices: slices(last), rev: row.rev, epoch, position, owner, replay };
        Ok(last.map(range))
    }

    /// The row with what the range is now, over the revision that was read.
    pub(crate) fn write(&self) -> RowWrite {
        let Self { build, slices, rev, epoch, position, owner, replay } = self;
        let (position, epoch, owner, replay) = (*position, *epoch, *owner, *replay);
        let stored = Stored { position, epoch, owner, last: Some(slices.last), replay };
        stored.write(build, slices.first, *rev)
    }

    /// The range at another position.
    pub(crate) fn at(&self, position: Position) -> Self {
        Self { position, ..self.clone() }
    }

    /// The range with another owner, or none.
    pub(crate) fn owned_by(&self, owner: Option<Uuid>) -> Self {
        Self { owner, epoch: self.epoch + 1, ..self.clone() }
    }

    /// The range once this has been written.
    pub(crate) fn written(self) -> Self {
        Self { rev: self.rev + 1, ..self }
    }

    /// No range any more: its slices belong to the one before it.
    pub(crate) fn forget(&self) -> RowWrite {
        let (position, epoch) = (self.position, self.epoch + 1);
        let stored = Stored { position, epoch, owner: None, last: None, replay: self.replay };
        stored.write(&self.build, self.slices.first, self.rev)
    }

    /// Two ranges in the place of this one, the first with so many slices. Same position: nothing is lost, nothing is
    /// done twice. The revision of the second is still to be looked up.
    pub(crate) fn split(&self, count: u16) -> Option<[Self; 2]> {
        let (low, high) = self.slices.split(count)?;
        let low = Self { slices: low, epoch: self.epoch + 1, ..self.clone() };
        let high = Self { slices: high, rev: 0, ..low.clone() };
        Some([low, high])
    }

    /// The range over whatever row has its place.
    pub(crate) async fn placed(self, rows: &dyn RowStore) -> Result<Self, StoreError> {
        let row = super::rows::one(rows, CHECKPOINTS, &self.build.checkpoint(self.slices.first)).await?;
        Ok(Self { rev: row.map_or(0, |row| row.rev), ..self })
    }

    /// One range in the place of this one and the one behind it, if both are at one position.
    pub(crate) fn merge(&self, next: &Self) -> Option<(Self, RowWrite)> {
        let fits = self.slices.last + 1 == next.slices.first && self.position == next.position;
        let slices = Slices { first: self.slices.first, last: next.slices.last };
        let epoch = self.epoch.max(next.epoch) + 1;
        fits.then(|| (Self { slices, epoch, ..self.clone() }, next.forget()))
    }
}

impl Stored {
    fn write(&self, build: &Build, first: u16, rev: u64) -> RowWrite {
        let row = serde_json::to_vec(self).expect("numbers serialize");
        RowWrite { table: CHECKPOINTS.into(), key: build.checkpoint(first), rev, row: Some(row.into()) }
    }
}

/// All ranges of all builds, by build and in the order of their slices.
pub(crate) async fn all(rows: &dyn RowStore) -> Result<BTreeMap<Build, Vec<Range>>, StoreError> {
    let mut builds = BTreeMap::<Build, Vec<Range>>::new();
    for row in super::rows::whole(rows, CHECKPOINTS).await? {
        if let Some(range) = Range::decode(&row)? {
            builds.entry(range.build.clone()).or_default().push(range);
        }
    }
    builds.values_mut().for_each(|ranges| ranges.sort_by_key(|range| range.slices));
    Ok(builds)
}

/// The ranges of one build.
pub(crate) async fn of(rows: &dyn RowStore, build: &Build) -> Result<Vec<Range>, StoreError> {
    let below = format!("{build}#");
    let found = super::rows::below(rows, CHECKPOINTS, &below, None, crate::limits::MAX_PAGE).await?;
    found.iter().filter_map(|row| Range::decode(row).transpose()).collect()
}

/// One range as it is stored now.
pub(crate) async fn read(
    rows: &dyn RowStore,
    build: &Build,
    first: u16,
) -> Result<Option<Range>, StoreError> {
    let found = super::rows::one(rows, CHECKPOINTS, &build.checkpoint(first)).await?;
    Ok(found.as_ref().map(Range::decode).transpose()?.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        let build = Build { processor: "balance/1".into(), generation: 2 };
        Range {
            rev: 3,
            epoch: 7,
            owner: Some(Uuid::from_u128(9)),
            ..Range::new(build, Position(42), Position(5))
        }
    }

    #[test]
    fn a_range_is_read_as_it_was_written() {
        let RowWrite { table, key, rev, row } = range().write();
        assert_eq!((&*table, &*key, rev), ("checkpoints", "balance/1~2#0000", 3));
        let row = StoredRow { key, rev: rev + 1, data: row.unwrap() };
        assert_eq!(Range::decode(&row).unwrap(), Some(range().written()));
    }

    /// The row is read by other versions, and by people.
    #[test]
    fn the_row_is_pinned() {
        let row = String::from_utf8(range().write().row.unwrap().to_vec()).unwrap();
        let owner = "00000000-0000-0000-0000-000000000009";
        assert_eq!(row, format!(r#"{{"position":42,"epoch":7,"owner":"{owner}","last":1023,"replay":5}}"#));
    }

    #[test]
    fn a_split_range_merges_again_at_one_position_only() {
        let [low, high] = range().split(100).unwrap();
        assert_eq!((low.rev, high.rev, low.slices.last + 1), (3, 0, high.slices.first));
        let (whole, gone) = low.merge(&high).unwrap();
        assert_eq!((whole.slices, gone.key.as_str()), (Slices::ALL, "balance/1~2#0100"));
        let row = StoredRow { key: gone.key, rev: 1, data: gone.row.unwrap() };
        assert_eq!(Range::decode(&row).unwrap(), None, "its revision is kept, and it is no range");
        assert!(low.merge(&high.at(Position(43))).is_none());
        assert!(high.merge(&low).is_none());
    }
}
