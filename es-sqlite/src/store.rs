//! The event store over this database.

use async_trait::async_trait;
use es_core::clock::Timestamp;
use es_core::limits::{MAX_PAGE, MAX_SEQUENCE};
use es_core::store::{
    Attempt, Commit, CommitError, Committed, EventFilter, EventStore, IdempotencyKey, Outcome, Page,
    Position, RecordedEvent, Resolution, StoreError, StreamId, Version, check,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite};
use tokio::sync::watch;

use crate::filter::{self, Select};
use crate::row::{self, number, signed};
use crate::{SqliteBackend, attempt, batch, error};

/// Positions that one read of a filter without tags looks through at most: it answers in bounded time.
const WINDOW: u64 = 50_000;

const STREAM: &str = include_str!("sql/stream.sql");
const OUTCOME: &str = include_str!("sql/outcome.sql");

impl SqliteBackend {
    /// Decodes rows; types that another process has added meanwhile are read first.
    async fn decode(
        &self,
        rows: &[SqliteRow],
        of: impl Fn(usize, &SqliteRow) -> Result<(StreamId, Version), StoreError>,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let types = &self.0.shared.types;
        let try_decode = || {
            let known = types.known();
            let decode = |(i, row): (usize, &SqliteRow)| {
                let (stream, version) = of(i, row)?;
                row::decode(row, &stream, version, &known)
            };
            // None as soon as one type is not known.
            rows.iter().enumerate().map(decode).collect::<Result<Option<Vec<_>>, _>>()
        };
        if let Some(events) = try_decode()? {
            return Ok(events);
        }
        crate::types::reload(types, &self.0.readers)
            .await
            .map_err(|e| error::store("reading event types", e))?;
        let missing =
            || StoreError::Corrupt { what: "an event has a type that is not in es_types".to_owned() };
        try_decode()?.ok_or_else(missing)
    }

    async fn number(&self, what: &'static str, query: SqlScalar) -> Result<Option<u64>, StoreError> {
        let found = query.fetch_optional(&self.0.readers).await.map_err(|e| error::store(what, e))?;
        Ok(found.map(number))
    }
}

type SqlScalar = sqlx::query::QueryScalar<'static, Sqlite, i64, sqlx::sqlite::SqliteArguments>;

#[async_trait]
impl EventStore for SqliteBackend {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        check::commit(&commit)?;
        self.0.shared.not_the_holder()?;
        self.0.batcher.commit(commit).await
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.0.shared.not_the_holder()?;
        attempt::resolve(&self.0, attempt).await
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let query = sqlx::query(STREAM).bind(id.as_str()).bind(signed(after.0)).bind(bounded(limit));
        let rows = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("reading a stream", e))?;
        self.decode(&rows, |i, _| Ok((id.clone(), Version(after.0 + 1 + i as u64)))).await
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        check::filter(filter)?;
        if limit == 0 {
            return Ok(Page { events: Vec::new(), through: after, more: false });
        }
        let limit = limit.min(MAX_PAGE);
        let select = Select::new(filter);
        let window = if select.is_indexed() { MAX_SEQUENCE } else { after.0.saturating_add(WINDOW) };
        let upto = Position(window.min(MAX_SEQUENCE));
        let query = select.bind(sqlx::query(select.head_and_sql()), after, upto, limit);
        let rows = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("reading the log", e))?;
        let (head, rows) = rows.split_first().expect("the first statement has one row");
        // The events were read after the head, so up to the head none is missing.
        let head = Position(number(head.get_unchecked(0)));
        let events = self.decode(rows, named).await?;
        let last = events.last().map_or(after, RecordedEvent::place);
        let through = if events.len() == limit { last } else { head.min(upto).max(last) };
        Ok(Page { events, through, more: through < head })
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        let positions: Vec<u64> = check::positions(positions)?.into_iter().map(|p| p.0).collect();
        let query =
            sqlx::query(filter::at()).bind(serde_json::to_string(&positions).expect("numbers serialize"));
        let rows = query.fetch_all(&self.0.readers).await.map_err(|e| error::store("reading events", e))?;
        self.decode(&rows, named).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let query = sqlx::query_scalar("select position from es_events order by position desc limit 1");
        Ok(Position(self.number("reading the head", query).await?.unwrap_or_default()))
    }

    /// Recorded times never go backwards, so this is a binary search.
    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        let (mut before, mut head) = (0, self.head().await?.0);
        while before < head {
            let middle = before + (head - before).div_ceil(2);
            let sql = "select 1 from es_events where position = ? and recorded_at < ?";
            let query = sqlx::query_scalar(sql).bind(signed(middle)).bind(micros_after(time));
            match self.number("reading a time", query).await? {
                Some(_) => before = middle,
                None => head = middle - 1,
            }
        }
        Ok(Position(before))
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.0.shared.clock.now())
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        let failed = |e| error::store("reading an outcome", e);
        let row =
            sqlx::query(OUTCOME).bind(key.as_str()).fetch_optional(&self.0.readers).await.map_err(failed)?;
        row.map(|row| batch::outcome(&row).map(|(_, outcome)| outcome)).transpose().map_err(failed)
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.shared.head.subscribe()
    }

    fn identity(&self) -> uuid::Uuid {
        self.0.shared.identity
    }
}

/// The stream and the version of a row that has them behind its event.
fn named(_: usize, row: &SqliteRow) -> Result<(StreamId, Version), StoreError> {
    let version = Version(number(row.get_unchecked(3)));
    Ok((StreamId::new(row.get_unchecked::<&str, _>(4))?, version))
}

fn bounded(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}

/// Whole microseconds, rounded up: an event of the same microsecond is not before the time.
fn micros_after(time: Timestamp) -> i64 {
    let micros = time.as_microsecond();
    let rest = time - Timestamp::from_microsecond(micros).unwrap_or(time);
    if rest.is_positive() { micros + 1 } else { micros }
}
