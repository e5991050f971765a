//! What the workers of one build share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::AnyBackend;
use super::build::Build;
use super::generations::Generations;
use super::pages::Pages;
use super::parked::{self, Kept, ParkingLimits};
use super::runner::{Runner, Session, Traits};
use super::status::Board;
use super::worker::Trip;
use super::{range, rows};
use crate::ErrorKind;
use crate::clock::Timestamp;
use crate::id::Ids;
use crate::projection::OnFailure;
use crate::services::Services;
use crate::store::{CommitError, EventFilter, Position, RecordedEvent, StoreError};

/// How processors are run; the same for all of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// For how long a node that says nothing is believed to be alive.
    pub(crate) lease: Duration,
    /// How often a handler is called again before its event is parked.
    pub(crate) retries: u32,
    /// The first and the longest wait after a failure.
    pub(crate) backoff: (Duration, Duration),
    pub(crate) parking: ParkingLimits,
    /// How many ranges of one processor a node works on at once; 0 for a node that only looks.
    pub(crate) workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            retries: 4,
            backoff: (Duration::from_millis(50), Duration::from_secs(10)),
            parking: ParkingLimits::default(),
            workers: 1,
        }
    }
}

/// Until when this node may believe that it is believed to be alive.
#[derive(Debug)]
pub(crate) struct Lease(Mutex<Instant>);

impl Lease {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(crate) fn renew(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn holds(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all processors of an app share.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) backend: Arc<dyn AnyBackend>,
    pub(crate) services: Arc<Services>,
    /// The app's own clock and randomness, so that a run can be repeated.
    pub(crate) ids: Ids,
    pub(crate) settings: Settings,
    /// For everybody near the head.
    pub(crate) pages: Arc<Pages>,
    pub(crate) lease: Arc<Lease>,
    /// The node that the app is.
    pub(crate) node: uuid::Uuid,
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

pub(crate) struct Engine {
    pub(crate) build: Build,
    pub(crate) role: Role,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) traits: Traits,
    pub(crate) on_failure: OnFailure,
    pub(crate) backend: Arc<dyn AnyBackend>,
    services: Arc<Services>,
    pub(crate) ids: Ids,
    pub(crate) settings: Settings,
    pub(crate) pages: Arc<Pages>,
    filter: EventFilter,
    /// Whether its pages hold nothing else.
    wants_all: bool,
    lease: Arc<Lease>,
    pub(crate) board: Arc<Board>,
    /// Events that are left out from the start.
    pub(crate) skips: BTreeMap<(Position, String), String>,
    pub(crate) nudge: Arc<watch::Sender<u64>>,
    pub(crate) resumed: Arc<watch::Sender<u64>>,
}

impl Engine {
    pub(crate) async fn new(
        ground: &Ground,
        runner: Arc<dyn Runner>,
        build: Build,
        role: Role,
        board: Arc<Board>,
        nudge: Arc<watch::Sender<u64>>,
        resumed: Arc<watch::Sender<u64>>,
    ) -> Result<Self, StoreError> {
        let (traits, filter) = (runner.traits(), runner.filter());
        let Ground { backend, services, ids, settings, pages, lease, node: _ } = ground.clone();
        let mut skips = BTreeMap::new();
        let (mut on_failure, mut own_pages) = (traits.on_failure, pages);
        match &role {
            Role::Current => {}
            Role::Building { current, lenient, honours_skips } => {
                if *honours_skips {
                    let old = parked::skipped(&*backend, current).await?;
                    skips.extend(old.into_iter().map(|skip| ((skip.position, skip.key), skip.reason)));
                }
                if !lenient {
                    on_failure = OnFailure::Stop;
                }
                own_pages = Pages::new(backend.clone(), filter.clone());
            }
            Role::Previous { .. } => own_pages = Pages::new(backend.clone(), filter.clone()),
        }
        let pages = own_pages;
        let wants_all = pages.filter() == &filter;
        Ok(Self {
            build,
            role,
            runner,
            traits,
            on_failure,
            backend,
            services,
            ids,
            settings,
            pages,
            filter,
            wants_all,
            lease,
            board,
            skips,
            nudge,
            resumed,
        })
    }

    pub(crate) fn open(&self) -> Box<dyn Session> {
        // A transaction that hangs must be gone before somebody else may have the range.
        let idle = self.settings.lease.mul_f64(0.75);
        self.runner.open(self.build.generation, &self.services, idle)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ids.clock().now()
    }

    pub(crate) const fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// Whether an event of a page is one of this processor's: pages may hold those of others too.
    pub(crate) fn wants(&self, event: &RecordedEvent) -> bool {
        self.wants_all || self.filter.matches(event)
    }

    /// Effects outside cannot be fenced: they wait while nobody knows whose turn it is.
    pub(crate) fn may_act(&self) -> bool {
        self.runner.tables().is_some() || self.lease.holds()
    }

    /// Whether the build is still what it was when the work on it began.
    pub(crate) async fn has_its_role(&self) -> Result<bool, StoreError> {
        if self.runner.tables().is_none() {
            return Ok(true);
        }
        let Build { processor, generation } = &self.build;
        let generations = Generations::read(&*self.backend, processor).await?;
        Ok(generations.and_then(|g| g.role(processor, *generation)).as_ref() == Some(&self.role))
    }

    /// How far it may go.
    pub(crate) async fn bound(&self) -> Result<Position, StoreError> {
        let Role::Previous { current } = &self.role else { return Ok(Position(u64::MAX)) };
        let ranges = range::of(&*self.backend, current).await?;
        let positions = ranges.iter().map(|range| range.position);
        // While queries are led back here, it goes as far as any of the other one's ranges: those stand still.
        let generations = Generations::read(&*self.backend, &self.build.processor).await?;
        let frozen = generations.is_some_and(|generations| generations.frozen.is_some());
        Ok(if frozen { positions.max() } else { positions.min() }.unwrap_or_default())
    }

    /// Whether the event, not the store, is why something failed. It is asked whether it answers: an error that hides
    /// its source must not be taken for one of the event.
    pub(crate) async fn blames_the_event(
        &self,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> bool {
        let fenced = matches!(error.downcast_ref(), Some(CommitError::Fenced { .. }));
        !fenced && !self.blames_the_store(error) && self.backend.head().await.is_ok()
    }

    fn blames_the_store(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let of_store = error.downcast_ref::<StoreError>().map(StoreError::kind);
        let kind = of_store.or_else(|| error.downcast_ref::<CommitError>().map(CommitError::kind));
        matches!(kind, Some(ErrorKind::Transient | ErrorKind::Unknown)) || self.backend.is_transient(error)
    }

    pub(crate) async fn event_at(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        let before = Position(position.0.saturating_sub(1));
        let page = self.backend.read(&EventFilter::all(), before, 1).await?;
        Ok(page.events.into_iter().next().filter(|event| event.place() == position))
    }

    /// Whether what is to be parked fits.
    pub(crate) async fn has_room(&self, parked: &BTreeMap<String, Kept>) -> Result<(), Trip> {
        let ParkingLimits { sequences, events } = self.settings.parking;
        if let Some((key, _)) = parked.iter().find(|(_, kept)| kept.stored.events > events) {
            let why =
                format!("{events} events of {key:?} are parked, and no more fit: retry or discard them");
            return Err(Trip::Full(why));
        }
        let mut keys: BTreeSet<&str> =
            parked.iter().filter(|(_, kept)| kept.rev == 0).map(|(key, _)| &**key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        // One of them may be stored already, by a commit that came late.
        let stored = rows::whole(&*self.backend, &self.build.parked()).await?;
        keys.extend(stored.iter().map(|row| &*row.key));
        if keys.len() > sequences {
            let why =
                format!("{sequences} sequences are parked, and no more fit: retry or discard some of them");
            return Err(Trip::Full(why));
        }
        Ok(())
    }

    /// What to say of an event that stops a build.
    pub(crate) async fn advice(&self, key: &str) -> String {
        let Role::Building { current, .. } = &self.role else { return String::new() };
        match parked::one(&*self.backend, current, key).await {
            Ok(Some(_)) => format!(
                "; generation {} has key {key:?} parked as well: build leniently to park it here too, or mend the \
                 handler and resume",
                current.generation
            ),
            _ => "; mend the handler and resume, or build leniently".to_owned(),
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
