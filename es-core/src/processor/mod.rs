//! Processors: what keeps projections, views and reactors up to date.
//!
//! Events are read once for all processors near the head (`pages`), folded and flushed by a worker for each range of
//! slices, and each flush moves the range's checkpoint in the same commit: exactly once for rows in the same database.
//! Nodes that run the same processor share its slices; a node that is gone is replaced once its lease has run out, and
//! whatever it still writes is fenced off.
//!
//! | module | what it has |
//! | --- | --- |
//! | `slices`, `range`, `plan`, `node`, `coordinator` | who works on what |
//! | `pages`, `worker`, `work`, `engine` | taking events in |
//! | `runner`, `kinds` | SQL projections, keyed views, reactors |
//! | `parked` | what failed, and waits for a person |
//! | `build`, `generations`, `rebuild` | builds beside each other, and the switch between them |
//! | `compare`, `partial` | how two builds differ; some rows of a view, built anew |
//! | `handover` | projections that become inline, and those that end it |
//! | `status`, `wait` | where a processor is |
//!
//! Spans, at the level `debug`: `es.processor.fold` (`build`, `slices`, `events`, `through`) around the handlers of a page,
//! `es.processor.flush` (`build`, `slices`, `events`, `position`) around the commit of what they led to.
//!
//! Fields of log lines: `build` (`name/version~generation`), `slices`, `position`, `key`, `attempts`, `error`,
//! `processor`, `node`. Metrics, each with the label `processor`: `es_processor_events_total`,
//! `es_processor_flush_seconds`, `es_processor_visible_seconds` (from append to flush), `es_processor_parked_total`,
//! `es_processor_skipped_total`, `es_processor_halted_total`; and with the label `generation` as well:
//! `es_processor_position`, `es_processor_lag`, `es_processor_parked`.

mod backend;
mod build;
mod compare;
mod coordinator;
mod engine;
mod generations;
mod handover;
mod kinds;
mod node;
mod pages;
mod parked;
mod partial;
mod plan;
mod range;
mod rebuild;
mod rows;
mod runner;
mod status;
mod wait;
mod work;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::backend::AnyBackend;
pub use self::build::Build;
use self::coordinator::{Coordinator, Desk, Order};
pub(crate) use self::engine::{Ground, Lease, Settings};
use self::generations::Generations;
pub(crate) use self::generations::prepare;
pub(crate) use self::handover::{alive_during, current_rows, make_inline, retire};
pub(crate) use self::kinds::{ProjectionRunner, ReactorRunner, ViewRunner};
use self::node::Node;
pub(crate) use self::pages::Pages;
use self::parked::{Kept, Request};
pub use self::parked::{ParkedSequence, ParkingLimits, Skipped};
pub use self::rebuild::{Progress, Rebuild, RebuildOptions, Report};
pub use self::runner::{Runner, Session, Traits};
pub use self::status::{ProcessorState, ProcessorStatus, RangeStatus};
pub use self::wait::{Receipt, WaitError};
pub use self::work::{Failure, Work};
use crate::ErrorKind;
use crate::clock::Timestamp;
pub use crate::slices::{SLICES, SliceSet, Slices, slice_of};
use crate::store::{Commit, CommitError, EventFilter, Position, RecordedEvent, RowWrite, StoreError};

/// Where a reset sets a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Everything goes and is built anew.
    Start,
    /// What was taken in after this position is taken in again, or what lies before it is left out.
    Position(Position),
    /// The position of the last event before this time.
    Time(Timestamp),
    /// Nothing that is in the log now is taken in any more.
    Head,
}

/// One processor, as this node runs it.
#[derive(Debug)]
pub struct Processor {
    desk: Arc<Desk>,
    orders: mpsc::Sender<Order>,
    ground: Ground,
    runner: Arc<dyn Runner>,
    /// Makes the node look at once.
    look: Arc<watch::Sender<u64>>,
}

impl std::fmt::Debug for dyn Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Starts the processors of a node. They end with `stop`; `tasks` then has none left.
pub(crate) fn start(
    ground: &Ground,
    runners: Vec<Arc<dyn Runner>>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Vec<Processor> {
    if runners.is_empty() {
        return Vec::new();
    }
    let names: BTreeSet<String> = runners.iter().map(|runner| runner.name()).collect();
    let (snapshot, look) = (watch::Sender::new(None), Arc::<watch::Sender<u64>>::default());
    let working = TaskTracker::new();
    let begin = |runner: Arc<dyn Runner>| {
        let desk = Arc::new(Desk::new(&runner.name()));
        let (orders, ordered) = mpsc::channel(1);
        let coordinator =
            Coordinator::new(ground.clone(), runner.clone(), desk.clone(), snapshot.subscribe(), ordered);
        drop(working.spawn(coordinator.run(stop.clone())));
        Processor { desk, orders, ground: ground.clone(), runner, look: look.clone() }
    };
    let processors = runners.into_iter().map(begin).collect();
    working.close();
    let node = Node::new(ground.clone(), names, snapshot.clone(), look.subscribe());
    let gone = CancellationToken::new();
    let ended = gone.clone();
    // The node stays alive until the last of its processors has given back what it had.
    drop(tasks.spawn(async move {
        working.wait().await;
        gone.cancel();
    }));
    drop(tasks.spawn(node.run(ended)));
    processors
}

impl Processor {
    /// Its stored name: for a projection `name/version`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.desk.name
    }

    /// Where it is now: the build that queries read.
    #[must_use]
    pub fn status(&self) -> ProcessorStatus {
        self.desk.current.borrow().now()
    }

    /// Where all of its builds are that this node knows of.
    #[must_use]
    pub fn builds(&self) -> Vec<ProcessorStatus> {
        self.desk.boards().iter().map(|board| board.now()).collect()
    }

    /// Where it is, now and from now on: the build that queries read at this moment.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ProcessorStatus> {
        self.desk.current.borrow().watch()
    }

    /// Sets it back: to the start, which empties what it keeps, or to another place, which a projection must be
    /// [idempotent](crate::Projection::IDEMPOTENT) for. Returns as soon as it has begun anew; readers see it grow.
    ///
    /// # Errors
    ///
    /// [`StoreError`], and nothing changed: [`Misuse`](StoreError::Misuse) if another node works on a part of it (stop
    /// that one, or rebuild online), if it acts outside, or cannot be set there.
    pub async fn reset(&self, to: Reset) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        let gone = || StoreError::misuse(format!("{} is stopped: start the app again", self.name()));
        self.orders.send(Order::Reset(to, reply)).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// Lets what stands still on this node go on: the event that it stopped at is tried again. What stands still on
    /// another node is resumed there.
    pub fn resume(&self) {
        self.desk.resumed.send_modify(|n| *n += 1);
        self.desk.nudge.send_modify(|n| *n += 1);
    }

    /// Parked sequences in the order of their keys, after one, at most `limit` of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn parked(&self, after: Option<&str>, limit: usize) -> Result<Vec<ParkedSequence>, StoreError> {
        parked::list(&*self.ground.backend, &self.current().await?, after, limit).await
    }

    /// The events of a parked sequence after a position, with their payloads as they are stored, at most `limit` of
    /// them; none if the key is not parked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn parked_events(
        &self,
        key: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let (backend, build) = (&*self.ground.backend, self.current().await?);
        let Some(kept) = parked::one(backend, &build, key).await? else { return Ok(Vec::new()) };
        let mut events = Vec::new();
        for (_, position) in parked::positions(backend, &build, key, &kept, after, limit).await? {
            let before = Position(position.0.saturating_sub(1));
            let page = backend.read(&EventFilter::all(), before, 1).await?;
            events.extend(page.events.into_iter().filter(|event| event.place() == position));
        }
        Ok(events)
    }

    /// Asks for a parked sequence to be handled again, in order, and waits until that is done: `None` if it went through,
    /// else the sequence as it is now. It is done by the node that works on its slice.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the key is not parked, or somebody asked already. [`StoreError::Transient`] if it is
    /// not done within `limit`; the request stands.
    pub async fn retry(&self, key: &str, limit: Duration) -> Result<Option<ParkedSequence>, StoreError> {
        self.request(key, &Request::Retry, limit).await
    }

    /// Leaves a parked sequence out for good, and waits until that is done. Recorded with the reason, see
    /// [`Self::skipped`].
    ///
    /// # Errors
    ///
    /// As [`Self::retry`]; [`StoreError::Misuse`] without a reason.
    pub async fn discard(&self, key: &str, reason: &str, limit: Duration) -> Result<(), StoreError> {
        if reason.trim().is_empty() {
            return Err(StoreError::misuse("events are left out for good: say why"));
        }
        self.request(key, &Request::Discard { reason: reason.to_owned() }, limit).await.map(drop)
    }

    /// Events that were left out for good, by position.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn skipped(&self) -> Result<Vec<Skipped>, StoreError> {
        parked::skipped(&*self.ground.backend, &self.current().await?).await
    }

    /// What has become of a request: `None` while it stands, else what is left of the sequence.
    async fn answer(&self, build: &Build, key: &str) -> Result<Option<Option<Kept>>, StoreError> {
        let backend = &*self.ground.backend;
        // In this order: a sequence goes in one commit with its request.
        let left = parked::one(backend, build, key).await?;
        let Some(row) = rows::one(backend, &build.requests(), key).await? else {
            return Ok(Some(parked::one(backend, build, key).await?));
        };
        if left.is_none() {
            // Another request was done just before this one was written: it stands for nothing.
            let gone = RowWrite { table: build.requests(), key: row.key, rev: row.rev, row: None };
            drop(backend.commit(Commit { rows: vec![gone], ..Commit::default() }).await);
            return Err(StoreError::misuse(format!("{key:?} is not parked in {build} any more")));
        }
        Ok(None)
    }

    /// The build that queries read.
    async fn current(&self) -> Result<Build, StoreError> {
        let generations = Generations::read(&*self.ground.backend, self.name()).await?.unwrap_or_default();
        Ok(generations.build(self.name(), generations.current))
    }

    async fn request(
        &self,
        key: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<Option<ParkedSequence>, StoreError> {
        let (backend, build) = (&*self.ground.backend, self.current().await?);
        if parked::one(backend, &build, key).await?.is_none() {
            return Err(StoreError::misuse(format!("{key:?} is not parked in {build}")));
        }
        let row = serde_json::to_vec(request).expect("a text serializes");
        let row = RowWrite { table: build.requests(), key: key.to_owned(), rev: 0, row: Some(row.into()) };
        match rows::write(backend, vec![row]).await {
            Ok(()) => {}
            Err(CommitError::Fenced { .. }) => {
                let what =
                    format!("somebody has asked already for {key:?} of {build}: wait until that is done");
                return Err(StoreError::misuse(what));
            }
            Err(CommitError::Store(error)) => return Err(error),
            Err(other) => return Err(StoreError::transient("asking for a parked sequence", other)),
        }
        self.nudge_owners(&build).await;
        let done = async {
            let mut pause = Duration::from_millis(5);
            loop {
                self.desk.nudge.send_modify(|n| *n += 1);
                tokio::time::sleep(pause).await;
                match self.answer(&build, key).await {
                    Ok(Some(left)) => return Ok(left),
                    Ok(None) => {}
                    // A store that does not answer now may do so in time.
                    Err(error) if error.kind() == ErrorKind::Transient => {}
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        };
        match tokio::time::timeout(limit, done).await {
            Ok(left) => Ok(left?.map(|kept| kept.public(key.to_owned()))),
            Err(_) => {
                let why = format!("{key:?} of {build} was not taken up within {limit:?}; the request stands");
                Err(StoreError::transient("a parked sequence", std::io::Error::other(why)))
            }
        }
    }
}

/// One reader for all: what any of them wants to see.
pub(crate) fn wanted_by_any(runners: &[Arc<dyn Runner>]) -> EventFilter {
    let mut filters: Vec<EventFilter> = Vec::new();
    for filter in runners.iter().map(|runner| runner.filter()) {
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    let any = filters.into_iter().reduce(EventFilter::or).unwrap_or_default();
    if crate::store::check::filter(&any).is_ok() { any } else { EventFilter::all() }
}

/// The stored names of processors that somebody else ran on this store, and that these are not.
pub(crate) async fn others(
    backend: &dyn AnyBackend,
    runners: &[Arc<dyn Runner>],
) -> Result<(BTreeSet<String>, BTreeSet<String>), StoreError> {
    let known: BTreeSet<String> =
        range::all(backend).await?.into_keys().map(|build| build.processor.to_string()).collect();
    let own: BTreeSet<String> = runners.iter().map(|runner| runner.name()).collect();
    Ok((known.difference(&own).cloned().collect(), own.difference(&known).cloned().collect()))
}
