//! Reading and writing rows of the framework's own state.

use serde::de::DeserializeOwned;

use crate::limits::MAX_PAGE;
use crate::store::{Commit, CommitError, EventStore, Resolution, RowStore, RowWrite, StoreError, StoredRow};

/// Every row of a table that is known to be small.
pub(crate) async fn whole(rows: &dyn RowStore, table: &str) -> Result<Vec<StoredRow>, StoreError> {
    let mut all: Vec<StoredRow> = Vec::new();
    loop {
        let after = all.last().map(|row| row.key.clone());
        let page = rows.scan(table, after.as_deref(), MAX_PAGE).await?;
        let last = page.len() < MAX_PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

/// Rows whose keys begin with `prefix`, after a key, at most `limit` of them. The prefix ends in a character of ASCII.
pub(crate) async fn below(
    rows: &dyn RowStore,
    table: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<StoredRow>, StoreError> {
    // No key with the prefix sorts before the prefix itself, which is no key of this table.
    let mut page = rows.scan(table, Some(after.unwrap_or(prefix)), limit).await?;
    let end = page.iter().position(|row| !row.key.starts_with(prefix)).unwrap_or(page.len());
    page.truncate(end);
    Ok(page)
}

/// One row.
pub(crate) async fn one(
    rows: &dyn RowStore,
    table: &str,
    key: &str,
) -> Result<Option<StoredRow>, StoreError> {
    Ok(rows.rows(table, &[key.to_owned()]).await?.pop().flatten())
}

/// The JSON of a row.
pub(crate) fn decode<T: DeserializeOwned>(table: &str, row: &StoredRow) -> Result<T, StoreError> {
    serde_json::from_slice(&row.data).map_err(|e| StoreError::Corrupt {
        what: format!("row {:?} of {table} cannot be read: {e}", row.key),
    })
}

/// Writes rows, and finds out what has become of it if nobody says.
pub(crate) async fn write(store: &dyn EventStore, rows: Vec<RowWrite>) -> Result<(), CommitError> {
    let commit = Commit { rows, ..Commit::default() };
    loop {
        match store.commit(commit.clone()).await {
            Err(CommitError::Unknown(attempt)) => {
                if let Resolution::Applied(_) = store.resolve(&attempt).await? {
                    return Ok(());
                }
            }
            outcome => return outcome.map(drop),
        }
    }
}
