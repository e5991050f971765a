//! What became of a commit whose outcome is unknown: one witness says.
//!
//! A commit is atomic, so any of its events proves it. One that writes something and no events leaves its name in
//! `es_attempts`, for as long as it can be asked for. An attempt that left nothing is fenced: a row there says that it was given up, and a commit
//! that comes late under its name is refused. Fences stay, since what was once given up must not be found later, also
//! if the same events were sent again under another name.

use std::time::Duration;

use es_core::clock::Timestamp;
use es_core::store::{Attempt, CommitError, Committed, Position, Resolution, StoreError, Version};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::backend::Store;
use crate::error;
use crate::row::number;
use crate::writer::Writing;

/// How old an attempt without events may be when it is asked for.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Clocks are set, and processes look at them at other moments: a witness is kept for so much longer.
const MARGIN: Duration = Duration::from_secs(5 * 60);

const DOING: &str = "resolving a commit";
const EVENT: &str = include_str!("sql/resolve.sql");
const LAST: &str = include_str!("sql/version.sql");

/// Looks for the witness of an attempt; fences it if there is none.
///
/// Goes behind everything that waits: a commit whose future was dropped is then stored, or never will be.
pub(crate) async fn resolve(store: &Store, attempt: &Attempt) -> Result<Resolution, StoreError> {
    if attempt.id.is_nil() && !attempt.has_events() {
        let what = "an attempt without a name and without events cannot be looked for";
        return Err(StoreError::misuse(what));
    }
    match store.batcher.pass().await {
        Ok(()) => {}
        Err(CommitError::Store(error)) => return Err(error),
        Err(other) => return Err(StoreError::transient(DOING, other)),
    }
    let mut writing = Writing::open(&store.shared, DOING).await?;
    let failed = |e| error::store(DOING, e);
    let found = look(writing.conn_mut(), attempt).await.map_err(failed)?;
    let fence = found.is_none() && !attempt.id.is_nil();
    if fence && !attempt.has_events() && is_too_old(attempt.id, store.shared.clock.now()) {
        return Err(too_old(attempt.id));
    }
    if fence {
        let insert = sqlx::query("insert into es_attempts (id) values (?)").bind(bytes(&attempt.id));
        insert.execute(writing.conn_mut()).await.map_err(failed)?;
        sqlx::query("commit").execute(writing.conn_mut()).await.map_err(failed)?;
        writing.set_open(false);
    } else {
        writing.rollback().await.map_err(failed)?;
    }
    Ok(found.unwrap_or(Resolution::Never))
}

/// What is stored of an attempt; `None` for nothing.
async fn look(conn: &mut SqliteConnection, attempt: &Attempt) -> Result<Option<Resolution>, sqlx::Error> {
    let sql = "select applied_at from es_attempts where id = ?";
    let known: Option<Option<i64>> =
        sqlx::query_scalar(sql).bind(bytes(&attempt.id)).fetch_optional(&mut *conn).await?;
    let has_witness = match known {
        Some(None) => return Ok(Some(Resolution::Never)),
        None if !attempt.has_events() => return Ok(None),
        known => known.is_some(),
    };
    let mut committed = Committed::default();
    for (stream, ids) in &attempt.appends {
        let event = match ids.last() {
            Some(id) => place(conn, sqlx::query(EVENT).bind(stream.as_str()).bind(bytes(id))).await?,
            None => None,
        };
        committed.versions.push(match event {
            Some((version, position)) => {
                committed.position = committed.position.max(position);
                version
            }
            None if ids.is_empty() || has_witness => {
                let last = place(conn, sqlx::query(LAST).bind(stream.as_str())).await?;
                last.map_or(Version(0), |(version, _)| version)
            }
            None => return Ok(None),
        });
    }
    if !attempt.has_events() {
        let head = "select coalesce(max(position), 0) from es_events";
        committed.position = Position(number(sqlx::query_scalar(head).fetch_one(conn).await?));
    }
    Ok(Some(Resolution::Applied(committed)))
}

/// The version and the position that a query finds.
async fn place(
    conn: &mut SqliteConnection,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<Option<(Version, Position)>, sqlx::Error> {
    let row = query.fetch_optional(conn).await?;
    Ok(row.map(|row| (Version(number(row.get_unchecked(0))), Position(number(row.get_unchecked(1))))))
}

/// The refusal of a commit whose attempt was given up.
pub(crate) fn given_up(attempt: Uuid) -> CommitError {
    StoreError::misuse(format!("attempt {attempt} was given up: send it under another name")).into()
}

/// From when a witness is kept: not before its attempt was named, so that the attempt is too old once it has gone.
pub(crate) fn kept_from(attempt: Uuid, now: Timestamp) -> Timestamp {
    named_at(attempt).map_or(now, |named| named.max(now))
}

/// Witnesses from before this are removed.
pub(crate) fn forgotten_before(now: Timestamp) -> Timestamp {
    now.checked_sub(KEPT + MARGIN).unwrap_or(Timestamp::MIN)
}

fn is_too_old(attempt: Uuid, now: Timestamp) -> bool {
    // One without a time counts as young.
    named_at(attempt).is_some_and(|named| named.checked_add(KEPT).is_ok_and(|end| end < now))
}

fn too_old(attempt: Uuid) -> StoreError {
    let minutes = KEPT.as_secs() / 60;
    StoreError::misuse(format!(
        "attempt {attempt} is too old to be known: one without events can be asked for within {minutes} minutes; read \
         what it would have written"
    ))
}

/// The time in a UUIDv7.
fn named_at(attempt: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = attempt.get_timestamp().filter(|_| attempt.get_version_num() == 7)?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// A name as it travels in JSON.
pub(crate) fn hex(attempt: Uuid) -> String {
    attempt.simple().to_string()
}

fn bytes(id: &Uuid) -> &[u8] {
    id.as_bytes()
}
