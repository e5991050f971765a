//! Snapshots: one row a stream, written outside the group commit.

use async_trait::async_trait;
use es_core::store::{Snapshot, SnapshotStore, StoreError, StreamId, Version};
use sqlx::Row as _;

use crate::PgBackend;
use crate::row::{number, signed};

const GET: &str = "select version, event, schema, data from snapshots where stream = $1";
const PUT: &str = "select put_snapshot($1, $2, $3, $4, $5, $6)";
const DROP: &str = "delete from snapshots where stream = $1";

#[async_trait]
impl SnapshotStore for PgBackend {
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let query = || sqlx::query(GET).bind(stream.as_str().to_owned());
        let rows = self.0.shared.readers.rows("reading a snapshot", query).await?;
        Ok(rows.first().map(|row| Snapshot {
            stream: stream.clone(),
            version: Version(number(row.get_unchecked(0))),
            event: row.get_unchecked(1),
            schema: row.get_unchecked::<i32, _>(2).cast_unsigned(),
            data: row.get_unchecked::<Vec<u8>, _>(3).into(),
        }))
    }

    async fn put_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        // The state was read in the history that is known now, or before it. In another one it is not stored.
        let histories = self.0.shared.readers.histories();
        let token = histories.token(histories.changes());
        let query = || {
            let query =
                sqlx::query(PUT).bind(snapshot.stream.as_str().to_owned()).bind(signed(snapshot.version.0));
            let query = query.bind(snapshot.event).bind(snapshot.schema.cast_signed());
            query.bind(snapshot.data.to_vec()).bind(token)
        };
        let rows = self.0.shared.readers.rows("storing a snapshot", query).await?;
        if rows.first().is_none_or(|row| !row.get_unchecked::<bool, _>(0)) {
            tracing::debug!(stream = %snapshot.stream, version = snapshot.version.0, "the snapshot is not needed: a newer one is there, or it is of another history");
        }
        Ok(())
    }

    async fn drop_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        let query = || sqlx::query(DROP).bind(stream.as_str().to_owned());
        self.0.shared.readers.rows("dropping a snapshot", query).await.map(drop)
    }
}
