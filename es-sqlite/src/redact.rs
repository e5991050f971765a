//! Redactions: an operator puts something else in the place of a stored payload.

use bytes::Bytes;
use es_core::id::Ids;
use es_core::store::{Position, StoreError, StreamId, Version, check};
use sqlx::{Row as _, SqliteConnection};

use crate::row::{number, signed};
use crate::writer::Writing;
use crate::{SqliteBackend, error, wal};

const REDACTING: &str = "redacting an event";
const EVENT: &str = include_str!("sql/event.sql");
const SET_ASIDE: &str = include_str!("sql/set_aside.sql");
/// The trigger lets the payload of this event be replaced.
const BEGIN: &str = "update es_history set redacts = ?";
const REPLACE: &str = "update es_events set data = ? where position = ?";
const FORGET: &str = "delete from es_snapshots where stream = ?";
/// What programs have read of the store is of another history from now on: they forget it before they write again.
const END: &str = "update es_history set redacts = null, token = ?";

/// An event, as far as a redaction asks.
struct Event {
    position: Position,
    name: String,
    codec: String,
}

impl SqliteBackend {
    /// Replaces the payload of one event, and forgets the snapshot of its stream.
    ///
    /// The new payload must be one that the event type can read. Id, tags and metadata stay. What was made of the old
    /// payload stays as well: rows of projections, copies of the file. Programs forget what they keep in memory of the store
    /// with their next read of events or append, as after a restore.
    ///
    /// In the file the old payload is overwritten, and the write-ahead log is emptied, unless somebody reads in it just then:
    /// so it is gone from there once the log begins anew. Dropping the future before it has ended leaves everything as it
    /// was, or all of it done.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if there is no such event, or the payload is no JSON where there was JSON, or it
    /// [is needed](Self::redaction_needs) as it is; [`StoreError::Limit`] if the payload is larger or deeper than one of an
    /// append may be.
    pub async fn redact(&self, stream: &StreamId, version: Version, data: Bytes) -> Result<(), StoreError> {
        self.replace(stream, version, data, false).await
    }

    /// The same where it is needed: what is set aside could then not be handled.
    ///
    /// # Errors
    ///
    /// As [`Self::redact`].
    pub async fn redact_needed(
        &self,
        stream: &StreamId,
        version: Version,
        data: Bytes,
    ) -> Result<(), StoreError> {
        self.replace(stream, version, data, true).await
    }

    /// Why a redaction of this event is refused; `None` if it is not. It is needed if a processor has the event parked, or
    /// passed over because it could not decode it.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn redaction_needs(
        &self,
        stream: &StreamId,
        version: Version,
    ) -> Result<Option<String>, StoreError> {
        let failed = |e| error::store("looking at an event", e);
        let mut tx = self.readers()?.begin().await.map_err(failed)?;
        let Some(event) = find(&mut tx, stream, version).await.map_err(failed)? else { return Ok(None) };
        needs(&mut tx, event.position).await.map_err(failed)
    }

    async fn replace(
        &self,
        stream: &StreamId,
        version: Version,
        data: Bytes,
        needed: bool,
    ) -> Result<(), StoreError> {
        let failed = |e| error::store(REDACTING, e);
        self.look(REDACTING).await?;
        let mut writing = Writing::acquire(&self.0.shared, REDACTING).await?;
        // What it frees is overwritten.
        run(&mut writing, "pragma secure_delete = on").await.map_err(failed)?;
        let replaced = replace(&mut writing, stream, version, &data, needed).await;
        if replaced.is_err() && writing.is_open() {
            writing.rollback().await.map_err(failed)?;
        }
        run(&mut writing, "pragma secure_delete = off").await.map_err(failed)?;
        replaced?;
        // If somebody reads, it is emptied later.
        drop(wal::empty(writing.conn_mut(), &self.0.reading.gate, self.0.shared.lock_timeout).await);
        drop(writing);
        self.look(REDACTING).await
    }
}

/// All of it, in one transaction.
async fn replace(
    writing: &mut Writing,
    stream: &StreamId,
    version: Version,
    data: &Bytes,
    needed: bool,
) -> Result<(), StoreError> {
    let failed = |e| error::store(REDACTING, e);
    writing.set_open(true);
    run(writing, "begin immediate").await.map_err(failed)?;
    let conn = writing.conn_mut();
    let Some(event) = find(conn, stream, version).await.map_err(failed)? else {
        return Err(StoreError::misuse(format!("stream {stream} has no event with version {}", version.0)));
    };
    check::replacement(&event.name, &event.codec, data)?;
    if !needed && let Some(why) = needs(conn, event.position).await.map_err(failed)? {
        return Err(StoreError::misuse(format!(
            "{why}. Have what is set aside retried or discarded; or redact it all the same."
        )));
    }
    let position = signed(event.position.0);
    let token = Ids::default().next();
    for statement in [
        sqlx::query(BEGIN).bind(position),
        sqlx::query(REPLACE).bind(&data[..]).bind(position),
        sqlx::query(FORGET).bind(stream.as_str()),
        sqlx::query(END).bind(token.as_bytes().as_slice()),
        sqlx::query("commit"),
    ] {
        statement.execute(&mut *conn).await.map_err(failed)?;
    }
    writing.set_open(false);
    Ok(())
}

async fn run(writing: &mut Writing, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(writing.conn_mut()).await.map(drop)
}

async fn find(
    conn: &mut SqliteConnection,
    stream: &StreamId,
    version: Version,
) -> Result<Option<Event>, sqlx::Error> {
    let query = sqlx::query(EVENT).bind(stream.as_str()).bind(signed(version.0));
    let Some(row) = query.fetch_optional(conn).await? else { return Ok(None) };
    Ok(Some(Event {
        position: Position(number(row.try_get(0)?)),
        name: row.try_get(1)?,
        codec: row.try_get(2)?,
    }))
}

/// Why the payload of an event is needed as it is.
async fn needs(conn: &mut SqliteConnection, at: Position) -> Result<Option<String>, sqlx::Error> {
    let asked = sqlx::query_scalar::<_, String>(SET_ASIDE).bind(format!("{:020}", at.0));
    let table = asked.fetch_optional(conn).await?;
    Ok(table.map(|table| format!("event {} is set aside in {table}", at.0)))
}
