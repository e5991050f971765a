//! What steps are handed that need no transaction of the database: what they leave goes into the commit of their records.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use es_core::store::{
    Commit, CommitError, Committed, EventStore, Row, RowStore, RowWrite, StoreError, StoredRow, Table,
    Transaction,
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// What a step [stages](crate::saga::Staged): events, rows, messages, what commands have decided. It becomes durable with the
/// record of the step, in one commit, or not at all. No transaction is open meanwhile.
///
/// - A command of the same store: `cx.sender.send(&id, cmd).within(at).await`. A second one for the same aggregate sees the
///   events of the first, also if that is of a step before.
/// - A message: the same with [`Publish`](crate::message::Publish).
/// - A saga or a TCC that is to begin: [`Starter::within`](crate::saga::Starter::within).
/// - A row: [`row`](Self::row) and [`write`](Self::write).
/// - Events of a stream, and all else that a commit can hold: [`staged`](Transaction::staged).
pub struct Staging {
    store: Arc<dyn EventStore>,
    rows: Arc<dyn RowStore>,
    staged: Commit,
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("staged", &self.staged).finish_non_exhaustive()
    }
}

impl Staging {
    /// Nothing yet. `rows` is read; `store` is what it is committed to.
    pub(super) fn new(store: Arc<dyn EventStore>, rows: Arc<dyn RowStore>) -> Self {
        Self { store, rows, staged: Commit::default() }
    }

    /// A row, as it will be once what is staged by now is committed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read, or the row cannot be decoded.
    ///
    /// # Cancellation
    ///
    /// It only reads.
    pub async fn row<T: DeserializeOwned>(
        &self,
        table: &Table<T>,
        key: &str,
    ) -> Result<Option<Row<T>>, StoreError> {
        match self.staged.rows.iter().rfind(|row| row.table == *table.name() && row.key == key) {
            Some(RowWrite { row: None, .. }) => Ok(None),
            Some(RowWrite { row: Some(data), rev, .. }) => {
                let row = StoredRow { key: key.to_owned(), rev: rev + 1, data: data.clone() };
                table.decode(row).map(Some)
            }
            None => table.get(&*self.rows, key).await,
        }
    }

    /// Writes a row, if it is then at the revision that [`row`](Self::row) has said; for one that is new, if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is staged already and was not read since; or if it is to be deleted, and is only there once
    /// this is committed.
    pub fn write(&mut self, write: RowWrite) -> Result<(), StoreError> {
        let is_it = |row: &&mut RowWrite| row.table == write.table && row.key == write.key;
        let Some(staged) = self.staged.rows.iter_mut().rfind(is_it) else {
            self.staged.rows.push(write);
            return Ok(());
        };
        let rev = staged.row.as_ref().map_or(0, |_| staged.rev + 1);
        let RowWrite { table, key, .. } = &write;
        if write.rev != rev {
            let named = write.rev;
            let why = format!("row {key:?} of {table} is staged at revision {rev}, and not at {named}");
            return Err(StoreError::misuse(why));
        }
        if write.row.is_none() && staged.rev == 0 {
            let why = format!("row {key:?} of {table} is new in this commit: it cannot be deleted in it");
            return Err(StoreError::misuse(why));
        }
        staged.row = write.row;
        Ok(())
    }

    pub(super) const fn has_condition(&self) -> bool {
        self.staged.condition.is_some()
    }

    /// What is staged, to go back to it.
    pub(super) fn mark(&self) -> Commit {
        self.staged.clone()
    }

    pub(super) fn go_back(&mut self, mark: Commit) {
        self.staged = mark;
    }

    /// Rows of the engine, which go with what is staged.
    pub(super) fn begin_with(&mut self, begun: &[RowWrite], more: Vec<RowWrite>) {
        self.staged.rows.extend(begun.iter().cloned().chain(more));
    }

    /// Bytes, about.
    pub(super) fn weight(&self) -> usize {
        let events = self.staged.appends.iter().flat_map(|append| &append.events);
        let rows =
            self.staged.rows.iter().map(|row| row.key.len() + row.row.as_ref().map_or(0, |row| row.len()));
        events.map(|event| event.data.len() + 100).chain(rows).sum()
    }
}

#[async_trait]
impl Transaction for Staging {
    fn staged(&mut self) -> &mut Commit {
        &mut self.staged
    }

    fn identity(&self) -> Uuid {
        self.store.identity()
    }

    async fn commit(self) -> Result<Committed, CommitError> {
        self.store.commit(self.staged).await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use es_core::memory::MemoryBackend;

    use super::*;

    fn staging() -> Staging {
        let backend = MemoryBackend::new();
        Staging::new(Arc::new(backend.clone()), Arc::new(backend))
    }

    #[tokio::test]
    async fn a_row_is_read_as_it_was_staged_and_written_once() {
        let (table, mut staging) = (Table::<u32>::new("numbers").unwrap(), staging());
        assert_eq!(staging.row(&table, "a").await.unwrap(), None);
        staging.write(table.insert("a", 1).unwrap()).unwrap();
        let row = staging.row(&table, "a").await.unwrap().unwrap();
        assert_eq!((row.rev, row.value), (1, 1));
        staging.write(table.put(&row.with(2)).unwrap()).unwrap();
        let twice = staging.write(table.insert("a", 3).unwrap()).unwrap_err().to_string();
        assert!(twice.contains("is staged at revision 1, and not at 0"), "{twice}");
        let rows = &staging.staged().rows;
        assert_eq!((rows.len(), rows[0].rev, rows[0].row.as_deref()), (1, 0, Some(&b"2"[..])));
        let gone = staging.write(table.delete_at("a", 1)).unwrap_err().to_string();
        assert!(gone.contains("is new in this commit"), "{gone}");
    }

    #[tokio::test]
    async fn a_row_that_is_staged_as_deleted_is_not_there() {
        let (table, mut staging) = (Table::<u32>::new("numbers").unwrap(), staging());
        staging.write(table.delete_at("a", 7)).unwrap();
        assert_eq!(staging.row(&table, "a").await.unwrap(), None);
        staging.write(table.insert("a", 3).unwrap()).unwrap();
        let rows = &staging.staged().rows;
        assert_eq!((rows.len(), rows[0].rev, rows[0].row.as_deref()), (1, 7, Some(&b"3"[..])));
    }
}
