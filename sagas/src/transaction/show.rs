//! One run, as an operator sees it: its steps, its journal, what it waits for and who will wake it.

use std::collections::BTreeSet;

use es_core::store::{StoreError, StoredRow};
use es_core::{Backend, Timestamp, chain};
use uuid::Uuid;

use super::attended::has_no_node;
use super::family::{Errand, Kin, Parent};
use super::instance::one;
use super::kind::Kind;
use super::outcome::{Outcome, RunError};
use super::protocol::Acts;
use super::rows::{FORMAT, Head, Status, Written, head_key, journal_of, record_key};
use super::told::told;

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
    pub status: Status,
    /// When it began.
    pub begun: Timestamp,
    /// The node that works on it, or did.
    pub holder: Option<Uuid>,
    /// How it has ended.
    pub outcome: Option<Outcome>,
    /// The run that it is a step of.
    pub parent: Option<Kin>,
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
    /// The run that it is, for a saga of its own that has begun.
    pub child: Option<Kin>,
}

impl StepShown {
    pub(crate) const fn new(name: String, state: String, failures: u32, error: Option<String>) -> Self {
        Self { name, state, failures, error, child: None }
    }
}

/// Why it is not known here how a run goes on, and who will see to it.
enum Unread {
    /// Others know.
    Elsewhere(String),
    /// It cannot go on as it is stored.
    Damaged(String),
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    pub(super) async fn show_run(&self, key: &str) -> Result<RunShown, RunError> {
        let (run, head) = self.find(key, None).await?;
        let now = self.clock.now(&*self.backend).await?;
        let head = head.value;
        let journal: Vec<_> =
            self.journal(run).await?.into_iter().map(|row| self.tables.journal.decode(row)).collect();
        let (mut state, mut unread) = (self.protocol.begin(), self.elsewhere(&head));
        for row in &journal {
            if unread.is_some() {
                break;
            }
            let folded = match row {
                Ok(row) => self.protocol.fold(&mut state, &row.value),
                Err(error) => Err(chain(error)),
            };
            unread = folded.err().map(Unread::Damaged);
        }
        let missing = head.records.saturating_sub(journal.len() as u64);
        if unread.is_none() && missing > 0 {
            let (has, of) = (journal.len(), head.records);
            unread = Some(Unread::Damaged(format!("{has} of its {of} records are there")));
        }
        // What can be read may still be unable to go on.
        let noted = if head.outcome.is_none() && unread.is_none() { self.noted(run).await? } else { None };
        let waits_for = match (&head.outcome, &unread) {
            (Some(outcome), _) => format!("nothing: {outcome}"),
            (None, Some(Unread::Elsewhere(who))) => who.clone(),
            (None, Some(Unread::Damaged(why))) => format!("somebody to repair it: {why}"),
            (None, None) if let Some(why) = &noted => format!("somebody to mend what keeps it: {why}"),
            (None, None) => {
                let waits_for =
                    self.protocol.waits_for(run, &state, now) + &self.in_the_way(run, &state, now).await?;
                let waits_for = waits_for + &self.unattended(self.version);
                waits_for + &self.unattended_children(run, &state, now) + &self.unattended_parent(&head)
            }
        };
        let steps = if unread.is_none() { self.protocol.show(&state) } else { Vec::new() };
        let Head { version, status, begun, holder, outcome, parent, .. } = head;
        let status = match unread {
            Some(Unread::Damaged(_)) if outcome.is_none() => Status::Damaged,
            None if noted.is_some() => Status::Damaged,
            _ => status,
        };
        let mut last = begun;
        let journal = journal.into_iter().map(|row| match row {
            Ok(row) => {
                last = row.value.at;
                (last, told(&row.value.record))
            }
            Err(error) => (last, chain(&error)),
        });
        let (key, journal, parent) = (key.to_owned(), journal.collect(), parent.map(|parent| parent.of));
        Ok(RunShown { run, key, version, status, begun, holder, outcome, parent, waits_for, steps, journal })
    }

    /// Why a run cannot go on, if its node has noted that.
    async fn noted(&self, run: Uuid) -> Result<Option<String>, RunError> {
        let note = one(&*self.backend, self.tables.attention.name(), &head_key(run)?).await?;
        let note = note.and_then(|row| self.tables.attention.decode(row).ok()).map(|row| row.value);
        Ok(note.filter(|note| note.damaged).map(|note| note.why))
    }

    /// Who knows how a run goes on, if this program does not.
    fn elsewhere(&self, head: &Head) -> Option<Unread> {
        let Head { format, version, .. } = *head;
        if format > FORMAT {
            return Some(Unread::Elsewhere(format!("a newer program, which wrote it in format {format}")));
        }
        let who =
            || format!("a node that has version {version} of its definition") + &self.unattended(version);
        (version != self.version).then(|| Unread::Elsewhere(who()))
    }

    /// Says so if no node is there that works on runs of a version.
    fn unattended(&self, version: u32) -> String {
        if self.has_no_node(&self.name, version) {
            "; no such node is running".to_owned()
        } else {
            String::new()
        }
    }

    /// Says of the children that it waits for which of them no node works on.
    fn unattended_children(&self, run: Uuid, state: &P::State, now: Timestamp) -> String {
        let calls = self.protocol.next(run, state, &BTreeSet::new(), now).calls();
        let children = calls.into_iter().filter_map(|call| match self.protocol.errand(state, call)? {
            Errand::Look { child, .. } => Some(child),
            Errand::Begin | Errand::Claim | Errand::Granted(_) => None,
        });
        let alone = children.filter(|child| self.has_no_node(&child.saga, child.version));
        alone.map(|child| no_node_has(&child)).collect()
    }

    /// Says of the parent that it waits for if no node works on it.
    fn unattended_parent(&self, head: &Head) -> String {
        let parent = head.parent.as_ref().filter(|_| head.waits_for_parent());
        let alone = parent.filter(|Parent { of, .. }| self.has_no_node(&of.saga, of.version));
        alone.map_or_else(String::new, |Parent { of, .. }| no_node_has(of))
    }

    /// Whether no live node works on runs of a version of a kind, as far as is known.
    fn has_no_node(&self, kind: &str, version: u32) -> bool {
        self.node().is_some_and(|node| has_no_node(&node, kind, version))
    }

    /// Its records, as they are stored.
    pub(super) async fn journal(&self, run: Uuid) -> Result<Vec<StoredRow>, StoreError> {
        self.journal_after(run, 0).await
    }

    async fn journal_after(&self, run: Uuid, number: u64) -> Result<Vec<StoredRow>, StoreError> {
        let (prefix, after) = (journal_of(run), record_key(run, number)?);
        self.tables.journal.stored_below(&*self.backend, &prefix, Some(&after), usize::MAX).await
    }

    /// Those of its records that can be read, in order.
    pub(super) async fn records(&self, run: Uuid) -> Result<Vec<Written>, StoreError> {
        self.records_after(run, 0).await
    }

    /// Those of them behind so many.
    pub(super) async fn records_after(&self, run: Uuid, number: u64) -> Result<Vec<Written>, StoreError> {
        let rows = self.journal_after(run, number).await?.into_iter();
        Ok(rows.filter_map(|row| self.tables.journal.decode(row).ok()).map(|row| row.value).collect())
    }
}

fn no_node_has(kin: &Kin) -> String {
    format!("; no node is running that has version {} of {kin}", kin.version)
}
