//! History of another store, taken in as appends with times of their own.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Timestamp;
use es_core::store::{
    Append, Attempt, Commit, Committed, EventStore as _, ExpectedVersion, INLINE, NewEvent, Position,
    Resolution, RowStore as _, StoreError, StreamId, check,
};
use futures::{Stream, StreamExt as _};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::args::Arg;
use crate::batch::{Answer, Batch, FIRST, PROOF};
use crate::error::Fate;
use crate::stream_cache::StreamCache;
use crate::{PgBackend, error, types};

/// Events, and bytes of payload, of one chunk: others append between two of them.
const MAX_EVENTS: usize = 1_000;
const MAX_BYTES: usize = 1 << 20;
/// How often a chunk is tried again after deadlocks, time-outs and a lack of resources.
const TRIES: u32 = 5;
/// How often it is asked what became of a chunk.
const RESOLVES: u32 = 15;

const IMPORT: &str = "select * from append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
                      $22, $23, lasts => $17, type_numbers => $18, type_names => $19, type_schemas => $20, \
                      type_codecs => $21, event_times => $24)";

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
    /// What is known to be stored. To go on, import again from the event after these; where the source is
    /// [`StoreError::Unknown`], the next chunk may be stored as well: [resolve](es_core::store::EventStore::resolve) its
    /// attempt first, which names its last event.
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
    /// Appends history in the order it is given, in chunks of a thousand events; `progress` is told after each.
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
    /// would have written their rows: retire them, import, and make them inline again), or the database failed. With
    /// [`StoreError::Unknown`] as its source if the connection was lost, and the database did not say for some seconds what
    /// became of a chunk.
    pub async fn import(
        &self,
        events: impl Stream<Item = Imported> + Send,
        mut progress: impl FnMut(ImportSummary) + Send,
    ) -> Result<ImportSummary, ImportError> {
        let mut events = pin!(events);
        let mut stored = ImportSummary::default();
        let mut importing = Importing::default();
        let inline = self.none_inline().await.map_err(|source| ImportError { stored, source })?;
        let mut ended = false;
        while !ended {
            let mut chunk = Chunk { commit: Commit { inline, ..Commit::default() }, ..Chunk::default() };
            while !(ended || chunk.is_full()) {
                match events.next().await {
                    Some(event) => chunk.push(event),
                    None => ended = true,
                }
            }
            if chunk.times.is_empty() {
                break;
            }
            let through = self.take_in(&mut importing, &chunk).await;
            let through = through.map_err(|source| ImportError { stored, source })?;
            stored.events += chunk.times.len() as u64;
            stored.through = through;
            self.0.shared.publish(through);
            progress(stored);
        }
        Ok(stored)
    }

    /// The revision of the set of inline projections, which is empty. Whoever changes it has the next chunk refused.
    async fn none_inline(&self) -> Result<u64, StoreError> {
        let (table, key) = INLINE;
        let Some(row) = self.rows(table, &[key.to_owned()]).await?.pop().flatten() else { return Ok(0) };
        let names: Vec<String> = serde_json::from_slice(&row.data).map_err(|e| StoreError::Corrupt {
            what: format!("the set of inline projections cannot be read: {e}"),
        })?;
        if names.is_empty() { Ok(row.rev) } else { Err(inline(&names.join(", "))) }
    }

    /// Stores a chunk; gives the position of its last event.
    async fn take_in(&self, importing: &mut Importing, chunk: &Chunk) -> Result<Position, StoreError> {
        check::commit(&chunk.commit)?;
        chunk.check_times(self.now().await?)?;
        let mut tries = 0;
        loop {
            let (attempt, failed) = match self.try_take_in(importing, chunk).await? {
                Ok(committed) => return Ok(committed.position),
                Err(failed) => failed,
            };
            match error::fate(&failed) {
                Fate::Again if tries < TRIES => {
                    tries += 1;
                    if error::is_renamed(&failed) {
                        self.0.shared.types.forget();
                    }
                    if error::lacks_partition(&failed) {
                        self.0.shared.partitions.make([&chunk.commit]).await;
                    } else {
                        tokio::time::sleep(Duration::from_millis(10 << tries)).await;
                    }
                }
                // The connection is gone; nobody knows whether it took the chunk with it.
                Fate::Unknown => match self.resolved(&chunk.attempt(attempt)).await? {
                    Resolution::Applied(committed) => return Ok(committed.position),
                    Resolution::Never => return Err(error::store(IMPORTING, failed)),
                },
                _ => return Err(error::store(IMPORTING, failed)),
            }
        }
    }

    /// What became of an attempt: the server is asked for some seconds.
    async fn resolved(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        let mut wait = Duration::from_millis(10);
        for _ in 0..RESOLVES {
            match self.resolve(attempt).await {
                Err(error) if error.kind() == ErrorKind::Transient => tokio::time::sleep(wait).await,
                Err(error) => {
                    tracing::warn!(attempt = %attempt.id, error = &error as &dyn std::error::Error, "the store does not say what became of a chunk");
                    break;
                }
                resolution => return resolution,
            }
            wait = (wait * 2).min(Duration::from_millis(500));
        }
        Err(StoreError::Unknown { what: IMPORTING, attempt: Box::new(attempt.clone()) })
    }

    /// One try: what became of it, or the attempt and what the server said.
    async fn try_take_in(
        &self,
        importing: &mut Importing,
        chunk: &Chunk,
    ) -> Result<Result<Committed, (Uuid, sqlx::Error)>, StoreError> {
        let (shared, commits) = (&self.0.shared, [&chunk.commit]);
        let batch = loop {
            types::provide(&shared.types, &shared.readers, &commits).await?;
            let known = shared.types.known();
            // What was just provided may be forgotten again.
            if types::missing(&known, &commits).is_empty() {
                break Batch::new(&commits, &known);
            }
        };
        // Its events have times of their own: so its name has none, by which it would be looked for among what is as new.
        let attempt = uuid::Builder::from_random_bytes(shared.ids.next().into_bytes()).into_uuid();
        let (mut args, pending) = batch.args(attempt, shared.micros(), &importing.streams);
        // Of what follows there are tags alone.
        args.truncate(FIRST + PROOF.len() + 2);
        if args.len() == FIRST + PROOF.len() {
            args.extend([Arg::Texts(None), Arg::Ints(Vec::new())]);
        }
        args.push(Arg::Longs(chunk.times.iter().map(|time| time.as_microsecond()).collect()));
        let conn = match &mut importing.conn {
            Some(conn) => conn,
            none => none.insert(self.patient().await?),
        };
        let query = args.into_iter().fold(sqlx::query(IMPORT), |query, arg| arg.bind(query));
        let answered = match query.fetch_one(conn).await {
            Ok(row) => pending.answer(&row, &mut importing.streams),
            Err(error) => Err(error),
        };
        match answered {
            Ok(Answer::Written(mut committed, _)) => {
                Ok(committed.pop().ok_or((attempt, sqlx::Error::RowNotFound)))
            }
            Ok(Answer::Refused(_)) => Err(inline("others by now")),
            Err(error) => {
                importing.streams.forget();
                if error::breaks_connection(&error) {
                    importing.conn = None;
                }
                Ok(Err((attempt, error)))
            }
        }
    }
}

const IMPORTING: &str = "importing events";

fn inline(which: &str) -> StoreError {
    StoreError::misuse(format!(
        "projections are inline ({which}): what is imported would be missing in the rows; retire them, import, and make them \
         inline again"
    ))
}

/// A connection of its own, and what is known through it.
#[derive(Debug, Default)]
struct Importing {
    conn: Option<PgConnection>,
    streams: StreamCache,
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
        self.bytes += event.size();
        self.times.push(recorded_at);
        self.commit.appends.push(Append { stream, expected: ExpectedVersion::Any, events: vec![event] });
    }

    const fn is_full(&self) -> bool {
        self.times.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES
    }

    /// Its last event proves all of it.
    fn attempt(&self, id: Uuid) -> Attempt {
        let last = self.commit.appends.last();
        let proof = |append: &Append| (append.stream.clone(), append.events.iter().map(|e| e.id).collect());
        Attempt { id, appends: last.map(proof).into_iter().collect() }
    }

    fn check_times(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut times = self.times.iter().zip(&self.commit.appends);
        let Some((time, append)) = times.find(|(time, _)| **time > now) else { return Ok(()) };
        let id = append.events.first().map(|event| event.id).unwrap_or_default();
        Err(StoreError::misuse(format!("event {id} was recorded at {time}, which is in the future")))
    }
}
