//! Rows with a type: the one way in which an engine keeps its state.
//!
//! A [`Table`] knows the name and the type of its rows, and makes the writes of a [`Commit`]. A writer was
//! first with its row, or was not: [`Won`] says which, also after an unknown outcome.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ErrorKind;
use crate::limits::{self, LimitError, MAX_PAGE};
use crate::store::keys::behind;
use crate::store::{
    Attempt, Commit, CommitError, Committed, EventStore, Resolution, RowStore, RowWrite, Span, StoreError,
    StoredRow, is_full,
};

/// What the names of tables begin with whose rows come and go: queues, timers, requests. A backend may keep them apart,
/// so that what has gone does not slow down what is there.
pub const HOT: &str = "hot.";

/// Whether the rows of a table come and go: see [`HOT`].
#[must_use]
pub fn is_hot(table: &str) -> bool {
    table.starts_with(HOT) && !table.contains(['~', '/'])
}

/// How often the store is asked what became of an attempt.
const RESOLVES: u32 = 12;

/// Names of the framework's own, in addition to those that begin with `es.`.
const RESERVED: [&str; 6] = ["asked", "checkpoints", "current", "generations", "inline", "nodes"];

/// The rows of one table, as JSON of `T`.
pub struct Table<T> {
    name: Arc<str>,
    value: PhantomData<fn() -> T>,
}

/// A row as it was read: to write it again, change its value and [`put`](Table::put) it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a row is a key, a revision and a value")]
pub struct Row<T> {
    /// Its key.
    pub key: String,
    /// Its revision; 0 for one that is not stored yet.
    pub rev: u64,
    /// What it holds.
    pub value: T,
}

impl<T> Row<T> {
    /// A row that is not stored yet.
    #[must_use]
    pub fn new(key: impl Into<String>, value: T) -> Self {
        Self { key: key.into(), rev: 0, value }
    }

    /// The row with another value.
    #[must_use]
    pub fn with<U>(self, value: U) -> Row<U> {
        Row { key: self.key, rev: self.rev, value }
    }

    /// The row once it has been written.
    #[must_use]
    pub fn written(self) -> Self {
        Self { rev: self.rev + 1, ..self }
    }
}

impl<T> Table<T> {
    /// A table of an extension.
    ///
    /// # Errors
    ///
    /// [`LimitError`] if the name is empty, too long, or reserved: for the framework (`es.`, and the names that it had
    /// before), or for the builds of projections (names with `~` or `/`).
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, LimitError> {
        let name = name.into();
        limits::name("table", &name)?;
        let why = if name.starts_with("es.") || RESERVED.contains(&&*name) {
            "is reserved for the framework"
        } else if name.contains(['~', '/']) {
            "has `~` or `/`, which are reserved for the builds of projections"
        } else {
            return Ok(Self::own(name));
        };
        Err(LimitError::Invalid { field: "table", value: limits::cut(&name), why })
    }

    /// A table of the framework's own.
    pub(crate) fn own(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), value: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Removes a row, if it is as it was read. A row that fences others is not removed while it can be named: its
    /// revisions would begin again.
    #[must_use]
    pub fn delete(&self, row: &Row<T>) -> RowWrite {
        self.delete_at(row.key.clone(), row.rev)
    }

    /// The same, by key and revision.
    #[must_use]
    pub fn delete_at(&self, key: impl Into<String>, rev: u64) -> RowWrite {
        RowWrite { table: self.name.clone(), key: key.into(), rev, row: None }
    }
}

impl<T: Serialize> Table<T> {
    /// Writes a row, if it is as it was read; for one that is new, if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the value cannot be written as JSON.
    pub fn put(&self, row: &Row<T>) -> Result<RowWrite, StoreError> {
        self.put_at(row.key.clone(), row.rev, &row.value)
    }

    /// The same, by key and revision.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn put_at(&self, key: impl Into<String>, rev: u64, value: &T) -> Result<RowWrite, StoreError> {
        let (table, key) = (self.name.clone(), key.into());
        let data = serde_json::to_vec(value).map_err(|e| {
            StoreError::misuse(format!("row {key:?} of {table} cannot be written as JSON: {e}"))
        })?;
        Ok(RowWrite { table, key, rev, row: Some(data.into()) })
    }

    /// Writes a row that is not there yet.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn insert(&self, key: impl Into<String>, value: T) -> Result<RowWrite, StoreError> {
        self.put(&Row::new(key, value))
    }
}

impl<T: DeserializeOwned> Table<T> {
    /// A row of this table, decoded.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if it is no `T`: names the table and the key.
    pub fn decode(&self, row: StoredRow) -> Result<Row<T>, StoreError> {
        let value = serde_json::from_slice(&row.data).map_err(|e| StoreError::Corrupt {
            what: format!("row {:?} of {} cannot be read: {e}", row.key, self.name),
        })?;
        Ok(Row { key: row.key, rev: row.rev, value })
    }

    fn decode_all(&self, rows: Vec<StoredRow>) -> Result<Vec<Row<T>>, StoreError> {
        rows.into_iter().map(|row| self.decode(row)).collect()
    }

    /// One row.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read, or the row cannot be decoded.
    pub async fn get(&self, rows: &dyn RowStore, key: &str) -> Result<Option<Row<T>>, StoreError> {
        let found = rows.rows(&self.name, &[key.to_owned()]).await?.pop().flatten();
        found.map(|row| self.decode(row)).transpose()
    }

    /// Rows in the order of their keys, after one, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn page(
        &self,
        rows: &dyn RowStore,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Row<T>>, StoreError> {
        self.decode_all(self.stored_page(rows, after, limit).await?)
    }

    /// The same, as they are stored: each can be [decoded](Self::decode) by itself.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stored_page(
        &self,
        rows: &dyn RowStore,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.scan(rows, after, limit).await
    }

    /// Rows after a key, at most `limit`: fewer only if there are no more. All of them are in memory.
    async fn scan(
        &self,
        rows: &dyn RowStore,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let mut all: Vec<StoredRow> = Vec::new();
        loop {
            let last = all.last().map(|row| row.key.clone());
            let left = limit - all.len();
            let page = rows.scan(&self.name, last.as_deref().or(after), left).await?;
            let full = is_full(&page, left);
            all.extend(page);
            if !full || all.len() == limit {
                return Ok(all);
            }
        }
    }

    /// Rows whose keys begin with `prefix`, after a key, at most `limit` of them. The prefix ends in a character of
    /// ASCII, and is itself no key.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn below(
        &self,
        rows: &dyn RowStore,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Row<T>>, StoreError> {
        self.decode_all(self.stored_below(rows, prefix, after, limit).await?)
    }

    /// The same, as they are stored.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stored_below(
        &self,
        rows: &dyn RowStore,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        // A span, not a scan: what lies behind the prefix may be all the rest of the table. No key with the prefix sorts
        // before the prefix itself.
        let before = Some(behind(prefix)).filter(|before| !before.is_empty());
        let (mut all, mut after) = (Vec::<StoredRow>::new(), after.unwrap_or(prefix).to_owned());
        loop {
            let limit_of_page = (limit - all.len()).min(MAX_PAGE);
            let span = Span { after: after.clone(), before: before.clone(), limit: limit_of_page };
            let page = rows.scan_many(&self.name, &[span]).await?.pop().unwrap_or_default();
            let full = is_full(&page, limit_of_page);
            all.extend(page);
            match all.last() {
                Some(last) if full && all.len() < limit => after.clone_from(&last.key),
                _ => return Ok(all),
            }
        }
    }

    /// Every row, as it is stored: for tables that are known to be small. Each can be [decoded](Self::decode) by itself,
    /// so that one which cannot be read stops what it belongs to and nothing else.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stored(&self, rows: &dyn RowStore) -> Result<Vec<StoredRow>, StoreError> {
        self.scan(rows, None, usize::MAX).await
    }

    /// Every row, decoded.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn all(&self, rows: &dyn RowStore) -> Result<Vec<Row<T>>, StoreError> {
        self.decode_all(self.stored(rows).await?)
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self::own(self.name.clone())
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

/// Whether a commit with rows went through.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "first, or not")]
pub enum Won {
    /// Every row was as it had been read.
    Yes(Committed),
    /// Another writer was faster with this one: read it again, or stop if it is not yours.
    No(RowAt),
}

/// A row that was not where a writer had seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "which row, and two revisions")]
pub struct RowAt {
    /// Its table.
    pub table: Arc<str>,
    /// Its key.
    pub key: String,
    /// The revision that the writer named.
    pub expected: u64,
    /// The revision that it has; 0 if it is not there.
    pub actual: u64,
}

impl Won {
    /// Whether it went through.
    #[must_use]
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes(_))
    }

    /// What an outcome means. One that is unknown is resolved: `None` if it was never applied, and can be sent again.
    ///
    /// # Errors
    ///
    /// [`CommitError`] if it did not go through for another reason than a row; [`CommitError::Unknown`] if the store does
    /// not say what became of it.
    pub async fn after(
        store: &dyn EventStore,
        outcome: Result<Committed, CommitError>,
    ) -> Result<Option<Self>, CommitError> {
        match outcome {
            Ok(committed) => Ok(Some(Self::Yes(committed))),
            Err(CommitError::Fenced { table, key, expected, actual }) => {
                Ok(Some(Self::No(RowAt { table, key, expected, actual })))
            }
            Err(CommitError::Unknown(attempt)) => match resolved(store, &attempt).await {
                Some(Resolution::Applied(committed)) => Ok(Some(Self::Yes(committed))),
                Some(Resolution::Never) => Ok(None),
                None => Err(CommitError::Unknown(attempt)),
            },
            Err(other) => Err(other),
        }
    }

    /// The same, where a caller can do no more than try again: anything but a row that was lost is an error of the store.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unknown`] if the outcome could not be found out; [`StoreError::Transient`] if the request was lost,
    /// or it was refused for a reason that may be gone.
    pub(crate) async fn or_store_error(
        what: &'static str,
        store: &dyn EventStore,
        outcome: Result<Committed, CommitError>,
    ) -> Result<Self, StoreError> {
        match Self::after(store, outcome).await {
            Ok(Some(won)) => Ok(won),
            Ok(None) => Err(StoreError::transient(what, std::io::Error::other("the request was lost"))),
            Err(error) => Err(of_store(what, error)),
        }
    }
}

fn of_store(what: &'static str, error: CommitError) -> StoreError {
    match error {
        CommitError::Store(error) => error,
        CommitError::Unknown(attempt) => StoreError::Unknown { what, attempt },
        other => StoreError::transient(what, other),
    }
}

/// What became of an attempt; `None` if the store does not say, although it was asked for a few seconds.
async fn resolved(store: &dyn EventStore, attempt: &Attempt) -> Option<Resolution> {
    let mut wait = Duration::from_millis(10);
    for _ in 0..RESOLVES {
        match store.resolve(attempt).await {
            Ok(resolution) => return Some(resolution),
            Err(error) if error.kind() != ErrorKind::Transient => break,
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait = (wait * 2).min(Duration::from_millis(500));
    }
    None
}

/// Writes rows, all or none of them.
///
/// # Errors
///
/// [`StoreError`] if they could not be written, for another reason than that another writer was faster;
/// [`StoreError::Unknown`] if it could not be found out whether they were: look at the rows again. The same holds if the
/// future is dropped.
pub async fn write_rows(store: &dyn EventStore, rows: Vec<RowWrite>) -> Result<Won, StoreError> {
    let commit = Commit { rows, ..Commit::default() };
    loop {
        let outcome = store.commit(commit.clone()).await;
        match Won::after(store, outcome).await {
            Ok(Some(won)) => return Ok(won),
            Ok(None) => {}
            Err(error) => return Err(of_store("writing rows", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    #[test]
    fn names_of_the_framework_are_reserved() {
        for name in ["es.x", "checkpoints", "current", "a/1~1", "a~1", "a/requests", ""] {
            assert!(Table::<u32>::new(name).is_err(), "{name}");
        }
        for name in ["timers", "hot.timers", "my rows", "esx"] {
            assert_eq!(&**Table::<u32>::new(name).unwrap().name(), name);
        }
    }

    #[tokio::test]
    async fn a_row_is_written_over_the_revision_that_was_read() {
        let (store, table) = (MemoryBackend::new(), Table::<u32>::new("numbers").unwrap());
        assert!(write_rows(&store, vec![table.insert("a", 1).unwrap()]).await.unwrap().is_yes());
        let read = table.get(&store, "a").await.unwrap().unwrap();
        assert_eq!(read, Row { key: "a".to_owned(), rev: 1, value: 1 });
        let next = Row { value: 2, ..read.clone() };
        assert!(write_rows(&store, vec![table.put(&next).unwrap()]).await.unwrap().is_yes());
        let late = write_rows(&store, vec![table.put(&read).unwrap()]).await.unwrap();
        let (table_name, key) = (table.name().clone(), "a".to_owned());
        assert_eq!(late, Won::No(RowAt { table: table_name, key, expected: 1, actual: 2 }));
        assert!(write_rows(&store, vec![table.delete(&next.written())]).await.unwrap().is_yes());
        assert_eq!(table.all(&store).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_named() {
        let (store, table) = (MemoryBackend::new(), Table::<u32>::new("numbers").unwrap());
        let texts = Table::<String>::new("numbers").unwrap();
        assert!(write_rows(&store, vec![texts.insert("a", "x".to_owned()).unwrap()]).await.unwrap().is_yes());
        let error = table.all(&store).await.unwrap_err().to_string();
        assert!(error.contains("row \"a\" of numbers cannot be read"), "{error}");
    }
}
