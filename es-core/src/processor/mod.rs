//! Processors: what keeps projections, views and reactors up to date.
//!
//! Each has a task of its own that reads the log page by page, hands the matching events to its
//! [`Runner`], and moves its checkpoint in the commit that holds what they led to. A page that fails is
//! tried again with back-off until it goes through: nothing is skipped, and no other processor waits.
//!
//! Fields of its log lines: `processor`, `position`, `attempts`, `error`.

mod runner;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::runner::Runner;
pub(crate) use self::runner::{ProjectionRunner, ReactorRunner, ViewRunner};
use crate::BoxError;
use crate::clock::Timestamp;
use crate::command::Services;
use crate::error::panic_text;
use crate::id::Ids;
use crate::store::{CheckpointMove, Commit, EventFilter, EventStore, Page, Position, StoreError};

/// How many positions without a match may pass before the checkpoint is moved over them.
const IDLE_MOVE: u64 = 1_000;
/// The longest wait between two looks at the log.
const POLL: Duration = Duration::from_secs(1);
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// Where a processor is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessorStatus {
    /// Its stored name: for a projection `name/version`.
    pub name: Arc<str>,
    /// Everything up to here is taken in.
    pub position: Position,
    /// What it is doing.
    pub state: ProcessorState,
}

/// What a processor is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessorState {
    /// It has not looked at the log yet.
    Starting,
    /// It takes events in, or waits for them.
    Running,
    /// A page fails, and is tried again.
    Failing {
        /// The last error, with its sources.
        error: String,
        /// How often it failed in a row.
        attempts: u32,
        /// Since when.
        since: Timestamp,
    },
    /// The app was shut down.
    Stopped,
}

/// One running processor.
#[derive(Debug)]
pub struct Processor {
    engine: Arc<Engine>,
    task: watch::Receiver<bool>,
    _handle: JoinHandle<()>,
}

#[derive(Debug)]
struct Engine {
    name: Arc<str>,
    filter: EventFilter,
    runner: Box<dyn Runner>,
    store: Arc<dyn EventStore>,
    services: Arc<Services>,
    /// The app's own clock and randomness, so that a run can be repeated.
    ids: Ids,
    status: watch::Sender<ProcessorStatus>,
    /// Held while a page is taken in, so that a reset comes between pages.
    at: Mutex<Option<Checkpoint>>,
}

impl std::fmt::Debug for dyn Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// Where the processor is, and what of that is stored.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    stored: Option<Position>,
    seen: Position,
}

/// What a page came to.
enum Taken {
    /// There may be more right now.
    More,
    /// Events, and it was the last page.
    Last,
    /// The processor is at rest.
    Nothing,
}

impl Processor {
    pub(crate) fn start(
        runner: Box<dyn Runner>,
        store: Arc<dyn EventStore>,
        services: Arc<Services>,
        ids: Ids,
        stop: CancellationToken,
    ) -> Self {
        let name: Arc<str> = runner.name().into();
        let first =
            ProcessorStatus { name: name.clone(), position: Position(0), state: ProcessorState::Starting };
        let engine = Arc::new(Engine {
            name,
            filter: runner.filter(),
            runner,
            store,
            services,
            ids,
            status: watch::Sender::new(first),
            at: Mutex::new(None),
        });
        let (ended, task) = watch::channel(false);
        let running = engine.clone();
        let _handle = tokio::spawn(async move {
            running.run(stop).await;
            ended.send_replace(true);
        });
        Self { engine, task, _handle }
    }

    /// Its stored name: for a projection `name/version`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.engine.name
    }

    /// Where it is now.
    #[must_use]
    pub fn status(&self) -> ProcessorStatus {
        self.engine.status.borrow().clone()
    }

    /// Where it is, now and from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ProcessorStatus> {
        self.engine.status.subscribe()
    }

    /// Waits until everything up to a position is taken in.
    ///
    /// # Errors
    ///
    /// [`StoreError::Transient`] if that took too long, with the processor's last error if it has one.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> Result<(), StoreError> {
        let mut status = self.engine.status.subscribe();
        let arrived = status.wait_for(|s| s.position >= position && s.state != ProcessorState::Starting);
        if let Ok(Ok(_)) = tokio::time::timeout(limit, arrived).await {
            return Ok(());
        }
        let now = self.status();
        let why = match now.state {
            ProcessorState::Failing { error, .. } => {
                format!("{} fails at {}: {error}", now.name, now.position)
            }
            ProcessorState::Stopped => format!("{} is stopped at {}", now.name, now.position),
            _ => format!("{} is at {} and did not reach {position} within {limit:?}", now.name, now.position),
        };
        Err(StoreError::transient("waiting for a projection", std::io::Error::other(why)))
    }

    /// Empties what it keeps and begins again at the start of the log.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it could not be emptied; then nothing changed.
    pub async fn reset(&self) -> Result<(), StoreError> {
        let mut at = self.engine.at.lock().await;
        self.engine.runner.reset().await?;
        *at = None;
        // A waiter must not see the old position; the task must not sleep until the next event.
        self.engine.status.send_modify(|s| {
            s.position = Position(0);
            s.state = ProcessorState::Starting;
        });
        Ok(())
    }

    /// Until its task has ended.
    pub(crate) async fn ended(&self) {
        // An error means that the task is gone, which is what is waited for.
        drop(self.task.clone().wait_for(|ended| *ended).await);
    }
}

impl Engine {
    async fn run(&self, stop: CancellationToken) {
        let mut wake = self.store.watch();
        let mut resets = self.status.subscribe();
        let mut failures = 0;
        while !stop.is_cancelled() {
            wake.mark_unchanged();
            resets.mark_unchanged();
            let started = Instant::now();
            // A panic of a handler fails its page like any error, and nothing else.
            let taken = AssertUnwindSafe(self.page()).catch_unwind().await;
            let taken = taken.unwrap_or_else(|panic| Err(format!("a panic: {}", panic_text(&*panic)).into()));
            let pause = match taken {
                Ok(Taken::More) => {
                    failures = 0;
                    continue;
                }
                // Under load, as long as the page took: so at most half of the time goes into small pages,
                // and they grow. An event that comes to a processor at rest is taken at once.
                Ok(Taken::Last) => {
                    failures = 0;
                    Some(started.elapsed())
                }
                Ok(Taken::Nothing) => {
                    failures = 0;
                    None
                }
                Err(error) => {
                    failures += 1;
                    self.failed(&*error, failures, self.ids.clock().now());
                    let doubled = BACKOFF.0.saturating_mul(1 << (failures - 1).min(16));
                    Some(doubled.min(BACKOFF.1).mul_f64(0.5 + self.ids.fraction() / 2.0))
                }
            };
            let sleep = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => crate::store::wait(&mut wake, POLL).await,
                }
            };
            let reset = resets.wait_for(|s| s.state == ProcessorState::Starting);
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep => {}
                _ = reset => {}
            }
        }
        self.status.send_modify(|s| s.state = ProcessorState::Stopped);
    }

    /// Takes in one page.
    async fn page(&self) -> Result<Taken, BoxError> {
        let mut at = self.at.lock().await;
        let from = match *at {
            Some(from) => from,
            None => {
                let stored = self.store.checkpoint(&self.name).await?;
                Checkpoint { stored, seen: stored.unwrap_or_default() }
            }
        };
        // Forgotten until the page is through: after a failure only the store knows where we are.
        *at = None;
        let page = self.store.read(&self.filter, from.seen, self.runner.page_size()).await?;
        let mut stored = from.stored;
        let step = CheckpointMove { name: self.name.to_string(), from: stored, to: Some(page.through) };
        if !page.events.is_empty() {
            self.runner.take(&page.events, step, &self.services).await?;
            stored = Some(page.through);
        } else if page.through.0 >= stored.unwrap_or_default().0 + IDLE_MOVE {
            self.store.commit(Commit { checkpoints: vec![step], ..Commit::default() }).await?;
            stored = Some(page.through);
        }
        *at = Some(Checkpoint { stored, seen: page.through });
        self.status.send_if_modified(|s| {
            let moved = s.position != page.through || s.state != ProcessorState::Running;
            s.position = page.through;
            s.state = ProcessorState::Running;
            moved
        });
        Ok(match page {
            Page { more: true, .. } => Taken::More,
            Page { events, .. } if events.is_empty() => Taken::Nothing,
            Page { .. } => Taken::Last,
        })
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static), attempts: u32, now: Timestamp) {
        let error = crate::chain(error);
        let position = self.status.borrow().position.0;
        tracing::warn!(processor = %self.name, position, attempts, error, "a page failed and is tried again");
        self.status.send_modify(|s| {
            let since = match s.state {
                ProcessorState::Failing { since, .. } => since,
                _ => now,
            };
            s.state = ProcessorState::Failing { error, attempts, since };
        });
    }
}
