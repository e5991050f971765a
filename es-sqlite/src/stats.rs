//! How large a store is, and how far its processors are.

use es_core::store::{CheckpointOf, Position, StoreError, checkpoint_of};
use sqlx::Row as _;
use uuid::Uuid;

use crate::row::number;
use crate::{SqliteBackend, error};

const STATS: &str = include_str!("sql/stats.sql");
const CHECKPOINTS: &str = "select key, data from es_rows where tbl = 'checkpoints' order by key";

/// How large a store is, and how far its processors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The identity of the store: [`EventStore::identity`](es_core::store::EventStore::identity).
    pub store: Uuid,
    /// Its generation: another one once it was [adopted](crate::SqliteOptions::adopt).
    pub generation: Uuid,
    /// The position of the last event.
    pub head: Position,
    /// How many streams there are.
    pub streams: u64,
    /// What the file takes, in bytes, without its write-ahead log.
    pub bytes: u64,
    /// Where processors are, the last one first.
    pub checkpoints: Vec<(String, Position)>,
    /// Places of processors that cannot be read.
    pub unreadable: Vec<String>,
}

impl SqliteBackend {
    /// How large the store is, and how far its processors are. Reads no events.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let failed = |e| error::store("reading the size of the store", e);
        let mut tx = self.readers()?.begin().await.map_err(failed)?;
        let row = sqlx::query(STATS).fetch_one(&mut *tx).await.map_err(failed)?;
        let checkpoints = sqlx::query(CHECKPOINTS).fetch_all(&mut *tx).await.map_err(failed)?;
        let id = |column: usize| {
            let bytes = row.try_get(column)?;
            Uuid::from_slice(bytes).map_err(|e| sqlx::Error::Decode(e.into()))
        };
        let whole = |column: usize| row.try_get(column).map(number);
        let mut stats = Stats {
            store: id(0).map_err(failed)?,
            generation: id(1).map_err(failed)?,
            head: Position(whole(2).map_err(failed)?),
            streams: whole(3).map_err(failed)?,
            bytes: whole(4).map_err(failed)?,
            ..Stats::default()
        };
        for row in &checkpoints {
            let name: String = row.try_get(0).map_err(failed)?;
            match checkpoint_of(row.try_get(1).map_err(failed)?) {
                Some(CheckpointOf::Nobody) => {}
                Some(CheckpointOf::Range(position)) => stats.checkpoints.push((name, position)),
                None => stats.unreadable.push(name),
            }
        }
        stats.checkpoints.sort_by(|(a, at), (b, bt)| (at, a).cmp(&(bt, b)));
        Ok(stats)
    }
}
