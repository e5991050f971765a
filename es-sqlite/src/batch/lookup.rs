//! What a batch asks the database before it decides, under the write lock.

use std::collections::{BTreeMap, BTreeSet};

use es_core::clock::Timestamp;
use es_core::limits::MAX_PAGE;
use es_core::store::{
    Commit, Filling, INLINE, IdempotencyKey, Outcome, OwnEvents, Position, StreamId, Version,
};
use futures::TryStreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Either, Executor as _, Row as _};
use uuid::Uuid;

use super::ledger::{Batch, Stream};
use crate::attempt;
use crate::filter::Select;
use crate::row::{self, number, signed};
use crate::writer::{Temporary, Writing};

/// `begin immediate` and the look-up, in one message.
const BEGIN: &str = concat!("begin immediate;\n", include_str!("../sql/lookup.sql"));
const LOOK_UP: &str = include_str!("../sql/lookup.sql");

/// Rows of a batch whose pages are kept in memory as they were, of 4 KiB each.
const MAX_IN_MEMORY: usize = 3_000;

pub(super) async fn look_up(writing: &mut Writing, commits: &[Commit]) -> Result<Batch, sqlx::Error> {
    let shared = writing.shared().clone();
    let mut batch = Batch::new(shared.types.clone());
    let last_type = ask(writing, commits, &mut batch).await?;
    batch.history = shared.histories.changes();
    if !shared.histories.has_types() {
        crate::types::read_anew(&shared.types, writing.conn_mut()).await?;
        shared.histories.read_types(batch.history);
    } else if last_type > 0 && shared.types.known().kind(last_type).is_none() {
        crate::types::reload(&shared.types, writing.conn_mut()).await?;
    }
    // The clock may go backwards; recorded times do not.
    batch.now = shared.clock.now();
    batch.recorded_at = batch.now.max(batch.recorded_at);
    // Only a later commit of the same batch can be broken by an earlier one.
    batch.remembers = commits.len() > 1 || commits.iter().any(|c| c.appends.len() > 1);
    for (i, commit) in commits.iter().enumerate() {
        condition(writing, i, commit, &mut batch).await?;
    }
    tails(writing, commits, &mut batch).await?;
    Ok(batch)
}

/// Everything that the commits name, in one message; gives the highest number of a type.
async fn ask(writing: &mut Writing, commits: &[Commit], batch: &mut Batch) -> Result<i64, sqlx::Error> {
    let written = commits.iter().flat_map(|c| &c.appends).map(|a| &a.stream);
    let checked = commits.iter().flat_map(|c| &c.checks).map(|c| &c.stream);
    let marked = commits.iter().flat_map(|c| &c.outcomes).map(|o| &o.outcome.stream);
    let names: BTreeMap<&str, &StreamId> =
        written.chain(checked).chain(marked).map(|s| (s.as_str(), s)).collect();
    let names: Vec<&StreamId> = names.into_values().collect();
    let keys: BTreeSet<&str> = commits.iter().flat_map(|c| &c.outcomes).map(|o| o.key.as_str()).collect();
    let mut rows: BTreeSet<(&str, &str)> =
        commits.iter().flat_map(|c| &c.rows).map(|w| (&*w.table, &*w.key)).collect();
    if commits.iter().flat_map(|c| &c.appends).any(|a| !a.events.is_empty()) {
        rows.insert(INLINE);
    }
    let rows: Vec<(&str, &str)> = rows.into_iter().collect();
    let attempts: Vec<Uuid> = commits.iter().map(|c| c.attempt).filter(|attempt| !attempt.is_nil()).collect();

    let (sql, mut statement) = if writing.is_open() {
        (LOOK_UP, Statement::Head)
    } else {
        writing.keep_temporary(temporary_of(commits)).await?;
        (BEGIN, Statement::Begin)
    };
    writing.set_open(true);
    let shared = writing.shared().clone();
    let looks = shared.histories.ask();
    let query = looks
        .bind(sqlx::query(sql))
        .bind(json(&names.iter().map(|name| name.as_str()).collect::<Vec<_>>()))
        .bind(json(&keys))
        .bind(json(&rows))
        .bind(json(&attempts.iter().copied().map(attempt::hex).collect::<Vec<_>>()));
    let mut results = writing.conn_mut().fetch_many(query);
    let mut last_type = 0;
    while let Some(result) = results.try_next().await? {
        let row = match result {
            Either::Right(row) => row,
            Either::Left(_) => {
                statement = statement.next();
                continue;
            }
        };
        match statement {
            Statement::Head => {
                last_type = head(&row, batch);
                shared.histories.hear(looks, &row, 5)?;
            }
            Statement::Streams => {
                for (place, id, version, position, last) in
                    places::<(usize, i64, u64, u64, Option<Uuid>)>(&row)?
                {
                    let Some(name) = names.get(place) else { continue };
                    let stream = Stream { id, version: Version(version), position: Position(position), last };
                    batch.streams.insert((*name).clone(), stream);
                }
            }
            Statement::Outcomes => {
                let (key, outcome) = outcome(&row)?;
                batch.outcomes.insert(key, outcome);
            }
            Statement::Rows if row.get_unchecked(1) => {
                for (place, rev) in places::<(usize, u64)>(&row)? {
                    let Some((table, key)) = rows.get(place) else { continue };
                    batch.row_revs.insert(((*table).to_owned(), (*key).to_owned()), rev);
                }
            }
            Statement::Rows => {
                let fences = places::<usize>(&row)?.into_iter();
                batch.fences.extend(fences.filter_map(|place| attempts.get(place).copied()));
            }
            Statement::Begin => unreachable!("BEGIN has no rows"),
        }
    }
    Ok(last_type)
}

/// Of what is scattered, each row may be on a page of its own.
fn temporary_of(commits: &[Commit]) -> Temporary {
    let events = || commits.iter().flat_map(|c| &c.appends).flat_map(|append| &append.events);
    let of_events: usize = events().map(|event| 2 + event.tags.len()).sum();
    let others: usize = commits.iter().map(|c| c.rows.len() + c.outcomes.len()).sum();
    if of_events + others <= MAX_IN_MEMORY { Temporary::InMemory } else { Temporary::InFiles }
}

/// The statements of `lookup.sql`, in order.
#[derive(Clone, Copy)]
enum Statement {
    Begin,
    Head,
    Streams,
    Outcomes,
    Rows,
}

impl Statement {
    const fn next(self) -> Self {
        match self {
            Self::Begin => Self::Head,
            Self::Head => Self::Streams,
            Self::Streams => Self::Outcomes,
            Self::Outcomes | Self::Rows => Self::Rows,
        }
    }
}

fn head(row: &SqliteRow, batch: &mut Batch) -> i64 {
    batch.head = Position(number(row.get_unchecked(0)));
    if batch.head.0 > 0 {
        batch.recorded_at = Timestamp::from_microsecond(row.get_unchecked(1)).unwrap_or(Timestamp::MIN);
    } else {
        batch.recorded_at = Timestamp::MIN;
    }
    let forgotten: Option<i64> = row.get_unchecked(4);
    batch.forgotten = forgotten.and_then(|micros| Timestamp::from_microsecond(micros).ok());
    batch.next_stream = row.get_unchecked::<i64, _>(2) + 1;
    let last_type: i64 = row.get_unchecked(3);
    batch.next_type = last_type + 1;
    last_type
}

/// What was found of what was asked for, by its places in there.
fn places<T: DeserializeOwned>(row: &SqliteRow) -> Result<Vec<T>, sqlx::Error> {
    serde_json::from_str(row.get_unchecked(0)).map_err(|e| sqlx::Error::Decode(e.into()))
}

/// A row of `es_outcomes`.
pub(crate) fn outcome(row: &SqliteRow) -> Result<(IdempotencyKey, Outcome), sqlx::Error> {
    let broken = |e: es_core::limits::LimitError| sqlx::Error::Decode(e.into());
    let fingerprint: &[u8] = row.get_unchecked(1);
    let fingerprint =
        fingerprint.try_into().map_err(|_| sqlx::Error::Decode("a fingerprint has 16 bytes".into()))?;
    let outcome = Outcome {
        fingerprint: u128::from_be_bytes(fingerprint),
        stream: StreamId::new(row.get_unchecked::<String, _>(2)).map_err(broken)?,
        version: Version(number(row.get_unchecked(3))),
        position: Position(number(row.get_unchecked(4))),
        events: row.get_unchecked(5),
        refusal: row.get_unchecked::<Option<Vec<u8>>, _>(6).map(Into::into),
    };
    Ok((IdempotencyKey::new(row.get_unchecked::<String, _>(0)).map_err(broken)?, outcome))
}

/// The first stored event that breaks the commit's condition. A decision that saw the head needs no look.
async fn condition(
    writing: &mut Writing,
    i: usize,
    commit: &Commit,
    batch: &mut Batch,
) -> Result<(), sqlx::Error> {
    let Some(condition) = &commit.condition else { return Ok(()) };
    if condition.after >= batch.head {
        return Ok(());
    }
    let select = Select::new(&condition.fail_if_events_match);
    let query = select.bind(sqlx::query(select.sql()), condition.after, batch.head, 1);
    let Some(row) = query.fetch_optional(writing.conn_mut()).await? else { return Ok(()) };
    let stream = StreamId::new(row.get_unchecked::<&str, _>(4)).map_err(|e| sqlx::Error::Decode(e.into()))?;
    let event = row::decode(&row, &stream, Version(0), &batch.types.known());
    let event = event.map_err(|e| sqlx::Error::Decode(e.into()))?;
    let name = event.map_or_else(|| "unknown".into(), |event| event.name);
    batch.broken.insert(i, (Position(number(row.get_unchecked(0))), name));
    Ok(())
}

/// The events behind expectations that failed: to answer a repetition, or to explain a conflict. A stream is
/// read once for the whole batch, as far as any of its commits asks.
async fn tails(writing: &mut Writing, commits: &[Commit], batch: &mut Batch) -> Result<(), sqlx::Error> {
    // From which version, how many at most, and up to where whatever their size.
    let mut asked: BTreeMap<&StreamId, (Version, usize, u64)> = BTreeMap::new();
    for commit in commits {
        let mut all = None;
        for append in &commit.appends {
            let stored = batch.streams.get(&append.stream).map_or(Version(0), |stream| stream.version);
            let Some(expected) = append.expected.exact().filter(|expected| *expected < stored) else {
                continue;
            };
            let all = all.get_or_insert_with(|| OwnEvents::of(&commit.appends));
            let own = usize::try_from(all.to(&append.stream).events).unwrap_or(usize::MAX);
            let limit = if commit.explain { MAX_PAGE } else { own };
            let upto = |from: Version, limit: usize| from.0.saturating_add(limit as u64);
            let all = asked.entry(&append.stream).or_insert((expected, limit, 0));
            let end = upto(all.0, all.1).max(upto(expected, limit));
            all.0 = all.0.min(expected);
            all.1 = usize::try_from(end - all.0.0).unwrap_or(usize::MAX);
            all.2 = all.2.max(upto(expected, own));
        }
    }
    for (stream, (after, limit, whole)) in asked {
        let query =
            sqlx::query(include_str!("../sql/stream.sql")).bind(stream.as_str()).bind(signed(after.0));
        let mut rows = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch(writing.conn_mut());
        let (mut events, mut version, mut filling) = (Vec::new(), after, Filling::default());
        while version.0 < whole || !filling.is_full() {
            let Some(row) = rows.try_next().await? else { break };
            version = Version(version.0 + 1);
            let event = row::decode(&row, stream, version, &batch.types.known());
            let Some(event) = event.map_err(|e| sqlx::Error::Decode(e.into()))? else { continue };
            filling.takes(&event);
            events.push(event);
        }
        batch.tails.insert(stream.clone(), events);
    }
    Ok(())
}

fn json<T: Serialize>(values: &T) -> String {
    serde_json::to_string(values).expect("names serialize")
}
