//! One run of a saga, in which one thing goes wrong.

use std::sync::Arc;
use std::time::Duration;

use es_core::limits::MAX_PAGE;
use es_core::processor::SLICES;
use es_core::store::{Row, RowStore, StoreError};
use es_core::testing::conformance::double::{Double, Line};
use es_core::{App, AppBuilder, Backend, BoxError, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::clock::VirtualClock;
use super::point::Case;
use super::probe::{Probe, Signal, Watch};
use super::tried::Tried;
use crate::lock::{Lock, LockTables};
use crate::saga::{Handle, RunError, RunStatus};
use crate::transaction::{Head, Tables, Written, group_of, head_key, journal_of, run_of, start_key};

/// How long a node is believed to be alive.
const LEASE: Duration = Duration::from_millis(800);
/// For how long a node stands still at most, before it goes on.
const STALL: Duration = Duration::from_secs(20);
/// For how long a node that has gone on may do harm, before it is looked what is stored.
const AFTER: Duration = Duration::from_secs(2);
/// After so long it neither ends nor is parked.
const PATIENCE: Duration = Duration::from_secs(5_400);
/// Between two looks, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What is stored of a run.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) run: Uuid,
    pub(super) head: Head,
    pub(super) records: Vec<Written>,
    /// Rows that are to wake it.
    pub(super) wakes: usize,
    /// Whether it is among those that wait for a person.
    pub(super) attention: bool,
    /// How many locks it has, or waits for.
    pub(super) locks: usize,
    /// Whether a run goes on that is a step of it.
    pub(super) others_go_on: bool,
    /// Whether it waits for one that waits for a person.
    pub(super) waits_for_other: bool,
}

/// A run, and the nodes that may work on it.
pub(super) struct Play<'m, B: Backend, X: Tried> {
    pub(super) backend: B,
    clock: VirtualClock,
    pub(super) watch: Arc<Watch>,
    makes: Makes<'m, B, X>,
    input: Arc<X::Input>,
    key: String,
    /// What the definition is called among nodes.
    group: String,
    tables: Tables,
    /// Those of the sagas that are steps of it.
    within: Vec<Tables>,
    nodes: Vec<Node<B>>,
}

/// What each node is made of.
pub(super) struct Makes<'m, B: Backend, X> {
    pub(super) definition: &'m dyn Fn() -> X,
    /// Gives it what the steps need.
    pub(super) provide: &'m dyn Fn(AppBuilder<Double<B>>) -> AppBuilder<Double<B>>,
}

struct Node<B> {
    /// `None`: it is gone.
    app: Option<App>,
    line: Double<B>,
    probe: Probe,
    /// The client asks it to begin the run.
    starts: JoinSet<Result<Handle, RunError>>,
}

impl<'m, B: Backend + Clone, X: Tried<Tx = B::Tx>> Play<'m, B, X> {
    pub(super) fn new(
        (backend, clock): (B, VirtualClock),
        makes: Makes<'m, B, X>,
        input: Arc<X::Input>,
        key: String,
        case: Option<Case>,
    ) -> Result<Self, BoxError> {
        let outline = (makes.definition)().outline();
        let tables = Tables::of(&outline.kind, outline.version)?;
        let group = group_of(&outline.kind, outline.version);
        let within = outline.within.iter().map(|(kind, version)| Tables::of(kind, *version));
        let within = within.collect::<Result<_, _>>()?;
        let watch = Watch::new(&outline, case);
        Ok(Self { backend, clock, watch, makes, input, key, group, tables, within, nodes: Vec::new() })
    }

    /// Until it has ended or waits for a person, whatever goes wrong.
    pub(super) async fn run(&mut self) -> Result<Stored, BoxError> {
        let (mut signals, begun) = (self.watch.signals(), Instant::now());
        self.join().await?;
        let (mut pause, mut stalled, mut gone_on) = (LOOKS.0, None::<(usize, Instant)>, false);
        loop {
            match *signals.borrow_and_update() {
                Signal::Killed(node) if self.nodes[node].app.is_some() => {
                    self.kill(node).await;
                    self.join().await?;
                }
                Signal::Stalled(node) if stalled.is_none() => {
                    self.nodes[node].line.set(Line::HoldsWrites);
                    stalled = Some((node, Instant::now()));
                    self.join().await?;
                }
                _ => {}
            }
            self.started()?;
            let stored = self.stored().await;
            let is_quiet = stored.as_ref().is_ok_and(|stored| stored.as_ref().is_some_and(Stored::is_quiet));
            if let Some((node, since)) = stalled
                && !gone_on
                && (is_quiet || since.elapsed() > STALL)
            {
                gone_on = true;
                self.nodes[node].line.set(Line::Up);
                self.watch.go_on();
                tokio::time::sleep(AFTER).await;
                continue;
            }
            let is_over = is_quiet && self.all_started() || self.watch.is_unfenced();
            if let (Ok(Some(stored)), true) = (stored, is_over) {
                return Ok(stored);
            }
            if begun.elapsed() > PATIENCE {
                return Err(self.stands().await);
            }
            tokio::select! {
                _ = signals.changed() => pause = LOOKS.0,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOKS.1),
            }
        }
    }

    /// Another node, with the definition built anew, which is asked to begin the run.
    async fn join(&mut self) -> Result<(), BoxError> {
        let line = Double::new(self.backend.clone());
        let probe = Probe::new(self.nodes.len(), &self.watch);
        let app = App::on(line.clone()).clock(self.clock.clone()).provide(probe.clone());
        let app = (self.makes.provide)(app.lease(LEASE));
        let app = (self.makes.definition)().wired(app, &probe).start().await?;
        if self.nodes.is_empty() {
            // A run begins with its first steps where it is worked on.
            self.works(&app).await?;
        }
        let mut node = Node { app: Some(app), line, probe, starts: JoinSet::new() };
        for _ in 0..self.watch.starts() {
            self.start(&mut node);
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Until a node works on all runs.
    async fn works(&self, app: &App) -> Result<(), BoxError> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let engines = app.health().await.engines;
            if engines.iter().any(|engine| engine.group == self.group && engine.slices == SLICES) {
                return Ok(());
            }
            tokio::time::sleep(LOOKS.0).await;
        }
        Err("its node does not begin to work".into())
    }

    fn start(&self, node: &mut Node<B>) {
        if let Some(app) = node.app.clone() {
            let (key, input) = (self.key.clone(), self.input.clone());
            node.starts.spawn(async move { X::start(&app, &key, &input).await });
        }
    }

    /// Looks at what clients were answered. Who was not told that it has begun asks again.
    fn started(&mut self) -> Result<(), BoxError> {
        let mut nodes = std::mem::take(&mut self.nodes);
        let mut wrong = None;
        for node in &mut nodes {
            while let Some(started) = node.starts.try_join_next() {
                match started {
                    Ok(Err(error)) if error.kind() == ErrorKind::Transient => self.start(node),
                    Ok(Err(error)) => wrong = Some(error.into()),
                    // Of a node that is gone.
                    Ok(Ok(_)) | Err(_) => {}
                }
            }
        }
        self.nodes = nodes;
        wrong.map_or(Ok(()), Err)
    }

    fn all_started(&self) -> bool {
        self.nodes.iter().all(|node| node.starts.is_empty())
    }

    /// A node is gone from one moment to the next.
    async fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.probe.gone();
        node.line.set(Line::Down);
        node.starts.shutdown().await;
        drop(node.app.take());
    }

    /// The app of the last node.
    pub(super) fn app(&self) -> Option<App> {
        self.nodes.last().and_then(|node| node.app.clone())
    }

    pub(super) async fn end(mut self) {
        for node in &mut self.nodes {
            if let Some(app) = node.app.take() {
                app.shutdown(AFTER).await;
            }
        }
    }

    async fn stored(&self) -> Result<Option<Stored>, StoreError> {
        let (tables, rows) = (&self.tables, &self.backend as &dyn RowStore);
        let Some(start) = tables.starts.get(rows, &start_key(&self.key)?).await? else { return Ok(None) };
        let run = start.value.run;
        let key = head_key(run)?;
        let Some(head) = tables.heads.get(rows, &key).await? else { return Ok(None) };
        let attention = tables.attention.get(rows, &key).await?.is_some();
        let wakes = tables.wakes.table().all(rows).await?;
        let wakes = wakes.iter().filter(|wake| wake.value.run == run).count();
        let journal = tables.journal.below(rows, &journal_of(run), None, MAX_PAGE).await?;
        let records = journal.into_iter().map(|row| row.value).collect();
        let locks = locks(run, rows).await?;
        let (mut others_go_on, mut waits_for_other) = (false, false);
        for tables in &self.within {
            let (goes_on, is_parked) = others(tables, rows).await?;
            (others_go_on, waits_for_other) = (others_go_on | goes_on, waits_for_other | is_parked);
        }
        // One that is awake has something to do yet.
        waits_for_other &= head.value.status != RunStatus::Ended && head.value.wake.is_some();
        let head = head.value;
        Ok(Some(Stored { run, head, records, wakes, attention, locks, others_go_on, waits_for_other }))
    }

    async fn stands(&self) -> BoxError {
        match self.stored().await {
            Ok(Some(stored)) if stored.others_go_on => {
                let (status, last) = (stored.head.status, stored.records.last());
                format!(
                    "a run that is a step of it goes on and does not end: it is {status:?}, last {last:?}"
                )
                .into()
            }
            Ok(Some(stored)) if stored.head.status == RunStatus::Ended => {
                "it has ended, and rows that wake it are left".into()
            }
            Ok(Some(stored)) => {
                let (status, wakes, last) = (stored.head.status, stored.wakes, stored.records.last());
                format!("it neither ends nor waits for a person: {status:?}, {wakes} wake-ups, last {last:?}")
                    .into()
            }
            Ok(None) => "it was never begun".into(),
            Err(error) => error.into(),
        }
    }
}

/// How many locks a run has, or waits for.
async fn locks(run: Uuid, rows: &dyn RowStore) -> Result<usize, StoreError> {
    let locks = LockTables::new()?.locks.all(rows).await?;
    let has = |lock: &&Row<Lock>| lock.value.entries().any(|entry| entry.of.run == run);
    Ok(locks.iter().filter(has).count())
}

/// Whether there is a run of a kind that goes on, and whether there is one that waits for a person.
async fn others(tables: &Tables, rows: &dyn RowStore) -> Result<(bool, bool), StoreError> {
    let (heads, wakes) = (tables.heads.all(rows).await?, tables.wakes.table().all(rows).await?);
    let is_at_rest = |head: &Head, run: Option<Uuid>| match head.status {
        RunStatus::Ended => !wakes.iter().any(|wake| Some(wake.value.run) == run),
        status => status == RunStatus::Parked,
    };
    let is_parked = heads.iter().any(|row| row.value.status == RunStatus::Parked);
    Ok((!heads.iter().all(|row| is_at_rest(&row.value, run_of(&row.key))), is_parked))
}

impl Stored {
    /// Whether nobody goes on with it.
    fn is_quiet(&self) -> bool {
        match self.head.status {
            _ if self.others_go_on => false,
            _ if self.waits_for_other => true,
            RunStatus::Ended => self.wakes == 0,
            status => status == RunStatus::Parked,
        }
    }
}
