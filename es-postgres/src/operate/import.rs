//! History of another store, taken in by COPY.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;

use es_core::clock::Timestamp;
use es_core::store::{
    Append, Commit, EventId, ExpectedVersion, INLINE, NewEvent, Position, StoreError, StreamId, check,
    envelope,
};
use futures::{Stream, StreamExt as _};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::copy::Rows;
use crate::error::Fate;
use crate::row::{self, number, signed};
use crate::types::Known;
use crate::{PgBackend, error};

/// Events, and bytes of payload, of one chunk.
const MAX_EVENTS: usize = 5_000;
const MAX_BYTES: usize = 4 << 20;

const BEGIN: &str = "select head, recorded_at, now, ids, versions from begin_import($1, $2)";
const COPY_EVENTS: &str = "copy events (position, stream_id, version, type_id, recorded_at, envelope, data) \
                           from stdin (format binary)";
const COPY_TAGS: &str = "copy tags (tag, position) from stdin (format binary)";

/// An event of the past, on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an import is a stream, a time and an event")]
pub struct Imported {
    /// Where to: it becomes the next event of this stream.
    pub stream: StreamId,
    /// When it was recorded where it comes from. Times never go backwards in a log: where this one is before the last
    /// event of the log, that one's time is taken.
    pub recorded_at: Timestamp,
    /// What.
    pub event: NewEvent,
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportSummary {
    /// How many events are stored: the first so many that were given.
    pub events: u64,
    /// The position of the last of them; 0 if there is none.
    pub through: Position,
}

/// An import has ended before its events did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportError {
    /// What is stored. To go on, import again from the event after these.
    pub stored: ImportSummary,
    /// Why no more is.
    pub source: StoreError,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the import has ended after {} events", self.stored.events)
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl PgBackend {
    /// Appends history in the order it is given, in chunks of thousands of events; `progress` is told after each.
    ///
    /// Versions and positions are given out as by commits, ids and times are kept. Others may append at the same time:
    /// their events come between two chunks. No expected version is asked for, and nobody looks whether an event is
    /// stored already: import once, into streams that nobody else writes.
    ///
    /// Each chunk is stored as a whole or not at all, and the chunks in order. Dropping the future stops the import
    /// between two chunks; the head and the summaries say how far it has come.
    ///
    /// # Errors
    ///
    /// [`ImportError`] with what is stored: an event is over a limit or from the future, projections are inline (no commit
    /// would have written their rows: retire them, import, and make them inline again), or the database failed.
    pub async fn import(
        &self,
        events: impl Stream<Item = Imported> + Send,
        mut progress: impl FnMut(ImportSummary) + Send,
    ) -> Result<ImportSummary, ImportError> {
        let mut events = pin!(events);
        let mut stored = ImportSummary::default();
        let mut conn = None;
        let mut ended = false;
        while !ended {
            let mut chunk = Chunk::default();
            while !(ended || chunk.is_full()) {
                match events.next().await {
                    Some(event) => chunk.push(event),
                    None => ended = true,
                }
            }
            if chunk.times.is_empty() {
                break;
            }
            let through = self.take_in(&mut conn, &chunk).await;
            let through = through.map_err(|source| ImportError { stored, source })?;
            stored.events += chunk.times.len() as u64;
            stored.through = through;
            self.0.shared.publish(through);
            progress(stored);
        }
        Ok(stored)
    }

    /// Stores a chunk; gives the position of its last event.
    async fn take_in(&self, conn: &mut Option<PgConnection>, chunk: &Chunk) -> Result<Position, StoreError> {
        check::commit(&chunk.commit)?;
        let shared = &self.0.shared;
        crate::types::provide(&shared.types, &shared.readers, &[&chunk.commit]).await?;
        let conn = match conn {
            Some(conn) => conn,
            None => conn.insert(self.patient().await?),
        };
        let failed = |e| error::store("importing events", e);
        let mut tx = conn.begin().await.map_err(failed)?;
        let (names, places) = chunk.streams();
        let count = i64::try_from(chunk.times.len()).unwrap_or(i64::MAX);
        let row = sqlx::query(BEGIN).bind(names).bind(count).fetch_one(&mut *tx).await.map_err(failed)?;
        not_inline(&mut tx).await?;
        let start = Start::read(&row, shared.micros())?;
        let through = Position(number(start.head + count));
        let (events, tags) = chunk.rows(&places, start, &shared.types.known())?;
        for (copy, rows) in [(COPY_EVENTS, Some(events)), (COPY_TAGS, tags)] {
            let Some(rows) = rows else { continue };
            let mut sink = tx.copy_in_raw(copy).await.map_err(failed)?;
            sink.send(rows).await.map_err(failed)?;
            sink.finish().await.map_err(failed)?;
        }
        match tx.commit().await {
            Err(e) if error::fate(&e) == Fate::Unknown => {
                // The connection is gone; nobody knows whether it took the chunk with it.
                *conn = self.patient().await?;
                if is_stored(conn, self.0.options.schema.gate(), through, chunk.last())
                    .await
                    .map_err(failed)?
                {
                    Ok(through)
                } else {
                    Err(failed(e))
                }
            }
            Err(e) => Err(failed(e)),
            Ok(()) => Ok(through),
        }
    }
}

/// Refuses where projections are inline. Behind the gate, so none becomes it meanwhile.
async fn not_inline(conn: &mut PgConnection) -> Result<(), StoreError> {
    let failed = |e| error::store("importing events", e);
    let query =
        sqlx::query("select data from rows where tbl = $1 and key = $2").bind(INLINE.0).bind(INLINE.1);
    let Some(row) = query.fetch_optional(conn).await.map_err(failed)? else { return Ok(()) };
    let names: Vec<String> =
        serde_json::from_slice(row.try_get::<&[u8], _>(0).map_err(failed)?).map_err(|e| {
            StoreError::Corrupt { what: format!("the set of inline projections cannot be read: {e}") }
        })?;
    if names.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{} {} inline: what is imported would be missing in the rows; retire them, import, and make them inline again",
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" }
    );
    Err(StoreError::misuse(what))
}

/// Whether an event stands at a position, once whoever was writing has ended.
async fn is_stored(
    conn: &mut PgConnection,
    gate: i64,
    position: Position,
    id: Option<EventId>,
) -> Result<bool, sqlx::Error> {
    let mut tx = conn.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(gate).execute(&mut *tx).await?;
    let same =
        "select exists (select from events where position = $1 and substr(envelope, 1, 16) = uuid_send($2))";
    let stored = sqlx::query(same).bind(signed(position.0)).bind(id).fetch_one(&mut *tx).await?.try_get(0)?;
    tx.rollback().await?;
    Ok(stored)
}

/// Events that are stored together. As a commit, so that the limits and the types are those of commits.
#[derive(Debug, Default)]
struct Chunk {
    commit: Commit,
    times: Vec<Timestamp>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, imported: Imported) {
        let Imported { stream, recorded_at, event } = imported;
        self.bytes += event.data.len();
        self.times.push(recorded_at);
        self.commit.appends.push(Append { stream, expected: ExpectedVersion::Any, events: vec![event] });
    }

    const fn is_full(&self) -> bool {
        self.times.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES
    }

    fn last(&self) -> Option<EventId> {
        Some(self.commit.appends.last()?.events.first()?.id)
    }

    /// Each stream once, and of each event the number of its stream.
    fn streams(&self) -> (Vec<String>, Vec<usize>) {
        let mut names = Vec::new();
        let mut numbers = HashMap::new();
        let places = self.commit.appends.iter().map(|append| {
            *numbers.entry(&append.stream).or_insert_with(|| {
                names.push(append.stream.as_str().to_owned());
                names.len() - 1
            })
        });
        let places = places.collect();
        (names, places)
    }

    /// The rows of `events`, and those of `tags` if there are any.
    fn rows(
        &self,
        places: &[usize],
        start: Start,
        types: &Known,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), StoreError> {
        let Start { mut head, mut last, now, ids, mut versions } = start;
        let mut events = Rows::new(self.bytes + 200 * self.times.len());
        let mut tags = None;
        let mut packed = Vec::new();
        let all = self.commit.appends.iter().flat_map(|append| &append.events);
        for ((event, &place), &time) in all.zip(places).zip(&self.times) {
            if time > now {
                let what = format!("event {} was recorded at {time}, which is in the future", event.id);
                return Err(StoreError::misuse(what));
            }
            head += 1;
            versions[place] += 1;
            last = last.max(time);
            packed.clear();
            envelope::pack(event, &mut packed);
            let kind = types.id(event).expect("types are provided before");
            events.row(7).long(head).long(ids[place]).long(versions[place]).int(kind);
            events.time(last).bytes(&packed).bytes(&event.data);
            for (i, tag) in event.tags.iter().enumerate() {
                if !event.tags[..i].contains(tag) {
                    tags.get_or_insert_with(|| Rows::new(0)).row(2).bytes(tag.as_str().as_bytes()).long(head);
                }
            }
        }
        Ok((events.finish(), tags.map(Rows::finish)))
    }
}

/// Where everything is before a chunk.
#[derive(Clone, Debug)]
struct Start {
    head: i64,
    /// The time of the last event.
    last: Timestamp,
    now: Timestamp,
    ids: Vec<i64>,
    versions: Vec<i64>,
}

impl Start {
    fn read(row: &PgRow, clock: Option<i64>) -> Result<Self, StoreError> {
        let failed = |e| error::store("importing events", e);
        let time = |micros: Option<i64>, other| match micros {
            Some(micros) => row::time(micros).map_err(|e| StoreError::Corrupt { what: e.to_string() }),
            None => Ok(other),
        };
        let now = match clock {
            Some(micros) => Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX),
            None => time(Some(row.get_unchecked(2)), Timestamp::MAX)?,
        };
        Ok(Self {
            head: row.get_unchecked(0),
            last: time(row.get_unchecked(1), Timestamp::MIN)?,
            now,
            ids: row.try_get(3).map_err(failed)?,
            versions: row.try_get(4).map_err(failed)?,
        })
    }
}
