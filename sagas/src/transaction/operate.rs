//! What an operator sees of runs, and has done to them, on any node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{Row, StoreError, write_rows};
use es_core::{Backend, ErrorKind, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use super::kind::Kind;
use super::outcome::{Outcome, RunError};
use super::protocol::Acts;
pub use super::rows::Status as RunStatus;
use super::rows::{
    Asked, Attention, Head, Record, Tables, Verb, Wake, Written, head_key, journal_of, slice, start_key,
};
use crate::verb::By;

/// Between two looks at whether what was asked is done, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// A run, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunShown {
    /// Its id.
    pub run: Uuid,
    /// Its key.
    pub key: String,
    /// The version of its definition.
    pub version: u32,
    /// What it is doing.
    pub status: RunStatus,
    /// When it began.
    pub begun: Timestamp,
    /// The node that works on it, or did.
    pub holder: Option<Uuid>,
    /// How it has ended.
    pub outcome: Option<Outcome>,
    /// What it waits for, and who will wake it.
    pub waits_for: String,
    /// Its steps, in the order of the definition.
    pub steps: Vec<StepShown>,
    /// What happened, in order: when, and what.
    pub journal: Vec<(Timestamp, String)>,
}

/// A step of a run, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepShown {
    /// Its name.
    pub name: String,
    /// What is known of it, in a word or two.
    pub state: String,
    /// How often it has failed in a row.
    pub failures: u32,
    /// The last error.
    pub error: Option<String>,
}

impl StepShown {
    pub(crate) const fn new(name: String, state: String, failures: u32, error: Option<String>) -> Self {
        Self { name, state, failures, error }
    }
}

/// A run that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Its key.
    pub key: String,
    /// The version of its definition.
    pub version: u32,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: String,
}

/// The runs of one kind.
#[derive(Clone)]
pub struct Runs(pub(crate) Arc<dyn AnyKind>);

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runs")
    }
}

impl Runs {
    /// A run, with its steps, its journal, and what it waits for.
    ///
    /// # Errors
    ///
    /// [`RunError::Unknown`]; [`RunError::Store`] if the store, or the run, cannot be read.
    pub async fn show(&self, key: &str) -> Result<RunShown, RunError> {
        self.0.show(key).await
    }

    /// Runs that wait for a person, in the order of their ids, after the key of the last one of a page.
    ///
    /// # Errors
    ///
    /// [`RunError::Store`].
    pub async fn waiting(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, Waiting)>, RunError> {
        self.0.waiting(after, limit.min(MAX_PAGE)).await
    }

    /// Has something done to a run, and waits until that is done, by the node that works on it. It is noted in the journal
    /// with who and why.
    ///
    /// # Errors
    ///
    /// `Err` in the answer: it cannot be done, and why. [`RunError::Ended`]; [`RunError::Unknown`]; [`RunError::By`];
    /// [`RunError::Store`], also if it is not done within `limit`: the request stands.
    pub async fn ask(
        &self,
        key: &str,
        verb: Verb,
        actor: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Result<(), String>, RunError> {
        By::check(actor, reason).map_err(RunError::By)?;
        self.0.ask(key, verb, (actor.to_owned(), reason.to_owned()), limit).await
    }
}

/// A kind, whatever its backend and protocol.
#[async_trait]
pub(crate) trait AnyKind: Send + Sync + 'static {
    async fn show(&self, key: &str) -> Result<RunShown, RunError>;
    async fn waiting(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, Waiting)>, RunError>;
    async fn ask(
        &self,
        key: &str,
        verb: Verb,
        by: (String, String),
        limit: Duration,
    ) -> Result<Result<(), String>, RunError>;
}

#[async_trait]
impl<B: Backend, P: Acts<B>> AnyKind for Kind<B, P> {
    async fn show(&self, key: &str) -> Result<RunShown, RunError> {
        let (run, head) = self.find(key).await?;
        let journal = self.journal(run).await?;
        let now = self.clock.now(&*self.backend).await?;
        let mut state = self.protocol.begin();
        let is_own = head.value.version == self.version;
        let other = || format!("a node that has version {} of its definition", head.value.version);
        let mut unread = (!is_own).then(other);
        for written in journal.iter().filter(|_| is_own) {
            if let Err(why) = self.protocol.fold(&mut state, written) {
                unread.get_or_insert_with(|| format!("somebody to repair it: {why}"));
            }
        }
        let waits_for = match (&head.value.outcome, unread) {
            (Some(outcome), _) => format!("nothing: {outcome}"),
            (None, Some(why)) => why,
            (None, None) => self.protocol.waits_for(run, &state, now),
        };
        let Head { version, status, begun, holder, outcome, .. } = head.value;
        let journal = journal.into_iter().map(|written| (written.at, told(&written.record))).collect();
        let steps = if is_own { self.protocol.show(&state) } else { Vec::new() };
        let key = key.to_owned();
        Ok(RunShown { run, key, version, status, begun, holder, outcome, waits_for, steps, journal })
    }

    async fn waiting(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, Waiting)>, RunError> {
        let after = after.map(head_key).transpose()?;
        let rows = self.tables.attention.page(&*self.backend, after.as_deref(), limit).await?;
        let read = |row: Row<Attention>| {
            let run = row.key.rsplit(':').next().and_then(|id| Uuid::try_parse(id).ok()).unwrap_or_default();
            let Attention { key, version, since, why } = row.value;
            (run, Waiting { key, version, since, why })
        };
        Ok(rows.into_iter().map(read).collect())
    }

    async fn ask(
        &self,
        key: &str,
        verb: Verb,
        by: (String, String),
        limit: Duration,
    ) -> Result<Result<(), String>, RunError> {
        let node = self.node().ok_or(RunError::NotStarted)?;
        let (run, head) = self.find(key).await?;
        // Those who have its version read it.
        let tables = Tables::of(&self.name, head.value.version)?;
        let request = node.ids.next();
        let asked = Asked { verb, by: By::new(by.0, by.1, request) };
        // Asked of the store: what is due later than now by its clock waits.
        let now = self.backend.now().await?;
        let wake = tables.wakes.push(slice(run), now, now, request, Wake { run, asked: Some(asked) })?;
        let row = wake.key.clone();
        let _won = write_rows(&*self.backend, vec![wake]).await?;
        let (begun, mut pause) = (Instant::now(), LOOKS.0);
        loop {
            match self.answer_once_taken(&tables, run, key, request, &row).await {
                Ok(None) => {}
                // A store that does not answer now may do so in time.
                Err(error) if error.kind() == ErrorKind::Transient => {}
                Ok(Some(answer)) => return Ok(answer),
                Err(error) => return Err(error),
            }
            if begun.elapsed() >= limit {
                let late = format!("it was not done within {limit:?}, and the request stands");
                return Err(StoreError::transient("a request", std::io::Error::other(late)).into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    async fn find(&self, key: &str) -> Result<(Uuid, Row<Head>), RunError> {
        let unknown = || RunError::Unknown { kind: self.name.to_string(), key: key.to_owned() };
        let start = self.tables.starts.get(&*self.backend, &start_key(key)?).await?.ok_or_else(unknown)?;
        let run = start.value.run;
        let head = self.tables.heads.get(&*self.backend, &head_key(run)?).await?.ok_or_else(unknown)?;
        Ok((run, head))
    }

    async fn journal(&self, run: Uuid) -> Result<Vec<Written>, StoreError> {
        let (prefix, mut all, mut after) = (journal_of(run), Vec::new(), None::<String>);
        loop {
            let page = self.tables.journal.below(&*self.backend, &prefix, after.as_deref(), MAX_PAGE).await?;
            after = page.last().map(|row| row.key.clone());
            let ended = page.len() < MAX_PAGE;
            all.extend(page.into_iter().map(|row| row.value));
            if ended {
                return Ok(all);
            }
        }
    }

    /// What came of a request; `None` as long as its row stands.
    async fn answer_once_taken(
        &self,
        tables: &Tables,
        run: Uuid,
        key: &str,
        request: Uuid,
        row: &str,
    ) -> Result<Option<Result<(), String>>, RunError> {
        let left = self.backend.rows(tables.wakes.table().name(), &[row.to_owned()]).await?;
        match left.iter().all(Option::is_none) {
            true => self.answer_to(run, key, request).await.map(Some),
            false => Ok(None),
        }
    }

    /// What came of a request that was taken.
    async fn answer_to(&self, run: Uuid, key: &str, request: Uuid) -> Result<Result<(), String>, RunError> {
        for written in self.journal(run).await?.into_iter().rev() {
            match written.record {
                Record::Resolved { by, .. } if by.request == request => return Ok(Ok(())),
                Record::Declined { by, why, .. } if by.request == request => return Ok(Err(why)),
                _ => {}
            }
        }
        // It was never taken: the run had ended.
        let (kind, key) = (self.name.to_string(), key.to_owned());
        match self.tables.heads.get(&*self.backend, &head_key(run)?).await?.and_then(|row| row.value.outcome)
        {
            Some(outcome) => Err(RunError::Ended { kind, key, outcome }),
            None => Err(RunError::Unknown { kind, key }),
        }
    }
}

/// A record in words.
fn told(record: &Record) -> String {
    match record {
        Record::Begun { deadline: None, .. } => "begun".to_owned(),
        Record::Begun { deadline: Some(deadline), .. } => format!("begun, to be decided by {deadline}"),
        Record::Taken {} => "taken up".to_owned(),
        Record::Done { step, .. } => format!("{step} is done"),
        Record::Refused { step, why, maybe: false } => format!("{step} is refused: {why}"),
        Record::Refused { step, why, maybe: true } => {
            format!("{step} is refused: {why}; an earlier try may have run")
        }
        Record::Failed { step, undo: false, error } => format!("{step} failed: {error}"),
        Record::Failed { step, undo: true, error } => format!("undoing {step} failed: {error}"),
        Record::Decided { why, .. } => format!("to be undone: {why}"),
        Record::Undone { step } => format!("{step} is undone"),
        Record::Parked { step, why } => format!("{step} is parked: {why}"),
        Record::Resolved { verb, by } => format!("{} by {}: {}", said(verb), by.actor, by.reason),
        Record::Declined { verb, by, why } => {
            format!("{} by {} was declined: {why}", said(verb), by.actor)
        }
        Record::Ended { outcome } => format!("ended: {outcome}"),
    }
}

fn said(verb: &Verb) -> String {
    match verb {
        Verb::Cancel => "cancelled".to_owned(),
        Verb::Retry { step: None } => "retried".to_owned(),
        Verb::Retry { step: Some(step) } => format!("{step} retried"),
        Verb::Resolve { step, output } => format!("{step} taken for run with {}", output.text()),
        Verb::Skip { step } => format!("{step} taken for undone"),
        Verb::Abandon => "abandoned".to_owned(),
    }
}
