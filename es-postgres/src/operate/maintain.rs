//! Partitions, archives and redactions: for the owner of the schema.

use std::time::Duration;

use bytes::Bytes;
use es_core::store::{Position, StoreError, StreamId, Version};
use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow};
use sqlx::{Connection as _, Row as _};

use crate::readers::PgQuery;
use crate::row::signed;
use crate::{PgBackend, connect, error};

impl PgBackend {
    /// Makes the log a table of partitions by ranges of this many positions. What it holds by now becomes the first of
    /// them, with some room; on a log that has partitions already, it sets the size of further ones.
    ///
    /// Appends and reads go on; they stand still for a moment at the end. The log is read through once.
    /// Partitions that follow are made by the programs that append, before they are needed.
    /// A read of a stream looks into each partition, so a few dozen large ones are better than many small ones.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing has changed. Call it again; it is [`Transient`](StoreError::Transient) if long
    /// transactions were in the way.
    pub async fn partition(&self, size: u64) -> Result<(), StoreError> {
        let call = sqlx::query("call partition($1)").bind(signed(size));
        self.maintain("making partitions", call).await?;
        self.0.shared.partitions.make([]).await;
        Ok(())
    }

    /// Takes the partitions that lie at or below a position out of the log, as a whole each, and gives the names of
    /// their tables: `events_archived_<first>_<last>`, in the schema of the store, to dump and to drop.
    ///
    /// What stays is what the store goes on from: the last event of the log, and the last archived one of each stream.
    /// The rest is gone from every read.
    /// - A stream keeps its versions and goes on. To load it takes a snapshot at its last archived event or later;
    ///   without one the load fails and says so.
    /// - A read of the log that asks for what was before is answered from the first position that is kept. So a
    ///   projection that is rebuilt, a new processor, a filter and an append condition see what is kept, and no more.
    /// - A commit whose outcome is unknown must be resolved before its events are archived.
    ///
    /// Appends and reads go on; they stand still for a moment at the end. Gives nothing if no partition lies there.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing was archived. It is [`Misuse`](StoreError::Misuse) if there are no partitions, a processor
    /// has not come so far, or an event that would leave is parked or could not be decoded: it would be lost. Also for one
    /// that nobody runs: `drop_version` of a version, `forget_processor` of a reactor.
    /// [`Transient`](StoreError::Transient) if long transactions were in the way for several tries of two seconds each.
    pub async fn archive(&self, upto: Position) -> Result<Vec<String>, StoreError> {
        const TRIES: u32 = 5;
        let mut tries = 1;
        let rows = loop {
            match self.run(sqlx::query("select archive($1)").bind(signed(upto.0))).await? {
                Err(error) if tries < TRIES && lacked_lock(&error) => tries += 1,
                outcome => break outcome.map_err(|e| explained("archiving", e))?,
            }
            // Who waited behind the last try goes on in between.
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        Ok(rows.iter().map(|row| row.get_unchecked(0)).collect())
    }

    /// Replaces the payload of one event, also of one whose archived table is still there, and forgets the snapshot of
    /// its stream.
    ///
    /// The new payload must be one that the event type can read. Id, tags and metadata stay. What was made of the old
    /// payload stays as well: rows of projections, states that running programs keep, archives that were dumped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if there is no such event, or the payload is too large or no JSON where there was JSON.
    pub async fn redact(&self, stream: &StreamId, version: Version, data: Bytes) -> Result<(), StoreError> {
        let query = sqlx::query("select redact($1, $2, $3)").bind(stream.as_str().to_owned());
        let query = query.bind(signed(version.0)).bind(data.to_vec());
        self.maintain("redacting an event", query).await.map(drop)
    }

    /// A connection of its own: maintenance takes as long as it takes, and if its future is dropped, the server rolls
    /// back what was open.
    pub(crate) async fn patient(&self) -> Result<PgConnection, StoreError> {
        let options = self.0.options.for_whole_tables().options([("statement_timeout", "0")]);
        connect::first(&options).await
    }

    async fn maintain(&self, what: &'static str, query: PgQuery) -> Result<Vec<PgRow>, StoreError> {
        self.run(query).await?.map_err(|e| explained(what, e))
    }

    async fn run(&self, query: PgQuery) -> Result<Result<Vec<PgRow>, sqlx::Error>, StoreError> {
        let mut conn = self.patient().await?;
        let outcome = query.fetch_all(&mut conn).await;
        drop(conn.close().await);
        Ok(outcome)
    }
}

fn explained(what: &'static str, error: sqlx::Error) -> StoreError {
    refusal(&error).unwrap_or_else(|| error::store(what, error))
}

/// Whether others were in the way: `lock_not_available`, `deadlock_detected`.
fn lacked_lock(error: &sqlx::Error) -> bool {
    matches!(error::code(error), Some("55P03" | "40P01"))
}

/// What a function of the store says itself is for people, with its advice.
fn refusal(error: &sqlx::Error) -> Option<StoreError> {
    /// `object_not_in_prerequisite_state`, `invalid_parameter_value`, `program_limit_exceeded`
    const OURS: &[&str] = &["55000", "22023", "54000"];
    let error: &PgDatabaseError = error.as_database_error()?.try_downcast_ref()?;
    let advice = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
    OURS.contains(&error.code()).then(|| StoreError::misuse(format!("{}{advice}", error.message())))
}
