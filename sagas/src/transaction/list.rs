//! Which runs there are, by what they do: read from rows that say so, never by a walk over all runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use es_core::cluster::Shares;
use es_core::limits::MAX_PAGE;
use es_core::store::{StoreError, StoredRow, is_full};
use es_core::{Backend, Timestamp, chain};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::damaged::{About, head_of};
use super::fingerprint;
use super::kind::Kind;
use super::outcome::{Outcome, RunError, Why};
use super::protocol::Acts;
use super::rows::{Attention, Ended, Head, Status, Tables, ended_since, head_key, run_of};
use super::scheduler::NoLog;

/// How many rows are read for a page that is not full: behind them it ends, and its cursor leads on.
const READS: usize = 10_000;
/// How many rows are read at once.
const AT_ONCE: usize = 500;

/// Which runs of a kind: those for which all of this is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RunFilter {
    statuses: Vec<Status>,
    begun_before: Option<Timestamp>,
    begun_since: Option<Timestamp>,
    ended_since: Option<Timestamp>,
    error: Option<String>,
}

impl RunFilter {
    /// All of them.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those that are doing this. Said more than once: those that are doing one of these.
    pub fn with_status(mut self, status: Status) -> Self {
        self.statuses.push(status);
        self
    }

    /// Those that began before this: the old ones.
    pub const fn begun_before(mut self, time: Timestamp) -> Self {
        self.begun_before = Some(time);
        self
    }

    /// Those that began at this time or later.
    pub const fn begun_since(mut self, time: Timestamp) -> Self {
        self.begun_since = Some(time);
        self
    }

    /// Of those that have ended, the ones that did at this time or later. What ended before is not read.
    pub const fn ended_since(mut self, time: Timestamp) -> Self {
        self.ended_since = Some(time);
        self
    }

    /// Those with an error like this one: `step: error`, in the words of an error or of [`RunListed::error`]. Numbers, ids
    /// and quoted parts make no difference.
    pub fn failing_with(mut self, error: &str) -> Self {
        self.error = Some(fingerprint::of(error));
        self
    }

    /// If it does not say what they do: those that have not ended.
    pub(super) fn or_those_that_go_on(mut self) -> Self {
        if self.statuses.is_empty() && self.ended_since.is_none() {
            self.statuses = vec![Status::Running, Status::Undoing, Status::Parked, Status::Damaged];
        }
        self
    }

    fn wants_status(&self, status: Status) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }

    fn wants(&self, run: &RunListed) -> bool {
        let before = |time| run.begun.is_some_and(|begun| begun < time);
        let since = |time| run.begun.is_some_and(|begun| begun >= time);
        let ended = |since| run.ended.is_none_or(|ended| ended >= since);
        self.wants_status(run.status)
            && self.begun_before.is_none_or(before)
            && self.begun_since.is_none_or(since)
            && self.ended_since.is_none_or(ended)
            && self.error.as_ref().is_none_or(|error| run.error.as_ref() == Some(error))
    }
}

/// A run, as it stands in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunListed {
    /// Its id.
    pub run: Uuid,
    /// Its key; empty if not even that can be read.
    pub key: String,
    /// The version of its definition.
    pub version: u32,
    /// What it is doing.
    pub status: Status,
    /// When it began, if that can be read.
    pub begun: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it has ended.
    pub outcome: Option<Outcome>,
    /// What it fails with, waits for a person with, or was undone for: without numbers, ids and quoted parts, so that runs
    /// that fail for one reason say the same.
    pub error: Option<String>,
    /// The node that works on it, or did.
    pub holder: Option<Uuid>,
    /// When it is looked at next, if nothing is asked of it before.
    pub wake: Option<Timestamp>,
    /// Since when it waits for a person.
    pub since: Option<Timestamp>,
    /// Why it waits for a person, in full.
    pub why: Option<String>,
}

/// Some of the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunPage {
    /// The runs. There may be fewer than asked for, or none, and more behind them.
    pub runs: Vec<RunListed>,
    /// Where the next ones begin; `None`: there are no more.
    pub next: Option<RunCursor>,
}

/// Where a page of runs ends. Its text can be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunCursor(String);

impl fmt::Display for RunCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for RunCursor {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Rows that say which runs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Runs that wait for a person.
    Attention,
    /// Wake-ups of one version: a run that has not ended has at least one.
    Wakes(u32),
    Ended,
}

impl Source {
    fn cursor(self, after: &str) -> RunCursor {
        RunCursor(match self {
            Self::Attention => format!("attention/{after}"),
            Self::Wakes(version) => format!("wakes.{version}/{after}"),
            Self::Ended => format!("ended/{after}"),
        })
    }

    fn read(cursor: &RunCursor) -> Result<(Self, String), StoreError> {
        let of = |name: &str| match name {
            "attention" => Some(Self::Attention),
            "ended" => Some(Self::Ended),
            _ => name.strip_prefix("wakes.")?.parse().ok().map(Self::Wakes),
        };
        let read = cursor.0.split_once('/').and_then(|(name, after)| Some((of(name)?, after.to_owned())));
        read.ok_or_else(|| StoreError::misuse(format!("{cursor:?} is no cursor of a page of runs")))
    }
}

/// Rows of a source, and what they come to.
struct Read {
    /// The key of each row, and the run that is to be listed for it.
    rows: Vec<(String, Option<RunListed>)>,
    /// Whether there may be more behind them.
    more: bool,
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Runs that a filter wants, behind a cursor.
    pub(super) async fn page(
        &self,
        filter: &RunFilter,
        after: Option<&RunCursor>,
        limit: usize,
    ) -> Result<RunPage, RunError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let (mut runs, mut n) = (Vec::new(), 0);
        let after = after.map(Source::read).transpose()?;
        let sources = self.sources(filter).await?;
        let begins = |source: &Source| after.as_ref().is_none_or(|(of, _)| source >= of);
        for source in sources.into_iter().filter(begins) {
            let of = after.as_ref().filter(|(of, _)| *of == source);
            let mut last = of.map_or_else(|| first(source, filter), |(_, after)| after.clone());
            loop {
                let Read { rows, more } = self.read(source, &last).await?;
                n += rows.len();
                for (key, run) in rows {
                    last = key;
                    runs.extend(run.filter(|run| filter.wants(run)));
                    if runs.len() == limit {
                        return Ok(RunPage { runs, next: Some(source.cursor(&last)) });
                    }
                }
                if !more {
                    break;
                }
                if n >= READS {
                    return Ok(RunPage { runs, next: Some(source.cursor(&last)) });
                }
            }
        }
        Ok(RunPage { runs, next: None })
    }

    /// Where the runs are that a filter may want, in order.
    async fn sources(&self, filter: &RunFilter) -> Result<Vec<Source>, StoreError> {
        let mut sources = Vec::new();
        if filter.wants_status(Status::Parked) || filter.wants_status(Status::Damaged) {
            sources.push(Source::Attention);
        }
        let live = [Status::Running, Status::Undoing];
        if live.into_iter().any(|status| filter.wants_status(status)) {
            sources.extend(self.versions().await?.into_iter().map(Source::Wakes));
        }
        if filter.wants_status(Status::Ended) {
            sources.push(Source::Ended);
        }
        Ok(sources)
    }

    async fn read(&self, source: Source, after: &str) -> Result<Read, StoreError> {
        match source {
            Source::Attention => self.read_attention(after).await,
            Source::Wakes(version) => self.read_wakes(version, after).await,
            Source::Ended => self.read_ended(after).await,
        }
    }

    async fn read_attention(&self, after: &str) -> Result<Read, StoreError> {
        let found = self.tables.attention.stored_page(&*self.backend, Some(after), AT_ONCE).await?;
        let keys: Vec<String> = found.iter().map(|row| row.key.clone()).collect();
        let heads = self.backend.rows(self.tables.heads.name(), &keys).await?;
        let more = is_full(&found, AT_ONCE);
        let rows = found.into_iter().zip(heads).map(|(row, head)| {
            let key = row.key.clone();
            (key, head.and_then(|head| self.waiting_run(row, head)))
        });
        Ok(Read { rows: rows.collect(), more })
    }

    /// A run that waits for a person; not one that does not stand still: it is listed among those that go on.
    fn waiting_run(&self, row: StoredRow, head: StoredRow) -> Option<RunListed> {
        let run = run_of(&row.key)?;
        let attention = self.tables.attention.decode(row).map(|row| row.value);
        let (about, head) = (About::of(&self.tables, &head), head_of(&self.tables, head));
        match (attention, head) {
            (Ok(Attention { damaged: false, why, since, .. }), Ok(head)) => {
                let is_parked = head.value.status == Status::Parked;
                is_parked.then(|| RunListed {
                    error: Some(fingerprint::of(&why)),
                    since: Some(since),
                    why: Some(why),
                    ..of_head(run, head.value)
                })
            }
            (Err(error), _) => Some(damaged(run, about, None, chain(&error))),
            (Ok(Attention { why, since, .. }), Ok(_)) | (Ok(Attention { since, .. }), Err(why)) => {
                Some(damaged(run, about, Some(since), why))
            }
        }
    }

    async fn read_wakes(&self, version: u32, after: &str) -> Result<Read, StoreError> {
        let wakes = Tables::of(&self.name, version)?.wakes;
        let found = wakes.table().stored_page(&*self.backend, Some(after), AT_ONCE).await?;
        let more = is_full(&found, AT_ONCE);
        let read =
            |row: StoredRow| (row.key.clone(), wakes.table().decode(row).ok().map(|row| row.value.run));
        let wakes: Vec<(String, Option<Uuid>)> = found.into_iter().map(read).collect();
        let mut heads = self.heads_of(wakes.iter().filter_map(|(_, run)| *run).collect()).await?;
        let list = |(key, run): (String, Option<Uuid>)| {
            // Some may wake it at once: it is listed for the first.
            let listed =
                run.and_then(|run| heads.remove(&run)?.map_or_else(Some, |head| live_run(run, head)));
            (key, listed)
        };
        Ok(Read { rows: wakes.into_iter().map(list).collect(), more })
    }

    /// The heads of these runs, but for those that are noted as damaged: they are listed by that. One that cannot be read, and
    /// that nobody has looked at yet, is listed as damaged here.
    async fn heads_of(
        &self,
        runs: BTreeSet<Uuid>,
    ) -> Result<BTreeMap<Uuid, Result<Head, RunListed>>, StoreError> {
        let keys = runs.iter().map(|run| head_key(*run)).collect::<Result<Vec<_>, _>>()?;
        let found = self.backend.rows(self.tables.heads.name(), &keys).await?;
        let notes = self.backend.rows(self.tables.attention.name(), &keys).await?;
        let is_noted =
            |note: StoredRow| self.tables.attention.decode(note).map_or(true, |row| row.value.damaged);
        let all = runs.into_iter().zip(found.into_iter().zip(notes));
        let heads = all.filter_map(|(run, (head, note))| {
            let head = head.filter(|_| !note.is_some_and(is_noted))?;
            let about = About::of(&self.tables, &head);
            let head = head_of(&self.tables, head);
            Some((run, head.map(|head| head.value).map_err(|why| damaged(run, about, None, why))))
        });
        Ok(heads.collect())
    }

    async fn read_ended(&self, after: &str) -> Result<Read, StoreError> {
        let found = self.tables.ended.stored_page(&*self.backend, Some(after), AT_ONCE).await?;
        let more = is_full(&found, AT_ONCE);
        let list = |row: StoredRow| {
            let key = row.key.clone();
            let ended = self.tables.ended.decode(row).ok();
            let run = run_of(&key).zip(ended).map(|(run, row)| of_ended(run, row.value));
            (key, run)
        };
        Ok(Read { rows: found.into_iter().map(list).collect(), more })
    }

    /// The versions that there may be runs of: of each, nodes share the work.
    async fn versions(&self) -> Result<BTreeSet<u32>, StoreError> {
        let prefix = self.group_of_all();
        let groups = Shares::<NoLog>::default().names(&*self.backend, &prefix).await?;
        let version = |group: &String| group.strip_prefix(&prefix)?.parse().ok();
        Ok(groups.iter().filter_map(version).chain([self.version]).collect())
    }
}

/// Before the first row of a source that a filter may want.
fn first(source: Source, filter: &RunFilter) -> String {
    match (source, filter.ended_since) {
        (Source::Ended, Some(since)) => ended_since(since),
        _ => String::new(),
    }
}

/// A run, unless it stands still: then it is listed among those that wait for a person.
fn live_run(run: Uuid, head: Head) -> Option<RunListed> {
    matches!(head.status, Status::Running | Status::Undoing).then(|| of_head(run, head))
}

fn of_head(run: Uuid, head: Head) -> RunListed {
    let Head { key, version, status, begun, outcome, error, holder, wake, .. } = head;
    let (begun, ended, since, why) = (Some(begun), None, None, None);
    RunListed { run, key, version, status, begun, ended, outcome, error, holder, wake, since, why }
}

fn of_ended(run: Uuid, ended: Ended) -> RunListed {
    let Ended { key, version, begun, at, outcome } = ended;
    let error = match &outcome {
        Outcome::Undone(Why::Refused { step, why } | Why::Failed { step, error: why }) => {
            Some(fingerprint::of_step(step, why))
        }
        Outcome::Undone(Why::RolledBack { why }) => Some(fingerprint::of_step("local", why)),
        _ => None,
    };
    let status = Status::Ended;
    let (begun, ended, outcome) = (Some(begun), Some(at), Some(outcome));
    let (holder, wake, since, why) = (None, None, None, None);
    RunListed { run, key, version, status, begun, ended, outcome, error, holder, wake, since, why }
}

fn damaged(run: Uuid, about: About, since: Option<Timestamp>, why: String) -> RunListed {
    let About { key, version, begun, .. } = about;
    let (status, error, why) = (Status::Damaged, Some(fingerprint::of(&why)), Some(why));
    let (ended, outcome, holder, wake) = (None, None, None, None);
    RunListed { run, key, version, status, begun, ended, outcome, error, holder, wake, since, why }
}
