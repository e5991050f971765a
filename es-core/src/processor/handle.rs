//! The handle of a processor: what a program and an operator do with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::kinds::runner::Runner;
use super::parked::{self, ParkedSequence};
use super::status::{Board, ProcessorStatus};
use super::worker::{NodeContext, Reset, ResetRequest, other_name};
use super::{AnyBackend, ProcessorError, Readiness, Skipped};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::shared_read::SharedRead;
use crate::state::{Build, CodeRecord, Control, Generations, control};
use crate::store::{Filling, Generation, Position, RecordedEvent, Row, StoreError, at_first, write_rows};

/// How often a row is written again that another node has just written.
const TRIES: usize = 100;

/// One processor, as this node runs it. What is asked of it is done on whichever node it takes, and survives a restart.
#[derive(Debug)]
pub struct Processor {
    pub(super) handle: Arc<HandleState>,
    pub(super) resets: mpsc::Sender<ResetRequest>,
    /// For how long another node may still be handling something, when it is paused.
    pub(super) handler_limit: Duration,
    pub(super) node: NodeContext,
    pub(super) runner: Arc<dyn Runner>,
    pub(super) cluster: Arc<Cluster>,
}

/// What the handle of a processor and its coordinator share.
#[derive(Debug)]
pub(crate) struct HandleState {
    pub(crate) name: Arc<str>,
    clock: Arc<dyn Clock>,
    boards: Mutex<BTreeMap<Generation, Arc<Board>>>,
    /// The board of what queries read.
    pub(crate) current: watch::Sender<Arc<Board>>,
    /// Wakes the workers.
    pub(crate) wake: Arc<watch::Sender<u64>>,
    /// How often it was resumed.
    pub(crate) resumes: Arc<watch::Sender<u64>>,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// The code that makes what queries read, if it passes types of events that this program handles.
    pub(crate) passed_by: watch::Sender<Option<Arc<CodeRecord>>>,
    /// Of which generation it was seen how far other nodes have come, and whether they share it as this one knows.
    pub(super) looked: SharedRead<(Generation, bool)>,
}

impl HandleState {
    pub(crate) fn new(name: &str, clock: Arc<dyn Clock>) -> Self {
        let build = Build::first(name);
        let board = Arc::new(Board::new(&build, clock.now(), clock.clone()));
        Self {
            name: build.processor,
            clock,
            boards: Mutex::new(BTreeMap::from([(1, board.clone())])),
            current: watch::Sender::new(board),
            wake: Arc::default(),
            resumes: Arc::default(),
            readiness: watch::Sender::new(Readiness::Unseen),
            passed_by: watch::Sender::default(),
            looked: SharedRead::default(),
        }
    }

    pub(crate) fn board(&self, generation: Generation) -> Arc<Board> {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let build = Build { processor: self.name.clone(), generation };
        let begin = || Arc::new(Board::new(&build, self.clock.now(), self.clock.clone()));
        boards.entry(generation).or_insert_with(begin).clone()
    }

    pub(crate) fn boards(&self) -> Vec<Arc<Board>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets the boards of builds that have gone.
    pub(crate) fn keep(&self, generations: &[Generation]) {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.retain(|generation, _| generations.contains(generation));
    }

    pub(crate) fn wake_workers(&self) {
        self.wake.send_modify(|n| *n += 1);
    }
}

/// Changes what is asked of a whole processor, by its stored name.
pub(super) async fn change_control(
    backend: &dyn AnyBackend,
    name: &str,
    change: impl Fn(&mut Control),
) -> Result<(), ProcessorError> {
    for _ in 0..TRIES {
        let known = control().get(backend, name).await?;
        let mut row = known.unwrap_or_else(|| Row::new(name, Control::default()));
        change(&mut row.value);
        if write_rows(backend, vec![control().put(&row)?]).await?.is_yes() {
            return Ok(());
        }
    }
    let moving = std::io::Error::other("other nodes change it all the time");
    Err(StoreError::transient("asking something of a processor", moving).into())
}

impl Processor {
    pub(crate) fn handle(&self) -> &HandleState {
        &self.handle
    }

    /// Its stored name: for a projection `name/version`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// Where it is now: the build that queries read.
    #[must_use]
    pub fn status(&self) -> ProcessorStatus {
        self.handle.current.borrow().now()
    }

    /// Where all of its builds are that this node knows of.
    #[must_use]
    pub fn builds(&self) -> Vec<ProcessorStatus> {
        self.handle.boards().iter().map(|board| board.now()).collect()
    }

    /// Where it is, now and from now on: the build that queries read at this moment.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ProcessorStatus> {
        self.handle.current.borrow().watch()
    }

    /// Pauses it on every node, until it is [resumed](Self::resume): what is being handled is finished, and the slices are
    /// given back. It stays paused after a restart. Harmless if it is paused.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be written.
    pub async fn pause(&self) -> Result<(), ProcessorError> {
        let now = self.node.ids.clock().now();
        self.control(|control| control.paused = control.paused.or(Some(now))).await
    }

    /// Lets it continue, on every node: what is paused works again, and what is halted tries the event again that it is
    /// halted at.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be written.
    pub async fn resume(&self) -> Result<(), ProcessorError> {
        let resume = |control: &mut Control| {
            control.paused = None;
            control.resumes += 1;
        };
        self.control(resume).await
    }

    async fn control(&self, change: impl Fn(&mut Control)) -> Result<(), ProcessorError> {
        change_control(&*self.node.backend, &self.stored_name().await?, change).await?;
        self.cluster.wake();
        Ok(())
    }

    /// Sets it back: to the start, which empties what it keeps, or to another place, which a projection must be
    /// [idempotent](crate::Projection::IDEMPOTENT) for. Returns as soon as it has begun again; readers see its rows go, a
    /// portion at a time, and come back. What was asked of its parked sequences and rows before is not done any more.
    ///
    /// # Errors
    ///
    /// [`Store`](ProcessorError::Store): it may have begun, and then a node that runs the processor goes on with it; call it
    /// again to wait for that. Any other, and nothing changed: [`HeldBy`](ProcessorError::HeldBy) if another node works on a part of it
    /// ([pause](Self::pause) it, from any node); [`Finishing`](ProcessorError::Finishing) if it is paused, and a node has not
    /// finished by then what it was handling; [`NotRebuildable`](ProcessorError::NotRebuildable) if it has side effects,
    /// or cannot be set there.
    pub async fn reset(&self, to: Reset) -> Result<(), ProcessorError> {
        // A node that was handling something hears of the pause, finishes that, and gives its shares back.
        let limit = self.handler_limit + self.node.settings.lease;
        let (until, mut pause) = (Instant::now() + limit, Duration::from_millis(5));
        loop {
            let outcome = self.reset_now(to).await;
            let Err(ProcessorError::HeldBy { processor, node }) = outcome else { return outcome };
            let control = control().get(&*self.node.backend, self.name()).await?;
            if control.is_none_or(|row| row.value.paused.is_none()) {
                return Err(ProcessorError::HeldBy { processor, node });
            }
            if Instant::now() >= until {
                return Err(ProcessorError::Finishing { processor, node });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn reset_now(&self, to: Reset) -> Result<(), ProcessorError> {
        let (reply, done) = oneshot::channel();
        let gone = || ProcessorError::Stopped { processor: self.name().to_owned() };
        self.resets.send(ResetRequest { to, reply }).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// Parked sequences in the order of their keys, after one, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be read.
    pub async fn parked(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ParkedSequence>, ProcessorError> {
        Ok(parked::list(&*self.node.backend, &self.current().await?, after, limit).await?)
    }

    /// The events of a parked sequence after a position, with their payloads as they are stored, at most `limit` of
    /// them and [no more than a page](crate::store::is_full); none if the key is not parked.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be read.
    pub async fn parked_events(
        &self,
        key: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, ProcessorError> {
        let (backend, build) = (&*self.node.backend, self.current().await?);
        let Some(sequence) = parked::one(backend, &build, key).await? else { return Ok(Vec::new()) };
        let waiting = parked::positions(backend, &build, &sequence, after, limit).await?;
        let positions: Vec<Position> = waiting.into_iter().map(|(_, position)| position).collect();
        let (mut events, mut filling, mut left) = (Vec::new(), Filling::default(), &positions[..]);
        while !left.is_empty() && !filling.is_full() {
            let (found, answered) = at_first(backend, left).await?;
            events.extend(found.into_iter().filter(|event| filling.takes(event)));
            left = &left[answered..];
        }
        Ok(events)
    }

    /// Events that were left out for good, by position.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Store`] if the store cannot be read.
    pub async fn skipped(&self) -> Result<Vec<Skipped>, ProcessorError> {
        Ok(parked::skipped(&*self.node.backend, &self.current().await?).await?)
    }

    /// The build that queries read.
    pub(super) async fn current(&self) -> Result<Build, StoreError> {
        let name = self.stored_name().await?;
        let row = Generations::read(&*self.node.backend, &name).await?;
        let generations = row.map(|row| row.value).unwrap_or_default();
        Ok(generations.build(&name, generations.current))
    }

    /// The name that everything stored of it has: another program may have given it one.
    async fn stored_name(&self) -> Result<String, StoreError> {
        let other = other_name(&*self.node.backend, &*self.runner).await?;
        Ok(other.unwrap_or_else(|| self.name().to_owned()))
    }
}
