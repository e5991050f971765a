//! One processor on one node: which of its builds and ranges are worked on here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::build::Build;
use super::engine::{Engine, Ground, Role};
use super::generations::Generations;
use super::node::{self, Alive, Snapshot};
use super::plan::{Action, Holder, Seen, plan};
use super::range::{self, Range};
use super::runner::Runner;
use super::status::{Board, ProcessorState, RangeStatus, Rate};
use super::worker::Worker;
use super::{Reset, parked, rows};
use crate::slices::Slices;
use crate::store::{Commit, CommitError, Generation, Position, Resolution, RowWrite, StoreError, StoredRow};

/// When it is tried again what could not be settled, if nothing new is seen before.
const AGAIN: Duration = Duration::from_millis(200);
/// How often it is tried to give ranges back; seen to be done by a last look.
const GIVES_BACK: usize = 4;

/// What the handle of a processor and its coordinator share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) name: Arc<str>,
    boards: Mutex<BTreeMap<Generation, Arc<Board>>>,
    /// The board of what queries read.
    pub(crate) current: watch::Sender<Arc<Board>>,
    /// Wakes the workers.
    pub(crate) nudge: Arc<watch::Sender<u64>>,
    /// Wakes those that stand still.
    pub(crate) resumed: Arc<watch::Sender<u64>>,
}

impl Desk {
    pub(crate) fn new(name: &str) -> Self {
        let build = Build { processor: name.into(), generation: 1 };
        let board = Arc::new(Board::new(&build));
        Self {
            name: build.processor,
            boards: Mutex::new(BTreeMap::from([(1, board.clone())])),
            current: watch::Sender::new(board),
            nudge: Arc::default(),
            resumed: Arc::default(),
        }
    }

    pub(crate) fn board(&self, generation: Generation) -> Arc<Board> {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let build = Build { processor: self.name.clone(), generation };
        boards.entry(generation).or_insert_with(|| Arc::new(Board::new(&build))).clone()
    }

    pub(crate) fn boards(&self) -> Vec<Arc<Board>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn keep(&self, generations: &[Generation]) {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.retain(|generation, _| generations.contains(generation));
    }
}

/// What the handle asks the coordinator to do.
#[derive(Debug)]
pub(crate) enum Order {
    Reset(Reset, oneshot::Sender<Result<(), StoreError>>),
}

pub(crate) struct Coordinator {
    ground: Ground,
    runner: Arc<dyn Runner>,
    desk: Arc<Desk>,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    orders: mpsc::Receiver<Order>,
    builds: BTreeMap<Generation, Running>,
}

/// A build that is worked on here.
struct Running {
    engine: Arc<Engine>,
    workers: BTreeMap<u16, Task>,
    rate: Rate,
    /// How often somebody had asked something of it, when its workers were told.
    asked: u64,
}

struct Task {
    slices: Slices,
    epoch: u64,
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

impl Coordinator {
    pub(crate) fn new(
        ground: Ground,
        runner: Arc<dyn Runner>,
        desk: Arc<Desk>,
        snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        Self { ground, runner, desk, snapshot, orders, builds: BTreeMap::new() }
    }

    /// Until `stop`; then what the node has of this processor is given back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failed = false;
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(AGAIN), if failed => {}
                Some(Order::Reset(to, reply)) = self.orders.recv() => {
                    let done = self.reset(to).await;
                    drop(reply.send(done));
                }
                changed = self.snapshot.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
            let Some(snapshot) = self.snapshot.borrow_and_update().clone() else { continue };
            let settled = self.reconcile(&snapshot).await;
            failed = settled.is_err();
            if let Err(error) = settled {
                let (processor, error) = (&self.desk.name, crate::chain(&error));
                tracing::warn!(%processor, error, "what to work on could not be settled, and is tried again");
            }
        }
        self.leave().await;
    }

    async fn reconcile(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let name = self.desk.name.clone();
        let generations = snapshot.generations.get(&*name).cloned().unwrap_or_default();
        let roles = generations.all().into_iter().filter_map(|g| Some((g, generations.role(&name, g)?)));
        let roles: BTreeMap<Generation, Role> = roles.collect();
        let gone: Vec<Generation> = self.builds.keys().filter(|g| !roles.contains_key(g)).copied().collect();
        for generation in gone {
            if let Some(mut running) = self.builds.remove(&generation) {
                stop_all(&mut running.workers).await;
            }
        }
        self.desk.keep(&generations.all());
        if generations.frozen.is_some_and(|until| until < snapshot.now) {
            // Whoever led the queries elsewhere is gone; nothing has changed for them.
            write(&self.ground, vec![Generations { frozen: None, ..generations.clone() }.write(&name)])
                .await?;
        }
        for (generation, role) in roles {
            let changed = self.builds.get(&generation).is_some_and(|running| running.engine.role != role);
            if changed && let Some(mut running) = self.builds.remove(&generation) {
                stop_all(&mut running.workers).await;
            }
            if !self.builds.contains_key(&generation) {
                let running = self.begin(generation, role).await?;
                self.builds.insert(generation, running);
            }
            self.shape(generation, snapshot).await?;
        }
        let board = self.desk.board(generations.current);
        self.desk.current.send_if_modified(|current| {
            let other = !Arc::ptr_eq(current, &board);
            *current = board;
            other
        });
        Ok(())
    }

    async fn begin(&self, generation: Generation, role: Role) -> Result<Running, StoreError> {
        let build = Build { processor: self.desk.name.clone(), generation };
        let (board, runner) = (self.desk.board(generation), self.runner.clone());
        let (nudge, resumed) = (self.desk.nudge.clone(), self.desk.resumed.clone());
        let engine = Engine::new(&self.ground, runner, build, role, board, nudge, resumed).await?;
        Ok(Running { engine: Arc::new(engine), workers: BTreeMap::new(), rate: Rate::new(), asked: 0 })
    }

    /// Claims, gives back, splits and merges ranges of a build, and works on those of this node.
    async fn shape(&mut self, generation: Generation, snapshot: &Snapshot) -> Result<(), StoreError> {
        let ground = self.ground.clone();
        let running = self.builds.get_mut(&generation).expect("it was just begun");
        running.workers.retain(|_, task| !task.handle.is_finished());
        let build = running.engine.build.clone();
        let seen = snapshot.ranges.get(&build).cloned().unwrap_or_default();
        let members = snapshot.members(&self.desk.name);
        let splits = running.engine.traits.splits;
        let decide = |ranges: &[Range], alive: &Alive| {
            plan(&look(&ground, ranges, alive), members, splits, ground.settings.workers)
        };
        let own = |range: &&Range| range.owner == Some(ground.node);
        let works = |workers: &BTreeMap<u16, Task>, range: &Range| {
            let same = |task: &Task| task.slices == range.slices && task.epoch == range.epoch;
            workers.get(&range.slices.first).is_some_and(same)
        };
        if ground.settings.workers == 0 {
            show(&running.engine.board, &ground, &seen);
            running.rate.measure(&running.engine.board);
            return Ok(());
        }
        let idle = seen.iter().filter(own).any(|range| !works(&running.workers, range));
        let mut ranges = seen;
        if ranges.is_empty() || idle || !decide(&ranges, &snapshot.alive).is_empty() {
            // What was seen may be old: what is done is decided on what is there now. Ranges first: whoever has one has
            // said before that it is alive.
            ranges = range::of(&*ground.backend, &build).await?;
            let now = ground.backend.now().await?.as_microsecond();
            let alive = node::alive(&*ground.backend, now).await?;
            for action in decide(&ranges, &alive) {
                act(&ground, running, &ranges, action).await?;
            }
            ranges = range::of(&*ground.backend, &build).await?;
        }
        show(&running.engine.board, &ground, &ranges);
        let starting: Vec<Range> =
            ranges.iter().filter(own).filter(|range| !works(&running.workers, range)).cloned().collect();
        for range in starting {
            let first = range.slices.first;
            if let Some(task) = running.workers.remove(&first) {
                stop(task).await;
            }
            running.workers.insert(first, start(&running.engine, range));
        }
        let asked = snapshot.asked.get(&build.to_string()).copied().unwrap_or_default();
        if std::mem::replace(&mut running.asked, asked) != asked {
            self.desk.nudge.send_modify(|n| *n += 1);
        }
        running.rate.measure(&running.engine.board);
        gauges(&running.engine, snapshot.head);
        Ok(())
    }

    /// Sets what queries read back to a position. All slices or none; refused while another node works on one.
    async fn reset(&mut self, to: Reset) -> Result<(), StoreError> {
        let Some(tables) = self.runner.tables() else {
            return Err(StoreError::misuse(format!(
                "{} acts outside: it is not reset, for it would act twice",
                self.desk.name
            )));
        };
        let backend = self.ground.backend.clone();
        crate::store::inline_set::not_inline(&*backend, &self.desk.name).await?;
        let generations = Generations::read(&*backend, &self.desk.name).await?.unwrap_or_default();
        let build = generations.build(&self.desk.name, generations.current);
        let target = match to {
            Reset::Start => Position(0),
            Reset::Position(position) => position.min(backend.head().await?),
            Reset::Time(time) => backend.position_at(time).await?,
            Reset::Head => backend.head().await?,
        };
        if to != Reset::Start && !self.runner.traits().idempotent {
            return Err(StoreError::misuse(format!(
                "{} cannot be set to {target}: its handlers would take in events twice or leave some out; declare it \
                 `idempotent` if that does no harm, or reset it to the start",
                self.desk.name
            )));
        }
        if let Some(running) = self.builds.get_mut(&build.generation) {
            stop_all(&mut running.workers).await;
        }
        let ranges = range::of(&*backend, &build).await?;
        let alive = node::alive(&*backend, backend.now().await?.as_microsecond()).await?;
        let others = |range: &&Range| {
            range.owner.is_some_and(|owner| owner != self.ground.node && alive.contains_key(&owner))
        };
        if let Some(range) = ranges.iter().find(others) {
            let owner = range.owner.unwrap_or_default();
            return Err(StoreError::misuse(format!(
                "slices {} of {} are worked on by node {owner}: stop that node first, or rebuild online",
                range.slices, self.desk.name
            )));
        }
        let whole = Range {
            rev: ranges.first().map_or(0, |range| range.rev),
            epoch: ranges.iter().map(|range| range.epoch).max().unwrap_or_default() + 1,
            owner: Some(self.ground.node),
            ..Range::new(build.clone(), target, backend.head().await?)
        };
        let mut changes = vec![whole.write()];
        changes.extend(ranges.iter().skip(1).map(Range::forget));
        let commit = |rows| Commit { rows, ..Commit::default() };
        let done = if to == Reset::Start {
            backend.clear(&tables, build.generation, commit(changes)).await
        } else {
            changes.extend(parked_after(&self.ground.backend, &build, target).await?);
            backend.commit(commit(changes)).await
        };
        match done {
            Ok(_) => {
                self.desk.board(build.generation).reshape(vec![RangeStatus {
                    slices: Slices::ALL,
                    owner: Some(self.ground.node),
                    position: target,
                    state: ProcessorState::Starting,
                    parked: 0,
                }]);
                Ok(())
            }
            Err(CommitError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::transient("resetting a processor", other)),
        }
    }

    /// Ends the work, after the pages that are worked on, and gives the ranges back.
    async fn leave(mut self) {
        join_all(self.builds.values_mut().map(|running| stop_all(&mut running.workers))).await;
        // Also of a build that is frozen, and worked on by nobody at the moment.
        for board in self.desk.boards() {
            let build = Build { processor: self.desk.name.clone(), generation: board.now().generation };
            for _ in 0..GIVES_BACK {
                match free(&self.ground, &build).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    // If it cannot be done, the lease runs out all the same.
                    Err(error) => {
                        tracing::debug!(%build, error = crate::chain(&error), "ranges are not given back");
                    }
                }
            }
            board.stopped();
        }
    }
}

fn gauges(engine: &Engine, head: Position) {
    let Build { processor, generation } = &engine.build;
    let (processor, generation) = (processor.clone(), generation.to_string());
    let status = engine.board.now();
    let set = |name: &'static str, value: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a gauge for people")]
        let value = value as f64;
        metrics::gauge!(name, "processor" => processor.clone(), "generation" => generation.clone())
            .set(value);
    };
    set("es_processor_position", status.position.0);
    set("es_processor_lag", head.0.saturating_sub(status.position.0));
    set("es_processor_parked", status.parked as u64);
}

fn look(ground: &Ground, ranges: &[Range], alive: &Alive) -> Vec<Seen> {
    let holder = |owner: Option<uuid::Uuid>| match owner {
        Some(owner) if owner == ground.node => Holder::Me,
        Some(owner) if alive.contains_key(&owner) => Holder::Other,
        _ => Holder::Nobody,
    };
    let seen =
        |range: &Range| Seen { slices: range.slices, position: range.position, holder: holder(range.owner) };
    ranges.iter().map(seen).collect()
}

/// Writes rows of ranges. Somebody who was faster is no error: what to do is decided anew.
async fn write(ground: &Ground, rows: Vec<RowWrite>) -> Result<(), StoreError> {
    match ground.backend.commit(Commit { rows, ..Commit::default() }).await {
        Ok(_) | Err(CommitError::Fenced { .. }) => Ok(()),
        // So that what is read next is what there is.
        Err(CommitError::Unknown(attempt)) => match ground.backend.resolve(&attempt).await? {
            Resolution::Applied(_) => Ok(()),
            Resolution::Never => {
                Err(StoreError::transient("writing a checkpoint", CommitError::Unknown(attempt)))
            }
        },
        Err(CommitError::Store(error)) => Err(error),
        Err(other) => Err(StoreError::transient("writing a checkpoint", other)),
    }
}

async fn act(
    ground: &Ground,
    running: &mut Running,
    ranges: &[Range],
    action: Action,
) -> Result<(), StoreError> {
    let (node, build) = (Some(ground.node), running.engine.build.clone());
    let found = |first: u16| ranges.iter().find(|range| range.slices.first == first);
    let (first, next) = match action {
        Action::Claim { first } | Action::ClaimPart { first, .. } => {
            let Some(range) = found(first) else { return Ok(()) };
            let rows = match action {
                Action::ClaimPart { count, .. } => {
                    let Some([low, high]) = range.split(count) else { return Ok(()) };
                    let high = high.owned_by(None).placed(&*ground.backend).await?;
                    vec![low.owned_by(node).write(), high.write()]
                }
                _ => vec![range.owned_by(node).write()],
            };
            tracing::debug!(%build, slices = %range.slices, ?action, from = ?range.owner, "claims a range");
            return write(ground, rows).await;
        }
        Action::Free { first } | Action::KeepPart { first, .. } | Action::Split { first, .. } => {
            (first, None)
        }
        Action::Merge { first, next } => (first, Some(next)),
    };
    for first in [Some(first), next].into_iter().flatten() {
        if let Some(task) = running.workers.remove(&first) {
            stop(task).await;
            running.engine.board.update(first, |range| range.state = ProcessorState::Starting);
        }
    }
    // The worker has moved it since it was read.
    let own = |range: &Range| range.owner == node;
    let Some(range) = range::read(&*ground.backend, &build, first).await?.filter(own) else { return Ok(()) };
    let rows = match (action, next) {
        (Action::Free { .. }, _) => vec![range.owned_by(None).write()],
        (Action::KeepPart { count, .. } | Action::Split { count, .. }, _) => {
            let Some([low, high]) = range.split(count) else { return Ok(()) };
            let keeps = matches!(action, Action::Split { .. });
            let high = if keeps { high } else { high.owned_by(None) };
            vec![low.write(), high.placed(&*ground.backend).await?.write()]
        }
        (_, Some(next)) => {
            let Some(next) = range::read(&*ground.backend, &build, next).await?.filter(own) else {
                return Ok(());
            };
            match range.merge(&next) {
                Some((whole, gone)) => vec![whole.write(), gone],
                None => return Ok(()),
            }
        }
        (_, None) => unreachable!("a merge names its neighbour"),
    };
    tracing::debug!(%build, slices = %range.slices, ?action, "reshapes a range");
    write(ground, rows).await
}

/// Gives all ranges of a build back. Whether there was nothing more to give.
async fn free(ground: &Ground, build: &Build) -> Result<bool, StoreError> {
    let ranges = range::of(&*ground.backend, build).await?;
    let own = ranges.iter().filter(|range| range.owner == Some(ground.node));
    let rows: Vec<RowWrite> = own.map(|range| range.owned_by(None).write()).collect();
    if rows.is_empty() {
        return Ok(true);
    }
    write(ground, rows).await.map(|()| false)
}

fn start(engine: &Arc<Engine>, range: Range) -> Task {
    let stop = CancellationToken::new();
    let (slices, epoch) = (range.slices, range.epoch);
    let handle = tokio::spawn(Worker::new(engine.clone(), range, stop.clone()).run());
    Task { slices, epoch, stop, handle }
}

async fn stop(task: Task) {
    task.stop.cancel();
    if let Err(error) = task.handle.await {
        tracing::error!(%error, "a worker ended in a panic");
    }
}

async fn stop_all(workers: &mut BTreeMap<u16, Task>) {
    let tasks = std::mem::take(workers);
    join_all(tasks.into_values().map(stop)).await;
}

fn show(board: &Board, ground: &Ground, ranges: &[Range]) {
    let before = board.now();
    let status = |range: &Range| {
        let known = before.ranges.iter().find(|known| known.slices == range.slices);
        let own = range.owner == Some(ground.node);
        match known.filter(|known| own && known.owner == range.owner) {
            Some(known) => known.clone(),
            None => RangeStatus {
                slices: range.slices,
                owner: range.owner,
                position: range.position,
                state: if own { ProcessorState::Starting } else { ProcessorState::Elsewhere },
                parked: 0,
            },
        }
    };
    board.reshape(ranges.iter().map(status).collect());
}

/// The rows of what was set aside after a position: parked events and skips go, for their events come again.
async fn parked_after(
    backend: &Arc<dyn super::backend::AnyBackend>,
    build: &Build,
    target: Position,
) -> Result<Vec<RowWrite>, StoreError> {
    let mut gone = Vec::new();
    for (key, kept) in parked::of_range(&**backend, build, Slices::ALL).await? {
        let (table, before, mut after) = (build.parked_events(), gone.len(), target);
        loop {
            let page =
                parked::positions(&**backend, build, &key, &kept, after, crate::limits::MAX_PAGE).await?;
            let Some((_, last)) = page.last() else { break };
            after = *last;
            let remove = |(row, _): (StoredRow, Position)| removal(table.clone(), row);
            gone.extend(page.into_iter().map(remove));
        }
        let n = gone.len() - before;
        if n > 0 {
            let mut left = kept;
            left.stored.events = left.stored.events.saturating_sub(n as u64);
            let sequence = left.write(build, &key);
            gone.push(if left.stored.events == 0 { RowWrite { row: None, ..sequence } } else { sequence });
        }
    }
    for row in rows::whole(&**backend, &build.skipped()).await? {
        if rows::decode::<parked::Skipped>(&build.skipped(), &row)?.position > target {
            gone.push(removal(build.skipped(), row));
        }
    }
    Ok(gone)
}

fn removal(table: Arc<str>, row: StoredRow) -> RowWrite {
    RowWrite { table, key: row.key, rev: row.rev, row: None }
}
