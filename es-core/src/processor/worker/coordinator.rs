//! One processor on one node: which of its builds it works on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::{BuildContext, NodeContext, Role};
use super::gauges::Gauges;
use super::house::{Chore, House};
use super::makers::Left;
use super::outgrown::Outgrown;
use super::readiness::{CatchingUp, Readiness};
use super::rename::prepare_named;
use super::reset::{ResetRequest, reset};
use super::run::Worker;
use super::shown::show;
use super::sight::Sight;
use super::taken::Taken;
use super::versions;
use crate::cluster::{self, Cluster, Keeper, Share, Shares, Work};
use crate::processor::ProcessorError;
use crate::processor::handle::HandleState;
use crate::processor::kinds::runner::Runner;
use crate::processor::options::ProcessorOptions;
use crate::processor::rebuild::{expire, prepare};
use crate::processor::status::{Board, ProcessorState, RangeStatus, Rate};
use crate::slices::Slices;
use crate::state::{Build, Checkpoint, Control, Generations};
use crate::store::{Generation, Position, StoreError};

/// When it is tried again what could not be settled, if nothing new is seen before.
pub(super) const AGAIN: Duration = Duration::from_millis(200);

pub(crate) struct Coordinator {
    pub(super) node: NodeContext,
    pub(super) cluster: Arc<Cluster>,
    pub(super) runner: Arc<dyn Runner>,
    pub(super) options: ProcessorOptions,
    pub(super) handle: Arc<HandleState>,
    pub(super) sights: watch::Receiver<Option<Arc<Sight>>>,
    pub(super) resets: mpsc::Receiver<ResetRequest>,
    pub(super) builds: BTreeMap<Generation, Running>,
    /// Since when nobody has been seen with the code of a build that this node does not have.
    pub(super) alone: BTreeMap<Generation, Instant>,
    /// Builds of which it has met events that only a newer program knows, though its code says no other.
    pub(super) outgrown: BTreeMap<Generation, Outgrown>,
    /// What this node's code has missed of a build that another one made, and which one.
    pub(super) missing: BTreeMap<Generation, (Option<String>, String)>,
    /// What was seen in looks up to this one is older than a reset.
    pub(super) outdated: u64,
    pub(super) catching_up: CatchingUp,
    /// The same of a build that queries are to be switched to.
    pub(super) switching: ((u64, Generation), CatchingUp),
    pub(super) house: House,
    pub(super) gauges: Gauges,
    /// Whether its tables and rows are there. Not if a row of them could not be read when the app started.
    pub(super) prepared: bool,
    /// The node gives back what it has.
    stop: CancellationToken,
}

/// A build that is worked on here.
pub(super) struct Running {
    keeper: Keeper<BuildWork>,
    rate: Rate,
    /// How often something had been asked of it, when its workers were told.
    asked: u64,
}

/// The work on a share of a build.
struct BuildWork(Arc<BuildContext>);

#[async_trait]
impl Work for BuildWork {
    type Progress = Checkpoint;

    async fn run(&self, share: Share<Checkpoint>, stop: CancellationToken) {
        Worker::new(self.0.clone(), share, stop).run().await;
    }
}

impl Running {
    pub(super) fn context(&self) -> &Arc<BuildContext> {
        &self.keeper.work().0
    }
}

impl Coordinator {
    pub(crate) fn new(
        node: NodeContext,
        cluster: Arc<Cluster>,
        runner: Arc<dyn Runner>,
        options: ProcessorOptions,
        handle: Arc<HandleState>,
        sights: watch::Receiver<Option<Arc<Sight>>>,
        resets: mpsc::Receiver<ResetRequest>,
    ) -> Self {
        Self {
            node,
            cluster,
            runner,
            options,
            handle,
            sights,
            resets,
            builds: BTreeMap::new(),
            alone: BTreeMap::new(),
            outgrown: BTreeMap::new(),
            missing: BTreeMap::new(),
            outdated: 0,
            catching_up: CatchingUp::default(),
            switching: ((0, 0), CatchingUp::default()),
            house: House::default(),
            gauges: Gauges::default(),
            prepared: true,
            stop: CancellationToken::new(),
        }
    }

    /// Its tables and rows are yet to be made.
    pub(crate) fn unprepared(self) -> Self {
        Self { prepared: false, ..self }
    }

    /// Until `stop`; then what the node has of this processor is given back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failed = false;
        self.stop = stop.clone();
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(AGAIN), if failed => {}
                Some(ResetRequest { to, reply }) = self.resets.recv() => {
                    drop(reply.send(self.reset(to).await));
                }
                changed = self.sights.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
            let Some(sight) = self.sights.borrow_and_update().clone() else { continue };
            let settled = self.reconcile(&sight).await;
            if stop.is_cancelled() {
                break;
            }
            failed = settled.is_err();
            if let Err(error) = settled {
                let (processor, error) = (&self.handle.name, crate::chain(&error));
                tracing::warn!(%processor, error, "what to work on could not be settled, and is tried again");
                let current = self.handle.current.borrow().clone();
                let is_other = |board: &Arc<Board>| !Arc::ptr_eq(board, &current) && board.is_unsettled();
                // What is wrong with another build is said there.
                if !self.handle.boards().iter().any(is_other) {
                    current.unsettled(&error);
                }
            }
        }
        self.leave().await;
    }

    async fn reconcile(&mut self, sight: &Sight) -> Result<(), StoreError> {
        // Whoever waits would take the position from before a reset for the one that it has come to.
        if sight.view.look <= self.outdated {
            return Ok(());
        }
        if !self.prepared {
            self.prepare_named().await?;
            self.prepared = true;
            return Ok(());
        }
        let name = self.handle.name.clone();
        if sight.is_removed(&name) {
            // Its version was removed while no node with it was seen: it begins again.
            self.catching_up = CatchingUp::default();
            self.handle.readiness.send_replace(Readiness::Behind);
            if self.node.settings.looks_on {
                // Nothing is there, however far it was.
                self.show_current(&Generations::default(), &Control::default());
                self.handle.board(1).reshape(Vec::new());
                return Ok(());
            }
            self.unless_stopped(prepare(&*self.node.backend, &*self.runner)).await?;
            self.cluster.wake();
            return Ok(());
        }
        if self.is_forgotten(sight) {
            self.prepare_named().await?;
            return Ok(());
        }
        let (generations, control) = (sight.generations(&name)?, sight.control(&name)?);
        let incomplete = self.is_incomplete(&generations, sight)?;
        if incomplete {
            self.handle.readiness.send_replace(Readiness::Incomplete);
        }
        // Before it is shown how far it has come.
        self.note_passed(&generations, incomplete, sight)?;
        self.show_current(&generations, &control);
        self.gauges.follow(&name, &generations);
        if generations.freeze.until.is_some_and(|until| until < sight.view.now) {
            // Whoever switched queries is gone; nothing has changed for them.
            expire(&*self.node.backend, &name, sight.view.now).await?;
        }
        let roles = generations.all().into_iter().filter_map(|g| Some((g, generations.role(&name, g)?)));
        let mut roles: BTreeMap<Generation, Role> = roles.collect();
        let (left, settled) = if self.node.settings.looks_on {
            (Left::new(), Ok(()))
        } else {
            self.leave_to_others(&mut roles, sight).await
        };
        if control.paused.is_some() {
            roles.clear();
        }
        self.end_others(&roles, &left, control.paused.is_some()).await;
        self.show_idle(sight, &generations, &control, &left).await?;
        // What cannot be settled of one build stops no other.
        let mut settled = settled;
        for (generation, role) in roles {
            settled = settled.and(self.work_on(generation, role, sight).await);
        }
        if !incomplete {
            self.show_readiness(sight);
        }
        if self.node.settings.looks_on {
            return settled;
        }
        settled.and(self.keep_house(&generations, sight).await)
    }

    /// Whether it was forgotten while no node with it was seen: it has no place in the log, and no other name.
    fn is_forgotten(&self, sight: &Sight) -> bool {
        let name = &*self.handle.name;
        let shares =
            || sight.view.shares(&Shares::<Checkpoint>::checkpoints(), &Build::first(name).to_string());
        // A share that cannot be read is one.
        self.runner.keeps().tables().is_none()
            && !self.node.settings.looks_on
            && sight.renamed(name).is_none()
            && shares().is_ok_and(|shares| shares.is_empty())
    }

    /// Makes its rows, or finds them under another name. What is there then is seen with the next look.
    async fn prepare_named(&self) -> Result<(), StoreError> {
        let (backend, lease) = (&*self.node.backend, self.node.settings.lease);
        let (backfill, taken) = (self.options.backfill, Taken::default());
        self.unless_stopped(prepare_named(backend, &*self.runner, lease, backfill, &taken)).await?;
        self.cluster.wake();
        Ok(())
    }

    /// Does what may take long. If the node stops, it is left as it is: whoever looks next takes it up again.
    pub(super) async fn unless_stopped<T, E: From<StoreError>>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                Err(StoreError::transient("settling a processor", std::io::Error::other("its node stops")).into())
            }
            done = work => done,
        }
    }

    /// Ends the work on builds that have another role by now, or none.
    async fn end_others(&mut self, roles: &BTreeMap<Generation, Role>, left: &Left, is_paused: bool) {
        let ends = |(generation, running): (&Generation, &mut Running)| {
            (roles.get(generation) != Some(&running.context().role)).then_some(*generation)
        };
        let ended: Vec<Generation> = self.builds.iter_mut().filter_map(ends).collect();
        for generation in ended {
            if let Some(running) = self.builds.remove(&generation) {
                self.end(running, is_paused || left.contains_key(&generation)).await;
            }
        }
    }

    /// Begins what is to be done for a projection beside the work on its builds.
    async fn keep_house(&mut self, generations: &Generations, sight: &Sight) -> Result<(), StoreError> {
        let Some(tables) = self.runner.keeps().tables() else { return Ok(()) };
        let lease = self.node.settings.lease;
        let is_ready = *self.handle.readiness.borrow() == Readiness::Ready;
        let mut chores = Vec::new();
        if let Some(building) = generations.building.as_ref().filter(|building| building.by_itself) {
            let generation = building.generation;
            // Not while it is halted: the one that is read would stand still for nothing.
            let position = self.position_of(generation).filter(|_| self.builds.contains_key(&generation));
            let (known, catching_up) = &mut self.switching;
            // A history that was restored into the middle of it has the same numbers.
            let of = (self.node.backend.history(), generation);
            if std::mem::replace(known, of) != of {
                *catching_up = CatchingUp::default();
            }
            let is_free = generations.freeze.until.is_none() && generations.set_back.is_empty();
            let caught_up = catching_up.look(position, sight.head) && position.is_some() && is_free;
            chores.extend(caught_up.then_some(Chore::Switch(generation)));
        } else if generations.building.is_none() && self.lacks_events(generations, sight)? {
            chores.push(Chore::Backfill);
        }
        // It holds up what is read, or a rebuild.
        chores.extend(generations.set_back.first().map(|to| Chore::SetBack(to.generation)));
        chores.extend(generations.gone().map(Chore::Remove));
        if is_ready {
            chores.extend(versions::is_to_have_names(&tables, sight, lease)?.map(Chore::Publish));
        }
        // A node that starts, or that the store did not hear for a while, is not seen either.
        let kept = self.options.keep_versions.max(lease * 2);
        let (noted, gone) = versions::unseen(&tables, sight, kept, is_ready)?;
        chores.extend(noted.map(Chore::Note));
        chores.extend(gone.map(|(version, noted)| Chore::Forget(version, noted)));
        self.house.keep(chores, &self.node, &self.runner, &self.cluster).await;
        Ok(())
    }

    /// How far a build has come; `None` if that cannot be seen.
    pub(super) fn position_of(&self, generation: Generation) -> Option<Position> {
        let status = self.handle.board(generation).now();
        let goes_on = !matches!(
            status.state,
            ProcessorState::Unsettled { .. } | ProcessorState::Failing { .. } | ProcessorState::Halted { .. }
        );
        (goes_on && !status.ranges.is_empty()).then_some(status.position)
    }

    pub(super) fn build(&self, generation: Generation) -> Build {
        Build { processor: self.handle.name.clone(), generation }
    }

    async fn work_on(&mut self, generation: Generation, role: Role, sight: &Sight) -> Result<(), StoreError> {
        if !self.builds.contains_key(&generation) {
            let running = self.begin(generation, role).await?;
            self.builds.insert(generation, running);
        }
        let settled = self.settle(generation, sight).await;
        if let Err(error) = &settled {
            self.handle.board(generation).unsettled(&crate::chain(error));
        }
        settled
    }

    async fn end(&self, mut running: Running, gives_back: bool) {
        running.keeper.stop().await;
        if gives_back {
            running.keeper.leave().await;
        }
    }

    async fn begin(&self, generation: Generation, role: Role) -> Result<Running, StoreError> {
        let build = Build { processor: self.handle.name.clone(), generation };
        let (group, runner) = (build.to_string(), self.runner.clone());
        let context = BuildContext::new(&self.node, runner, self.options, build, role, &self.handle).await?;
        let (shares, splits) = (context.shares.clone(), context.execution.splits);
        let keeper = Keeper::new(self.cluster.clone(), shares, group, Arc::new(BuildWork(Arc::new(context))));
        let keeper = if splits { keeper.splitting(self.options.workers) } else { keeper };
        Ok(Running { keeper, rate: Rate::new(), asked: 0 })
    }

    /// Claims, gives back, splits and merges shares of a build, and works on those of this node.
    async fn settle(&mut self, generation: Generation, sight: &Sight) -> Result<(), StoreError> {
        let running = self.builds.get_mut(&generation).expect("it was just begun");
        let shares = running.keeper.settle(&sight.view).await?;
        let context = running.context().clone();
        show(&context, &shares);
        let asked = sight.asked(&context.build.to_string());
        if std::mem::replace(&mut running.asked, asked) != asked {
            self.handle.wake_workers();
        }
        running.rate.measure(&context.board);
        context.board.at_head(sight.head);
        self.gauges.show(&context.build, &context.board.now(), sight.head);
        Ok(())
    }

    async fn reset(&mut self, to: super::Reset) -> Result<(), ProcessorError> {
        let mut owner = None;
        let current = self.handle.current.borrow().now().generation;
        if let Some(running) = self.builds.get_mut(&current) {
            running.keeper.stop().await;
            owner = Some(self.node.node);
        }
        let (build, position) = self.unless_stopped(reset(&self.node, &*self.runner, to, owner)).await?;
        self.outdated = self.cluster.looks();
        self.cluster.wake();
        let state = ProcessorState::Starting;
        let whole = RangeStatus::new(Slices::ALL, owner, position, state, 0);
        self.handle.board(build.generation).reshape(vec![whole]);
        Ok(())
    }

    /// Ends the work, after the pages that are worked on, and gives the shares back.
    async fn leave(mut self) {
        join_all(self.builds.values_mut().map(|running| running.keeper.stop())).await;
        // Also of a build that is frozen, and worked on by no node at the moment.
        for board in self.handle.boards() {
            let build = Build { processor: self.handle.name.clone(), generation: board.now().generation };
            let shares = Shares::<Checkpoint>::checkpoints();
            cluster::give_back(&self.cluster, &shares, &build.to_string()).await;
            board.stopped();
        }
        self.gauges.end(&self.handle.name);
    }
}
