//! The builds of one projection, as rows: each step of the protocol is one change of one row.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::discards::{LeftOut, not_yet};
use super::generations::{Change, Refused};
use super::point;
use super::portions::empty;
use crate::ErrorKind;
use crate::cluster::{self, Share, Shares};
use crate::id::Ids;
use crate::processor::AnyBackend;
use crate::processor::ProcessorError;
use crate::processor::kinds::runner::Runner;
use crate::processor::worker::codes::{after, is_older, lives, of_new_build};
use crate::processor::worker::{NodeContext, made_by};
use crate::projection::Code;
use crate::state::{Asked, Build, Checkpoint, Freeze, Generations, InlineSet, asked, codes, generations};
use crate::store::{
    Commit, CommitError, Committed, Generation, Position, Row, RowSnapshot, RowWrite, StoreError, Tables,
    Won, write_rows,
};

/// How long a switch or a report may take.
const FREEZE: Duration = Duration::from_secs(10);
/// How long one waits for another switch or report, whose program may have gone: until it is over, and a little longer.
const TURN: Duration = Duration::from_secs(12);
/// How often it is tried to end a freeze; one that stays is ended by others when its time is over.
const THAWS: usize = 20;
/// Between two looks at how far the builds have come that a switch or a report waits for.
const LOOK: Duration = Duration::from_millis(5);
/// How often a row is written again that another node has just written.
const TRIES: usize = 500;

/// What is written in one commit with a step.
#[derive(Clone, Copy, Debug)]
enum With {
    /// Nothing else. Refused if a build that is needed is not there.
    Alone { needs: Option<Generation> },
    /// The whole of a new build, and its tables.
    FirstShare { head: Position },
    /// What names stand for. Refused if something was asked of the build that was read more often than so.
    Switch { to: Generation, asked: Option<u64> },
    /// The rows and tables of a build go.
    Uninstall { generation: Generation },
}

/// Two builds at one position.
pub(super) struct Met {
    /// The one that is read.
    pub(super) current: Generation,
    pub(super) at: Position,
    pub(super) snapshot: Box<dyn RowSnapshot>,
}

/// The builds of one projection.
#[derive(Clone, Debug)]
pub(super) struct BuildRows {
    pub(super) name: Arc<str>,
    pub(super) tables: Tables,
    pub(super) backend: Arc<dyn AnyBackend>,
    pub(super) ids: Ids,
    /// The code of this program, unless it only looks on.
    pub(super) code: Option<Code>,
}

impl BuildRows {
    /// Of a program's processor; `None` for one that keeps nothing that could be rebuilt.
    pub(super) fn of(node: &NodeContext, runner: &dyn Runner) -> Option<Self> {
        let code = (!node.settings.looks_on).then(|| runner.code());
        let (backend, ids, name) = (node.backend.clone(), node.ids.clone(), runner.name().into());
        Some(Self { name, tables: runner.keeps().tables()?, backend, ids, code })
    }

    pub(super) fn build(&self, generation: Generation) -> Build {
        Build { processor: self.name.clone(), generation }
    }

    /// The row, also one that says that the version was removed: what is written over it is
    /// refused then.
    async fn row(&self) -> Result<Row<Generations>, ProcessorError> {
        let known = generations().get(&*self.backend, &self.name).await?;
        // In this order: becoming inline writes the row that was just read.
        if InlineSet::read(&*self.backend).await?.names.contains(&*self.name) {
            return Err(ProcessorError::Inline { processor: self.name.to_string() });
        }
        Ok(known.unwrap_or_else(|| Row::new(&*self.name, Generations::default())))
    }

    pub(super) async fn read(&self) -> Result<Generations, ProcessorError> {
        let known = self.row().await?.value;
        if known.goes() {
            return Err(self.refused(Refused::Retired, known.current));
        }
        Ok(known)
    }

    /// How far a build has come: the least of its shares.
    pub(super) async fn reached(&self, build: &Build) -> Result<Position, StoreError> {
        Ok(self.positions(build).await?.into_iter().min().unwrap_or_default())
    }

    /// How far the build has come that is read: all of it, for one that is kept and so goes no further; else any share of it.
    pub(super) async fn ahead_of(&self, generation: Generation) -> Result<Position, ProcessorError> {
        let known = self.read().await?;
        let positions = self.positions(&self.build(known.current)).await?.into_iter();
        let is_kept = known.previous == Some(generation);
        Ok(if is_kept { positions.min() } else { positions.max() }.unwrap_or_default())
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

    /// What a step would lead to.
    pub(super) fn after(&self, known: &Generations, change: Change) -> Result<Generations, ProcessorError> {
        known.apply(change).map_err(|refused| self.refused(refused, known.current))
    }

    /// Takes one step: again on what is there then, if another node was faster.
    async fn update(
        &self,
        change: &Change,
        with: With,
    ) -> Result<Result<Generations, Refused>, ProcessorError> {
        for _ in 0..TRIES {
            let row = self.row().await?;
            if matches!(with, With::Alone { needs: Some(needed) } if !row.value.all().contains(&needed)) {
                return Ok(Err(Refused::Dropped));
            }
            let next = match row.value.apply(change.clone()) {
                Ok(next) => next,
                Err(refused) => return Ok(Err(refused)),
            };
            let put = generations().put(&Row { value: next.clone(), ..row })?;
            match self.write(&next, put, with).await? {
                Won::Yes(_) => return Ok(Ok(next)),
                Won::No(at) if at.table == *asked().name() => {
                    return Err(not_yet("something was asked of the build that is read meanwhile").into());
                }
                Won::No(_) => {}
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
                let whole =
                    Share::whole(self.build(next.last).to_string(), Checkpoint::new(Position(0), head));
                rows.push(shares.put(&shares.placed(&*self.backend, whole).await?)?);
                rows.push(self.made_by(next).await?);
                Ok(write_rows(&*self.backend, rows).await?)
            }
            With::Switch { to, asked: times } => {
                if let (Some(rev), Some(read)) = (times, next.previous) {
                    rows.push(asked().put(&Row {
                        key: self.build(read).to_string(),
                        rev,
                        value: Asked {},
                    })?);
                }
                rows.push(point(&*self.backend, &self.tables, to).await?);
                rows.extend(self.made_as_before(to, next.previous).await?);
                let commit = Commit { rows, ..Commit::default() };
                self.won(self.backend.switch(&self.tables, to, commit).await).await
            }
            With::Uninstall { generation } => {
                for row in shares.below(&*self.backend, &format!("{}#", self.build(generation))).await? {
                    if generation == 1 {
                        // A version that comes back begins with this number again: its rows count on.
                        rows.extend(shares.decode(row)?.map(|share| shares.retire(&share)).transpose()?);
                        continue;
                    }
                    // Its number is never given out again, so no late write can name rows that are made again.
                    rows.push(shares.delete(row));
                }
                let code = made_by(&*self.backend, &self.build(generation)).await?;
                rows.extend((generation > 1 && code.rev > 0).then(|| codes().delete(&code)));
                let commit = Commit { rows, ..Commit::default() };
                self.won(self.backend.uninstall(&self.tables, generation, commit).await).await
            }
        }
    }

    /// The rows that say which codes make a build and the one that is read, as they are: a start that takes one of them over
    /// before the switch is there writes them too, so that is decided again.
    async fn made_as_before(
        &self,
        to: Generation,
        read: Option<Generation>,
    ) -> Result<Vec<RowWrite>, ProcessorError> {
        let mut rows = Vec::new();
        for generation in read.into_iter().chain([to]) {
            rows.push(codes().put(&made_by(&*self.backend, &self.build(generation)).await?)?);
        }
        self.is_made_by_newest(to).await?;
        Ok(rows)
    }

    /// The row that says which code makes a build that begins.
    async fn made_by(&self, next: &Generations) -> Result<RowWrite, StoreError> {
        let read = made_by(&*self.backend, &self.build(next.current)).await?.value;
        let row = made_by(&*self.backend, &self.build(next.last)).await?;
        let by_itself = next.building.as_ref().is_some_and(|building| building.by_itself);
        let value = match &self.code {
            // It is begun because this program needs it, which may be the older one after a rollback.
            Some(own) if by_itself => after(read.known(), own, Position(0)),
            own => of_new_build(read.known(), own.as_ref()),
        };
        codes().put(&Row { value, ..row })
    }

    async fn won(&self, outcome: Result<Committed, CommitError>) -> Result<Won, ProcessorError> {
        Ok(Won::or_store_error("changing which builds there are", &*self.backend, outcome).await?)
    }

    /// Begins another build, or finds the one that is under way.
    pub(super) async fn begin(
        &self,
        building: impl Fn(Position, crate::Timestamp) -> crate::state::Building,
    ) -> Result<Generation, ProcessorError> {
        let (head, since) = (self.backend.head().await?, self.backend.now().await?);
        let begin = Change::Begin(building(head, since));
        match self.update(&begin, With::FirstShare { head }).await? {
            Ok(next) => Ok(next.last),
            Err(Refused::Building(generation)) => Ok(generation),
            Err(refused) => Err(self.refused(refused, 0)),
        }
    }

    /// Switches queries to another build, once it is as far as the one that they read.
    pub(super) async fn switch_to(&self, to: Generation) -> Result<(), ProcessorError> {
        let builds = self.clone();
        let switched = async move { builds.try_switch(to).await };
        // In a task of its own: a caller who goes away leaves nothing frozen.
        let gone = |gone| StoreError::transient("switching queries to another build", gone);
        tokio::spawn(switched).await.map_err(gone)?
    }

    async fn try_switch(&self, to: Generation) -> Result<(), ProcessorError> {
        if self.read().await?.current == to {
            return Ok(());
        }
        let by = self.ids.next();
        let switched = async {
            // Before it is frozen: that may take a while.
            let left_out = self.leave_out_discarded(to).await?;
            let frozen = self.freeze(to, by).await?;
            self.finish_switch(to, by, &frozen, left_out).await
        };
        let switched = switched.await;
        if switched.is_err() {
            // Whatever has failed: it may have been frozen before that.
            self.thaw(by).await;
            // Another switch to it was faster.
            if self.read().await?.current == to {
                return Ok(());
            }
        }
        switched
    }

    /// Ends a switch or a report. Refused if it never began, or if its time was over and others have ended it.
    async fn thaw(&self, by: Uuid) {
        for _ in 0..THAWS {
            match self.update(&Change::Thaw { by }, With::Alone { needs: None }).await {
                Err(error) if error.kind() == ErrorKind::Transient => tokio::time::sleep(LOOK).await,
                _ => return,
            }
        }
    }

    /// Freezes what is read, or holds both builds, as soon as no other switch or report does.
    async fn take(&self, needed: Generation, by: Uuid, holds: bool) -> Result<Generations, ProcessorError> {
        let limit = i64::try_from(FREEZE.as_micros()).unwrap_or(i64::MAX);
        let asked = Instant::now();
        loop {
            if !holds && self.read().await?.current == needed {
                return Err(self.refused(Refused::InUse, needed));
            }
            let now = self.backend.now().await?.as_microsecond();
            let until = Some(now.saturating_add(limit));
            let freeze = Change::Freeze(Freeze { until, by: Some(by), holds, at: None });
            match self.update(&freeze, With::Alone { needs: Some(needed) }).await? {
                Ok(taken) => return Ok(taken),
                Err(Refused::Switching) if asked.elapsed() < TURN => {
                    expire(&*self.backend, &self.name, now).await?;
                    tokio::time::sleep(LOOK).await;
                }
                Err(refused) => return Err(self.refused(refused, needed)),
            }
        }
    }

    /// Whether the code of another build is older than that of the one that is read, which somebody runs, or which it never
    /// took over from: queries would miss what they have.
    async fn is_older(&self, to: Generation) -> Result<bool, ProcessorError> {
        let current = self.build(self.read().await?.current);
        let next = made_by(&*self.backend, &self.build(to)).await?.value;
        let code = made_by(&*self.backend, &current).await?.value;
        let (Some(next), Some(code)) = (next.known(), code.known()) else { return Ok(false) };
        if !is_older(next, code) {
            return Ok(false);
        }
        let now = self.backend.now().await?.as_microsecond();
        let rolled_back = next.former.contains(&code.code);
        Ok(!rolled_back || lives(code, &self.name, &cluster::alive(&*self.backend).await?, now))
    }

    /// That no older program makes a build than the one that queries read.
    pub(super) async fn is_made_by_newest(&self, to: Generation) -> Result<(), ProcessorError> {
        match self.is_older(to).await? {
            true => Err(ProcessorError::OlderCode { build: self.build(to) }),
            false => Ok(()),
        }
    }

    /// From now on no node works on the build that is read. Gives it.
    async fn freeze(&self, to: Generation, by: Uuid) -> Result<Build, ProcessorError> {
        // Asked before as well, if the store answers: to freeze it stops the one that is read.
        if let Err(older @ ProcessorError::OlderCode { .. }) = self.is_made_by_newest(to).await {
            return Err(older);
        }
        let frozen = self.take(to, by, false).await?;
        // Whoever takes one of them over after this is found by the commit of the switch.
        self.is_made_by_newest(to).await?;
        let current = self.build(frozen.current);
        // A worker on it finds that out with its next flush, which fails.
        self.interrupt_all(&current).await?;
        Ok(current)
    }

    async fn interrupt_all(&self, build: &Build) -> Result<(), ProcessorError> {
        let shares = Shares::<Checkpoint>::checkpoints();
        for share in shares.of(&*self.backend, &build.to_string()).await? {
            shares.interrupt(&*self.backend, share).await?;
        }
        Ok(())
    }

    async fn finish_switch(
        &self,
        to: Generation,
        by: Uuid,
        current: &Build,
        left_out: Option<LeftOut>,
    ) -> Result<(), ProcessorError> {
        let total = self.positions(current).await?.into_iter().max().unwrap_or_default();
        let build = self.build(to);
        let asked = Instant::now();
        loop {
            let done = self.reached(&build).await?;
            if done >= total {
                break;
            }
            if asked.elapsed() >= FREEZE / 2 {
                return Err(ProcessorError::NotCaughtUp { build, done, total, why: String::new() });
            }
            // Given up, or ended by others: then it never will be.
            let switch = self.read().await?.apply(Change::Switch { to, by });
            drop(switch.map_err(|refused| self.refused(refused, to))?);
            tokio::time::sleep(LOOK).await;
        }
        let asked = self.all_left_out(to, left_out).await?;
        let switched = self.update(&Change::Switch { to, by }, With::Switch { to, asked }).await?;
        switched.map(drop).map_err(|refused| self.refused(refused, to))
    }

    /// The rows and tables of the build that is read and of the one that is under way, at one position: both are stopped,
    /// go up to the position that the further one has reached, and continue as soon as the snapshot is taken there. `None` if
    /// they do not come to that in time: one is halted or paused, or has too far to go.
    pub(super) async fn at_one_position(&self, other: Generation) -> Result<Option<Met>, ProcessorError> {
        let builds = self.clone();
        let met = async move {
            let by = builds.ids.next();
            let met = builds.meet(other, by).await;
            // Also if it failed: it may have been held before that.
            builds.thaw(by).await;
            met
        };
        // In a task of its own: a caller who goes away leaves nothing held.
        let gone = |gone| StoreError::transient("comparing two builds", gone);
        tokio::spawn(met).await.map_err(gone)?
    }

    async fn meet(&self, other: Generation, by: Uuid) -> Result<Option<Met>, ProcessorError> {
        let held = self.take(other, by, true).await?;
        let both = [self.build(held.current), self.build(other)];
        for build in &both {
            self.interrupt_all(build).await?;
        }
        let positions = self.positions_of(&both).await?;
        let at = positions.into_iter().max().unwrap_or_default();
        let bound = self.update(&Change::Bound { by, at }, With::Alone { needs: Some(other) }).await?;
        drop(bound.map_err(|refused| self.refused(refused, other))?);
        let asked = Instant::now();
        while self.positions_of(&both).await?.iter().any(|position| *position != at) {
            if asked.elapsed() >= FREEZE / 2 {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
        let snapshot = self.backend.row_snapshot().await?;
        // Names of holds never come again: if it is there now, it was there when the snapshot was taken.
        let is_held = self.read().await?.freeze.by == Some(by);
        Ok(is_held.then_some(Met { current: held.current, at, snapshot }))
    }

    async fn positions_of(&self, builds: &[Build; 2]) -> Result<Vec<Position>, StoreError> {
        let [old, new] = builds;
        Ok([self.positions(old).await?, self.positions(new).await?].concat())
    }

    /// Removes a build that is not read. Harmless if it is gone.
    pub(super) async fn remove(&self, generation: Generation) -> Result<(), ProcessorError> {
        // No node may work on it any more before its tables go.
        let dropped = self.update(&Change::Drop(generation), With::Alone { needs: None }).await?;
        let left = match dropped {
            // Refused: it is on its way out, or has gone. What is left of it goes.
            Ok(_) | Err(Refused::Dropped) => {
                // A worker of another node finds out with its next flush, which is refused.
                if dropped.is_ok() {
                    self.interrupt_all(&self.build(generation)).await?;
                }
                let leaves = |known: &Generations| known.leaving.contains(&generation);
                empty(&*self.backend, &self.build(generation), leaves).await?;
                self.update(&Change::Left(generation), With::Uninstall { generation }).await?
            }
            refused => refused,
        };
        match left {
            Ok(_) | Err(Refused::Dropped) => Ok(()),
            Err(refused) => Err(self.refused(refused, generation)),
        }
    }
}

/// Ends a switch or a report whose time is over. Another node that does it too is no error.
pub(crate) async fn expire(backend: &dyn AnyBackend, processor: &str, now: i64) -> Result<(), StoreError> {
    let Some(row) = Generations::read(backend, processor).await? else { return Ok(()) };
    if let Ok(next) = row.value.apply(Change::Expire { now }) {
        let put = generations().put(&Row { value: next, ..row })?;
        let _won = write_rows(backend, vec![put]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;
    use crate::state::Building;
    use crate::store::Table;

    const TABLES: Tables = Tables { name: "p", version: 1, schema: "" };

    fn builds() -> BuildRows {
        let backend = Arc::new(MemoryBackend::new());
        BuildRows {
            name: "p/1".into(),
            tables: TABLES,
            backend,
            ids: Ids::default(),
            code: Some(Code::default()),
        }
    }

    /// Builds 1 and 2, the first of them as far as this.
    async fn two(first: u64) -> BuildRows {
        let builds = builds();
        assert!(step(&builds, generations().insert("p/1", Generations::default()).unwrap()).await);
        let whole = Share::whole("p/1~1", Checkpoint::new(Position(first), Position(0)));
        assert!(step(&builds, Shares::checkpoints().put(&whole).unwrap()).await);
        assert_eq!(builds.begin(Building::new).await.unwrap(), 2);
        builds
    }

    async fn step(builds: &BuildRows, row: RowWrite) -> bool {
        write_rows(&*builds.backend, vec![row]).await.unwrap().is_yes()
    }

    /// A build comes as far as this.
    async fn reach(builds: &BuildRows, generation: Generation, position: u64) {
        let (shares, group) = (Shares::<Checkpoint>::checkpoints(), builds.build(generation).to_string());
        let share = shares.read(&*builds.backend, &group, 0).await.unwrap().expect("it has one");
        let next = share.with(share.progress.at(Position(position), Vec::new()));
        assert!(step(builds, shares.put(&next).unwrap()).await);
    }

    async fn until_frozen(builds: &BuildRows) {
        while builds.read().await.unwrap().freeze.until.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_switch_that_fails_on_its_way_leaves_nothing_frozen() {
        let builds = two(0).await;
        // Found after the freeze is written.
        let row = Table::<u32>::own("checkpoints").insert("p/1~1#0100", 7).unwrap();
        assert!(step(&builds, row).await);
        let failed = builds.switch_to(2).await.unwrap_err();
        assert!(matches!(failed, ProcessorError::Store(StoreError::Corrupt { .. })), "{failed}");
        assert_eq!(builds.read().await.unwrap().freeze, Freeze::default());
    }

    #[tokio::test]
    async fn a_switch_to_a_build_that_is_given_up_meanwhile_ends_without_waiting() {
        let builds = two(9).await;
        let (switching, begun) = (builds.clone(), Instant::now());
        let switching = tokio::spawn(async move { switching.switch_to(2).await });
        until_frozen(&builds).await;
        builds.remove(2).await.unwrap();
        let failed = switching.await.unwrap().unwrap_err();
        assert!(matches!(failed, ProcessorError::Dropped { .. }), "{failed}");
        assert!(begun.elapsed() < FREEZE / 4);
        let Generations { current, building, freeze, .. } = builds.read().await.unwrap();
        assert_eq!((current, building, freeze), (1, None, Freeze::default()));
    }

    #[tokio::test]
    async fn of_two_switches_the_later_one_waits_and_finds_it_done() {
        let builds = two(9).await;
        let switching = builds.clone();
        let switching = tokio::spawn(async move { switching.switch_to(2).await });
        until_frozen(&builds).await;
        let own = builds.read().await.unwrap().freeze;
        let mut other = Box::pin(builds.switch_to(2));
        assert!(futures::poll!(&mut other).is_pending());
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(builds.read().await.unwrap().freeze, own, "it is not disturbed");
        let before = generations().get(&*builds.backend, "p/1").await.unwrap().unwrap().rev;
        reach(&builds, 2, 9).await;
        switching.await.unwrap().unwrap();
        other.await.unwrap();
        let after = generations().get(&*builds.backend, "p/1").await.unwrap().unwrap().rev;
        assert_eq!(after, before + 1, "nothing is frozen again for the later one");
        let Generations { current, previous, freeze, .. } = builds.read().await.unwrap();
        assert_eq!((current, previous, freeze), (2, Some(1), Freeze::default()));
        // A way back and a rebuild: the older build is kept, so only the first of them can begin.
        let kept = builds.begin(Building::new).await.unwrap_err();
        assert!(matches!(kept, ProcessorError::OlderKept { generation: 1, .. }), "{kept}");
        builds.switch_to(1).await.unwrap();
        builds.switch_to(1).await.unwrap();
        assert_eq!(builds.read().await.unwrap().previous, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_or_report_waits_for_one_of_before_and_not_for_ever() {
        let builds = two(0).await;
        let [gone, held] = [builds.ids.next(), builds.ids.next()];
        // Its program has gone, and its time is over.
        let until = Some(builds.backend.now().await.unwrap().as_microsecond() - 1);
        let left = Change::Freeze(Freeze { until, by: Some(gone), holds: true, at: None });
        drop(builds.update(&left, With::Alone { needs: None }).await.unwrap().unwrap());
        assert!(builds.at_one_position(2).await.unwrap().is_some());
        let for_ever =
            Change::Freeze(Freeze { until: Some(i64::MAX), by: Some(held), holds: false, at: None });
        drop(builds.update(&for_ever, With::Alone { needs: None }).await.unwrap().unwrap());
        let refused = builds.at_one_position(2).await.map(drop).unwrap_err();
        assert!(matches!(refused, ProcessorError::Switching { .. }), "{refused}");
        assert_eq!(builds.read().await.unwrap().freeze.by, Some(held));
    }

    #[tokio::test]
    async fn a_switch_whose_time_is_over_does_not_end_that_of_another() {
        let builds = two(0).await;
        let [late, other] = [builds.ids.next(), builds.ids.next()];
        let current = builds.freeze(2, late).await.unwrap();
        expire(&*builds.backend, "p/1", i64::MAX).await.unwrap();
        builds.freeze(2, other).await.unwrap();
        let failed = builds.finish_switch(2, late, &current, None).await.unwrap_err();
        assert!(matches!(failed, ProcessorError::Switching { .. }), "{failed}");
        let thaw = builds.update(&Change::Thaw { by: late }, With::Alone { needs: None }).await.unwrap();
        assert_eq!(thaw, Err(Refused::NotFrozen));
        // What is frozen until later is not ended by one who looked before.
        expire(&*builds.backend, "p/1", 0).await.unwrap();
        let Generations { current: read, freeze, .. } = builds.read().await.unwrap();
        assert_eq!((read, freeze.by), (1, Some(other)));
        builds.finish_switch(2, other, &current, None).await.unwrap();
        assert_eq!(builds.read().await.unwrap().current, 2);
    }

    #[tokio::test]
    async fn a_flush_of_before_the_freeze_comes_too_late() {
        let builds = two(0).await;
        let shares = Shares::<Checkpoint>::checkpoints();
        let before = shares.read(&*builds.backend, "p/1~1", 0).await.unwrap().unwrap();
        builds.freeze(2, builds.ids.next()).await.unwrap();
        let late = before.with(before.progress.at(Position(5), Vec::new()));
        assert!(!step(&builds, shares.put(&late).unwrap()).await);
    }

    #[tokio::test]
    async fn what_was_given_up_by_a_node_that_ended_goes_with_the_next_try_and_its_number_never_comes_again()
    {
        let builds = two(0).await;
        assert_eq!(builds.begin(Building::new).await.unwrap(), 2, "the one that is under way");
        builds.update(&Change::Drop(2), With::Alone { needs: None }).await.unwrap().unwrap();
        assert_eq!(builds.begin(Building::new).await.unwrap(), 3, "also while it is leaving");
        builds.remove(2).await.unwrap();
        builds.remove(2).await.unwrap();
        assert_eq!(builds.read().await.unwrap().leaving, [] as [Generation; 0]);
        let rows = Shares::<Checkpoint>::checkpoints().below(&*builds.backend, "p/1~2#").await.unwrap();
        assert_eq!(rows, []);
        builds.remove(3).await.unwrap();
        assert_eq!(builds.begin(Building::new).await.unwrap(), 4);
        let read = builds.remove(1).await.unwrap_err();
        assert!(matches!(read, ProcessorError::InUse { .. }), "{read}");
    }

    #[tokio::test]
    async fn a_version_that_was_replaced_is_told_so() {
        let builds = two(0).await;
        let row = builds.row().await.unwrap();
        let retired = Row { value: Generations { retired: true, ..row.value.clone() }, ..row };
        assert!(step(&builds, generations().put(&retired).unwrap()).await);
        for failed in [
            builds.begin(Building::new).await.map(drop),
            builds.switch_to(2).await,
            builds.read().await.map(drop),
        ] {
            let failed = failed.unwrap_err();
            assert!(matches!(failed, ProcessorError::Dropped { .. }), "{failed}");
        }
    }
}
