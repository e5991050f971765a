//! Rows by table and key.

use std::iter;

use async_trait::async_trait;
use bytes::Bytes;

use tokio::sync::watch;

use super::StoreError;
use crate::slices::Slices;

/// Rows by table and key: those of keyed views, and the framework's own state. Written by
/// [`Commit::rows`](super::Commit::rows), read here.
///
/// A table with a row in the table [`CURRENT`] is a name for the table that this row names. It is looked up in the
/// snapshot that the rows are read from: so a reader sees a whole old table or a whole new one.
#[async_trait]
pub trait RowStore: std::fmt::Debug + Send + Sync + 'static {
    /// The rows of these keys, in the order of the keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn rows(&self, table: &str, keys: &[String]) -> Result<Vec<Option<StoredRow>>, StoreError>;

    /// Rows in key order (bytewise) after a key, at most `limit` of them, and up to the one by which they reach
    /// [`PAGE_BYTES`](crate::limits::PAGE_BYTES). There may be more behind a page that [is full](super::is_full); any other
    /// is the last.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn scan(
        &self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError>;

    /// Many scans in one statement, in one snapshot: for each span its rows, in the order of their keys. The spans have
    /// the bytes of one page together, each the same part of them, and at least one row
    /// ([`Filling::shared`](super::Filling::shared)).
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    async fn scan_many(&self, table: &str, spans: &[Span]) -> Result<Vec<Vec<StoredRow>>, StoreError>;

    /// Changes when a commit has touched rows of a table whose keys belong to these slices
    /// ([`slice_of_row`](crate::store::keys::slice_of_row)), on any node. A wake-up may be late or lost, and may come for
    /// nothing; a reader also polls. The table is the one that is written, not a name that stands for it.
    fn watch_rows(&self, table: &str, slices: Slices) -> watch::Receiver<u64>;
}

/// Rows whose keys lie between two, in bytewise order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "two ends and a limit")]
pub struct Span {
    /// Behind this key; behind the empty text lie all keys.
    pub after: String,
    /// Before this key; `None`: to the end of the table.
    pub before: Option<String>,
    /// At most so many rows.
    pub limit: usize,
}

impl Span {
    /// Where it begins, and where it ends.
    pub fn bounds(&self) -> impl Iterator<Item = &str> {
        iter::once(&*self.after).chain(self.before.as_deref())
    }
}

/// The table of [`RowStore`] whose rows say which table a name stands for: key and data are UTF-8.
pub const CURRENT: &str = "current";

/// A row, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend fills in all of it")]
pub struct StoredRow {
    /// Its key.
    pub key: String,
    /// Goes up by one with every write.
    pub rev: u64,
    /// What was written.
    pub data: Bytes,
}
