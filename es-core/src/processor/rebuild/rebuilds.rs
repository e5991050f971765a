//! Rebuilds of one projection: what a program that runs it asks for, and a tool that knows its stored name.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::Change;
use super::handle::{Older, Rebuild, RebuildOptions};
use super::protocol::BuildRows;
use super::seen::Seen;
use crate::id::Ids;
use crate::processor::worker::versioned;
use crate::processor::{Desk, Processor, ProcessorError, noted, stored_versions};
use crate::state::{Building, Generations};
use crate::store::{Backend, Generation, Tables};

const NOTHING: &str = "keeps nothing that could be rebuilt";

impl Processor {
    /// Begins to rebuild the projection next to the tables that queries read, or continues if a rebuild has begun. Every
    /// node that runs the projection takes part. Nothing changes for queries before [`Rebuild::switch`].
    ///
    /// Of a new version that has not taken the place of an older one yet, it is the first build, which has begun by itself:
    /// [`Rebuild::report`] compares the rows of both, and [`Rebuild::switch`] gives it the plain names.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotRebuildable`] for a reactor; [`ProcessorError::OlderKept`] if an older build is still kept;
    /// [`ProcessorError::OtherOptions`] if the rebuild that has begun does not do what is asked; [`ProcessorError::Inline`]; [`ProcessorError::Store`] if the backend cannot have its tables twice.
    pub async fn rebuild_online(&self, options: RebuildOptions) -> Result<Rebuild, ProcessorError> {
        self.rebuilds()?.begin(options).await
    }

    /// The build that is under way, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Self::rebuild_online`].
    pub async fn rebuilding(&self) -> Result<Option<Rebuild>, ProcessorError> {
        self.rebuilds()?.under_way().await
    }

    /// Switches queries back to the build that they read before. It was kept as far as the one that they read.
    ///
    /// # Errors
    ///
    /// As [`Rebuild::switch`]; [`NoOlder`](ProcessorError::NoOlder) if there is no other build.
    pub async fn roll_back(&self) -> Result<(), ProcessorError> {
        self.rebuilds()?.roll_back().await
    }

    /// Drops the build that is kept to go back to, if there is one, and what is left of builds whose removal did not come to
    /// its end. Says whether there was anything.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`]; it may be dropped in part, call it again.
    pub async fn drop_previous(&self) -> Result<bool, ProcessorError> {
        self.rebuilds()?.drop_previous().await
    }

    fn rebuilds(&self) -> Result<Rebuilds, ProcessorError> {
        let reactor = || not_rebuildable(self.name(), NOTHING);
        let builds = BuildRows::of(&self.node, &*self.runner).ok_or_else(reactor)?;
        let seen = Seen::Here { handle: self.handle.clone(), cluster: self.cluster.clone() };
        Ok(Rebuilds { builds, seen })
    }
}

/// A step of a rebuild, to be looked at before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebuildStep {
    /// [`Desk::rebuild_online`]
    Begin,
    /// [`Rebuild::switch`] to the build that is under way
    Switch,
    /// [`Desk::roll_back`]
    RollBack,
    /// [`Rebuild::abort`] of the build that is under way
    Abort,
    /// [`Desk::drop_previous`]
    DropPrevious,
}

impl<B: Backend> Desk<B> {
    /// As [`Processor::rebuild_online`], for a keyed view: the nodes that run it build it. Its rows need no code to be made,
    /// as tables do.
    ///
    /// # Errors
    ///
    /// Likewise; [`ProcessorError::NotRebuildable`] also for a projection with tables, unless its rebuild has begun.
    pub async fn rebuild_online(&self, options: RebuildOptions) -> Result<Rebuild, ProcessorError> {
        self.rebuilds().await?.begin(options).await
    }

    /// As [`Processor::rebuilding`]. What its [progress](super::Progress) says of its state is what the store knows of it.
    ///
    /// # Errors
    ///
    /// Likewise. [`Rebuild::report`] of a projection with tables is [`ProcessorError::NotRebuildable`].
    pub async fn rebuilding(&self) -> Result<Option<Rebuild>, ProcessorError> {
        self.rebuilds().await?.under_way().await
    }

    /// As [`Processor::roll_back`].
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn roll_back(&self) -> Result<(), ProcessorError> {
        self.rebuilds().await?.roll_back().await
    }

    /// As [`Processor::drop_previous`].
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn drop_previous(&self) -> Result<bool, ProcessorError> {
        self.rebuilds().await?.drop_previous().await
    }

    /// Which build a step is about: the one that would begin, be read, or go. Nothing is changed.
    ///
    /// # Errors
    ///
    /// Those of the step, as far as they can be told without taking it. [`ProcessorError::NoOlder`] and
    /// [`ProcessorError::NoRebuild`] if there is nothing that it could be about.
    pub async fn would(&self, step: RebuildStep) -> Result<Generation, ProcessorError> {
        self.rebuilds().await?.would(step).await
    }

    async fn rebuilds(&self) -> Result<Rebuilds, ProcessorError> {
        let known = Generations::read(&*self.backend, &self.name).await?;
        let (Some(known), Some((name, version))) = (known, versioned(&self.name)) else {
            return Err(not_rebuildable(&self.name, NOTHING));
        };
        let tables = Tables { name: kept(name), version, schema: "" };
        let (name, backend) = (self.name.as_str().into(), self.backend.clone());
        let builds = BuildRows { name, tables, backend, ids: Ids::default(), code: None };
        Ok(Rebuilds { builds, seen: Seen::Stored { kept_as: known.value.kept_as } })
    }
}

/// A name, kept for as long as the process runs: once for each projection that a store knows.
fn kept(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = name.to_owned().leak();
    names.insert(name);
    name
}

fn not_rebuildable(processor: &str, why: &'static str) -> ProcessorError {
    ProcessorError::NotRebuildable { processor: processor.to_owned(), why }
}

/// The rebuilds of one projection.
struct Rebuilds {
    builds: BuildRows,
    seen: Seen,
}

impl Rebuilds {
    async fn begin(self, options: RebuildOptions) -> Result<Rebuild, ProcessorError> {
        if let Some(older) = self.older_version().await? {
            let current = self.builds.read().await?.current;
            return Ok(Rebuild { older: Some(older), ..self.rebuild(current) });
        }
        let RebuildOptions { lenient, repeats_skips } = options;
        let honours_skips = !repeats_skips;
        let building = |head, since| Building { lenient, honours_skips, ..Building::new(head, since) };
        let generation = match self.builds.read().await?.building {
            Some(known) => known.generation,
            None => {
                self.seen.knows_tables(&self.builds.name)?;
                self.builds.begin(building).await?
            }
        };
        self.seen.wake();
        let known = self.builds.read().await?.building.filter(|known| known.generation == generation);
        if known.is_some_and(|known| lenient && !known.lenient || repeats_skips && known.honours_skips) {
            return Err(ProcessorError::OtherOptions { build: self.builds.build(generation) });
        }
        Ok(self.rebuild(generation))
    }

    async fn under_way(self) -> Result<Option<Rebuild>, ProcessorError> {
        let building = self.builds.read().await?.building;
        Ok(building.map(|building| self.rebuild(building.generation)))
    }

    async fn roll_back(self) -> Result<(), ProcessorError> {
        let previous = self.builds.read().await?.previous.ok_or_else(|| self.no_older())?;
        self.rebuild(previous).switch().await
    }

    async fn drop_previous(self) -> Result<bool, ProcessorError> {
        let Generations { previous, leaving, .. } = self.builds.read().await?;
        // Also what whoever gave it up before did not come to the end of.
        for generation in previous.iter().chain(&leaving) {
            self.builds.remove(*generation).await?;
        }
        self.seen.wake();
        Ok(previous.is_some() || !leaving.is_empty())
    }

    async fn would(self, step: RebuildStep) -> Result<Generation, ProcessorError> {
        let known = self.builds.read().await?;
        let no_rebuild = || ProcessorError::NoRebuild { processor: self.builds.name.to_string() };
        let building = known.building.as_ref().map(|building| building.generation).ok_or_else(no_rebuild);
        match step {
            RebuildStep::Begin if self.older_version().await?.is_some() => Ok(known.current),
            RebuildStep::Begin if building.is_ok() => building,
            RebuildStep::Begin => {
                self.seen.knows_tables(&self.builds.name)?;
                let begin = Change::Begin(Building::new(
                    self.builds.backend.head().await?,
                    self.builds.backend.now().await?,
                ));
                self.builds.after(&known, begin).map(|next| next.last)
            }
            RebuildStep::Switch => {
                let to = building?;
                self.rebuild(to).may_switch().await.map(|()| to)
            }
            RebuildStep::RollBack => {
                let to = known.previous.ok_or_else(|| self.no_older())?;
                self.rebuild(to).may_switch().await.map(|()| to)
            }
            RebuildStep::Abort => building,
            RebuildStep::DropPrevious => {
                known.previous.or_else(|| known.leaving.first().copied()).ok_or_else(|| self.no_older())
            }
        }
    }

    fn no_older(&self) -> ProcessorError {
        ProcessorError::NoOlder { processor: self.builds.name.to_string() }
    }

    fn rebuild(self, generation: Generation) -> Rebuild {
        Rebuild { build: self.builds.build(generation), builds: self.builds, older: None, seen: self.seen }
    }

    /// The older version that has the plain names, if this one is on its way to them.
    async fn older_version(&self) -> Result<Option<Older>, ProcessorError> {
        let (backend, Tables { name, version: own, .. }) = (&*self.builds.backend, self.builds.tables);
        let published = noted(backend, name).await?.value.published;
        let stored = stored_versions(backend, name).await?;
        // Until one was given them, an older one has them from the start.
        let has_names = |version: &u32| *version < own && (published == 0 || published == *version);
        let version = stored.into_iter().rev().find(has_names);
        Ok(version.map(|version| Older { name: format!("{name}/{version}"), version }))
    }
}
