//! Which projections are inline: one row for the whole store; and turns of writers.
//!
//! The revision of the set is the generation that every commit with events names. The row is never deleted, not even when no
//! projection is inline any more: its revisions would begin again, and a writer of long ago would be believed.

use std::collections::BTreeSet;

use crate::store::{INLINE, Row, RowStore, RowWrite, StoreError, Table};

/// A row for each SQL projection whose handlers may touch any row: writing it is having the turn. Only its revision says
/// something.
pub(crate) fn turns() -> Table<bool> {
    Table::own("inline/turns")
}

/// The stored names of the inline projections, and the revision of their row; 0 for a store that never had any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InlineSet {
    pub(crate) names: BTreeSet<String>,
    pub(crate) rev: u64,
}

impl InlineSet {
    fn table() -> Table<BTreeSet<String>> {
        Table::own(INLINE.0)
    }

    pub(crate) async fn read(store: &dyn RowStore) -> Result<Self, StoreError> {
        let row = Self::table().get(store, INLINE.1).await?;
        Ok(row.map_or_else(Self::default, |row| Self { names: row.value, rev: row.rev }))
    }

    /// The version of a projection that is inline, by its stored name: commits write it by the plain names of its tables.
    pub(crate) fn version_of(&self, projection: &str) -> Option<&str> {
        let is_of = |name: &&String| name.rsplit_once('/').is_some_and(|(base, _)| base == projection);
        self.names.iter().find(is_of).map(String::as_str)
    }

    pub(crate) fn with(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.names.insert(name.to_owned());
        next
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.names.remove(name);
        next
    }

    /// The row with these names, over the revision that was read. Once it is written, a writer that names the revision of
    /// before is refused.
    pub(crate) fn write(&self) -> Result<RowWrite, StoreError> {
        Self::table().put(&Row { key: INLINE.1.to_owned(), rev: self.rev, value: self.names.clone() })
    }
}
