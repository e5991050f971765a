//! The event store over this database.

use async_trait::async_trait;
use es_core::clock::Timestamp;
use es_core::limits::{MAX_PAGE, MAX_SEQUENCE};
use es_core::store::{
    Attempt, Commit, CommitError, Committed, EventFilter, EventStore, Filling, IdempotencyKey, Outcome, Page,
    Position, RecordedEvent, Resolution, StoreError, StreamId, Version, check, is_full, measure,
};
use futures::StreamExt as _;
use futures::future::{Ready, ready};
use sqlx::sqlite::{SqliteQueryResult, SqliteRow};
use sqlx::{Column as _, Either, Executor as _, Row as _, Sqlite, SqlitePool};
use tokio::sync::watch;

use crate::filter::{self, Select};
use crate::history::{self, LOOK};
use crate::row::{self, number, signed};
use crate::writer::Shared;
use crate::{SqliteBackend, attempt, batch, error};

/// Positions that one read of a filter without tags looks through at most: it answers in bounded time.
const WINDOW: u64 = 50_000;

/// A page of a stream, and a look at which history it is of.
const STREAM: &str = concat!(include_str!("sql/stream.sql"), ";\n", include_str!("sql/look.sql"));
/// The head, then what tells the histories of the store apart, as in `look.sql`.
const HEAD: &str = include_str!("sql/head.sql");
const OUTCOME: &str = include_str!("sql/outcome.sql");

impl SqliteBackend {
    /// Connections that read, of a file that is still the one that was opened.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is not.
    pub(crate) fn readers(&self) -> Result<&SqlitePool, StoreError> {
        self.0.shared.file.still_there()?;
        Ok(&self.0.readers)
    }

    /// Reads events and decodes each as it comes in, until the page is full. Types that another process has added since
    /// are read first, and all of them where the store has another history. A row that has no place is no event.
    async fn events(
        &self,
        what: &'static str,
        query: impl Fn() -> SqlQuery + Send + Sync,
        mut place: impl FnMut(usize, &SqliteRow) -> Result<Option<(StreamId, Version)>, StoreError> + Send,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let Shared { types: kinds, histories, .. } = &*self.0.shared;
        let mut reloaded = None;
        loop {
            let history = histories.changes();
            let read = self.try_events(what, query(), &mut place).await;
            // What was read with the types of another history is read again.
            let is_sure = history == histories.changes() && histories.has_types();
            match read {
                Ok(Some(events)) if is_sure => {
                    if let Some(last) = events.last() {
                        histories.saw(history, last.place().0, last.id);
                    }
                    return Ok(events);
                }
                Err(error) if is_sure => return Err(error),
                _ => {}
            }
            let now = histories.changes();
            let failed = |e| error::store("reading event types", e);
            if histories.has_types() {
                crate::types::reload(kinds, self.readers()?).await.map_err(failed)?;
            } else {
                crate::types::read_anew(kinds, self.readers()?).await.map_err(failed)?;
                histories.read_types(now);
            }
            // The next read may meet one that came after these.
            let count = Some(kinds.known().count());
            if is_sure && reloaded == count {
                return Err(StoreError::Corrupt {
                    what: "an event has a type that is not in es_types".to_owned(),
                });
            }
            reloaded = count;
        }
    }

    /// `None` if one type is not known. The statement is followed by [`LOOK`], so what is found to be another history is
    /// counted before anything of it is given.
    async fn try_events(
        &self,
        what: &'static str,
        query: SqlQuery,
        place: &mut (impl FnMut(usize, &SqliteRow) -> Result<Option<(StreamId, Version)>, StoreError> + Send),
    ) -> Result<Option<Vec<RecordedEvent>>, StoreError> {
        let shared = &self.0.shared;
        let (mut events, mut filling, mut is_known) = (Vec::new(), Filling::default(), true);
        let ask = shared.histories.ask();
        let mut rows = self.readers()?.fetch_many(ask.bind(query)).filter_map(row_of).enumerate();
        while !filling.is_full()
            && let Some((i, row)) = rows.next().await
        {
            let row = row.map_err(|e| error::store(what, e))?;
            if is_look(&row) {
                shared.histories.hear(ask, &row, 0).map_err(|e| history::failed(what, e))?;
                return Ok(is_known.then_some(events));
            }
            let Some((stream, version)) = place(i, &row)? else { continue };
            match row::decode(&row, &stream, version, &shared.types.known())? {
                Some(event) => {
                    filling.takes(&event);
                    events.push(event);
                }
                None => is_known = false,
            }
        }
        drop(rows);
        self.look(what).await?;
        Ok(is_known.then_some(events))
    }

    /// Whether the store has another history: that is counted.
    pub(crate) async fn look(&self, what: &'static str) -> Result<(), StoreError> {
        let ask = self.0.shared.histories.ask();
        let looked = ask.bind(sqlx::query(LOOK)).fetch_one(self.readers()?).await;
        let heard = looked.and_then(|row| self.0.shared.histories.hear(ask, &row, 0));
        heard.map_err(|e| history::failed(what, e))
    }

    async fn number(&self, what: &'static str, query: SqlScalar) -> Result<Option<u64>, StoreError> {
        let found = query.fetch_optional(self.readers()?).await.map_err(|e| error::store(what, e))?;
        Ok(found.map(number))
    }
}

/// Rows, without the ends of statements.
fn row_of(
    item: Result<Either<SqliteQueryResult, SqliteRow>, sqlx::Error>,
) -> Ready<Option<Result<SqliteRow, sqlx::Error>>> {
    ready(item.map(Either::right).transpose())
}

/// Whether a row is that of [`LOOK`].
fn is_look(row: &SqliteRow) -> bool {
    row.columns().first().is_some_and(|column| column.name() == "store")
}

type SqlQuery = sqlx::query::Query<'static, Sqlite, sqlx::sqlite::SqliteArguments>;
type SqlScalar = sqlx::query::QueryScalar<'static, Sqlite, i64, sqlx::sqlite::SqliteArguments>;

#[async_trait]
impl EventStore for SqliteBackend {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        check::commit(&commit)?;
        let outcome = self.0.batcher.commit(commit).await;
        measure::outcome(&outcome);
        outcome
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        let resolution = attempt::resolve(&self.0, attempt).await;
        measure::resolved(&resolution);
        resolution
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let query =
            || sqlx::query(STREAM).bind(id.as_str().to_owned()).bind(signed(after.0)).bind(bounded(limit));
        let place = |i, _: &SqliteRow| Ok(Some((id.clone(), Version(after.0 + 1 + i as u64))));
        self.events("reading a stream", query, place).await
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
        let query = || select.bind(sqlx::query(select.head_and_sql()), after, upto, limit);
        let mut head = Position(0);
        let place = |i, row: &SqliteRow| {
            // The first statement has one row. The events are read after it, so up to the head none is missing.
            if i == 0 {
                head = Position(number(row.get_unchecked(0)));
                return Ok(None);
            }
            named(row).map(Some)
        };
        let events = self.events("reading the log", query, place).await?;
        let last = events.last().map_or(after, RecordedEvent::place);
        let through = if is_full(&events, limit) { last } else { head.min(upto).max(last) };
        Ok(Page { events, through, more: through < head })
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        let positions: Vec<u64> = check::positions(positions)?.into_iter().map(|p| p.0).collect();
        let query =
            || sqlx::query(filter::at()).bind(serde_json::to_string(&positions).expect("numbers serialize"));
        self.events("reading events", query, |_, row| named(row).map(Some)).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let (what, histories) = ("reading the head", &self.0.shared.histories);
        let ask = histories.ask();
        let row = ask
            .bind(sqlx::query(HEAD))
            .fetch_one(self.readers()?)
            .await
            .map_err(|e| error::store(what, e))?;
        histories.hear(ask, &row, 1).map_err(|e| history::failed(what, e))?;
        Ok(Position(number(row.get_unchecked(0))))
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
            sqlx::query(OUTCOME).bind(key.as_str()).fetch_optional(self.readers()?).await.map_err(failed)?;
        row.map(|row| batch::outcome(&row).map(|(_, outcome)| outcome)).transpose().map_err(failed)
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.shared.head.subscribe()
    }

    fn identity(&self) -> uuid::Uuid {
        self.0.shared.histories.store()
    }

    fn history(&self) -> u64 {
        self.0.shared.histories.changes()
    }
}

/// The stream and the version of a row that has them behind its event.
fn named(row: &SqliteRow) -> Result<(StreamId, Version), StoreError> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use es_core::store::{Append, ExpectedVersion, NewEvent};
    use tokio::runtime::Handle;

    use super::*;

    const TYPES: [&str; 3] = ["a.one", "a.two", "a.three"];

    fn one_of(name: &'static str) -> Commit {
        let event = NewEvent {
            id: es_core::id::Ids::default().next(),
            name: name.into(),
            schema: 1,
            codec: "json".into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::default(),
        };
        let stream = StreamId::new("s").expect("a short name");
        let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
        Commit { appends: vec![append], ..Commit::default() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn types_that_come_while_events_are_read_are_learned_one_after_the_other() {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let open = || SqliteBackend::open(folder.path().join("store.db"));
        let (store, other) = (open().await.expect("a new one"), open().await.expect("it is there"));
        // Before each read another process appends an event of one more type.
        let reads = AtomicUsize::new(0);
        let query = || {
            if let Some(name) = TYPES.get(reads.fetch_add(1, Ordering::SeqCst)) {
                let append = || Handle::current().block_on(other.commit(one_of(name)));
                tokio::task::block_in_place(append).expect("any version");
            }
            sqlx::query(STREAM).bind("s").bind(0_i64).bind(10_i64)
        };
        let place = |i, _: &SqliteRow| Ok(Some((StreamId::new("s")?, Version(1 + i as u64))));
        let events = store.events("reading a stream", query, place).await.expect("nothing is damaged");
        assert_eq!(events.iter().map(|event| &*event.name).collect::<Vec<_>>(), TYPES);
    }
}
