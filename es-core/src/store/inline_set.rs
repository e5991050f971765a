//! Which projections are inline, as it is stored: one row for the whole store.
//!
//! Its revision is the generation that every commit with events names. The row is never deleted, not even when no
//! projection is inline any more: its revisions would begin anew, and a writer of long ago would be believed.

use std::collections::BTreeSet;

use super::{INLINE, RowStore, RowWrite, StoreError};

/// The stored names of the inline projections, and the revision of their row; 0 for a store that never had any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) names: BTreeSet<String>,
    pub(crate) rev: u64,
}

impl Set {
    pub(crate) async fn read(store: &dyn RowStore) -> Result<Self, StoreError> {
        let (table, key) = INLINE;
        let Some(row) = store.rows(table, &[key.to_owned()]).await?.pop().flatten() else {
            return Ok(Self::default());
        };
        let names = serde_json::from_slice(&row.data).map_err(|e| StoreError::Corrupt {
            what: format!("row {key:?} of {table} cannot be read: {e}"),
        })?;
        Ok(Self { names, rev: row.rev })
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

    /// The row with these names, over the revision that was read. Once it is written, whoever names the revision of
    /// before is refused.
    pub(crate) fn write(&self) -> RowWrite {
        let row = serde_json::to_vec(&self.names).expect("names serialize");
        RowWrite { table: INLINE.0.into(), key: INLINE.1.to_owned(), rev: self.rev, row: Some(row.into()) }
    }
}

/// Refuses what only makes sense for a projection that a processor fills.
///
/// # Errors
///
/// [`StoreError::Misuse`] if the projection is inline.
pub(crate) async fn not_inline(store: &dyn RowStore, name: &str) -> Result<(), StoreError> {
    if Set::read(store).await?.names.contains(name) {
        return Err(StoreError::misuse(format!(
            "{name} is inline: every commit writes it, and nobody may build it meanwhile; start an app with \
             `.retire_inline({name:?})`, rebuild it there, then make it inline again"
        )));
    }
    Ok(())
}
