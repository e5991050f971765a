//! What all processors of a node share, and what the workers of one build share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::failure::StepError;
use super::take_over::made_by;
use crate::ErrorKind;
use crate::clock::Timestamp;
use crate::cluster::{Lease, Share, Shares};
use crate::command::{NoAnswer, SendError, Sender};
use crate::id::Ids;
use crate::processor::AnyBackend;
use crate::processor::feed::Pages;
use crate::processor::kinds::effects::Effects;
use crate::processor::kinds::runner::{Execution, Keeps, Opening, Runner, Session};
use crate::processor::options::{ParkingLimits, ProcessorOptions};
use crate::processor::parked::{self, ANY_KEY, Parked, Skips};
use crate::processor::status::Board;
use crate::projection::OnFailure;
use crate::services::Services;
use crate::slices::Slices;
use crate::state::{Build, Checkpoint, Generations, codes};
use crate::store::{CommitError, EventFilter, Position, RecordedEvent, Row, StoreError};

/// How long a transaction may be held that keeps all other writers waiting, and one that keeps waiting whoever wants its rows.
const HOLDS_ONE_WRITER: Duration = Duration::from_millis(25);
const HOLDS_ITS_ROWS: Duration = Duration::from_millis(250);

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
        effects: &Arc<Effects>,
        wake: &Arc<Notify>,
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
            bytes: options.bytes,
            wake,
            effects,
        })
    }
}

/// What a build is to those who read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Current {
        /// While it is compared: the position that both builds go up to, and no further.
        until: Option<Position>,
    },
    /// It is to take the place of the other one.
    Building { current: Build, lenient: bool, honours_skips: bool, until: Option<Position> },
    /// It was read before, and never runs ahead of the one that is read now: so a reader who meets it late, or again
    /// after the way back, sees nothing that is older than what it saw.
    Previous { current: Build },
}

/// How many sequences a range may begin before those of its build are counted again.
///
/// What is left is shared out among the ranges, so none of them alone goes too far; and it is soon counted again, since
/// one that has just counted does not know what the others have left.
#[derive(Debug, Default)]
pub(crate) struct Room {
    left: usize,
    counted: Option<Instant>,
}

impl Room {
    /// For how long a count holds.
    const HOLDS: Duration = Duration::from_secs(1);

    fn shared(left: usize, ranges: usize) -> Self {
        Self { left: left / ranges.max(1), counted: Some(Instant::now()) }
    }

    /// Whether so many fit for sure.
    fn takes(&mut self, n: usize) -> bool {
        let fit = self.left >= n && self.counted.is_some_and(|counted| counted.elapsed() < Self::HOLDS);
        self.left -= if fit { n } else { 0 };
        fit
    }
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
    /// The events that its workers have met and only a newer program knows, since it was asked last.
    unknown: Mutex<BTreeSet<Position>>,
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
        let (mut on_failure, mut pages) = (execution.on_failure, node.pages.clone());
        if matches!(role, Role::Building { lenient: false, .. }) {
            on_failure = OnFailure::Stop;
        }
        if !matches!(role, Role::Current { .. }) {
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
            unknown: Mutex::default(),
            wake,
            resumes,
        })
    }

    pub(crate) fn open(
        &self,
        slices: Slices,
        effects: &Arc<Effects>,
        wake: &Arc<Notify>,
    ) -> Box<dyn Session> {
        self.node.open(&*self.runner, &self.options, &self.build, slices, effects, wake)
    }

    pub(crate) fn backend(&self) -> &dyn AnyBackend {
        &*self.node.backend
    }

    /// A worker has met an event that only a newer program knows.
    pub(crate) fn met_unknown(&self, position: Position) {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(position);
    }

    /// Those that were met since this was asked before.
    pub(crate) fn take_unknown(&self) -> BTreeSet<Position> {
        std::mem::take(&mut *self.unknown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is left out from the start, of some events between two positions. A build under way leaves out what was
    /// discarded in the one that is read, also since it began: so it looks before each page.
    pub(crate) async fn skips(
        &self,
        events: &[&RecordedEvent],
        after: Position,
        through: Position,
    ) -> Result<Skips, StoreError> {
        let Role::Building { current, honours_skips: true, .. } = &self.role else { return Ok(Skips::new()) };
        let mut skips = parked::skips_between(self.backend(), current, after, through).await?;
        if skips.is_empty() {
            return Ok(skips);
        }
        let rekeyed = self.rekeyed(current, events.iter().copied()).await?;
        let of_rekeyed = skips.iter().filter(|((position, _), _)| rekeyed.contains(position));
        let for_any = |((position, _), reason): (&(Position, String), &String)| {
            ((*position, ANY_KEY.to_owned()), reason.clone())
        };
        let for_any: Vec<_> = of_rekeyed.map(for_any).collect();
        skips.extend(for_any);
        Ok(skips)
    }

    /// Which of some events another build finds under other keys: its keys say nothing here.
    pub(crate) async fn rekeyed(
        &self,
        build: &Build,
        events: impl IntoIterator<Item = &RecordedEvent> + Send,
    ) -> Result<BTreeSet<Position>, StoreError> {
        let (other, code) = (made_by(self.backend(), build).await?.value, self.runner.code());
        let rekeyed = events.into_iter().filter(|event| other.is_rekeyed(&code, &event.name));
        Ok(rekeyed.map(RecordedEvent::place).collect())
    }

    /// Whether it may fold page after page before it flushes.
    pub(crate) fn folds(&self) -> bool {
        matches!(self.runner.keeps(), Keeps::Rows(_))
    }

    /// How long a transaction may be held by handlers, but for the last call in it; `None` if they hold none.
    pub(crate) fn holds(&self) -> Option<Duration> {
        let longest = if self.backend().has_one_writer() { HOLDS_ONE_WRITER } else { HOLDS_ITS_ROWS };
        matches!(self.runner.keeps(), Keeps::Tables(_)).then_some(longest)
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
        if made_by.is_some_and(|row| row.value.code != self.code || row.value.renamed.is_some()) {
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

    /// How far a range may go.
    pub(super) async fn bound(&self, share: &Share<Checkpoint>) -> Result<Position, StoreError> {
        let bound = self.bound_of_role().await?;
        Ok(if self.is_part(share) { bound.min(self.turn(share).await?) } else { bound })
    }

    /// Whether it is a part of what the code of before has partitioned, and is to be handled in one order now.
    pub(super) fn is_part(&self, share: &Share<Checkpoint>) -> bool {
        !self.execution.splits && share.slices != Slices::ALL
    }

    /// The part that is furthest behind goes first, up to where the next one is. Neighbours that are at one position become
    /// one, and wait for that.
    async fn turn(&self, share: &Share<Checkpoint>) -> Result<Position, StoreError> {
        let at = share.progress.position;
        let shares = self.shares.of(self.backend(), &self.build.to_string()).await?;
        let others = || shares.iter().filter(|other| other.slices != share.slices);
        let place = |share: &Share<Checkpoint>| (share.progress.position, share.slices.first);
        let becomes_one =
            |other: &Share<Checkpoint>| share.join(other).is_some() || other.join(share).is_some();
        if others().any(|other| place(other) < place(share) || becomes_one(other)) {
            return Ok(at);
        }
        let behind = |position: &Position| *position > at;
        let next = others().map(|other| other.progress.position).filter(behind).min();
        // What one of them has handled further on has to be behind all of them.
        let ahead = || shares.iter().flat_map(|share| share.progress.ahead.iter().copied()).max();
        Ok(next.or_else(ahead).unwrap_or(at))
    }

    async fn bound_of_role(&self) -> Result<Position, StoreError> {
        let current = match &self.role {
            Role::Current { until } | Role::Building { until, .. } => {
                return Ok(until.unwrap_or(Position(u64::MAX)));
            }
            Role::Previous { current } => current,
        };
        let shares = self.shares.of(self.backend(), &current.to_string()).await?;
        let positions = shares.iter().map(|share| share.progress.position);
        // While queries are switched back to it, it goes as far as any of the other one's shares: no node works on those.
        let generations = Generations::read(self.backend(), &self.build.processor).await?;
        let switches = |row: Row<Generations>| row.value.freeze.until.is_some() && !row.value.freeze.holds;
        let frozen = generations.is_some_and(switches);
        Ok(if frozen { positions.max() } else { positions.min() }.unwrap_or_default())
    }

    /// Whether it is waited for at the position that it goes up to.
    pub(crate) const fn is_held(&self) -> bool {
        matches!(&self.role, Role::Current { until: Some(_) } | Role::Building { until: Some(_), .. })
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
    pub(crate) async fn has_room(&self, queued: &[Parked], room: &mut Room) -> Result<(), StepError> {
        let ParkingLimits { sequences, events } = self.options.parking;
        if let Some(parked) = queued.iter().find(|parked| parked.value.events > events) {
            let key = &parked.key;
            let helps = self.makes_room();
            let why = format!("{events} events of {key:?} are parked, and no more fit: {helps}");
            return Err(StepError::Full(why));
        }
        let begun: BTreeSet<&str> =
            queued.iter().filter(|parked| parked.rev == 0).map(|parked| &*parked.key).collect();
        if begun.is_empty() || room.takes(begun.len()) {
            return Ok(());
        }
        // What it counts as its own was written by then, or is tried again: it is counted once more.
        let ranges = self.shares.of(self.backend(), &self.build.to_string()).await?.len();
        // One of them may be stored already, by a commit that came late.
        let stored = parked::count(self.backend(), &self.build, &begun).await?;
        if stored + begun.len() > sequences {
            *room = Room::default();
            let helps = self.makes_room();
            let why = format!("{sequences} sequences are parked, and no more fit: {helps}");
            return Err(StepError::Full(why));
        }
        *room = Room::shared(sequences - stored - begun.len(), ranges);
        Ok(())
    }

    /// What helps where nothing more can be parked. Operators reach what is parked in the build that queries read.
    fn makes_room(&self) -> &'static str {
        match self.role {
            Role::Building { .. } => {
                "raise the limit (`ProcessorOptions::parking`), and start the program again"
            }
            Role::Previous { .. } => {
                "raise the limit (`ProcessorOptions::parking`) and start the program again, or drop this build \
                 (`drop_previous`)"
            }
            Role::Current { .. } => "retry or discard some of them",
        }
    }

    /// What to say of an event that stops a build.
    pub(crate) async fn advice(&self, key: &str) -> String {
        let Role::Building { current, .. } = &self.role else { return String::new() };
        match parked::one(self.backend(), current, key).await {
            Ok(Some(_)) => format!(
                "; generation {} has key {key:?} parked as well: abort the rebuild and begin a lenient one to park \
                 it here too, or fix the handler and resume",
                current.generation
            ),
            _ => "; fix the handler and resume, or abort the rebuild and begin a lenient one".to_owned(),
        }
    }

    pub(crate) fn count(&self, what: &'static str) {
        metrics::counter!(what, "processor" => self.build.processor.clone()).increment(1);
    }

    pub(crate) fn flushed(&self, events: u64, recorded_at: Option<Timestamp>, took: Duration) {
        self.board.handled(events, recorded_at);
        if events > 0 {
            let now = self.now();
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
    if error.is::<NoAnswer>() {
        return true;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_which_nobody_hears_is_no_failure_of_the_event() {
        let unknown = crate::CommandError::<StoreError>::Unknown { why: NoAnswer("it took too long") };
        let source = std::error::Error::source(&unknown).expect("it says what happened");
        assert!(is_of_the_store(source));
        assert_eq!(crate::chain(&unknown), "the outcome is unknown: it took too long");
    }

    #[test]
    fn what_is_left_is_shared_out_and_then_counted_again() {
        let mut unknown = Room::default();
        assert!(!unknown.takes(1), "nothing was counted");
        let mut room = Room::shared(10, 3);
        assert!(room.takes(2) && room.takes(1), "a third of it");
        assert!(!room.takes(1), "the others may have taken the rest");
        let mut alone = Room::shared(10, 1);
        assert!(!alone.takes(11));
        assert!(alone.takes(10) && !alone.takes(1), "as many as there are");
        let before = Instant::now().checked_sub(Room::HOLDS);
        let mut old = Room { left: 10, counted: before };
        assert!(!old.takes(1), "it was counted too long ago");
    }
}
