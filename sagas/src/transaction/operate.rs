//! What an operator sees of runs, and has done to them, on any node.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::services::Services;
use es_core::store::{Row, StoreError, StoredRow};
use es_core::{Backend, Timestamp, chain};
use uuid::Uuid;

use super::audit::{Audited, Claims, PageOf};
use super::foresee::{DryRun, IfItFailed};
use super::kind::Kind;
use super::list::{RunCursor, RunFilter, RunPage};
use super::outcome::RunError;
use super::protocol::Acts;
use super::request::{Said, Who};
use super::rows::{Asked, Attention, Head, Verb, head_key, run_of, start_key};
use super::show::RunShown;
use super::signal;
use super::traces::Traces;
use crate::data::Data;
use crate::verb::By;

/// A run that waits for a person, or cannot go on as it is stored.
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
    /// Whether it cannot go on as it is stored: it goes on once it is repaired.
    pub damaged: bool,
}

impl Waiting {
    /// One whose note cannot be read.
    const fn unread(version: u32, why: String) -> Self {
        Self { key: String::new(), version, since: Timestamp::UNIX_EPOCH, why, damaged: true }
    }
}

/// The runs of one kind: of the definition that they begin with, and of the earlier ones that the program has.
#[derive(Clone)]
pub struct Runs(pub(crate) Arc<dyn AnyKind>, Vec<Arc<dyn AnyKind>>);

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runs")
    }
}

impl Runs {
    pub(crate) fn of(kind: Arc<dyn AnyKind>) -> Self {
        Self(kind, Vec::new())
    }

    /// The same, with the other definitions of it that are among these.
    pub(crate) fn among(self, all: &[Self]) -> Self {
        let is_other = |other: &&Self| other.name() == self.name() && other.version() != self.version();
        let others = all.iter().filter(is_other).map(|other| other.0.clone()).collect();
        Self(self.0, others)
    }

    /// The definition that a run began with, if this program has it.
    pub(crate) async fn kind_of(&self, key: &str) -> Result<&dyn AnyKind, RunError> {
        let other = match self.1.is_empty() {
            true => None,
            false => {
                let version = self.0.version_of(key).await?;
                self.1.iter().find(|kind| kind.version() == version)
            }
        };
        Ok(&**other.unwrap_or(&self.0))
    }

    /// The name of the saga.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn version(&self) -> u32 {
        self.0.version()
    }

    /// The steps of any version of it that live in a database, by the type of that.
    pub(crate) fn guarded(&self, database: TypeId) -> BTreeSet<String> {
        let all = std::iter::once(&self.0).chain(&self.1);
        all.flat_map(|kind| kind.guarded(database)).collect()
    }

    /// What steps leave in databases that only they know, by the version of the definition.
    pub(crate) fn traces(&self) -> BTreeMap<u32, Vec<Arc<dyn Traces>>> {
        let all = std::iter::once(&self.0).chain(&self.1);
        all.map(|kind| (kind.version(), kind.traces())).collect()
    }

    /// The pattern that they are of.
    pub(crate) fn pattern(&self) -> &'static str {
        self.0.pattern()
    }

    /// A run, with its steps, its journal, and what it waits for.
    ///
    /// # Errors
    ///
    /// [`RunError::Unknown`]; [`RunError::Store`] if the store, or the run, cannot be read.
    pub async fn show(&self, key: &str) -> Result<RunShown, RunError> {
        self.kind_of(key).await?.show(key).await
    }

    /// Runs that wait for a person, and those that cannot go on as they are stored, in the order of their ids, after the key of the last one of a page.
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
    /// [`RunError::Input`]: what is sent is too large; [`RunError::Store`], also if it is not done within `limit`: the
    /// request stands.
    pub async fn ask(
        &self,
        key: &str,
        verb: Verb,
        actor: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<Result<(), String>, RunError> {
        By::check(actor, reason).map_err(RunError::By)?;
        self.0.ask(key, None, verb, (actor.to_owned(), reason.to_owned()), limit).await
    }

    /// What would come of such a request, by what is stored now. Nothing is written, and nothing is asked. The run may have
    /// gone on by the time at which it is asked in earnest.
    ///
    /// # Errors
    ///
    /// `Err` in the answer: it would be declined, and why. [`RunError::Unknown`]; [`RunError::By`]; [`RunError::Store`].
    pub async fn dry_run(
        &self,
        key: &str,
        verb: Verb,
        actor: &str,
        reason: &str,
    ) -> Result<Result<DryRun, String>, RunError> {
        By::check(actor, reason).map_err(RunError::By)?;
        let by = (actor.to_owned(), reason.to_owned());
        self.kind_of(key).await?.dry_run(key, None, verb, by).await
    }

    /// What would be undone if a run failed now, and in which order. A call that is under way counts as one that may have run.
    ///
    /// # Errors
    ///
    /// `Err` in the answer: it cannot fail any more, or it cannot be said here, and why. [`RunError::Unknown`];
    /// [`RunError::Store`].
    pub async fn if_it_failed(&self, key: &str) -> Result<Result<IfItFailed, String>, RunError> {
        self.kind_of(key).await?.if_it_failed(key).await
    }

    /// Which runs there are. Runs that begin, go on and end meanwhile may be missed, or stand in two pages.
    ///
    /// What there is to read: for those that wait for a person the rows of those, for those that have ended the rows of
    /// their days, for those that go on their wake-ups, of all versions. A page ends after 10,000 rows, however few were
    /// wanted: go on at [`RunPage::next`].
    ///
    /// # Errors
    ///
    /// [`RunError::Store`], also if the cursor is none.
    pub async fn list(
        &self,
        filter: &RunFilter,
        after: Option<&RunCursor>,
        limit: usize,
    ) -> Result<RunPage, RunError> {
        self.0.list(filter, after, limit).await
    }

    /// Up to which time guard rows can be forgotten in a database that steps are [guarded](crate::saga::Guarded) in: no run of
    /// this store, of whichever definition, program and node, began before that and still goes on. Give it to
    /// [`forget`](es_core::guard::forget), now and then: nobody else forgets guard rows. If runs of other stores call that
    /// database as well, ask each of them, and take the earliest time.
    /// Transactions of [two-phase commit](crate::two_phase) have their markers there too, and are not looked at: let `keep` be
    /// longer than the longest outage of theirs.
    ///
    /// It is `keep` ago at most, which is a day at least: for runs that begin in transactions that are still open, and for
    /// clocks that differ. What ended and began before that is read: choose it longer than runs are
    /// [remembered](crate::saga::SagaBuilder::remember), so that this is little. A head that cannot be read counts as one that
    /// goes on.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sagas::es_core::guard::{self, GuardedDatabase};
    /// # use sagas::saga::Runs;
    /// # async fn tidy<D: GuardedDatabase>(runs: &Runs, stock: &D) -> Result<(), Box<dyn std::error::Error>> {
    /// let until = runs.guards_needed_since(Duration::from_secs(32 * 24 * 60 * 60)).await?;
    /// guard::forget(stock, until).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RunError::Store`], also if `keep` is too brief.
    pub async fn guards_needed_since(&self, keep: Duration) -> Result<Timestamp, RunError> {
        self.0.guards_needed_since(keep).await
    }
}

/// A kind, whatever its backend and protocol.
#[async_trait]
pub(crate) trait AnyKind: Send + Sync + 'static {
    fn name(&self) -> &str;
    fn pattern(&self) -> &'static str;
    fn version(&self) -> u32;
    /// The version of the definition that the run of a key began with.
    async fn version_of(&self, key: &str) -> Result<u32, RunError>;
    async fn show(&self, key: &str) -> Result<RunShown, RunError>;
    async fn waiting(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, Waiting)>, RunError>;
    async fn list(
        &self,
        filter: &RunFilter,
        after: Option<&RunCursor>,
        limit: usize,
    ) -> Result<RunPage, RunError>;
    async fn guards_needed_since(&self, keep: Duration) -> Result<Timestamp, RunError>;
    /// Heads and journals side by side, behind a place.
    async fn audit(&self, after: Option<&str>) -> Result<PageOf<Audited>, StoreError>;
    /// What journals say of calls to other databases.
    async fn claims(&self, runs: &[Uuid]) -> Result<BTreeMap<Uuid, Claims>, StoreError>;
    /// Runs that have ended, behind a place.
    async fn ended(&self, after: Option<&str>) -> Result<PageOf<Uuid>, StoreError>;
    /// The steps that live in a database, by the type of that.
    fn guarded(&self, database: TypeId) -> Vec<String>;
    /// What steps leave in databases that only they know.
    fn traces(&self) -> Vec<Arc<dyn Traces>>;
    async fn may_be_forgotten(&self, run: Uuid) -> Result<bool, StoreError>;
    async fn signal(&self, key: &str, name: &str, id: &str, value: Data) -> Result<(), RunError>;
    /// The same without a value, and whoever sends it does not wait.
    async fn hint(&self, run: Uuid, name: &str) -> Result<(), RunError>;
    /// What a run began with, as it is stored; `None`: it is gone.
    async fn begun_with(&self, run: Uuid) -> Result<Option<Data>, RunError>;
    /// What was provided; `None` if the app does not run.
    fn services(&self) -> Option<Arc<Services>>;
    async fn if_it_failed(&self, key: &str) -> Result<Result<IfItFailed, String>, RunError>;
    async fn dry_run(
        &self,
        key: &str,
        run: Option<Uuid>,
        verb: Verb,
        by: Who,
    ) -> Result<Result<DryRun, String>, RunError>;
    /// `run`: which one is meant, whatever the key stands for by now.
    async fn ask(
        &self,
        key: &str,
        run: Option<Uuid>,
        verb: Verb,
        by: Who,
        limit: Duration,
    ) -> Result<Result<(), String>, RunError>;
}

#[async_trait]
impl<B: Backend, P: Acts<B>> AnyKind for Kind<B, P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn pattern(&self) -> &'static str {
        P::PATTERN
    }

    fn version(&self) -> u32 {
        self.version
    }

    async fn version_of(&self, key: &str) -> Result<u32, RunError> {
        let start = self.tables.starts.get(&*self.backend, &start_key(key)?).await?;
        start.map(|start| start.value.version).ok_or_else(|| self.unknown(key))
    }

    async fn show(&self, key: &str) -> Result<RunShown, RunError> {
        self.show_run(key).await
    }

    async fn waiting(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<(Uuid, Waiting)>, RunError> {
        let after = after.map(head_key).transpose()?;
        let rows = self.tables.attention.stored_page(&*self.backend, after.as_deref(), limit).await?;
        let read = |row: StoredRow| {
            let run = run_of(&row.key).unwrap_or_default();
            match self.tables.attention.decode(row) {
                Ok(Row { value: Attention { key, version, since, why, damaged }, .. }) => {
                    (run, Waiting { key, version, since, why, damaged })
                }
                Err(error) => (run, Waiting::unread(self.version, chain(&error))),
            }
        };
        Ok(rows.into_iter().map(read).collect())
    }

    async fn list(
        &self,
        filter: &RunFilter,
        after: Option<&RunCursor>,
        limit: usize,
    ) -> Result<RunPage, RunError> {
        self.page(filter, after, limit).await
    }

    async fn guards_needed_since(&self, keep: Duration) -> Result<Timestamp, RunError> {
        self.oldest_that_goes_on(keep).await
    }

    async fn audit(&self, after: Option<&str>) -> Result<PageOf<Audited>, StoreError> {
        self.audit_page(after).await
    }

    async fn claims(&self, runs: &[Uuid]) -> Result<BTreeMap<Uuid, Claims>, StoreError> {
        self.claims_of(runs).await
    }

    async fn ended(&self, after: Option<&str>) -> Result<PageOf<Uuid>, StoreError> {
        self.ended_page(after).await
    }

    fn guarded(&self, database: TypeId) -> Vec<String> {
        self.steps_in(database)
    }

    fn traces(&self) -> Vec<Arc<dyn Traces>> {
        self.protocol.traces()
    }

    async fn may_be_forgotten(&self, run: Uuid) -> Result<bool, StoreError> {
        Self::may_be_forgotten(self, run).await
    }

    async fn signal(&self, key: &str, name: &str, id: &str, value: Data) -> Result<(), RunError> {
        self.send_signal(key, name, id, value).await
    }

    async fn hint(&self, run: Uuid, name: &str) -> Result<(), RunError> {
        self.send_hint(run, name).await
    }

    async fn begun_with(&self, run: Uuid) -> Result<Option<Data>, RunError> {
        self.input_of(run).await
    }

    fn services(&self) -> Option<Arc<Services>> {
        self.node().map(|node| node.services)
    }

    async fn if_it_failed(&self, key: &str) -> Result<Result<IfItFailed, String>, RunError> {
        self.foresee(key).await
    }

    async fn dry_run(
        &self,
        key: &str,
        run: Option<Uuid>,
        verb: Verb,
        by: Who,
    ) -> Result<Result<DryRun, String>, RunError> {
        signal::check(&self.name, &verb)?;
        let by = By::new(by.0, by.1, Uuid::nil());
        self.try_out(key, run, Asked { verb, by }).await
    }

    async fn ask(
        &self,
        key: &str,
        run: Option<Uuid>,
        verb: Verb,
        by: Who,
        limit: Duration,
    ) -> Result<Result<(), String>, RunError> {
        Ok(match self.request(key, run, verb, by, limit).await? {
            Said::Done => Ok(()),
            Said::Declined { why, .. } => Err(why),
        })
    }
}

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// The run that a key stands for; `expected`: it has to be this one.
    pub(super) async fn run_of(&self, key: &str, expected: Option<Uuid>) -> Result<Uuid, RunError> {
        let start = self.tables.starts.get(&*self.backend, &start_key(key)?).await?;
        let run = start.map(|start| start.value.run).filter(|run| expected.is_none_or(|of| of == *run));
        run.ok_or_else(|| self.unknown(key))
    }

    pub(super) async fn find(
        &self,
        key: &str,
        expected: Option<Uuid>,
    ) -> Result<(Uuid, Row<Head>), RunError> {
        let run = self.run_of(key, expected).await?;
        let head = self.tables.heads.get(&*self.backend, &head_key(run)?).await?;
        Ok((run, head.ok_or_else(|| self.unknown(key))?))
    }

    pub(super) fn unknown(&self, key: &str) -> RunError {
        RunError::Unknown { kind: self.name.to_string(), key: key.to_owned() }
    }
}
