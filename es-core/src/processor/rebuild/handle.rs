//! Rebuilding without downtime: another build next to the one that is read, and a switch between them.
//!
//! A rebuild is rows: which generation is being built, and its checkpoints. So any node works on it like on any other
//! build, it goes on after a restart, and a program that only started it may end. Queries read the old build until the
//! switch, which is one transaction; the old one is then kept up to date until it is dropped, so one can go back. The
//! idea is blue/green deployment (Humble and Farley, "Continuous Delivery", 2010) for tables.

use std::time::Duration;

use futures::Stream;
use futures::stream;
use tokio::time::Instant;

use super::compare::compare_rows;
use super::protocol::{BuildRows, Met};
use super::seen::Seen;
use crate::ErrorKind;
use crate::processor::parked;
use crate::processor::status::ProcessorState;
use crate::processor::{ProcessorError, give_names, inline_version, noted};
use crate::state::{Build, Generations};
use crate::store::{Difference, Generation, Position, Tables};

/// How far a build may be behind the one that is read when queries are switched to it: the rest is waited for.
const NEAR: u64 = 2_000;
/// How far it may be behind when it has caught up: what is appended before the switch comes on top.
const NEARER: u64 = NEAR / 2;
/// How long is waited until it is as near as that, and for the rest when a version takes the plain names.
const REST: Duration = Duration::from_secs(10);
/// Between two looks at how far a build has come.
const LOOK: Duration = Duration::from_millis(100);

/// How a projection is rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildOptions {
    /// Whether an event that its handler cannot handle is treated as the projection says ([`OnFailure`]). Otherwise the
    /// build is halted there, and says so.
    ///
    /// [`OnFailure`]: crate::projection::OnFailure
    pub lenient: bool,
    /// Whether the handlers of events are called that were skipped or discarded before. Otherwise those stay left out.
    pub repeats_skips: bool,
}

impl RebuildOptions {
    /// Treats events that fail as the projection says.
    #[must_use]
    pub const fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// Calls the handlers of what was skipped or discarded before.
    #[must_use]
    pub const fn repeat_skips(self) -> Self {
        Self { repeats_skips: true, ..self }
    }
}

/// How far a build has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Which generation.
    pub generation: Generation,
    /// Everything up to here is handled.
    pub done: Position,
    /// The head of the log.
    pub total: Position,
    /// Events per second since it was watched.
    pub per_second: f64,
    /// How long it will take at this rate; `None` before there is one.
    pub left: Option<Duration>,
    /// What it is doing, as far as this node knows.
    pub state: ProcessorState,
    /// Why nothing is done of it now, in words; `None` if it is at work.
    pub why_not: Option<String>,
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
pub struct RebuildReport {
    /// The position of the one that queries read.
    pub old: Position,
    /// The position of the new one: the same, unless one of them is halted, paused, or far behind. Then a part of the
    /// differences is younger events.
    pub new: Position,
    /// Table by table; of a view, its rows under its own name.
    pub differences: Vec<Difference>,
}

impl RebuildReport {
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
    pub(super) builds: BuildRows,
    pub(super) build: Build,
    /// The build of an older version whose place it takes.
    pub(super) older: Option<Older>,
    pub(super) seen: Seen,
}

/// What an older version of the projection is.
#[derive(Clone, Debug)]
pub(super) struct Older {
    pub(super) name: String,
    pub(super) version: u32,
}

/// How far a build is from what queries read.
struct Distance {
    done: Position,
    total: Position,
    head: Position,
    is_near: bool,
    is_paused: bool,
}

impl Rebuild {
    /// Which generation is built.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.build.generation
    }

    /// How far it has come, again and again until it is as far as the log was at the first look. It does not end by
    /// itself while the build is halted.
    ///
    /// A look that fails is an error among others. While the store does not answer, more looks follow: whoever has waited for
    /// long enough drops this. Any other error is the last.
    pub fn progress(&self) -> impl Stream<Item = Result<Progress, ProcessorError>> + Send + use<> {
        let watching = Watching { rebuild: self.clone(), looked: false, begun: None, ended: false };
        stream::unfold(watching, |mut watching| async move { Some((watching.next().await?, watching)) })
    }

    /// Why nothing is done of it now, in parentheses; empty if it is at work, or if that cannot be found out.
    async fn why_not(&self) -> String {
        let status = self.seen.status(&*self.builds.backend, &self.build).await;
        status.map(|status| status.in_the_way()).unwrap_or_default()
    }

    async fn behind(&self, done: Position, total: Position) -> ProcessorError {
        let why = self.why_not().await;
        ProcessorError::NotCaughtUp { build: self.build.clone(), done, total, why }
    }

    async fn look(&self) -> Result<Progress, ProcessorError> {
        let total = self.builds.backend.head().await?;
        if !self.builds.read().await?.all().contains(&self.build.generation) {
            return Err(ProcessorError::Dropped { build: self.build.clone() });
        }
        let done = self.builds.reached(&self.build).await?;
        let status = self.seen.status(&*self.builds.backend, &self.build).await?;
        let (generation, why_not) = (self.build.generation, status.obstacle());
        Ok(Progress { generation, done, total, per_second: 0.0, left: None, state: status.state, why_not })
    }

    /// Until it is nearly as far as the log. A store that does not answer now is asked again.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Halted`] with the error that it is halted at; [`ProcessorError::Dropped`];
    /// [`ProcessorError::TimedOut`].
    pub async fn caught_up(&self, limit: Duration) -> Result<(), ProcessorError> {
        let near = async {
            loop {
                match self.look().await {
                    Ok(Progress { done, total, state, .. }) => {
                        self.not_halted(state, done)?;
                        if done.0.saturating_add(NEARER) >= total.0 {
                            return Ok(());
                        }
                    }
                    // A store that does not answer now may do so in time.
                    Err(error) if error.kind() == ErrorKind::Transient => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let Ok(came) = tokio::time::timeout(limit, near).await else {
            let (what, why) = (format!("the rebuild {}", self.build), self.why_not().await);
            return Err(ProcessorError::TimedOut { what, limit, why });
        };
        came
    }

    fn not_halted(&self, state: ProcessorState, position: Position) -> Result<(), ProcessorError> {
        match state {
            ProcessorState::Halted { error, .. } => {
                Err(ProcessorError::Halted { build: self.build.clone(), position, error })
            }
            _ => Ok(()),
        }
    }

    /// How it differs from the build that queries read, with some rows of each kind. Reads everything once, in one snapshot
    /// of the store.
    ///
    /// Both builds are compared at one position: they are held there, mostly for a fraction of a second, until the snapshot
    /// is taken. Rows that queries read get no older than that.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Dropped`]; [`ProcessorError::Switching`] if other reports and switches hold them for longer than
    /// it waits, twelve seconds; [`ProcessorError::Store`] if the store cannot be read.
    ///
    /// # Cancellation
    ///
    /// Dropping its future leaves nothing held.
    pub async fn report(&self, samples: usize) -> Result<RebuildReport, ProcessorError> {
        let (builds, generation) = (&self.builds, self.build.generation);
        self.seen.knows_tables(&builds.name)?;
        let Progress { done, total, state, .. } = self.look().await?;
        if let Some(older) = &self.older {
            return self.report_of_versions(older, done, samples).await;
        }
        let near = done.0.saturating_add(NEAR) >= total.0;
        // It would hold up those who read for nothing.
        let meets = near && !matches!(state, ProcessorState::Halted { .. });
        let met = if meets { builds.at_one_position(generation).await? } else { None };
        let (current, old, new, mut snapshot) = match met {
            Some(Met { current, at, snapshot }) => (current, at, at, snapshot),
            None => {
                let current = builds.read().await?.current;
                let old = builds.reached(&builds.build(current)).await?;
                (current, old, builds.reached(&self.build).await?, builds.backend.row_snapshot().await?)
            }
        };
        let tables = &builds.tables;
        let mut differences = snapshot.compare(tables, current, generation, samples).await?;
        for sample in differences.iter_mut().flat_map(|difference| &mut difference.samples) {
            for row in [&mut sample.old, &mut sample.new].into_iter().flatten() {
                *row = parked::cut(row);
            }
        }
        let names = [tables.rows(current), tables.rows(generation)];
        differences.extend(compare_rows(&mut *snapshot, tables, names, samples).await?);
        Ok(RebuildReport { old, new, differences })
    }

    /// Switches queries to it, in one transaction: each of them sees the whole old or the whole new one, and none sees
    /// less than before. The old one is kept up to date from then on, see
    /// [`Processor::roll_back`](crate::processor::Processor::roll_back). While this one is far behind, it is waited for, ten
    /// seconds at most and not at all if it is paused; queries go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`], and queries read what they read: [`NotCaughtUp`](ProcessorError::NotCaughtUp), see
    /// [`Self::caught_up`]; [`Halted`](ProcessorError::Halted); [`Switching`](ProcessorError::Switching);
    /// [`OlderCode`](ProcessorError::OlderCode); [`Inline`](ProcessorError::Inline) if commits write the older version, whose
    /// plain names it would take.
    pub async fn switch(&self) -> Result<(), ProcessorError> {
        // Before what is read stops for it in vain.
        let total = self.near().await?;
        let switched = match self.older {
            Some(_) => self.take_names(total).await,
            None => self.builds.switch_to(self.build.generation).await,
        };
        self.seen.wake();
        switched
    }

    /// Waits until it is near what queries read, or near the log if that is another version; gives how far the log is. A build
    /// that has just changed its place is behind for a while, and nobody is held up meanwhile.
    async fn near(&self) -> Result<Position, ProcessorError> {
        let asked = Instant::now();
        loop {
            let Distance { done, total, head, is_near, is_paused } = self.distance().await?;
            if is_near {
                return Ok(head);
            }
            if is_paused || asked.elapsed() >= REST {
                return Err(self.behind(done, total).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn distance(&self) -> Result<Distance, ProcessorError> {
        let Progress { done, total: head, state, .. } = self.look().await?;
        // One that is kept never runs ahead of the one that is read, wherever that stands.
        let total = match self.older {
            Some(_) => head,
            None => self.builds.ahead_of(self.build.generation).await?.min(head),
        };
        let is_paused = matches!(state, ProcessorState::Paused { .. });
        if done < total {
            self.not_halted(state, done)?;
        }
        let allowed = if is_paused { 0 } else { NEAR };
        let is_near = done.0.saturating_add(allowed) >= total.0;
        Ok(Distance { done, total, head, is_near, is_paused })
    }

    /// What a switch would say now, as far as that can be told. Nothing is changed.
    pub(super) async fn may_switch(&self) -> Result<(), ProcessorError> {
        let Distance { done, total, is_near, .. } = self.distance().await?;
        if !is_near {
            return Err(self.behind(done, total).await);
        }
        self.builds.is_made_by_newest(self.build.generation).await
    }

    /// How the rows of a view differ from those of the older version. They are not held at one position: their shapes may be
    /// others, and so may what they mean.
    async fn report_of_versions(
        &self,
        older: &Older,
        new: Position,
        samples: usize,
    ) -> Result<RebuildReport, ProcessorError> {
        let (builds, tables) = (&self.builds, &self.builds.tables);
        if !tables.schema.trim().is_empty() {
            let (processor, why) =
                (builds.name.to_string(), "has tables, and those of two versions are not compared");
            return Err(ProcessorError::NotRebuildable { processor, why });
        }
        let known = Generations::read(&*builds.backend, &older.name).await?;
        let current = known.map_or(1, |row| row.value.current);
        let read = Build { processor: older.name.as_str().into(), generation: current };
        let old = builds.reached(&read).await?;
        let before = Tables { version: older.version, ..*tables };
        let names = [before.rows(current), tables.rows(self.build.generation)];
        let mut snapshot = builds.backend.row_snapshot().await?;
        let differences = compare_rows(&mut *snapshot, tables, names, samples).await?;
        Ok(RebuildReport { old, new, differences: differences.into_iter().collect() })
    }

    /// Gives it the plain names, which an older version has, once it is as far as the log is now.
    async fn take_names(&self, total: Position) -> Result<(), ProcessorError> {
        let (backend, tables) = (&*self.builds.backend, &self.builds.tables);
        let asked = Instant::now();
        loop {
            let waits = asked.elapsed() < REST;
            match self.builds.reached(&self.build).await {
                Ok(done) if done >= total => break,
                Ok(done) if !waits => return Err(self.behind(done, total).await),
                // One look that fails is no reason to begin to wait again.
                Err(error) if !waits || error.kind() != ErrorKind::Transient => return Err(error.into()),
                _ => tokio::time::sleep(LOOK / 10).await,
            }
        }
        let noted = noted(backend, tables.name).await?;
        if let Some(processor) = inline_version(backend, tables.name).await? {
            return Err(ProcessorError::Inline { processor });
        }
        if noted.value.published != tables.version && !give_names(backend, tables, noted).await? {
            return Err(ProcessorError::Switching { processor: self.builds.name.to_string() });
        }
        Ok(())
    }

    /// Gives it up: what was built goes. Harmless if it is gone already.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`]; it may be gone in part, call it again.
    pub async fn abort(&self) -> Result<(), ProcessorError> {
        let removed = self.builds.remove(self.build.generation).await;
        self.seen.wake();
        removed
    }
}

/// A rebuild that is watched.
struct Watching {
    rebuild: Rebuild,
    looked: bool,
    begun: Option<(Instant, Progress)>,
    ended: bool,
}

impl Watching {
    /// `None` once it is as far as the log was at the first look, or never will be.
    async fn next(&mut self) -> Option<Result<Progress, ProcessorError>> {
        if self.ended {
            return None;
        }
        if std::mem::replace(&mut self.looked, true) {
            tokio::time::sleep(LOOK).await;
        }
        let mut progress = match self.rebuild.look().await {
            Ok(progress) => progress,
            Err(error) => {
                self.ended = error.kind() != ErrorKind::Transient;
                return Some(Err(error));
            }
        };
        let (since, first) = &*self.begun.get_or_insert_with(|| (Instant::now(), progress.clone()));
        let done = progress.done.0.saturating_sub(first.done.0);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        if done > 0 {
            progress.per_second = done as f64 / since.elapsed().as_secs_f64().max(0.001);
            let left = progress.total.0.saturating_sub(progress.done.0) as f64;
            progress.left = Some(Duration::from_secs_f64(left / progress.per_second));
        }
        self.ended = progress.done >= first.total;
        Some(Ok(progress))
    }
}
