//! Rebuilding without downtime: another build beside the one that is read, and a switch between them.
//!
//! A rebuild is rows: which generation is being built, and its checkpoints. So any node works on it like on any other
//! build, it goes on after a restart, and a program that only started it may end. Queries read the old build until the
//! switch, which is one transaction; the old one is then kept up to date until it is dropped, so one can go back. The
//! idea is blue/green deployment (Humble and Farley, "Continuous Delivery", 2010) for tables.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::AnyBackend;
use super::build::Build;
use super::compare::compare_rows;
use super::generations::{Building, Generations, point};
use super::range::{self, CHECKPOINTS, Range};
use super::status::{Board, ProcessorState};
use super::{Processor, rows};
use crate::limits::MAX_PAGE;
use crate::store::{
    Commit, CommitError, Difference, Generation, Position, RowWrite, StoreError, StoredRow, Tables,
};

/// How far a build may be behind the one that is read when queries are led to it: the rest is waited for.
const NEAR: u64 = 2_000;
/// How long that may take.
const FREEZE: Duration = Duration::from_secs(10);
/// How often a row is written again that somebody else has just written.
const TRIES: usize = 500;
/// Between two looks at how far a build has come.
const LOOK: Duration = Duration::from_millis(100);

/// How a projection is built anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildOptions {
    /// Whether an event that its handler cannot take in is treated as the projection says ([`OnFailure`]). Otherwise the
    /// build stands still there, and says so.
    ///
    /// [`OnFailure`]: crate::projection::OnFailure
    pub lenient: bool,
    /// Whether events that were skipped or discarded before are left out again. Otherwise their handlers are called.
    pub honours_skips: bool,
}

impl RebuildOptions {
    /// Treats events that fail as the projection says.
    #[must_use]
    pub const fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// Leaves out again what was skipped or discarded before.
    #[must_use]
    pub const fn honour_skips(self) -> Self {
        Self { honours_skips: true, ..self }
    }
}

/// How far a build has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Which generation.
    pub generation: Generation,
    /// Everything up to here is taken in.
    pub done: Position,
    /// The head of the log.
    pub total: Position,
    /// Events per second since it was watched.
    pub per_second: f64,
    /// How long it will take at this rate; `None` before there is one.
    pub left: Option<Duration>,
    /// What it is doing, as far as this node knows.
    pub state: ProcessorState,
}

impl Progress {
    /// Whether it is as far as the log.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done >= self.total
    }
}

/// How a build differs from the one that queries read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How far the one that queries read had come, at least.
    pub old: Position,
    /// How far the new one had come, at least. If the two are not equal, a part of the differences is younger events.
    pub new: Position,
    /// Table by table; of a view, its rows under its own name.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.differences.iter().all(|d| d.added + d.removed + d.changed == 0)
    }
}

/// A build that is to take the place of the one that queries read. Dropping this does not end it: see
/// [`Self::abort`].
#[derive(Clone, Debug)]
pub struct Rebuild {
    builds: Builds,
    build: Build,
    board: Arc<Board>,
}

impl Processor {
    /// Begins to build the projection anew beside the tables that queries read, or goes on with it if somebody has begun.
    /// Every node that runs the projection takes part. Nothing changes for queries before [`Rebuild::switch`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it keeps nothing that could be built (a reactor), if the backend cannot have its tables
    /// twice, or if an older build is still kept: drop it first.
    pub async fn rebuild_online(&self, options: RebuildOptions) -> Result<Rebuild, StoreError> {
        let builds = self.builds_of()?;
        let generation = builds.begin(options).await?;
        self.look.send_modify(|n| *n += 1);
        let build = Build { processor: builds.name.clone(), generation };
        Ok(Rebuild { board: self.desk.board(generation), build, builds })
    }

    /// The build that is under way, if there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn rebuilding(&self) -> Result<Option<Rebuild>, StoreError> {
        let builds = self.builds_of()?;
        let Some(Building { generation, .. }) = builds.read().await?.building else { return Ok(None) };
        let build = Build { processor: builds.name.clone(), generation };
        Ok(Some(Rebuild { board: self.desk.board(generation), build, builds }))
    }

    /// Leads queries back to the build that they read before. It is up to date: it was kept so.
    ///
    /// # Errors
    ///
    /// [`StoreError`], and queries read what they read: [`Misuse`](StoreError::Misuse) if there is no other build.
    pub async fn roll_back(&self) -> Result<(), StoreError> {
        let builds = self.builds_of()?;
        let Some(previous) = builds.read().await?.previous else {
            return Err(StoreError::misuse(format!("{} has no older build to go back to", builds.name)));
        };
        let done = builds.lead_to(previous).await;
        self.look.send_modify(|n| *n += 1);
        done
    }

    /// Drops the build that is kept to go back to, if there is one. Says whether there was.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may be dropped in part, call it again.
    pub async fn drop_previous(&self) -> Result<bool, StoreError> {
        let builds = self.builds_of()?;
        let Generations { previous, leaving, .. } = builds.read().await?;
        let Some(previous) = previous.or_else(|| leaving.first().copied()) else { return Ok(false) };
        builds.remove(previous).await?;
        self.look.send_modify(|n| *n += 1);
        Ok(true)
    }

    fn builds_of(&self) -> Result<Builds, StoreError> {
        let what = || StoreError::misuse(format!("{} acts outside: there is nothing to build", self.name()));
        let tables = self.runner.tables().ok_or_else(what)?;
        let (backend, look) = (self.ground.backend.clone(), self.look.clone());
        Ok(Builds { name: self.desk.name.clone(), tables, backend, look })
    }
}

impl Rebuild {
    /// Which generation is built.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.build.generation
    }

    /// How far it has come, again and again until it is as far as the log was at the first look. It does not end by itself
    /// while the build stands still.
    pub fn progress(&self) -> impl Stream<Item = Result<Progress, StoreError>> + Send + use<> {
        struct State {
            rebuild: Rebuild,
            begun: Option<(Instant, Progress)>,
            ended: bool,
        }
        let state = State { rebuild: self.clone(), begun: None, ended: false };
        stream::unfold(state, |mut state| async move {
            if state.ended {
                return None;
            }
            if state.begun.is_some() {
                tokio::time::sleep(LOOK).await;
            }
            let looked = state.rebuild.look().await.map(|mut progress| {
                let (since, first) = &*state.begun.get_or_insert_with(|| (Instant::now(), progress.clone()));
                let done = progress.done.0.saturating_sub(first.done.0);
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                if done > 0 {
                    progress.per_second = done as f64 / since.elapsed().as_secs_f64().max(0.001);
                    let left = progress.total.0.saturating_sub(progress.done.0) as f64;
                    progress.left = Some(Duration::from_secs_f64(left / progress.per_second));
                }
                state.ended = progress.done >= first.total;
                progress
            });
            Some((looked, state))
        })
    }

    async fn look(&self) -> Result<Progress, StoreError> {
        let total = self.builds.backend.head().await?;
        if !self.builds.read().await?.all().contains(&self.build.generation) {
            return Err(StoreError::misuse(format!("{} was dropped: begin another rebuild", self.build)));
        }
        let done = self.builds.reached(&self.build).await?;
        let (generation, state) = (self.build.generation, self.board.now().state);
        Ok(Progress { generation, done, total, per_second: 0.0, left: None, state })
    }

    /// Until it is nearly as far as the log.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if that took too long (with the error that it stands still at), or the store cannot be read.
    pub async fn caught_up(&self, limit: Duration) -> Result<(), StoreError> {
        let near = async {
            loop {
                let Progress { done, total, .. } = self.look().await?;
                if let ProcessorState::Halted { error, .. } = self.board.now().state {
                    return Err(StoreError::misuse(format!(
                        "{} stands still at {done}: {error}",
                        self.build
                    )));
                }
                if done.0.saturating_add(NEAR) >= total.0 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let late = |_| {
            let why = format!("{} is not caught up after {limit:?}", self.build);
            StoreError::transient("a rebuild", std::io::Error::other(why))
        };
        tokio::time::timeout(limit, near).await.map_err(late)?
    }

    /// How it differs from the build that queries read, with some rows of each kind. Reads everything once.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn report(&self, samples: usize) -> Result<Report, StoreError> {
        let builds = &self.builds;
        let current = builds.read().await?.current;
        let old = Build { processor: builds.name.clone(), generation: current };
        let (at_old, at_new) = (builds.reached(&old).await?, builds.reached(&self.build).await?);
        let (tables, new) = (&builds.tables, self.build.generation);
        let mut differences = builds.backend.compare(tables, current, new, samples).await?;
        let rows = compare_rows(&*builds.backend, tables, current, new, samples).await?;
        differences.extend(rows);
        Ok(Report { old: at_old, new: at_new, differences })
    }

    /// Leads queries to it, in one transaction: each of them sees the whole old or the whole new one, and nobody sees
    /// less than before. The old one is kept up to date from then on, see [`Processor::roll_back`].
    ///
    /// # Errors
    ///
    /// [`StoreError`], and queries read what they read: [`Misuse`](StoreError::Misuse) if it stands still or is not caught
    /// up, see [`Self::caught_up`].
    pub async fn switch(&self) -> Result<(), StoreError> {
        let Progress { done, total, .. } = self.look().await?;
        if done.0.saturating_add(NEAR) < total.0 {
            let what = format!("{} is at {done} of {total}: wait until it has caught up", self.build);
            return Err(StoreError::misuse(what));
        }
        if let ProcessorState::Halted { error, .. } = self.board.now().state {
            return Err(StoreError::misuse(format!("{} stands still at {done}: {error}", self.build)));
        }
        let led = self.builds.lead_to(self.build.generation).await;
        self.builds.look.send_modify(|n| *n += 1);
        led
    }

    /// Gives it up: what was built goes. Harmless if it is gone already.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may be gone in part, call it again.
    pub async fn abort(&self) -> Result<(), StoreError> {
        let removed = self.builds.remove(self.build.generation).await;
        self.builds.look.send_modify(|n| *n += 1);
        removed
    }
}

/// The builds of one projection, as rows.
#[derive(Clone, Debug)]
struct Builds {
    name: Arc<str>,
    tables: Tables,
    backend: Arc<dyn AnyBackend>,
    look: Arc<watch::Sender<u64>>,
}

impl Builds {
    async fn read(&self) -> Result<Generations, StoreError> {
        let known = Generations::read(&*self.backend, &self.name).await?.unwrap_or_default();
        // In this order: becoming inline writes the row that was just read.
        crate::store::inline_set::not_inline(&*self.backend, &self.name).await?;
        Ok(known)
    }

    /// How far a build has come.
    async fn reached(&self, build: &Build) -> Result<Position, StoreError> {
        let ranges = range::of(&*self.backend, build).await?;
        Ok(ranges.iter().map(|range| range.position).min().unwrap_or_default())
    }

    /// Writes the row, if it is as it was read.
    async fn write(&self, generations: &Generations, and: Vec<RowWrite>) -> Result<bool, StoreError> {
        let mut rows = vec![generations.write(&self.name)];
        rows.extend(and);
        written(self.backend.commit(Commit { rows, ..Commit::default() }).await)
    }

    async fn begin(&self, options: RebuildOptions) -> Result<Generation, StoreError> {
        for _ in 0..TRIES {
            let known = self.read().await?;
            if let Some(building) = known.building {
                return Ok(building.generation);
            }
            if let Some(previous) = known.previous {
                return Err(StoreError::misuse(format!(
                    "generation {previous} of {} is still kept to go back to: drop it first (`drop_previous`)",
                    self.name
                )));
            }
            let generation = known.last + 1;
            self.backend.install(&self.tables, generation).await?;
            let (head, since) = (self.backend.head().await?, self.backend.now().await?);
            let RebuildOptions { lenient, honours_skips } = options;
            let building = Some(Building { generation, head, since, lenient, honours_skips });
            let next = Generations { building, last: generation, ..known };
            let build = next.build(&self.name, generation);
            if self.write(&next, vec![Range::new(build, Position(0), head).write()]).await? {
                return Ok(generation);
            }
        }
        Err(moving("beginning a rebuild"))
    }

    /// Leads queries to another build, once it is as far as the one that they read.
    async fn lead_to(&self, to: Generation) -> Result<(), StoreError> {
        let builds = self.clone();
        let led = async move {
            if builds.read().await?.current == to {
                return Ok(());
            }
            let frozen = builds.freeze().await?;
            let led = builds.lead_frozen(to, &frozen).await;
            // After the switch there is nothing left to thaw, unless somebody else was faster.
            builds.thaw().await?;
            led
        };
        // In a task of its own: a caller who goes away leaves nothing frozen.
        let gone = |gone| StoreError::transient("leading queries to another build", gone);
        tokio::spawn(led).await.map_err(gone)?
    }

    /// From now on nobody works on the build that is read. Gives it.
    async fn freeze(&self) -> Result<Build, StoreError> {
        let limit = i64::try_from(FREEZE.as_micros()).unwrap_or(i64::MAX);
        for _ in 0..TRIES {
            let known = self.read().await?;
            let until = self.backend.now().await?.as_microsecond() + limit;
            let current = known.build(&self.name, known.current);
            if !self.write(&Generations { frozen: Some(until), ..known }, Vec::new()).await? {
                continue;
            }
            // Whoever works on it finds that out with the next flush, which fails.
            for range in range::of(&*self.backend, &current).await? {
                self.interrupt(&current, range).await?;
            }
            return Ok(current);
        }
        Err(moving("leading queries to another build"))
    }

    /// Moves a range to the next epoch: a flush of before does not find it any more.
    async fn interrupt(&self, build: &Build, mut range: Range) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let next = range.owned_by(range.owner);
            if written(self.backend.commit(Commit { rows: vec![next.write()], ..Commit::default() }).await)? {
                return Ok(());
            }
            match range::read(&*self.backend, build, range.slices.first).await? {
                // Split or merged meanwhile: its new epoch is of after the freeze.
                Some(now) if now.epoch != range.epoch => return Ok(()),
                Some(now) => range = now,
                None => return Ok(()),
            }
        }
        Err(moving("leading queries to another build"))
    }

    async fn lead_frozen(&self, to: Generation, current: &Build) -> Result<(), StoreError> {
        let target = self.backend_positions(current).await?;
        let build = Build { processor: self.name.clone(), generation: to };
        let asked = Instant::now();
        while self.reached(&build).await? < target {
            if asked.elapsed() >= FREEZE / 2 {
                let why = format!("{build} does not reach {target}, where the build that queries read is");
                return Err(StoreError::transient(
                    "leading queries to another build",
                    std::io::Error::other(why),
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..TRIES {
            let known = self.read().await?;
            if known.current == to {
                return Ok(());
            }
            if known.frozen.is_none() {
                break;
            }
            let building = known.building.clone().filter(|building| building.generation != to);
            let (current, previous) = (to, Some(known.current));
            let next = Generations { current, previous, building, frozen: None, ..known };
            let rows = vec![next.write(&self.name), point(&*self.backend, &self.tables, to).await?];
            let switched = self.backend.switch(&self.tables, to, Commit { rows, ..Commit::default() }).await;
            if written(switched)? {
                return Ok(());
            }
        }
        Err(moving("leading queries to another build"))
    }

    /// The furthest of the ranges of a build.
    async fn backend_positions(&self, build: &Build) -> Result<Position, StoreError> {
        let ranges = range::of(&*self.backend, build).await?;
        Ok(ranges.iter().map(|range| range.position).max().unwrap_or_default())
    }

    async fn thaw(&self) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let known = self.read().await?;
            if known.frozen.is_none()
                || self.write(&Generations { frozen: None, ..known }, Vec::new()).await?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes a build that is not read.
    async fn remove(&self, generation: Generation) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let known = self.read().await?;
            if known.current == generation {
                let what = format!("generation {generation} of {} is the one that queries read", self.name);
                return Err(StoreError::misuse(what));
            }
            let building = known.building.clone().filter(|building| building.generation != generation);
            let previous = known.previous.filter(|previous| *previous != generation);
            let mut next = Generations { building, previous, ..known.clone() };
            if next != known {
                // Nobody may work on it any more before its tables go.
                next.leaving.push(generation);
                if !self.write(&next, Vec::new()).await? {
                    continue;
                }
                next.rev += 1;
            }
            next.leaving.retain(|leaving| *leaving != generation);
            let below = format!("{}#", Build { processor: self.name.clone(), generation });
            let ranges = rows::below(&*self.backend, CHECKPOINTS, &below, None, MAX_PAGE).await?;
            let gone = |row: StoredRow| RowWrite {
                table: CHECKPOINTS.into(),
                key: row.key,
                rev: row.rev,
                row: None,
            };
            let mut rows: Vec<RowWrite> = ranges.into_iter().map(gone).collect();
            rows.push(next.write(&self.name));
            let commit = Commit { rows, ..Commit::default() };
            if written(self.backend.uninstall(&self.tables, generation, commit).await)? {
                return Ok(());
            }
        }
        Err(moving("removing a build"))
    }
}

/// Whether a commit was written, where another writer is no error.
fn written(outcome: Result<crate::store::Committed, CommitError>) -> Result<bool, StoreError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(CommitError::Fenced { .. } | CommitError::Unknown(_)) => Ok(false),
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("writing which builds there are", other)),
    }
}

fn moving(what: &'static str) -> StoreError {
    StoreError::transient(what, std::io::Error::other("somebody else changes it all the time"))
}
