//! One processor on one node: which of its builds it works on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codes::{self, Standing};
use super::context::{BuildContext, NodeContext, Role};
use super::house::{Chore, House};
use super::outgrown::{Other, Outgrown};
use super::readiness::{CatchingUp, Readiness};
use super::rename::rename;
use super::reset::{ResetRequest, reset};
use super::run::Worker;
use super::sight::Sight;
use super::take_over::{RAISE, TakeOver};
use super::versions;
use crate::cluster::{self, Cluster, Keeper, Share, Shares, Work};
use crate::processor::ProcessorError;
use crate::processor::handle::HandleState;
use crate::processor::kinds::runner::Runner;
use crate::processor::options::ProcessorOptions;
use crate::processor::rebuild::{Backfill, begin_backfill, expire, prepare, remove_build};
use crate::processor::status::{Board, ProcessorState, RangeStatus, Rate};
use crate::slices::Slices;
use crate::state::{Build, Checkpoint, CodeRecord, Control, Generations};
use crate::store::{Generation, Position, StoreError};

/// What this node's code is to a build.
enum Code {
    Makes,
    /// Nodes with another one work on it.
    StandsBy,
    /// That is not known yet: it is just being taken over, or those who made it are not seen any more.
    Changes,
    /// It is newer, and has missed events of the build.
    IsMissing(String),
}

/// When it is tried again what could not be settled, if nothing new is seen before.
pub(super) const AGAIN: Duration = Duration::from_millis(200);

pub(crate) struct Coordinator {
    node: NodeContext,
    cluster: Arc<Cluster>,
    runner: Arc<dyn Runner>,
    options: ProcessorOptions,
    handle: Arc<HandleState>,
    sights: watch::Receiver<Option<Arc<Sight>>>,
    resets: mpsc::Receiver<ResetRequest>,
    builds: BTreeMap<Generation, Running>,
    /// Since when nobody has been seen with the code of a build that this node does not have.
    alone: BTreeMap<Generation, Instant>,
    /// Builds of which it has met events that only a newer program knows, though its code says no other.
    outgrown: BTreeMap<Generation, Outgrown>,
    /// What this node's code has missed of a build that another one made, and which one.
    missing: BTreeMap<Generation, (Option<String>, String)>,
    /// What was seen in looks up to this one is older than a reset.
    outdated: u64,
    catching_up: CatchingUp,
    /// The same of a build that queries are to be switched to.
    switching: (Generation, CatchingUp),
    house: House,
    /// Whether its tables and rows are there. Not if a row of them could not be read when the app started.
    prepared: bool,
}

/// A build that is worked on here.
struct Running {
    keeper: Keeper<BuildWork>,
    rate: Rate,
    /// Where it was seen last, on whichever node.
    seen: Position,
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
    fn context(&self) -> &Arc<BuildContext> {
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
            switching: (0, CatchingUp::default()),
            house: House::default(),
            prepared: true,
        }
    }

    /// Its tables and rows are yet to be made.
    pub(crate) fn unprepared(self) -> Self {
        Self { prepared: false, ..self }
    }

    /// Until `stop`; then what the node has of this processor is given back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failed = false;
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
            prepare(&*self.node.backend, &*self.runner).await?;
            self.prepared = true;
            // What it has made is seen with the next look.
            self.cluster.wake();
            return Ok(());
        }
        let name = self.handle.name.clone();
        if sight.is_removed(&name) && !self.node.settings.looks_on {
            // Its version was removed while no node with it was seen: it begins again.
            self.catching_up = CatchingUp::default();
            self.handle.readiness.send_replace(Readiness::Behind);
            prepare(&*self.node.backend, &*self.runner).await?;
            self.cluster.wake();
            return Ok(());
        }
        let (generations, control) = (sight.generations(&name)?, sight.control(&name)?);
        let incomplete = self.is_incomplete(&generations, sight)?;
        if incomplete {
            self.handle.readiness.send_replace(Readiness::Incomplete);
        }
        self.show_current(&generations, &control);
        if generations.freeze.until.is_some_and(|until| until < sight.view.now) {
            // Whoever switched queries is gone; nothing has changed for them.
            expire(&*self.node.backend, &name, sight.view.now).await?;
        }
        let roles = generations.all().into_iter().filter_map(|g| Some((g, generations.role(&name, g)?)));
        let mut roles: BTreeMap<Generation, Role> = roles.collect();
        let (left, settled) = if self.node.settings.looks_on {
            (BTreeSet::new(), Ok(()))
        } else {
            self.leave_to_others(&mut roles, sight).await
        };
        if control.paused.is_some() {
            roles.clear();
        }
        self.end_others(&roles, &left, control.paused.is_some()).await;
        self.show_idle(sight, &generations.all(), &control, &left).await?;
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

    /// Ends the work on builds that have another role by now, or none.
    async fn end_others(
        &mut self,
        roles: &BTreeMap<Generation, Role>,
        left: &BTreeSet<Generation>,
        is_paused: bool,
    ) {
        let ends = |(generation, running): (&Generation, &mut Running)| {
            (roles.get(generation) != Some(&running.context().role)).then_some(*generation)
        };
        let ended: Vec<Generation> = self.builds.iter_mut().filter_map(ends).collect();
        for generation in ended {
            if let Some(running) = self.builds.remove(&generation) {
                self.end(running, is_paused || left.contains(&generation)).await;
            }
        }
    }

    /// Shows which build queries read, and lets its workers go on if an operator resumed it.
    fn show_current(&self, generations: &Generations, control: &Control) {
        self.handle.keep(&generations.all());
        let board = self.handle.board(generations.current);
        self.handle.current.send_if_modified(|current| {
            let other = !Arc::ptr_eq(current, &board);
            *current = board;
            other
        });
        if self
            .handle
            .resumes
            .send_if_modified(|known| std::mem::replace(known, control.resumes) != control.resumes)
        {
            self.handle.wake_workers();
        }
    }

    /// Whether what queries read may have passed events that this program handles: an older program makes it, or it is being
    /// rebuilt for their sake.
    fn is_incomplete(&self, generations: &Generations, sight: &Sight) -> Result<bool, StoreError> {
        let Some(read) = sight.code(&self.build(generations.current).to_string())? else { return Ok(false) };
        let code = self.runner.code();
        let own = CodeRecord::of(&code);
        if read.code == own.code {
            return Ok(read.incomplete);
        }
        if let Some(building) = generations.building.as_ref().filter(|building| building.by_itself) {
            let made_by = sight.code(&self.build(building.generation).to_string())?;
            // After a rollback, it may be the older program that rebuilds.
            let is_own = made_by.is_some_and(|made_by| made_by.code == own.code);
            return Ok(is_own || !codes::is_older(&own, &read));
        }
        // On a node that looks on, nobody may ever take it over.
        let lacks = !read.handles_all_of(&code) || !read.rekeyed(&code).is_empty();
        Ok(lacks && !codes::is_older(&own, &read))
    }

    /// Whether what queries read was taken over without events that this program handles.
    fn lacks_events(&self, generations: &Generations, sight: &Sight) -> Result<bool, StoreError> {
        let read = sight.code(&self.build(generations.current).to_string())?;
        Ok(read.is_some_and(|read| read.incomplete && read.code == self.runner.code().fingerprint()))
    }

    /// Says whether queries may rely on what they read.
    fn show_readiness(&mut self, sight: &Sight) {
        let current = self.handle.current.borrow().now().generation;
        let rebuildable = self.runner.keeps().tables().is_some();
        let caught_up = self.catching_up.look(self.position_of(current), sight.head);
        let readiness = if caught_up || !rebuildable { Readiness::Ready } else { Readiness::Behind };
        self.handle.readiness.send_if_modified(|known| std::mem::replace(known, readiness) != readiness);
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
            if std::mem::replace(known, generation) != generation {
                *catching_up = CatchingUp::default();
            }
            let is_free = generations.freeze.until.is_none();
            let caught_up = catching_up.look(position, sight.head) && position.is_some() && is_free;
            chores.extend(caught_up.then_some(Chore::Switch(generation)));
        } else if generations.building.is_none() && self.lacks_events(generations, sight)? {
            chores.push(Chore::Backfill);
        }
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
    fn position_of(&self, generation: Generation) -> Option<Position> {
        let status = self.handle.board(generation).now();
        let goes_on = !matches!(
            status.state,
            ProcessorState::Unsettled { .. } | ProcessorState::Failing { .. } | ProcessorState::Halted { .. }
        );
        (goes_on && !status.ranges.is_empty()).then_some(status.position)
    }

    /// Takes away the builds that this node does not work on, for another code makes them. Those that it leaves to nodes
    /// with a newer one, and what could not be settled; that stops no other build.
    async fn leave_to_others(
        &mut self,
        roles: &mut BTreeMap<Generation, Role>,
        sight: &Sight,
    ) -> (BTreeSet<Generation>, Result<(), StoreError>) {
        let (mut left, mut settled) = (BTreeSet::new(), Ok(()));
        for (generation, role) in std::mem::take(roles) {
            let makes = self.settle_code(generation, &role, sight).await;
            let build = self.build(generation).to_string();
            match makes {
                Ok(Code::Makes) if self.is_outgrown(generation, sight) => {
                    self.cluster.stand_by(&build, true);
                    left.insert(generation);
                }
                Ok(Code::Makes) => {
                    self.cluster.stand_by(&build, false);
                    roles.insert(generation, role);
                }
                Ok(Code::StandsBy) => {
                    self.cluster.stand_by(&build, true);
                    left.insert(generation);
                }
                Ok(Code::Changes) => {}
                Ok(Code::IsMissing(why)) => {
                    let board = self.handle.board(generation);
                    if !board.is_unsettled() {
                        tracing::error!(%build, why, "this program has newer code, and cannot go on with it");
                    }
                    board.unsettled(&why);
                    // Others have all of it: it is no member.
                    self.cluster.stand_by(&build, true);
                    left.insert(generation);
                }
                Err(error) => settled = settled.and(Err(error)),
            }
        }
        (left, settled)
    }

    /// Whether a build has events that this program does not know, and another node works on it, which may.
    fn is_outgrown(&mut self, generation: Generation, sight: &Sight) -> bool {
        let (build, alive) = (self.build(generation).to_string(), &sight.view.alive);
        if let Some(met) = self.builds.get(&generation).and_then(|running| running.context().take_unknown()) {
            self.outgrown.entry(generation).or_default().meet(met);
        }
        let Some(outgrown) = self.outgrown.get_mut(&generation) else { return false };
        // Of shares that cannot be read, it is said elsewhere.
        let shares = sight.view.shares(&Shares::<Checkpoint>::checkpoints(), &build).unwrap_or_default();
        let is_past = |share: &Share<Checkpoint>| outgrown.is_before(share.progress.position);
        let past: BTreeSet<_> =
            shares.iter().filter(|share| is_past(share)).filter_map(|share| share.owner).collect();
        let passed = !shares.is_empty() && shares.iter().all(is_past);
        let others = cluster::members(alive, &build).into_iter().filter(|node| *node != self.node.node);
        let other = |node| Other {
            node,
            has_met: alive[&node].outgrown.contains(&build),
            is_past: past.contains(&node),
        };
        let others: Vec<Other> = others.map(other).collect();
        let is_left = outgrown.is_left_to(&others, passed, self.node.settings.lease);
        if passed && !is_left {
            self.outgrown.remove(&generation);
        }
        self.cluster.outgrown(&build, self.outgrown.contains_key(&generation));
        is_left
    }

    fn build(&self, generation: Generation) -> Build {
        Build { processor: self.handle.name.clone(), generation }
    }

    /// What this node is to a build; it is taken over if it is to.
    async fn settle_code(
        &mut self,
        generation: Generation,
        role: &Role,
        sight: &Sight,
    ) -> Result<Code, StoreError> {
        if let Some(other) = sight.renamed(&self.handle.name) {
            return self.settle_renamed(generation, other, sight).await;
        }
        let (build, code, lease) = (self.build(generation), self.runner.code(), self.node.settings.lease);
        let stored = sight.code(&build.to_string())?;
        let (name, view) = (self.handle.name.clone(), &sight.view);
        let standing = codes::standing(stored.as_ref(), &code, &name, &view.alive, view.now);
        let under_way = matches!(role, Role::Building { .. });
        let alone = stored.as_ref().is_none_or(|stored| !codes::lives(stored, &name, &view.alive, view.now));
        let since = self.alone_since(generation, alone && standing != Standing::Makes);
        // One look is not enough: all leases run out when the store is away.
        let is_young = stored.is_some() && since.is_some_and(|since| since.elapsed() < lease);
        if is_young && (under_way || standing == Standing::IsLeft) {
            return Ok(Code::Changes);
        }
        let (backend, runner, over) = (&*self.node.backend, &*self.runner, TakeOver::from(stored.as_ref()));
        match standing {
            Standing::Makes => return Ok(Code::Makes),
            Standing::StandsBy => return Ok(Code::StandsBy),
            // Its rows come from one code.
            _ if under_way && stored.is_some() => {
                if !alone {
                    return Ok(Code::StandsBy);
                }
                let by_itself = sight.generations(&name)?.building.is_some_and(|building| building.by_itself);
                if by_itself && standing == Standing::IsLeft {
                    // A newer program began it for itself, and has gone.
                    let removed = remove_build(&self.node, runner, generation).await;
                    removed.or_else(ProcessorError::in_store)?;
                } else {
                    let why = "no program is alive with the code that began it";
                    over.begin_again(backend, runner, &build, lease, why).await?;
                }
            }
            Standing::IsNewer | Standing::IsLeft => {
                let from = stored.as_ref().map(|stored| stored.code.clone());
                // The log is not asked again what it has said.
                let known = self.missing.get(&generation).filter(|(code, _)| *code == from);
                let why = match known {
                    Some((_, why)) => Some(why.clone()),
                    None => over.take(backend, runner, &build, lease).await?.err(),
                };
                if let Some(why) = why {
                    self.missing.insert(generation, (from, why.clone()));
                    let over = TakeOver::from(stored.as_ref());
                    // Not under other keys: rows that each have a part are worse than rows that stay as they were.
                    let alone = alone && stored.is_none_or(|stored| stored.rekeyed(&code).is_empty());
                    return self.catch_up_on(&build, role, over, alone, why).await;
                }
            }
        }
        // What is there then is seen with the next look.
        self.cluster.wake();
        Ok(Code::Changes)
    }

    /// Since when nobody has been seen with the code of a build, if that is so.
    fn alone_since(&mut self, generation: Generation, is_alone: bool) -> Option<Instant> {
        if !is_alone {
            self.alone.remove(&generation);
            return None;
        }
        Some(*self.alone.entry(generation).or_insert_with(Instant::now))
    }

    /// What is done about events that this code has missed of a build.
    async fn catch_up_on(
        &self,
        build: &Build,
        role: &Role,
        over: TakeOver,
        alone: bool,
        why: String,
    ) -> Result<Code, StoreError> {
        let (backend, runner, lease) = (&*self.node.backend, &*self.runner, self.node.settings.lease);
        let over = match self.options.backfill {
            Backfill::Refuse => return Ok(Code::IsMissing(format!("{why}: {RAISE}"))),
            Backfill::Skip => {
                tracing::warn!(%build, why, "goes on without the events that were passed");
                over.skipping()
            }
            Backfill::Online if runner.keeps().tables().is_none() => {
                tracing::warn!(%build, why, "goes on without the events that were passed");
                over.skipping()
            }
            Backfill::Online => {
                if matches!(role, Role::Current { .. })
                    && let Err(in_the_way) = begin_backfill(&self.node, &self.runner).await?
                {
                    return Ok(Code::IsMissing(format!("{why}; {in_the_way}")));
                }
                // Until queries are switched to the other one, it is kept up by those who have made it; or by this program,
                // as well as it goes.
                let since = self.alone.get(&build.generation).map(Instant::elapsed);
                if !alone || since.is_none_or(|since| since < lease) {
                    return Ok(Code::StandsBy);
                }
                over.incomplete()
            }
        };
        drop(over.take(backend, runner, build, lease).await?);
        self.cluster.wake();
        Ok(Code::Changes)
    }

    /// Another program has renamed the processor: it is taken back once no node has run it under that name for a lease.
    async fn settle_renamed(
        &mut self,
        generation: Generation,
        other: &str,
        sight: &Sight,
    ) -> Result<Code, StoreError> {
        let (lease, view) = (self.node.settings.lease, &sight.view);
        let starts = [&*self.handle.name, other].into_iter().any(|name| sight.starts(name));
        if starts || view.alive.values().any(|node| node.runs.contains(other)) {
            self.alone.remove(&generation);
        } else if self.alone.entry(generation).or_insert_with(Instant::now).elapsed() >= lease {
            rename(&*self.node.backend, &*self.runner, other, lease, self.options.backfill).await?;
            self.cluster.wake();
        }
        Ok(Code::StandsBy)
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

    /// Builds that this node does not work on: those of a newer code, one that is frozen, and all of a processor that is
    /// paused.
    async fn show_idle(
        &self,
        sight: &Sight,
        generations: &[Generation],
        control: &Control,
        stands_by: &BTreeSet<Generation>,
    ) -> Result<(), StoreError> {
        let shares = Shares::<Checkpoint>::checkpoints();
        for generation in generations.iter().filter(|generation| !self.builds.contains_key(generation)) {
            let build = Build { processor: self.handle.name.clone(), generation: *generation };
            let state = match control.paused {
                Some(since) => ProcessorState::Paused { since },
                None if stands_by.contains(generation) => ProcessorState::StandingBy,
                None => continue,
            };
            let status = |share: Share<Checkpoint>| RangeStatus {
                slices: share.slices,
                owner: share.owner,
                position: share.progress.position,
                state: state.clone(),
                parked: 0,
                rev: share.rev,
            };
            let stored = sight.renamed(&self.handle.name).map_or_else(|| build.clone(), Build::first);
            let ranges = sight.view.shares(&shares, &stored.to_string())?;
            // The store may not have answered when it was to be given back.
            let own = |share: &Share<Checkpoint>| share.owner == Some(self.node.node);
            if ranges.iter().any(own) && !self.node.settings.looks_on {
                cluster::give_back(&self.cluster, &shares, &build.to_string()).await;
            }
            let board = self.handle.board(*generation);
            let before = board.now().position;
            board.reshape(ranges.into_iter().map(status).collect());
            let position = board.now().position;
            if position > before || position >= sight.head {
                board.progress(0, self.node.ids.clock().now(), None);
            }
            gauges(&build, &board, sight.head);
        }
        Ok(())
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
        Ok(Running { keeper, rate: Rate::new(), seen: Position(0), asked: 0 })
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
        let position = context.board.now().position;
        if position >= sight.head || position > std::mem::replace(&mut running.seen, position) {
            context.board.progress(0, context.now(), None);
        }
        gauges(&context.build, &context.board, sight.head);
        Ok(())
    }

    async fn reset(&mut self, to: super::Reset) -> Result<(), ProcessorError> {
        let mut owner = None;
        let current = self.handle.current.borrow().now().generation;
        if let Some(running) = self.builds.get_mut(&current) {
            running.keeper.stop().await;
            owner = Some(self.node.node);
        }
        let (build, position) = reset(&self.node, &*self.runner, to, owner).await?;
        self.outdated = self.cluster.looks();
        self.cluster.wake();
        let state = ProcessorState::Starting;
        let whole = RangeStatus { slices: Slices::ALL, owner, position, state, parked: 0, rev: 0 };
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
    }
}

fn gauges(build: &Build, board: &Board, head: Position) {
    let (processor, generation) = (build.processor.clone(), build.generation.to_string());
    let status = board.now();
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

/// Shows the shares of a build: those of this node as its workers show them, those of others as they are stored.
fn show(context: &BuildContext, shares: &[Share<Checkpoint>]) {
    let before = context.board.now();
    let status = |share: &Share<Checkpoint>| {
        let known = before.ranges.iter().find(|known| known.slices == share.slices);
        let own = share.owner == Some(context.node.node) && !context.node.settings.looks_on;
        if let Some(known) = known.filter(|known| own && known.owner == share.owner) {
            return known.clone();
        }
        let state = match &share.progress.halt {
            Some(halt) if !own => ProcessorState::Halted { since: halt.since, error: halt.error.clone() },
            _ if own => ProcessorState::Starting,
            _ => ProcessorState::Elsewhere,
        };
        let (slices, owner, position) = (share.slices, share.owner, share.progress.position);
        RangeStatus { slices, owner, position, state, parked: 0, rev: share.rev }
    };
    context.board.reshape(shares.iter().map(status).collect());
}
