//! Why the database refused a commit.
//!
//! `append` says that a request is refused, and not why: the reason is judged here, by the same rules as on every
//! other backend, on facts that are read after the refusal. Streams, keys and the log only grow, so a reason that is
//! found later is a reason still; if none is found any more, the commit is sent again.

use std::collections::HashMap;
use std::sync::Arc;

use es_core::limits::MAX_PAGE;
use es_core::store::rules::{Ledger, Verdict, judge};
use es_core::store::{
    Commit, CommitError, EventFilter, EventId, EventStore as _, INLINE, IdempotencyKey, Name, Outcome,
    OwnEvents, Position, RecordedEvent, RowWrite, StoreError, StreamId, Version, is_full,
};
use sqlx::Row as _;
use uuid::Uuid;

use crate::PgBackend;
use crate::row::number;
use crate::rows;
use crate::store::Tail;

/// What is stored, as far as the commit asks.
#[derive(Debug, Default)]
struct Facts {
    /// As far as this process has seen, unless a condition asks.
    head: Position,
    versions: HashMap<StreamId, Version>,
    lasts: HashMap<StreamId, EventId>,
    tails: HashMap<StreamId, Vec<RecordedEvent>>,
    broken: Option<(Position, Name)>,
    outcomes: HashMap<IdempotencyKey, Outcome>,
    revs: HashMap<(Arc<str>, String), u64>,
}

/// The verdict on a commit that was refused.
pub(crate) async fn explain(backend: &PgBackend, commit: &Commit) -> Result<Verdict, CommitError> {
    if !commit.attempt.is_nil() && is_fenced(backend, commit.attempt).await? {
        let what = format!("attempt {} was given up: send it under another name", commit.attempt);
        return Err(StoreError::misuse(what).into());
    }
    let facts = Facts::read(backend, commit).await?;
    judge(commit, &facts)
}

/// Whether it was said of an attempt that it never will be applied.
async fn is_fenced(backend: &PgBackend, attempt: Uuid) -> Result<bool, StoreError> {
    let query = || sqlx::query("select is_fenced($1)").bind(attempt);
    let rows = backend.0.shared.readers.rows("looking at an attempt", query).await?;
    Ok(rows.first().is_some_and(|row| row.get_unchecked(0)))
}

impl Facts {
    async fn read(backend: &PgBackend, commit: &Commit) -> Result<Self, StoreError> {
        let Commit { appends, checks, condition, outcomes, rows, inline, explain, attempt: _ } = commit;
        let mut facts = Self { head: *backend.0.shared.head.borrow(), ..Self::default() };
        for mark in outcomes {
            if let Some(outcome) = backend.outcome(&mark.key).await? {
                facts.outcomes.insert(mark.key.clone(), outcome);
            }
        }
        let streams: Vec<&StreamId> =
            appends.iter().map(|a| &a.stream).chain(checks.iter().map(|c| &c.stream)).collect();
        facts.read_versions(backend, &streams).await?;
        let all = OwnEvents::of(appends);
        for append in appends {
            let stored = facts.versions.get(&append.stream).copied().unwrap_or_default();
            let Some(expected) = append.expected.exact().filter(|expected| *expected < stored) else {
                continue;
            };
            let own = usize::try_from(all.to(&append.stream).events).unwrap_or(usize::MAX);
            // The first append of a stream reaches back furthest.
            if (own > 0 || *explain)
                && !facts.tails.contains_key(&append.stream)
                && let Some(tail) = tail(backend, &append.stream, expected, own, *explain).await?
            {
                facts.tails.insert(append.stream.clone(), tail);
            }
        }
        if let Some(condition) = condition {
            facts.head = backend.head().await?;
            let mut after = condition.after;
            loop {
                let page = backend.read(&condition.fail_if_events_match, after, 1).await?;
                facts.broken = page.events.first().map(|event| (event.place(), event.name.clone()));
                if facts.broken.is_some() || !page.more {
                    break;
                }
                after = page.through;
            }
        }
        let mut asked = rows.clone();
        if !appends.is_empty() {
            let (table, key) = (INLINE.0.into(), INLINE.1.to_owned());
            asked.push(RowWrite { table, key, rev: *inline, row: None });
        }
        if !asked.is_empty() {
            let revs = rows::revisions(backend, &asked).await?;
            facts.revs = asked.into_iter().map(|write| (write.table, write.key)).zip(revs).collect();
        }
        Ok(facts)
    }

    async fn read_versions(&mut self, backend: &PgBackend, streams: &[&StreamId]) -> Result<(), StoreError> {
        let names: Vec<String> = streams.iter().map(|stream| stream.as_str().to_owned()).collect();
        let sql = include_str!("sql/versions.sql");
        let query = || sqlx::query(sql).bind(names.clone());
        let rows = backend.0.shared.readers.rows("reading versions", query).await?;
        for (&stream, row) in streams.iter().zip(&rows) {
            self.versions.insert(stream.clone(), Version(number(row.get_unchecked(0))));
            if let Some(last) =
                row.get_unchecked::<Option<Vec<u8>>, _>(1).and_then(|id| Uuid::from_slice(&id).ok())
            {
                self.lasts.insert(stream.clone(), last);
            }
        }
        Ok(())
    }
}

impl Ledger for Facts {
    fn head(&self) -> Position {
        self.head
    }

    fn version(&self, stream: &StreamId) -> Version {
        self.versions.get(stream).copied().unwrap_or_default()
    }

    fn last(&self, stream: &StreamId) -> Option<EventId> {
        self.lasts.get(stream).copied()
    }

    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        let known = self.tails.get(stream).map_or(&[][..], |events| events);
        known.iter().filter(|event| event.version > after).take(limit).cloned().collect()
    }

    fn first_match(&self, _: &EventFilter, _: Position) -> Option<(Position, Name)> {
        self.broken.clone()
    }

    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        self.outcomes.get(key).cloned()
    }

    fn row_rev(&self, table: &str, key: &str) -> u64 {
        self.revs.get(&(table.into(), key.to_owned())).copied().unwrap_or_default()
    }
}

/// So many events behind a version, and a page of them with `explain`. `None` if they were archived: then they are not known
/// to be the same, and that is a conflict.
async fn tail(
    backend: &PgBackend,
    stream: &StreamId,
    after: Version,
    own: usize,
    explain: bool,
) -> Result<Option<Vec<RecordedEvent>>, StoreError> {
    let mut all: Vec<RecordedEvent> = Vec::new();
    loop {
        let from = all.last().map_or(after, |last| last.version);
        let limit = if explain { MAX_PAGE } else { own - all.len() };
        let Tail::Kept(page) = backend.tail(stream, from, limit).await? else { return Ok(None) };
        let last = !is_full(&page, limit);
        all.extend(page);
        if last || all.len() >= own {
            return Ok(Some(all));
        }
    }
}
