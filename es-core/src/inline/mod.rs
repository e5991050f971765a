//! Inline projections: written in the commit of the append, so they are never behind.
//!
//! An app that has some commits through [`Inline`], which adds to each commit with events what they lead to. A view's
//! rows are folded here and go with the commit as data; a SQL projection needs a transaction of its own. Both doors meet
//! the same hooks: [`Inline`] as the app's store is the first, [`OnStage`] the second.
//!
//! | module | what it has |
//! | --- | --- |
//! | `code` | which program's code writes it |
//! | `hooks` | what one projection does with the events of a commit |
//! | `locks` | commits of one process that write the same rows take turns |
//! | `start` | what is stored becomes what an app is wired with |
//!
//! How a projection becomes inline, and how it ends, is in `handover`: a processor has it before and after.

mod code;
mod handover;
mod hooks;
mod locks;
mod start;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::Instrument as _;

pub(crate) use self::code::codes_of;
use self::hooks::{Changes, Halt};
pub(crate) use self::hooks::{Folds, ProjectionHook, Projects, ViewHook};
use self::locks::Locks;
pub(crate) use self::start::Starting;
use crate::clock::Timestamp;
use crate::command::OnStage;
use crate::id::Ids;
use crate::limits::MAX_SEQUENCE;
use crate::processor::Runner;
use crate::retry::RetryPolicy;
use crate::state::turns;
use crate::store::{
    Append, Attempt, Backend, Commit, CommitError, Committed, EventFilter, EventStore, ExpectedVersion,
    IdempotencyKey, Outcome, Page, Position, RecordedEvent, Resolution, Row, RowWrite, StoreError, StreamId,
    Transaction, Version, with_earlier,
};

/// The key of a row that is never there: a commit that writes it is refused.
const ROLL_BACK: &str = "an inline projection failed in this transaction: roll it back";

/// How often a commit is worked out again because another writer was faster, and the waits in between.
fn again() -> RetryPolicy {
    RetryPolicy::default().with_attempts(64).with_backoff(Duration::from_millis(1), Duration::from_millis(50))
}

/// A projection that is to be inline.
pub(crate) struct Entry<T> {
    /// What builds it up to the head before it is inline.
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) hook: Hook<T>,
}

/// What commits meet.
pub(crate) enum Hook<T> {
    View(Box<dyn Folds>),
    Sql(Box<dyn Projects<T>>),
}

/// A view, and the table of the generation that queries read.
struct InlineView {
    table: Arc<str>,
    folds: Box<dyn Folds>,
}

/// The store of an app with inline projections. Clones share everything.
pub(crate) struct Inline<B: Backend>(Arc<Shared<B>>);

impl<B: Backend> Clone for Inline<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Deref for Inline<B> {
    type Target = Shared<B>;
    fn deref(&self) -> &Shared<B> {
        &self.0
    }
}

pub(crate) struct Shared<B: Backend> {
    backend: Arc<B>,
    /// The generation that its commits name.
    generation: u64,
    views: Vec<InlineView>,
    sql: Vec<Box<dyn Projects<B::Tx>>>,
    locks: Locks,
    ids: Ids,
}

impl<B: Backend> std::fmt::Debug for Inline<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inline")
            .field("backend", &self.backend)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// What one commit leads to.
struct Due<'e, 'h, T> {
    views: Vec<(&'h Arc<str>, Box<dyn Changes<'e> + 'e>)>,
    sql: Vec<&'h dyn Projects<T>>,
}

impl<B: Backend> Inline<B> {
    /// For commits of this generation. Each projection comes with the table of its rows that queries read.
    pub(crate) fn new(
        backend: Arc<B>,
        generation: u64,
        ids: Ids,
        hooks: impl IntoIterator<Item = (Hook<B::Tx>, Arc<str>)>,
    ) -> Self {
        let (mut views, mut sql) = (Vec::new(), Vec::new());
        for (hook, table) in hooks {
            match hook {
                Hook::View(folds) => views.push(InlineView { table, folds }),
                Hook::Sql(projects) => sql.push(projects),
            }
        }
        Self(Arc::new(Shared { backend, generation, views, sql, locks: Locks::new(), ids }))
    }

    /// Whether a projection handles an event of these.
    fn wants(&self, appends: &[Append]) -> bool {
        self.views.iter().any(|view| any_matches(view.folds.filter(), appends)) || self.wants_sql(appends)
    }

    fn wants_sql(&self, appends: &[Append]) -> bool {
        self.sql.iter().any(|sql| any_matches(sql.filter(), appends))
    }

    /// Decodes the events for those that want them.
    fn due<'e>(&self, events: &'e [RecordedEvent]) -> Result<Due<'e, '_, B::Tx>, Halt<'e>> {
        let mut views = Vec::new();
        for InlineView { table, folds } in &self.views {
            let changes = folds.changes(events)?;
            if !changes.keys().is_empty() {
                views.push((table, changes));
            }
        }
        let wants = |sql: &&dyn Projects<B::Tx>| events.iter().any(|event| sql.filter().matches(event));
        let sql = self.sql.iter().map(|sql| &**sql).filter(wants).collect();
        Ok(Due { views, sql })
    }

    /// Works out the rows of the views, and says whose turn it is.
    async fn fold<'e>(&self, due: &mut Due<'e, '_, B::Tx>, rows: &mut Vec<RowWrite>) -> Result<(), Halt<'e>> {
        for (table, changes) in std::mem::take(&mut due.views) {
            changes.fold(&*self.backend, table, rows).await?;
        }
        // Read before the handlers run: whatever another one writes after this makes the commit fail.
        for sql in &due.sql {
            if !sql.is_whole() {
                continue;
            }
            let (turns, key) = (turns(), sql.name());
            if !rows.iter().any(|row| row.table == *turns.name() && row.key == key) {
                let found = turns.get(&*self.backend, &key).await?;
                rows.push(turns.put(&found.unwrap_or_else(|| Row::new(key, true)))?);
            }
        }
        Ok(())
    }

    /// Runs the SQL projections, event by event.
    async fn project<'e>(
        &self,
        events: &'e [RecordedEvent],
        sql: &[&dyn Projects<B::Tx>],
        tx: &mut B::Tx,
    ) -> Result<(), Halt<'e>> {
        for event in events {
            for sql in sql.iter().filter(|sql| sql.filter().matches(event)) {
                if let Err(source) = sql.project(event, tx).await {
                    return Err(Halt::Handler { projection: sql.name(), event, source });
                }
            }
        }
        Ok(())
    }

    /// What to say of a commit that is not sent.
    fn refusal(&self, halt: Halt<'_>) -> CommitError {
        match halt {
            Halt::Store(error) => error.into(),
            Halt::Handler { source, .. } if self.backend.is_transient(&*source) => {
                StoreError::Transient { what: "an inline projection", source: source.into() }.into()
            }
            Halt::Handler { projection, event, source } => CommitError::Projection {
                projection,
                event: event.name.clone(),
                stream: event.stream.clone(),
                source: source.into(),
            },
        }
    }

    /// Works out what the events lead to, and sends all of it.
    async fn attempt(&self, mut commit: Commit, history: u64) -> Result<Committed, CommitError> {
        let sql = self.wants_sql(&commit.appends);
        if self.pin(&mut commit, sql).await? {
            // The same events again are answered like the first time, and their handlers do not run again.
            return self.give(commit, history).await;
        }
        if !sql {
            return self.send(commit, history).await;
        }
        // In a task of its own: some backends know who holds a transaction by the task, and the caller's may do something
        // else at the same time. A caller who goes away leaves the outcome unknown, as for any commit.
        let inline = self.clone();
        let sending = tokio::spawn(async move { inline.send(commit, history).await }.in_current_span());
        match sending.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(outcome) => outcome,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(ended)) => Err(StoreError::transient("the commit", ended).into()),
        }
    }

    /// Commits what was decided on, and folded, in this history.
    async fn give(&self, commit: Commit, history: u64) -> Result<Committed, CommitError> {
        if self.backend.history() != history {
            return Err(CommitError::OtherHistory);
        }
        self.backend.commit(commit).await
    }

    async fn send(&self, commit: Commit, history: u64) -> Result<Committed, CommitError> {
        let events = uncommitted(&commit.appends, self.ids.clock().now());
        let mut due = match self.due(&events) {
            Ok(due) => due,
            Err(halt) => return self.not_taken_in(halt, commit, history).await,
        };
        let views = due.views.iter().flat_map(|(table, changes)| {
            changes.keys().into_iter().map(move |key| format!("{table}\0{key}"))
        });
        let keys = views.chain(due.sql.iter().filter(|sql| sql.is_whole()).map(|sql| sql.name()));
        let _held = self.locks.hold(keys.collect::<Vec<_>>().into_iter()).await;
        let mut rows = commit.rows.clone();
        if let Err(halt) = self.fold(&mut due, &mut rows).await {
            return self.not_taken_in(halt, commit, history).await;
        }
        if due.sql.is_empty() {
            // Only without the rows of views the store says whether it has the same events already.
            let again = (commit.rows.is_empty() && !rows.is_empty()).then(|| commit.clone());
            let outcome = self.give(Commit { rows, ..commit }, history).await;
            return match (outcome, again) {
                (Err(refused @ CommitError::Conflict { .. }), Some(again))
                    if has_passed(&refused, &again) =>
                {
                    self.give(again, history).await
                }
                (outcome, _) => outcome,
            };
        }
        let mut tx = self.backend.begin().await?;
        if let Err(halt) = self.project(&events, &due.sql, &mut tx).await {
            // Dropping would roll back too; this way the next transaction does not wait for it.
            drop(tx.rollback().await);
            return self.not_taken_in(halt, commit, history).await;
        }
        if self.backend.history() != history {
            drop(tx.rollback().await);
            return Err(CommitError::OtherHistory);
        }
        *tx.staged() = Commit { rows, ..commit };
        tx.commit().await
    }

    /// A handler saw the events where they would be. If they cannot be there, the store says so: to a conflict, and to
    /// events that it has already, it has an answer of its own.
    async fn not_taken_in(
        &self,
        halt: Halt<'_>,
        commit: Commit,
        history: u64,
    ) -> Result<Committed, CommitError> {
        match halt {
            Halt::Handler { .. } if self.has_moved(&commit).await? => self.give(commit, history).await,
            halt => Err(self.refusal(halt)),
        }
    }

    /// Whether a stream is further than a commit expects: then it is never applied, for streams only grow.
    async fn has_moved(&self, commit: &Commit) -> Result<bool, StoreError> {
        for Append { stream, expected, .. } in first_of_each(&commit.appends) {
            if let Some(version) = expected.exact()
                && !self.backend.stream(stream, version, 1).await?.is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Expects streams where they are, where the commit does not say: handlers see the versions of events. Says whether
    /// one is further than the commit expects; with `all`, every stream is looked at for that.
    async fn pin(&self, commit: &mut Commit, all: bool) -> Result<bool, CommitError> {
        let open = |append: &&Append| all || append.expected.exact().is_none() && !append.events.is_empty();
        let looks = first_of_each(&commit.appends).filter(open).map(|append| append.stream.clone());
        let look = |stream| Append { stream, expected: ExpectedVersion::Any, events: Vec::new() };
        let appends: Vec<Append> = looks.map(look).collect();
        if appends.is_empty() {
            return Ok(false);
        }
        let streams: Vec<StreamId> = appends.iter().map(|append| append.stream.clone()).collect();
        let versions = match self.backend.commit(Commit { appends, ..Commit::default() }).await {
            Ok(committed) => committed.versions,
            // Nothing was to be written: it does not matter whether it was.
            Err(CommitError::Unknown(_)) => {
                let lost = std::io::Error::other("the answer was lost");
                return Err(StoreError::transient("reading the versions of streams", lost).into());
            }
            Err(error) => return Err(error),
        };
        let mut moved = false;
        let mut found: HashMap<&StreamId, Version> = streams.iter().zip(versions).collect();
        for append in &mut commit.appends {
            // Of those to one stream the first.
            let Some(version) = found.remove(&append.stream) else { continue };
            match append.expected.exact() {
                Some(expected) => moved |= expected < version,
                // One that does not exist although it must is refused in the store's own words.
                None if append.expected.holds(version) => append.expected = ExpectedVersion::Exact(version),
                None => {}
            }
        }
        Ok(moved)
    }

    /// Whether rows that the caller writes are still as the caller read them.
    async fn hold(&self, rows: &[RowWrite]) -> Result<bool, StoreError> {
        for write in rows {
            let found =
                self.backend.rows(&write.table, std::slice::from_ref(&write.key)).await?.pop().flatten();
            if found.map_or(0, |row| row.rev) != write.rev {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a stream is further than a commit expects: then it is never applied, for streams only grow. Not if it is known that
/// another event is there.
fn has_passed(refused: &CommitError, commit: &Commit) -> bool {
    let CommitError::Conflict { stream, expected, actual, since } = refused else { return false };
    let appended = first_of_each(&commit.appends).find(|append| append.stream == *stream);
    let own = appended.and_then(|append| append.events.first());
    let is_other = since.first().zip(own).is_some_and(|(there, own)| there.id != own.id);
    expected.exact().is_some_and(|expected| expected < *actual) && !is_other
}

fn any_matches(filter: &EventFilter, appends: &[Append]) -> bool {
    let mut events = appends.iter().flat_map(|append| &append.events);
    events.any(|event| filter.matches_parts(&event.name, &event.tags))
}

/// The first append to each stream.
fn first_of_each(appends: &[Append]) -> impl Iterator<Item = &Append> {
    with_earlier(appends).filter(|(_, earlier)| earlier.first.is_none()).map(|(append, _)| append)
}

/// The events of appends as handlers see them: where they will be, at no position yet.
fn uncommitted(appends: &[Append], now: Timestamp) -> Vec<RecordedEvent> {
    let mut ends = HashMap::<&StreamId, u64>::new();
    let mut events = Vec::new();
    for Append { stream, expected, events: new } in appends {
        let end = ends.entry(stream).or_insert_with(|| expected.exact().unwrap_or_default().0);
        for event in new {
            *end += 1;
            events.push(event.clone().into_recorded(stream.clone(), Version(*end), None, now));
        }
    }
    events
}

#[async_trait]
impl<B: Backend> EventStore for Inline<B> {
    async fn commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        let history = self.backend.history();
        if commit.appends.iter().all(|append| append.events.is_empty()) {
            return self.backend.commit(commit).await;
        }
        commit.inline = self.generation;
        if !self.wants(&commit.appends) {
            return self.backend.commit(commit).await;
        }
        for tried in 1.. {
            let outcome = self.attempt(commit.clone(), history).await;
            let anywhere = |stream: &StreamId| {
                let first = commit.appends.iter().find(|append| append.stream == *stream);
                first.is_some_and(|append| append.expected.exact().is_none())
            };
            let faster = match &outcome {
                Err(CommitError::Fenced { .. }) => self.hold(&commit.rows).await?,
                Err(CommitError::Conflict { stream, .. }) => anywhere(stream),
                _ => false,
            };
            match again().wait_after(tried, &self.ids).filter(|_| faster) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return outcome,
            }
        }
        unreachable!("the policy ends the tries")
    }

    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        self.backend.resolve(attempt).await
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        self.backend.stream(id, after, limit).await
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        self.backend.read(filter, after, limit).await
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        self.backend.at(positions).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.backend.head().await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        self.backend.position_at(time).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.backend.now().await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        self.backend.outcome(key).await
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.backend.watch()
    }

    fn identity(&self) -> uuid::Uuid {
        self.backend.identity()
    }

    fn history(&self) -> u64 {
        self.backend.history()
    }
}

/// Door two: the handlers run on the caller's transaction, when a command is staged in it.
#[async_trait]
impl<B: Backend> OnStage<B::Tx> for Inline<B> {
    async fn on_stage(&self, tx: &mut B::Tx, appends: &[Append]) -> Result<(), CommitError> {
        tx.staged().inline = self.generation;
        if !self.wants(appends) {
            return Ok(());
        }
        let events = uncommitted(appends, self.ids.clock().now());
        let mut due = self.due(&events).map_err(|halt| self.refusal(halt))?;
        // A copy: a caller who goes away among the views leaves the transaction as it was.
        let mut rows = tx.staged().rows.clone();
        self.fold(&mut due, &mut rows).await.map_err(|halt| self.refusal(halt))?;
        if !due.sql.is_empty() {
            // Until they all are through, a part of their rows may be written: whatever becomes of them, and of the caller,
            // the transaction must not be committed with that.
            let key = ROLL_BACK.to_owned();
            let staged = &mut tx.staged().rows;
            if !staged.iter().any(|row| row.key == key) {
                staged.push(turns().delete_at(key, MAX_SEQUENCE));
            }
            self.project(&events, &due.sql, tx).await.map_err(|halt| self.refusal(halt))?;
        }
        tx.staged().rows = rows;
        Ok(())
    }
}
