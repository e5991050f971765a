//! What is stored of runs, side by side: heads and journals, and what journals say of calls to other databases.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use es_core::limits::MAX_PAGE;
use es_core::store::keys::behind;
use es_core::store::{Span, StoreError, StoredRow, is_full};
use es_core::{Backend, Timestamp, chain};
use uuid::Uuid;

use super::census::born;
use super::kind::{Kind, LOCAL};
use super::outcome::Outcome;
use super::protocol::Acts;
use super::rows::{FORMAT, Head, Heard, Record, Status, Verb, Written, head_key, run_of, start_key};

/// Runs that are looked at together.
const AT_ONCE: usize = 50;
/// Rows of journals without a head that are looked at together.
const MOST: usize = 10_000;

/// What the head of a run says, and what its journal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Audited {
    /// Its key and id.
    pub(crate) name: String,
    pub(crate) head: Option<String>,
    pub(crate) journal: Option<String>,
    /// Whether it goes on, or is being forgotten, or only a newer program knows it.
    pub(crate) live: bool,
    /// When the last of its records was written.
    pub(crate) changed: Option<Timestamp>,
}

/// What a journal says of a call to another database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Done,
    Confirmed,
    Undone,
    Refused,
    /// A person has said what has become of it.
    Said,
}

/// What the journal of a run says of its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Whether the run goes on, or cannot be read.
    pub(crate) live: bool,
    /// Whether a person has ended it where it was.
    pub(crate) abandoned: bool,
    /// That of its definition.
    pub(crate) version: u32,
    pub(crate) calls: BTreeMap<String, Claim>,
}

/// A page of runs, and where the next one begins.
pub(crate) type PageOf<T> = (Vec<T>, Option<String>);

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// Runs behind a place, in the order of their heads and journals, which is the same.
    pub(super) async fn audit_page(&self, after: Option<&str>) -> Result<PageOf<Audited>, StoreError> {
        let heads = self.tables.heads.stored_page(&*self.backend, after, AT_ONCE).await?;
        let last = heads.last().filter(|_| is_full(&heads, AT_ONCE)).map(|row| row.key.clone());
        let (mut journals, cut) = self.journals_between(after, last.as_deref()).await?;
        let forgotten = self.forgotten(&heads).await?;
        let mut all = Vec::new();
        for (head, forgotten) in heads.into_iter().zip(forgotten) {
            let journal = journals.remove(&head.key).unwrap_or_default();
            all.push(self.audited(head, &journal, forgotten));
        }
        // Those that are left have no head.
        all.extend(journals.into_iter().filter_map(|(key, journal)| self.orphan(&key, &journal)));
        Ok((all, last.or(cut)))
    }

    /// The journals of runs behind a head, up to another one; without that one up to the end, or as far as it says.
    async fn journals_between(
        &self,
        after: Option<&str>,
        until: Option<&str>,
    ) -> Result<(BTreeMap<String, Vec<StoredRow>>, Option<String>), StoreError> {
        let beyond = |head: &str| behind(&format!("{head}:"));
        let (mut from, before) = (after.map_or_else(String::new, beyond), until.map(beyond));
        let (mut all, mut n) = (BTreeMap::<String, Vec<StoredRow>>::new(), 0);
        loop {
            let span = Span { after: from.clone(), before: before.clone(), limit: MAX_PAGE };
            let page =
                self.backend.scan_many(self.tables.journal.name(), &[span]).await?.pop().unwrap_or_default();
            let more = is_full(&page, MAX_PAGE);
            n += page.len();
            for row in page {
                from.clone_from(&row.key);
                let Some((head, _)) = row.key.rsplit_once(':') else { continue };
                all.entry(head.to_owned()).or_default().push(row);
            }
            if !more {
                return Ok((all, None));
            }
            if until.is_none() && n >= MOST && all.len() > 1 {
                // The last one may go on behind it.
                all.pop_last();
                let last = all.last_key_value().map(|(head, _)| head.clone());
                return Ok((all, last));
            }
        }
    }

    /// Which of them are being forgotten: their keys stand for no run any more, or for another one.
    async fn forgotten(&self, heads: &[StoredRow]) -> Result<Vec<bool>, StoreError> {
        let mut keys = Vec::new();
        for row in heads {
            let head = self.tables.heads.decode(row.clone()).ok();
            keys.push(head.map(|head| start_key(&head.value.key)).transpose()?.unwrap_or_default());
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        // Each once: two runs may have had one key.
        let once: Vec<String> =
            keys.iter().filter(|key| !key.is_empty()).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let found = match once.is_empty() {
            true => Vec::new(),
            false => self.backend.rows(self.tables.starts.name(), &once).await?,
        };
        let run = |row: StoredRow| self.tables.starts.decode(row).ok().map(|row| row.value.run);
        let runs: BTreeMap<String, Option<Uuid>> =
            once.into_iter().zip(found.into_iter().map(|row| run(row?))).collect();
        let is_other = |(row, key): (&StoredRow, String)| {
            runs.get(&key).is_some_and(|stands| stands.is_none() || *stands != run_of(&row.key))
        };
        Ok(heads.iter().zip(keys).map(is_other).collect())
    }

    fn audited(&self, head: StoredRow, journal: &[StoredRow], forgotten: bool) -> Audited {
        let run = run_of(&head.key).unwrap_or_default();
        let (written, odd) = self.decoded(journal);
        let changed = written.last().map(|written| written.at);
        let journal = |of: String| (!journal.is_empty()).then_some(of);
        let head = match self.tables.heads.decode(head) {
            Ok(head) => head.value,
            Err(error) => {
                let (name, head) = (format!("{} {run}", self.name), Some(chain(&error)));
                let journal = journal(format!("{} records", written.len()));
                return Audited { name, head, journal, live: false, changed };
            }
        };
        let name = format!("{} {:?} {run}", self.name, head.key);
        let goes_on = matches!(head.status, Status::Running | Status::Undoing);
        let live = goes_on || forgotten || head.format > FORMAT;
        let said = says(head.status, head.outcome.as_ref(), head.records);
        let folded = match odd {
            Some(why) => why,
            None => self.folded(run, &head, &written),
        };
        Audited { name, head: Some(said), journal: journal(folded), live, changed }
    }

    fn orphan(&self, head: &str, journal: &[StoredRow]) -> Option<Audited> {
        let run = run_of(head)?;
        let (written, _) = self.decoded(journal);
        let (name, said) = (format!("{} {run}", self.name), format!("{} records", journal.len()));
        let changed = written.last().map(|written| written.at).or_else(|| born(run));
        Some(Audited { name, head: None, journal: Some(said), live: false, changed })
    }

    /// The records that can be read, and why the first one cannot that cannot.
    fn decoded(&self, journal: &[StoredRow]) -> (Vec<Written>, Option<String>) {
        let (mut all, mut odd) = (Vec::new(), None);
        for row in journal {
            match self.tables.journal.decode(row.clone()) {
                Ok(row) => all.push(row.value),
                Err(error) => odd = odd.or_else(|| Some(chain(&error))),
            }
        }
        (all, odd)
    }

    /// What records come to, in the words of a head. Those of another version are not folded: the head is believed that they
    /// wait for a person.
    fn folded(&self, run: Uuid, head: &Head, written: &[Written]) -> String {
        let ended = written.iter().rev().find_map(|written| match &written.record {
            Record::Ended { outcome } => Some(outcome),
            _ => None,
        });
        let n = u64::try_from(written.len()).unwrap_or(u64::MAX);
        if ended.is_some() {
            return says(Status::Ended, ended, n);
        }
        if head.version != self.version || head.status == Status::Ended {
            return says(if head.status == Status::Ended { Status::Running } else { head.status }, None, n);
        }
        let mut state = self.protocol.begin();
        for written in written {
            if let Err(why) = self.protocol.fold(&mut state, written) {
                return why;
            }
        }
        let at = written.last().map_or(head.begun, |written| written.at);
        says(self.protocol.status(run, &state, at).0, None, n)
    }

    /// What the journals of runs say of their calls; those that are not there are left out.
    pub(super) async fn claims_of(&self, runs: &[Uuid]) -> Result<BTreeMap<Uuid, Claims>, StoreError> {
        let keys = runs.iter().map(|run| head_key(*run)).collect::<Result<Vec<_>, _>>()?;
        let heads = match keys.is_empty() {
            true => Vec::new(),
            false => self.backend.rows(self.tables.heads.name(), &keys).await?,
        };
        let mut all = BTreeMap::new();
        for (run, head) in runs.iter().zip(heads) {
            let Some(head) = head else { continue };
            let Ok(head) = self.tables.heads.decode(head) else {
                all.insert(*run, Claims { live: true, ..Claims::default() });
                continue;
            };
            let live = head.value.outcome.is_none() || head.value.format > FORMAT;
            let abandoned = matches!(head.value.outcome, Some(Outcome::Abandoned { .. }));
            let mut claims = Claims { live, abandoned, version: head.value.version, calls: BTreeMap::new() };
            if !live {
                let rows = self.journal(*run).await?;
                // A part of it may be forgotten by now.
                claims.live = u64::try_from(rows.len()).ok() != Some(head.value.records);
                for row in rows {
                    match self.tables.journal.decode(row) {
                        Ok(row) => claims.take(row.value.record),
                        Err(_) => claims.live = true,
                    }
                }
            }
            all.insert(*run, claims);
        }
        Ok(all)
    }

    /// Runs that have ended, behind a place.
    pub(super) async fn ended_page(&self, after: Option<&str>) -> Result<PageOf<Uuid>, StoreError> {
        let heads = self.tables.heads.stored_page(&*self.backend, after, AT_ONCE).await?;
        let last = heads.last().filter(|_| is_full(&heads, AT_ONCE)).map(|row| row.key.clone());
        let ended = heads.into_iter().filter_map(|row| {
            let run = run_of(&row.key)?;
            self.tables.heads.decode(row).ok().filter(|head| head.value.outcome.is_some()).map(|_| run)
        });
        Ok((ended.collect(), last))
    }

    /// The steps that live in this database.
    pub(super) fn steps_in(&self, database: TypeId) -> Vec<String> {
        self.protocol.guarded(database)
    }

    /// Whether a run that began then may have been forgotten.
    pub(super) async fn may_be_forgotten(&self, run: Uuid) -> Result<bool, StoreError> {
        let now = self.backend.now().await?;
        let age = |born| Duration::try_from(now.duration_since(born)).unwrap_or_default();
        Ok(born(run).is_none_or(|born| age(born) >= self.protocol.remember()))
    }
}

impl Claims {
    fn take(&mut self, record: Record) {
        let (step, claim) = match record {
            Record::Done { step, .. } => (step, Claim::Done),
            Record::Confirmed { step } => (step, Claim::Confirmed),
            Record::Undone { step } => (step, Claim::Undone),
            Record::Refused { step, .. } => (step, Claim::Refused),
            Record::Heard { says: Heard::Commit, .. } => (LOCAL.to_owned(), Claim::Done),
            Record::Heard { says: Heard::Rollback, .. } => (LOCAL.to_owned(), Claim::Undone),
            Record::Resolved { verb: Verb::Resolve { step, .. } | Verb::Skip { step }, .. } => {
                (step, Claim::Said)
            }
            _ => return,
        };
        // Whatever a person has said of a call, what comes behind it is not known better.
        if self.calls.get(&step) != Some(&Claim::Said) {
            self.calls.insert(step, claim);
        }
    }
}

/// What a head says, and a journal is to say.
fn says(status: Status, outcome: Option<&Outcome>, records: u64) -> String {
    let does = match (status, outcome) {
        (_, Some(outcome)) => outcome.to_string(),
        (Status::Parked, None) => "parked".to_owned(),
        (Status::Ended, None) => "ended".to_owned(),
        (Status::Undoing, None) => "undoing".to_owned(),
        (Status::Running | Status::Damaged, None) => "running".to_owned(),
    };
    format!("{does}, {records} records")
}
