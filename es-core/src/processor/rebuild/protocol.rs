//! The builds of one projection, as rows: each step of the protocol is one change of one row.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::generations::{Change, Refused};
use super::point;
use crate::cluster::{Share, Shares};
use crate::id::Ids;
use crate::processor::ProcessorError;
use crate::processor::backend::AnyBackend;
use crate::state::{Build, Checkpoint, Freeze, Generations, InlineSet, generations};
use crate::store::{
    Commit, CommitError, Committed, Generation, Position, Row, RowWrite, StoreError, Tables, Won, write_rows,
};

/// How long a switch may take.
const FREEZE: Duration = Duration::from_secs(10);
/// How often a row is written again that another node has just written.
const TRIES: usize = 500;

/// What is written in one commit with a step.
#[derive(Clone, Copy, Debug)]
enum With {
    /// Nothing else. Refused if a build that is needed is not there.
    Alone { needs: Option<Generation> },
    /// The whole of a new build, and its tables.
    FirstShare { head: Position },
    /// What names stand for.
    Switch { to: Generation },
    /// The rows and tables of a build go.
    Uninstall { generation: Generation },
}

/// The builds of one projection.
#[derive(Clone, Debug)]
pub(super) struct BuildRows {
    pub(super) name: Arc<str>,
    pub(super) tables: Tables,
    pub(super) backend: Arc<dyn AnyBackend>,
    pub(super) ids: Ids,
}

impl BuildRows {
    pub(super) fn build(&self, generation: Generation) -> Build {
        Build { processor: self.name.clone(), generation }
    }

    async fn row(&self) -> Result<Row<Generations>, ProcessorError> {
        let known = Generations::read(&*self.backend, &self.name).await?;
        // In this order: becoming inline writes the row that was just read.
        if InlineSet::read(&*self.backend).await?.names.contains(&*self.name) {
            return Err(ProcessorError::Inline { processor: self.name.to_string() });
        }
        Ok(known.unwrap_or_else(|| Row::new(&*self.name, Generations::default())))
    }

    pub(super) async fn read(&self) -> Result<Generations, ProcessorError> {
        Ok(self.row().await?.value)
    }

    /// How far a build has come: the least of its shares.
    pub(super) async fn reached(&self, build: &Build) -> Result<Position, StoreError> {
        Ok(self.positions(build).await?.into_iter().min().unwrap_or_default())
    }

    async fn positions(&self, build: &Build) -> Result<Vec<Position>, StoreError> {
        let shares = Shares::<Checkpoint>::checkpoints().of(&*self.backend, &build.to_string()).await?;
        Ok(shares.into_iter().map(|share| share.progress.position).collect())
    }

    /// What a refusal of the state machine means to whoever asked.
    fn refused(&self, refused: Refused, generation: Generation) -> ProcessorError {
        let processor = self.name.to_string();
        let build = self.build(generation);
        match refused {
            Refused::OlderKept(generation) => ProcessorError::OlderKept { processor, generation },
            Refused::InUse => ProcessorError::InUse { build },
            Refused::Building(_) | Refused::Switching | Refused::NotFrozen => {
                ProcessorError::Switching { processor }
            }
            Refused::Dropped | Refused::Retired => ProcessorError::Dropped { build },
        }
    }

    /// Takes one step: again on what is there then, if another node was faster.
    async fn update(
        &self,
        change: &Change,
        generation: Generation,
        with: With,
    ) -> Result<Generations, ProcessorError> {
        for _ in 0..TRIES {
            let row = self.row().await?;
            if matches!(with, With::Alone { needs: Some(needed) } if !row.value.all().contains(&needed)) {
                return Err(ProcessorError::Dropped { build: self.build(generation) });
            }
            let next = row.value.apply(change.clone()).map_err(|r| self.refused(r, generation))?;
            let put = generations().put(&Row { value: next.clone(), ..row })?;
            if self.write(&next, put, with).await?.is_yes() {
                return Ok(next);
            }
        }
        let moving = std::io::Error::other("other nodes change it all the time");
        Err(StoreError::transient("changing which builds there are", moving).into())
    }

    /// Writes the row of a step, in one commit with what belongs to it.
    async fn write(&self, next: &Generations, put: RowWrite, with: With) -> Result<Won, ProcessorError> {
        let shares = Shares::<Checkpoint>::checkpoints();
        let mut rows = vec![put];
        match with {
            With::Alone { .. } => Ok(write_rows(&*self.backend, rows).await?),
            With::FirstShare { head } => {
                self.backend.install(&self.tables, next.last).await?;
                let group = self.build(next.last).to_string();
                rows.push(shares.put(&Share::whole(group, Checkpoint::new(Position(0), head)))?);
                Ok(write_rows(&*self.backend, rows).await?)
            }
            With::Switch { to } => {
                rows.push(point(&*self.backend, &self.tables, to).await?);
                let commit = Commit { rows, ..Commit::default() };
                self.won(self.backend.switch(&self.tables, to, commit).await).await
            }
            With::Uninstall { generation } => {
                // Its number is never given out again, so no late write can name these rows as they are made again.
                for row in shares.below(&*self.backend, &format!("{}#", self.build(generation))).await? {
                    let table = shares.table().clone();
                    rows.push(RowWrite { table, key: row.key, rev: row.rev, row: None });
                }
                let commit = Commit { rows, ..Commit::default() };
                self.won(self.backend.uninstall(&self.tables, generation, commit).await).await
            }
        }
    }

    async fn won(&self, outcome: Result<Committed, CommitError>) -> Result<Won, ProcessorError> {
        let what = "changing which builds there are";
        match Won::after(&*self.backend, outcome).await {
            Ok(Some(won)) => Ok(won),
            Ok(None) => {
                Err(StoreError::transient(what, std::io::Error::other("the request was lost")).into())
            }
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(other) => Err(StoreError::transient(what, other).into()),
        }
    }

    /// Begins another build, or finds the one that is under way.
    pub(super) async fn begin(
        &self,
        building: impl Fn(Position, crate::Timestamp) -> crate::state::Building,
    ) -> Result<Generation, ProcessorError> {
        let (head, since) = (self.backend.head().await?, self.backend.now().await?);
        let begin = Change::Begin(building(head, since));
        match self.update(&begin, 0, With::FirstShare { head }).await {
            Ok(next) => Ok(next.last),
            Err(ProcessorError::Switching { .. }) => match self.read().await?.building {
                Some(building) => Ok(building.generation),
                None => Err(ProcessorError::Switching { processor: self.name.to_string() }),
            },
            Err(error) => Err(error),
        }
    }

    /// Switches queries to another build, once it is as far as the one that they read.
    pub(super) async fn switch_to(&self, to: Generation) -> Result<(), ProcessorError> {
        let builds = self.clone();
        let switched = async move {
            if builds.read().await?.current == to {
                return Ok(());
            }
            let by = builds.ids.next();
            let frozen = builds.freeze(to, by).await?;
            let switched = builds.finish_switch(to, by, &frozen).await;
            if switched.is_err() {
                // Also if its time was over, and others have ended it.
                drop(builds.update(&Change::Thaw { by }, to, With::Alone { needs: None }).await);
            }
            switched
        };
        // In a task of its own: a caller who goes away leaves nothing frozen.
        let gone = |gone| StoreError::transient("switching queries to another build", gone);
        tokio::spawn(switched).await.map_err(gone)?
    }

    /// From now on no node works on the build that is read. Gives it.
    async fn freeze(&self, to: Generation, by: Uuid) -> Result<Build, ProcessorError> {
        let limit = i64::try_from(FREEZE.as_micros()).unwrap_or(i64::MAX);
        let until = self.backend.now().await?.as_microsecond().saturating_add(limit);
        let freeze = Change::Freeze(Freeze { until: Some(until), by: Some(by) });
        let frozen = self.update(&freeze, to, With::Alone { needs: Some(to) }).await?;
        let current = self.build(frozen.current);
        // A worker on it finds that out with its next flush, which fails.
        let shares = Shares::<Checkpoint>::checkpoints();
        for share in shares.of(&*self.backend, &current.to_string()).await? {
            self.interrupt(&shares, share).await?;
        }
        Ok(current)
    }

    /// Moves a share to the next epoch: a flush of before does not find it any more.
    async fn interrupt(
        &self,
        shares: &Shares<Checkpoint>,
        mut share: Share<Checkpoint>,
    ) -> Result<(), ProcessorError> {
        for _ in 0..TRIES {
            let next = share.owned_by(share.owner);
            if write_rows(&*self.backend, vec![shares.put(&next)?]).await?.is_yes() {
                return Ok(());
            }
            match shares.read(&*self.backend, &share.group, share.slices.first).await? {
                // Split or merged since: its new epoch is of after the freeze.
                Some(now) if now.epoch != share.epoch => return Ok(()),
                Some(now) => share = now,
                None => return Ok(()),
            }
        }
        let moving = std::io::Error::other("its worker writes all the time");
        Err(StoreError::transient("interrupting a build", moving).into())
    }

    async fn finish_switch(&self, to: Generation, by: Uuid, current: &Build) -> Result<(), ProcessorError> {
        let total = self.positions(current).await?.into_iter().max().unwrap_or_default();
        let build = self.build(to);
        let asked = Instant::now();
        loop {
            let done = self.reached(&build).await?;
            if done >= total {
                break;
            }
            if asked.elapsed() >= FREEZE / 2 {
                return Err(ProcessorError::NotCaughtUp { build, done, total });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.update(&Change::Switch { to, by }, to, With::Switch { to }).await.map(drop)
    }

    /// Removes a build that is not read. Harmless if it is gone.
    pub(super) async fn remove(&self, generation: Generation) -> Result<(), ProcessorError> {
        // No node may work on it any more before its tables go.
        match self.update(&Change::Drop(generation), generation, With::Alone { needs: None }).await {
            // It is on its way out, or has gone: what is left of it goes.
            Ok(_) | Err(ProcessorError::Dropped { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.update(&Change::Left(generation), generation, With::Uninstall { generation }).await {
            Ok(_) | Err(ProcessorError::Dropped { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Ends a switch whose time is over. Another node that does it too is no error.
pub(crate) async fn expire(backend: &dyn AnyBackend, processor: &str, now: i64) -> Result<(), StoreError> {
    let Some(row) = Generations::read(backend, processor).await? else { return Ok(()) };
    if let Ok(next) = row.value.apply(Change::Expire { now }) {
        let put = generations().put(&Row { value: next, ..row })?;
        let _won = write_rows(backend, vec![put]).await?;
    }
    Ok(())
}
