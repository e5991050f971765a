//! Rows by table and key.

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;

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

    /// Rows in key order (bytewise) after a key, at most `limit` of them.
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
