//! What all processors of a node share, and what the workers of one build share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::failure::StepError;
use crate::ErrorKind;
use crate::clock::Timestamp;
use crate::cluster::{Lease, Shares};
use crate::command::{SendError, Sender};
use crate::id::Ids;
use crate::processor::AnyBackend;
use crate::processor::feed::Pages;
use crate::processor::kinds::runner::{Execution, Keeps, Opening, Runner, Session};
use crate::processor::options::{ParkingLimits, ProcessorOptions};
use crate::processor::parked::{self, Parked, Skips};
use crate::processor::status::Board;
use crate::projection::OnFailure;
use crate::services::Services;
use crate::slices::Slices;
use crate::state::{Build, Checkpoint, Generations, codes};
use crate::store::{CommitError, EventFilter, Position, RecordedEvent, StoreError};

/// How the node is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeSettings {
    /// For how long a node that says nothing is believed to be alive.
    pub(crate) lease: Duration,
    /// Whether it only looks at what other nodes do.
    pub(crate) looks_on: bool,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(5), looks_on: false }
    }
}

/// What all processors of a node share.
#[derive(Clone, Debug)]
pub(crate) struct NodeContext {
    pub(crate) backend: Arc<dyn AnyBackend>,
    pub(crate) services: Arc<Services>,
    pub(crate) sender: Sender,
    /// The app's own clock and randomness, so that a run can be repeated.
    pub(crate) ids: Ids,
    pub(crate) settings: NodeSettings,
    /// For every processor near the head.
    pub(crate) pages: Arc<Pages>,
    pub(crate) lease: Arc<Lease>,
    /// The node that the app is.
    pub(crate) node: uuid::Uuid,
}

impl NodeContext {
    /// Opens a session on a range.
    pub(crate) fn open(
        &self,
        runner: &dyn Runner,
        options: &ProcessorOptions,
        build: &Build,
        slices: Slices,
    ) -> Box<dyn Session> {
        runner.open(Opening {
            generation: build.generation,
            slices,
            ids: &self.ids,
            services: &self.services,
            sender: &self.sender,
            // A transaction that hangs must be gone before another node may have the range.
            idle: self.settings.lease.mul_f64(0.75),
            handler_limit: options.handler_limit,
        })
    }
}

/// What a build is to those who read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Current,
    /// It is to take the place of the other one.
    Building {
        current: Build,
        lenient: bool,
        honours_skips: bool,
    },
    /// It was read before, and never runs ahead of the one that is read now: so a reader who meets it late, or again
    /// after the way back, sees nothing that is older than what it saw.
    Previous {
        current: Build,
    },
}

/// What the workers of one build share.
pub(crate) struct BuildContext {
    pub(crate) node: NodeContext,
    pub(crate) build: Build,
    pub(crate) role: Role,
    pub(crate) runner: Arc<dyn Runner>,
    /// The fingerprint of its code.
    code: String,
    pub(crate) execution: Execution,
    pub(crate) options: ProcessorOptions,
    pub(crate) on_failure: OnFailure,
    pub(crate) shares: Shares<Checkpoint>,
    pub(crate) pages: Arc<Pages>,
    filter: EventFilter,
    /// Whether its pages hold nothing else.
    wants_all: bool,
    pub(crate) board: Arc<Board>,
    /// Events that are left out from the start.
    pub(crate) skips: Skips,
    pub(crate) wake: Arc<watch::Sender<u64>>,
    pub(crate) resumes: Arc<watch::Sender<u64>>,
}

impl BuildContext {
    pub(crate) async fn new(
        node: &NodeContext,
        runner: Arc<dyn Runner>,
        options: ProcessorOptions,
        build: Build,
        role: Role,
        handle: &crate::processor::handle::HandleState,
    ) -> Result<Self, StoreError> {
        let (mut execution, filter) = (runner.execution(), runner.filter());
        execution.page = options.page.unwrap_or(execution.page);
        let mut skips = Skips::new();
        let (mut on_failure, mut pages) = (execution.on_failure, node.pages.clone());
        if let Role::Building { current, lenient, honours_skips } = &role {
            if *honours_skips {
                skips = parked::skips(&*node.backend, current).await?;
            }
            if !lenient {
                on_failure = OnFailure::Stop;
            }
        }
        if role != Role::Current {
            pages = Pages::new(node.backend.clone(), filter.clone());
        }
        let wants_all = pages.filter() == &filter;
        let board = handle.board(build.generation);
        let (wake, resumes) = (handle.wake.clone(), handle.resumes.clone());
        Ok(Self {
            node: node.clone(),
            build,
            role,
            code: runner.code().fingerprint(),
            runner,
            execution,
            options,
            on_failure,
            shares: Shares::checkpoints(),
            pages,
            filter,
            wants_all,
            board,
            skips,
            wake,
            resumes,
        })
    }

    pub(crate) fn open(&self, slices: Slices) -> Box<dyn Session> {
        self.node.open(&*self.runner, &self.options, &self.build, slices)
    }

    pub(crate) fn backend(&self) -> &dyn AnyBackend {
        &*self.node.backend
    }

    /// Whether it may fold page after page before it flushes.
    pub(crate) fn folds(&self) -> bool {
        matches!(self.runner.keeps(), Keeps::Rows(_))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.node.ids.clock().now()
    }

    pub(crate) const fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Whether an event of a page is one of this processor's: pages may hold those of others too.
    pub(crate) fn wants(&self, event: &RecordedEvent) -> bool {
        self.wants_all || self.filter.matches(event)
    }

    /// Side effects cannot be fenced: they wait while it is not known whose turn it is.
    pub(crate) fn may_act(&self) -> bool {
        self.runner.keeps().is_fenced() || self.node.lease.holds()
    }

    /// Whether the build is still what it was when the work on it began, and is made by this program. Asked once the share
    /// was read: whoever takes the build over after that fences it.
    pub(crate) async fn has_its_role(&self) -> Result<bool, StoreError> {
        let made_by = codes().get(self.backend(), &self.build.to_string()).await?;
        if made_by.is_some_and(|row| row.value.code != self.code) {
            return Ok(false);
        }
        if self.runner.keeps().tables().is_none() {
            return Ok(true);
        }
        let Build { processor, generation } = &self.build;
        let generations = Generations::read(self.backend(), processor).await?;
        let role = generations.and_then(|row| row.value.role(processor, *generation));
        Ok(role.as_ref() == Some(&self.role))
    }

    /// How far it may go.
    pub(crate) async fn bound(&self) -> Result<Position, StoreError> {
        let Role::Previous { current } = &self.role else { return Ok(Position(u64::MAX)) };
        let shares = self.shares.of(self.backend(), &current.to_string()).await?;
        let positions = shares.iter().map(|share| share.progress.position);
        // While queries are switched back to it, it goes as far as any of the other one's shares: no node works on those.
        let generations = Generations::read(self.backend(), &self.build.processor).await?;
        let frozen = generations.is_some_and(|row| row.value.freeze.until.is_some());
        Ok(if frozen { positions.max() } else { positions.min() }.unwrap_or_default())
    }

    /// Whether an error looks like one of the store.
    pub(crate) fn blames_the_store(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if is_of_the_store(error) {
                return true;
            }
            cause = error.source();
        }
        self.backend().is_transient(error)
    }

    /// Whether what is to be parked fits.
    pub(crate) async fn has_room(&self, queued: &[Parked]) -> Result<(), StepError> {
        let ParkingLimits { sequences, events } = self.options.parking;
        if let Some(parked) = queued.iter().find(|parked| parked.value.events > events) {
            let key = &parked.key;
            let why =
                format!("{events} events of {key:?} are parked, and no more fit: retry or discard them");
            return Err(StepError::Full(why));
        }
        let mut keys: BTreeSet<&str> =
            queued.iter().filter(|parked| parked.rev == 0).map(|parked| &*parked.key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        // One of them may be stored already, by a commit that came late.
        let stored = self.build.parked().stored(self.backend()).await?;
        keys.extend(stored.iter().map(|row| &*row.key));
        if keys.len() > sequences {
            let why =
                format!("{sequences} sequences are parked, and no more fit: retry or discard some of them");
            return Err(StepError::Full(why));
        }
        Ok(())
    }

    /// What to say of an event that stops a build.
    pub(crate) async fn advice(&self, key: &str) -> String {
        let Role::Building { current, .. } = &self.role else { return String::new() };
        match parked::one(self.backend(), current, key).await {
            Ok(Some(_)) => format!(
                "; generation {} has key {key:?} parked as well: build leniently to park it here too, or fix the \
                 handler and resume",
                current.generation
            ),
            _ => "; fix the handler and resume, or build leniently".to_owned(),
        }
    }

    pub(crate) fn count(&self, what: &'static str) {
        metrics::counter!(what, "processor" => self.build.processor.clone()).increment(1);
    }

    pub(crate) fn flushed(&self, events: u64, recorded_at: Option<Timestamp>, took: Duration) {
        let now = self.now();
        self.board.progress(events, now, recorded_at);
        if events > 0 {
            let processor = self.build.processor.clone();
            metrics::counter!("es_processor_events_total", "processor" => processor.clone())
                .increment(events);
            metrics::histogram!("es_processor_flush_seconds", "processor" => processor.clone()).record(took);
            if let Some(recorded_at) = recorded_at {
                let lag = (now - recorded_at).total(jiff::Unit::Second).unwrap_or_default().max(0.0);
                metrics::histogram!("es_processor_visible_seconds", "processor" => processor).record(lag);
            }
        }
    }
}

/// Whether the store did not answer; also where a command was sent that was not stored, or for all that is known was.
fn is_of_the_store(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_store = error.downcast_ref::<StoreError>().map(StoreError::kind);
    let of_commit = || error.downcast_ref::<CommitError>().map(CommitError::kind);
    let of_command = || match error.downcast_ref::<SendError>()? {
        SendError::ShuttingDown => Some(ErrorKind::Transient),
        // A service of its handler that fails is not the store.
        SendError::Failed { kind: ErrorKind::Unknown, .. } => Some(ErrorKind::Unknown),
        _ => None,
    };
    let kind = of_store.or_else(of_commit).or_else(of_command);
    matches!(kind, Some(ErrorKind::Transient | ErrorKind::Unknown))
}
