//! Snapshots: one row a stream, written outside the group commit.

use async_trait::async_trait;
use es_core::store::{Snapshot, SnapshotStore, StoreError, StreamId, Version};
use sqlx::Row as _;

use crate::row::{number, signed};
use crate::writer::Writing;
use crate::{SqliteBackend, error};

const PUT: &str = include_str!("sql/put_snapshot.sql");

impl SqliteBackend {
    /// The write connection, between two batches.
    async fn writing(&self, what: &'static str) -> Result<Writing, StoreError> {
        Writing::acquire(&self.0.shared, what).await
    }
}

#[async_trait]
impl SnapshotStore for SqliteBackend {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let failed = |e| error::store("reading a snapshot", e);
        let sql = "select version, event, schema, data from es_snapshots where stream = ?";
        let found =
            sqlx::query(sql).bind(stream.as_str()).fetch_optional(self.readers()?).await.map_err(failed)?;
        let Some(row) = found else { return Ok(None) };
        let event = uuid::Uuid::from_slice(row.get_unchecked(1))
            .map_err(|e| failed(sqlx::Error::Decode(e.into())))?;
        Ok(Some(Snapshot {
            stream: stream.clone(),
            version: Version(number(row.get_unchecked(0))),
            event,
            schema: row.get_unchecked(2),
            data: row.get_unchecked::<Vec<u8>, _>(3).into(),
        }))
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        let mut writing = self.writing("storing a snapshot").await?;
        let query = sqlx::query(PUT)
            .bind(snapshot.stream.as_str())
            .bind(signed(snapshot.version.0))
            .bind(snapshot.event.as_bytes().as_slice())
            .bind(snapshot.schema)
            .bind(&snapshot.data[..]);
        query.execute(writing.conn_mut()).await.map_err(|e| error::store("storing a snapshot", e))?;
        drop(writing);
        // What was put may be of a history that is gone: whoever put it asks.
        self.look("storing a snapshot").await
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        let mut writing = self.writing("dropping a snapshot").await?;
        let query = sqlx::query("delete from es_snapshots where stream = ?").bind(stream.as_str());
        query.execute(writing.conn_mut()).await.map_err(|e| error::store("dropping a snapshot", e))?;
        Ok(())
    }
}
