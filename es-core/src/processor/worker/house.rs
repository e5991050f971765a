//! What a node does for a projection beside the work on its builds: queries are switched to a build that began by itself,
//! what was replaced goes, the plain names are given, other versions go.
//!
//! One chore at a time, in a task of its own: none holds up the work. One that fails is tried again after a pause that
//! doubles while it fails alike, and says why once. What may pass by itself is tried again soon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::context::NodeContext;
use super::versions;
use crate::ErrorKind;
use crate::cluster::Cluster;
use crate::processor::ProcessorError;
use crate::processor::kinds::runner::Runner;
use crate::processor::rebuild::{begin_backfill, finish_set_back, remove_build, switch_to_build};
use crate::state::{Build, Versions};
use crate::store::{Generation, Row};

/// The pause after a chore that failed, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The pause at most after one that only the store has failed, or that had to wait for something else: a switch is many
/// reads and writes, and a store that fails one in ten fails most switches.
const SOON: Duration = Duration::from_secs(4);

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Chore {
    /// Queries read this build from then on.
    Switch(Generation),
    /// A build that has all events is begun.
    Backfill,
    /// This build goes.
    Remove(Generation),
    /// This build is set back.
    SetBack(Generation),
    /// This program's version gets the plain names.
    Publish(Row<Versions>),
    /// It is noted which versions no node runs.
    Note(Row<Versions>),
    /// This version goes.
    Forget(u32, Row<Versions>),
}

impl Chore {
    const fn what(&self) -> &'static str {
        match self {
            Self::Switch(_) => "switching queries to a build that has all events",
            Self::Backfill => "beginning a build that has all events",
            Self::Remove(_) => "removing a build that was replaced",
            Self::SetBack(_) => "setting a build back",
            Self::Publish(_) => "giving a version the plain names of its tables",
            Self::Note(_) => "noting which versions are run",
            Self::Forget(..) => "removing a version that no node runs",
        }
    }

    /// Does it, or says why that cannot be. Whether it may have changed anything.
    async fn done(self, node: &NodeContext, runner: &Arc<dyn Runner>) -> Result<bool, Trouble> {
        match self {
            Self::Switch(to) => switch_to_build(node, &**runner, to).await?,
            Self::Backfill => begin_backfill(node, runner).await?.map_err(Trouble::lasting)?,
            Self::Remove(build) => remove_build(node, &**runner, build).await?,
            Self::SetBack(generation) => {
                let Some(tables) = runner.keeps().tables() else { return Ok(false) };
                let build = Build { processor: runner.name().into(), generation };
                finish_set_back(&*node.backend, &tables, &build, None).await?;
            }
            Self::Publish(noted) => return Ok(versions::publish(&*node.backend, &**runner, noted).await?),
            Self::Note(noted) => versions::note(&*node.backend, &noted).await?,
            Self::Forget(version, noted) => {
                return Ok(versions::forget(&*node.backend, &**runner, version, noted).await?);
            }
        }
        Ok(true)
    }
}

/// Why a chore failed.
struct Trouble {
    why: String,
    may_pass: bool,
}

impl Trouble {
    const fn lasting(why: String) -> Self {
        Self { why, may_pass: false }
    }
}

impl<E: Into<ProcessorError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { why: crate::chain(&error), may_pass: error.kind() == ErrorKind::Transient }
    }
}

/// A chore that failed.
struct Failed {
    again: Instant,
    pause: Duration,
    why: String,
}

/// The chores of one processor on one node.
#[derive(Default)]
pub(super) struct House {
    under_way: Option<(&'static str, JoinHandle<Result<(), Trouble>>)>,
    failed: BTreeMap<&'static str, Failed>,
}

impl House {
    /// Begins the first of these whose time has come, if none is under way.
    pub(super) async fn keep(
        &mut self,
        chores: impl IntoIterator<Item = Chore>,
        node: &NodeContext,
        runner: &Arc<dyn Runner>,
        cluster: &Arc<Cluster>,
    ) {
        if self.under_way.as_ref().is_some_and(|(_, chore)| !chore.is_finished()) {
            return;
        }
        if let Some((what, chore)) = self.under_way.take() {
            let panicked = |panic: tokio::task::JoinError| Err(Trouble::lasting(panic.to_string()));
            self.ended(what, chore.await.unwrap_or_else(panicked), &runner.name());
        }
        let now = Instant::now();
        let is_due = |chore: &Chore| self.failed.get(chore.what()).is_none_or(|failed| failed.again <= now);
        let Some(chore) = chores.into_iter().find(is_due) else { return };
        let (what, node, runner, cluster) = (chore.what(), node.clone(), runner.clone(), cluster.clone());
        let work = async move {
            let done = chore.done(&node, &runner).await;
            // What it came to is looked at soon; what failed, when its pause is over. If nothing has changed, a look at once
            // would only find the same to do.
            if matches!(done, Ok(true)) {
                cluster.wake();
            }
            done.map(drop)
        };
        self.under_way = Some((what, tokio::spawn(work)));
    }

    fn ended(&mut self, what: &'static str, done: Result<(), Trouble>, processor: &str) {
        let before = self.failed.remove(what);
        let Err(Trouble { why, may_pass }) = done else { return };
        let longest = if may_pass { SOON } else { PAUSE.1 };
        let (pause, is_new) = match before {
            Some(before) if before.why == why => ((before.pause * 2).min(longest), false),
            _ => (PAUSE.0, true),
        };
        if is_new {
            tracing::warn!(processor, why, "{what} failed, and is tried again");
        }
        self.failed.insert(what, Failed { again: Instant::now() + pause, pause, why });
    }
}
