//! Where transactions are: one source for each kind of each pattern that an app has.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use es_core::store::StoreError;
use es_core::{App, AppBuilder, Backend};

use super::act::{Act, ActError, ActName};
use super::all::Unasked;
use super::filter::Filter;
use super::listed::{Listed, Pattern, Which};
use super::watch::Watch;
use crate::transaction::Runs;

/// How many rows a page reads that is not full: behind them it ends, and its cursor leads on.
pub(crate) const READS: usize = 2_000;

/// Transactions of one kind.
#[async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    fn pattern(&self) -> Pattern;

    fn kind(&self) -> &str;

    /// What can be done to them.
    fn knows(&self) -> &'static [ActName];

    /// Those that a filter wants, behind a place that it has given. It reads a bounded number of rows.
    async fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Part, StoreError>;

    /// What one waits for, and who will wake it, in words.
    async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError>;

    /// Something that it knows, by whom and why: both are checked.
    async fn ask(
        &self,
        which: &Which,
        act: Act,
        by: (String, String),
        limit: Duration,
    ) -> Result<(), ActError>;

    /// What would come of it, in words.
    async fn dry_run(&self, which: &Which, act: Act, by: (String, String)) -> Result<String, ActError>;
}

/// A page of one source.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) listed: Vec<Listed>,
    /// What of it could not be asked.
    pub(crate) unasked: Vec<Unasked>,
    /// Where the next ones begin; `None`: there are no more.
    pub(crate) next: Option<String>,
}

/// The sources of an app. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Sources(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    /// Of each version of a definition.
    runs: Vec<Runs>,
    others: Vec<Arc<dyn Source>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    pub(crate) fn add_runs(&self, runs: Runs) {
        self.lock().runs.push(runs);
    }

    pub(crate) fn add(&self, source: Arc<dyn Source>) {
        self.lock().others.push(source);
    }

    fn runs(&self) -> Vec<Runs> {
        self.lock().runs.clone()
    }

    /// The runs of each kind, of all versions.
    pub(super) fn kinds_of_runs(&self) -> Vec<Runs> {
        let (mut runs, versions) = (self.runs(), self.runs());
        // Each lists the runs of all versions: the newest is the one that begins them.
        runs.sort_by(|a, b| a.name().cmp(b.name()).then(b.version().cmp(&a.version())));
        runs.dedup_by(|a, b| a.name() == b.name());
        runs.into_iter().map(|runs| runs.among(&versions)).collect()
    }

    /// All of them, in the order of their patterns and names.
    pub(super) fn all(&self) -> Vec<Arc<dyn Source>> {
        let runs = self.kinds_of_runs().into_iter().map(|runs| Arc::new(runs) as Arc<dyn Source>);
        let mut all: Vec<_> = runs.chain(self.lock().others.iter().cloned()).collect();
        all.sort_by(|a, b| (a.pattern(), a.kind()).cmp(&(b.pattern(), b.kind())));
        all
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a source to an app; with the first one, the watch over all of them.
pub(crate) fn add<B: Backend>(app: AppBuilder<B>, add: impl FnOnce(&Sources)) -> AppBuilder<B> {
    if let Ok(sources) = app.services().get::<Sources>() {
        add(sources);
        return app;
    }
    let sources = Sources::default();
    add(&sources);
    app.provide(sources.clone()).engine(Arc::new(Watch::new(sources)))
}

/// Those of an app.
pub(super) fn sources_of(app: &App) -> Sources {
    app.services().get::<Sources>().cloned().unwrap_or_default()
}

/// The runs of each definition of an app.
pub(crate) fn runs_of(app: &App) -> Vec<Runs> {
    sources_of(app).runs()
}
