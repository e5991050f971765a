//! The application: wiring, and the one value that everything is asked of.

mod queries;
mod watch;
mod wiring;

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::wiring::Wiring;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::command::{Bus, IdOf, Interceptor, Registry, RetryPolicy, Sender, Via, WithinTx, missing_for};
use crate::entropy::{Entropy, SystemEntropy};
use crate::id::Ids;
use crate::inline::{self, Entry, Hook, ProjectionHook, ViewHook};
use crate::lifecycle::Lifecycle;
use crate::limits;
use crate::processor::{
    self, AnyBackend, NodeContext, NodeSettings, Pages, ParkingLimits, Processor, ProcessorError,
    ProcessorOptions, ProcessorState, ProcessorStatus, ProjectionRunner, ReactorRunner, Rebuild,
    RebuildOptions, Receipt, Reset, Runner, ViewRunner, WaitError,
};
use crate::projection::live::Live;
use crate::projection::{Project, Projection, Reactor, View, Views, tables_of};
use crate::repository::{At, Cache, LoadError, Loaded, Repository, stream_of};
use crate::services::Services;
use crate::store::{Backend, EventStore, Position, StoreError};
use crate::{Apply, Command, Commands, Queries, Sending};

/// A running application. Cheap to clone; no type parameter, so it can sit in any state.
///
/// When the last clone is dropped its processors stop; [`shutdown`](Self::shutdown) also waits for them.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) bus: Arc<Bus>,
    pub(crate) processors: Vec<Processor>,
    pub(crate) queries: Wiring,
    /// The stored names of inline and live projections: they are never behind.
    pub(crate) never_behind: BTreeSet<String>,
}

impl App {
    /// Begins the wiring of an app on this backend.
    pub fn on<B: Backend>(backend: B) -> AppBuilder<B> {
        AppBuilder {
            backend: Arc::new(backend),
            services: Services::default(),
            commands: Registry::default(),
            runners: Vec::new(),
            queries: Wiring::default(),
            inline: Vec::new(),
            retired: BTreeSet::new(),
            live: None,
            checks: Vec::new(),
            interceptors: Vec::new(),
            settings: Settings::default(),
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Sends a command to an aggregate: add options, then `.await`.
    pub fn send<C: Command>(&self, id: &IdOf<C>, cmd: C) -> Sending<'_, C> {
        Sending::new(Via::App(&self.0.bus), id, cmd)
    }

    /// Sends commands for as long as the app is there, without keeping it alive: by type, or by their stored names.
    #[must_use]
    pub fn sender(&self) -> Sender {
        let sender = Sender::default();
        sender.connect(&self.0.bus);
        sender
    }

    /// The current state of an aggregate; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read.
    pub async fn load<A: Apply>(&self, id: &A::Id) -> Result<Option<Loaded<A>>, LoadError> {
        let stream = stream_of::<A>(id)?;
        let mut held = self.0.bus.cache.slot(&stream).hold().await;
        let loaded = match held.take::<A>() {
            Some(mut kept) => {
                self.0.bus.repository.catch_up(&stream, &mut *kept).await?;
                kept
            }
            None => Box::new(self.0.bus.repository.load(&stream).await?),
        };
        let answer = (loaded.version.0 > 0).then(|| Loaded::clone(&loaded));
        held.put(loaded);
        Ok(answer)
    }

    /// The state of an aggregate at a point in its history; `None` if it did not exist then.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read.
    pub async fn load_at<A: Apply>(&self, id: &A::Id, at: At) -> Result<Option<Loaded<A>>, LoadError> {
        let loaded: Loaded<A> = self.0.bus.repository.load_at(&stream_of::<A>(id)?, at).await?;
        Ok((loaded.version.0 > 0).then_some(loaded))
    }

    /// Takes a snapshot of an aggregate now; says whether there was something to take.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read, the store cannot be written, or the aggregate has no
    /// snapshots.
    pub async fn snapshot<A: Apply>(&self, id: &A::Id) -> Result<bool, LoadError> {
        let Some(loaded) = self.load::<A>(id).await? else { return Ok(false) };
        let snapshot = Repository::snapshot_of(&stream_of::<A>(id)?, &loaded)
            .map_err(|e| StoreError::misuse(format!("no snapshot of {}: {e}", A::NAME)))?;
        self.0.bus.repository.snapshots.put_snapshot(snapshot).await?;
        Ok(true)
    }

    /// A new id, from the app's clock and randomness.
    #[must_use]
    pub fn new_id(&self) -> uuid::Uuid {
        self.0.bus.ids.next()
    }

    /// The event store, to read events as they are stored.
    #[must_use]
    pub fn store(&self) -> &dyn EventStore {
        self.0.bus.store()
    }

    /// The event store, to keep.
    #[must_use]
    pub fn store_handle(&self) -> Arc<dyn EventStore> {
        self.0.bus.repository.store.clone()
    }

    /// What handlers receive by type.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.0.bus.services
    }

    /// The processors of this app.
    #[must_use]
    pub fn processors(&self) -> &[Processor] {
        &self.0.processors
    }

    /// The processor of a projection or view.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotRunHere`] if this app does not run it.
    pub fn processor<P: Projection>(&self) -> Result<&Processor, ProcessorError> {
        self.processor_named(&tables_of::<P>().stored_name())
    }

    /// Whether a projection has every event as soon as it is acknowledged: one that is inline or live here.
    fn is_never_behind<P: Projection>(&self) -> bool {
        self.0.never_behind.contains(&tables_of::<P>().stored_name())
    }

    fn processor_named(&self, name: &str) -> Result<&Processor, ProcessorError> {
        let found = self.0.processors.iter().find(|p| p.name() == name);
        found.ok_or_else(|| {
            let processor = name.to_owned();
            if self.0.never_behind.contains(name) {
                ProcessorError::NeverBehind { processor }
            } else {
                ProcessorError::NotRunHere { processor }
            }
        })
    }

    /// Waits until a projection has taken in what was written, to read your own write. Give it what a command gave you
    /// (then only the keys of its events are waited for), or a position. One that is inline or live is never waited for.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if it did not get there in time, if a key of the events is parked, or if this app does not run it.
    pub async fn wait_for<P: Projection>(
        &self,
        written: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<(), WaitError> {
        if self.is_never_behind::<P>() {
            return Ok(());
        }
        self.processor::<P>()?.wait_for(written, limit).await
    }

    /// The same, but time that runs out is no error: says whether what was written is there. For a page that would rather
    /// show what it has.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for`], except for [`WaitError::TimedOut`].
    pub async fn wait_or_stale<P: Projection>(
        &self,
        written: impl Into<Receipt> + Send,
        limit: Duration,
    ) -> Result<bool, WaitError> {
        if self.is_never_behind::<P>() {
            return Ok(true);
        }
        self.processor::<P>()?.wait_or_stale(written, limit).await
    }

    /// Waits until every processor has taken in everything that is in the log now.
    ///
    /// # Errors
    ///
    /// [`WaitError`] if one did not get there in time.
    pub async fn settle(&self, limit: Duration) -> Result<(), WaitError> {
        let head = self.store().head().await?;
        for processor in &self.0.processors {
            processor.wait_for(head, limit).await?;
        }
        Ok(())
    }

    /// Empties a projection and fills it again from the whole log. Readers see it grow; returns as soon
    /// as it is empty. Watch its [`Processor`] for progress, or `wait_for` the head.
    ///
    /// # Errors
    ///
    /// [`ProcessorError`] if it could not be emptied; then nothing changed. See [`Processor::reset`].
    pub async fn rebuild<P: Projection>(&self) -> Result<(), ProcessorError> {
        self.processor::<P>()?.reset(Reset::Start).await
    }

    /// Begins to build a projection anew beside the tables that queries read, or goes on with it.
    ///
    /// # Errors
    ///
    /// As [`Processor::rebuild_online`].
    pub async fn rebuild_online<P: Projection>(
        &self,
        options: RebuildOptions,
    ) -> Result<Rebuild, ProcessorError> {
        self.processor::<P>()?.rebuild_online(options).await
    }

    /// How the app is: whether its store answers, and where its processors are.
    pub async fn health(&self) -> Health {
        Health {
            head: self.store().head().await,
            processors: self.0.processors.iter().map(Processor::status).collect(),
            now: self.0.bus.ids.clock().now(),
            closing: self.0.bus.lifecycle.is_closing(),
        }
    }

    /// Ends the app: new commands are refused, running ones may finish within `grace` and are then
    /// cancelled; processors finish their page. Says whether everything finished in time. Harmless to
    /// call twice.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.0.bus.lifecycle.shutdown(grace).await
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// How an app is.
#[derive(Debug)]
#[non_exhaustive]
pub struct Health {
    /// The head of the log, or why the store does not answer.
    pub head: Result<Position, StoreError>,
    /// The processors.
    pub processors: Vec<ProcessorStatus>,
    /// When this was.
    pub now: Timestamp,
    /// Whether a shutdown has begun.
    pub closing: bool,
}

impl Health {
    /// Whether the store answers, no processor fails or is halted, and none is behind without progress for a minute.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.head.is_ok() && self.processors.iter().all(|processor| self.ill(processor, MINUTE).is_none())
    }

    /// What is wrong with a processor, in words; `None` if nothing is. Being behind is no illness, nor is silence: both
    /// together are, after this long.
    #[must_use]
    pub fn ill(&self, processor: &ProcessorStatus, patience: Duration) -> Option<String> {
        match &processor.state {
            ProcessorState::Failing { error, attempts, .. } => {
                return Some(format!("fails, {attempts} times so far: {error}"));
            }
            ProcessorState::Halted { error, .. } => return Some(format!("is halted: {error}")),
            ProcessorState::Unsettled { error } => return Some(format!("cannot be worked on: {error}")),
            // An operator knows.
            ProcessorState::Paused { .. } => return None,
            _ => {}
        }
        let silent = self.now.duration_since(processor.progress?).unsigned_abs();
        let lag = self.lag(processor);
        (lag > 0 && silent > patience)
            .then(|| format!("is {lag} events behind, without progress for {silent:?}"))
    }

    /// How many positions a processor is behind the head.
    #[must_use]
    pub fn lag(&self, processor: &ProcessorStatus) -> u64 {
        self.head.as_ref().map_or(0, |head| head.0.saturating_sub(processor.position.0))
    }
}

type Check = Box<dyn FnOnce(&Services) -> Vec<String> + Send>;

#[derive(Debug)]
struct Settings {
    retry: RetryPolicy,
    timeout: Duration,
    max_events: usize,
    cache: usize,
    verify: bool,
    node: NodeSettings,
    processors: ProcessorOptions,
    /// Options of processors by their names without a version.
    of_processor: BTreeMap<String, ProcessorOptions>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            timeout: Duration::from_secs(30),
            max_events: limits::MAX_EVENTS,
            cache: 10_000,
            verify: cfg!(debug_assertions),
            node: NodeSettings::default(),
            processors: ProcessorOptions::default(),
            of_processor: BTreeMap::new(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

/// The wiring of an app. Generic over the backend only here, where backends meet what needs them.
#[must_use = "nothing runs before `.start().await`"]
pub struct AppBuilder<B: Backend> {
    backend: Arc<B>,
    services: Services,
    commands: Registry,
    runners: Vec<Arc<dyn Runner>>,
    queries: Wiring,
    inline: Vec<Entry<B::Tx>>,
    retired: BTreeSet<String>,
    /// The live views; `None` for an app without views of any kind.
    live: Option<BTreeSet<String>>,
    checks: Vec<Check>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    settings: Settings,
}

impl<B: Backend> std::fmt::Debug for AppBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppBuilder")
            .field("backend", &type_name::<B>())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> AppBuilder<B> {
    /// A value that handlers may ask for by type.
    pub fn provide<T: Send + Sync + 'static>(mut self, service: T) -> Self {
        self.services.provide(service);
        self
    }

    /// Optional: makes `start` check that everything the aggregate's commands ask for is there, and lets them be
    /// [sent by name](Sender::send_named).
    pub fn aggregate<A: Commands>(mut self) -> Self {
        A::register(&mut self.commands);
        self.check(A::missing)
    }

    /// The same for one command: one that is in another crate than its aggregate.
    pub fn command<C: Command>(mut self) -> Self {
        self.commands.add::<C>();
        self.check(missing_for::<C>)
    }

    /// A keyed view, kept up to date from the log. Read it through [`Views`].
    pub fn view<V: View>(mut self) -> Self {
        self.live.get_or_insert_default();
        let runner = ViewRunner::<B, V>::new(self.backend.clone());
        self.runner(runner)
    }

    /// A keyed view that is written in the commit of the events: whoever has the answer to a command reads its row. For
    /// as long as it is inline, every app that writes this store has to be wired so; others are refused.
    ///
    /// The first start builds it up to the head. What it costs: each command also reads the rows that its events belong
    /// to; commands on one row wait for each other; an event that the handler cannot take in fails its command.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend};
    /// # use es_core::testing::conformance::{domain::{Deposit, Open}, readside::Balance};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::on(MemoryBackend::new()).inline_view::<Balance>().start().await?;
    /// let ada = "ada".to_owned();
    /// app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    /// app.send(&ada, Deposit { amount: 5 }).await?;
    /// assert_eq!(app.view::<Balance>(&ada).await?.map(|row| row.amount), Some(5)); // no waiting
    /// # Ok(())
    /// # }
    /// ```
    pub fn inline_view<V: View>(mut self) -> Self {
        self.live.get_or_insert_default();
        let runner = Arc::new(ViewRunner::<B, V>::new(self.backend.clone()));
        self.inline.push(Entry { runner, hook: Hook::View(Box::new(ViewHook::<V>::new())) });
        self
    }

    /// A keyed view that is never stored: each read folds the log. Nothing to build, nothing to write, always up to date.
    ///
    /// What it costs: a read of one row reads every event that the view wants to see, and decodes it; a read of all rows
    /// also keeps them all in memory. For small logs, rare questions, and trying a view out.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend};
    /// # use es_core::testing::conformance::{domain::{Deposit, Open}, readside::Balance};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::on(MemoryBackend::new()).live_view::<Balance>().start().await?;
    /// let ada = "ada".to_owned();
    /// app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    /// app.send(&ada, Deposit { amount: 5 }).await?;
    /// assert_eq!(app.view::<Balance>(&ada).await?.map(|row| row.amount), Some(5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn live_view<V: View>(mut self) -> Self {
        let again = !self.live.get_or_insert_default().insert(tables_of::<V>().stored_name());
        let twice = move |_: &Services| again.then(|| two_named(V::NAME)).into_iter().collect();
        self.check(twice)
    }

    /// A SQL projection, kept up to date from the log. Its `#[queries]` come with it.
    pub fn projection<P: Project<B::Tx>>(mut self, projection: P) -> Self {
        let projection = Arc::new(projection);
        self.services.replace(projection.clone());
        self.queries.projection::<P>(P::ANSWERS);
        let runner = ProjectionRunner::new(self.backend.clone(), projection);
        self.check(P::ANSWERS.missing).runner(runner)
    }

    /// A SQL projection that is written in the commit of the events. Its `#[queries]` come with it. For as long as it is
    /// inline, every app that writes this store has to be wired so; others are refused.
    ///
    /// The first start builds it up to the head. What it costs: a command whose events it wants has a transaction of its
    /// own, outside the group commit, and its handlers run in there; unless the projection says `partition = stream`, such
    /// commands come one after the other. A handler that fails fails the command.
    ///
    /// ```
    /// # use es_core::{App, BoxError, Projection, Project, RecordedEvent};
    /// # use es_core::memory::{MemoryBackend, Tx};
    /// # use es_core::store::EventFilter;
    /// # use es_core::testing::conformance::domain::{Open, Opened};
    /// struct Owners;
    ///
    /// impl Projection for Owners {
    ///     const NAME: &'static str = "owners";
    ///     fn filter() -> EventFilter {
    ///         EventFilter::of::<Opened>()
    ///     }
    /// }
    ///
    /// impl Project<Tx> for Owners {
    ///     async fn project(&self, event: &RecordedEvent, tx: &mut Tx) -> Result<(), BoxError> {
    ///         let Some(opened) = event.payload::<Opened>()? else { return Ok(()) };
    ///         tx.put("owners", &opened.owner, event.stream.as_str());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = MemoryBackend::new();
    /// let app = App::on(backend.clone()).inline_projection(Owners).start().await?;
    /// app.send(&"a".to_owned(), Open { owner: "Ada".to_owned() }).await?;
    /// assert_eq!(backend.row("owners", "Ada").as_deref(), Some(&b"account-a"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn inline_projection<P: Project<B::Tx>>(mut self, projection: P) -> Self {
        let projection = Arc::new(projection);
        self.services.replace(projection.clone());
        self.queries.projection::<P>(P::ANSWERS);
        let runner = Arc::new(ProjectionRunner::new(self.backend.clone(), projection.clone()));
        self.inline.push(Entry { runner, hook: Hook::Sql(Box::new(ProjectionHook::new(projection))) });
        self.check(P::ANSWERS.missing)
    }

    /// Ends that a projection is inline, by its stored name `name/version`: a processor may go on with it from where it
    /// is. Harmless if it is not inline, so the line may stay until every app was started with it.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend, testing::conformance::readside::Balance};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let backend = MemoryBackend::new();
    /// App::on(backend.clone()).inline_view::<Balance>().start().await?;
    /// let refused = App::on(backend.clone()).view::<Balance>().start().await.expect_err("it is inline");
    /// assert!(refused.to_string().contains(r#"`.retire_inline("balance/1")`"#));
    /// App::on(backend.clone()).view::<Balance>().retire_inline("balance/1").start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn retire_inline(mut self, stored_name: impl Into<String>) -> Self {
        self.retired.insert(stored_name.into());
        self
    }

    /// A handler of queries that is no projection.
    pub fn queries<H: Queries>(mut self, handler: H) -> Self {
        H::gather(&mut self.queries.gathering);
        self.check(H::missing).provide(handler)
    }

    /// Effects outside, for events from now on.
    pub fn reactor<R: Reactor>(self, reactor: R) -> Self {
        let runner = ReactorRunner::new(self.backend.clone(), reactor);
        self.check(R::missing).runner(runner)
    }

    /// Code around every command; the first added is the outermost.
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// When commands are tried again after a conflict.
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// How long a command may take, all tries together. 30 seconds by default.
    pub const fn command_timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = limit;
        self
    }

    /// How many events one command may decide: 1,000 by default, 10,000 at most.
    pub fn max_events(mut self, limit: usize) -> Self {
        self.settings.max_events = limit.min(limits::HARD_MAX_EVENTS);
        self
    }

    /// How many aggregates are kept in memory: 10,000 by default. They cost memory, never correctness.
    pub const fn cache(mut self, aggregates: usize) -> Self {
        self.settings.cache = aggregates;
        self
    }

    /// Whether every payload is decoded once before it is stored, so that what is written can be read.
    /// On by default in debug builds.
    pub const fn verify_payloads(mut self, verify: bool) -> Self {
        self.settings.verify = verify;
        self
    }

    /// Another clock than the machine's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Other randomness than the system's.
    pub fn entropy(mut self, entropy: impl Entropy) -> Self {
        self.settings.entropy = Arc::new(entropy);
        self
    }

    /// A processor of an extension crate.
    pub fn runner(mut self, runner: impl Runner) -> Self {
        self.runners.push(Arc::new(runner));
        self
    }

    /// For how long a node that says nothing is believed to be alive; 5 seconds by default, at least 100 ms. Its slices
    /// are then taken over by the others.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.settings.node.lease = lease;
        self
    }

    /// How processors are run, those that have no options of their own.
    pub const fn processors(mut self, options: ProcessorOptions) -> Self {
        self.settings.processors = options;
        self
    }

    /// How often a handler is called again before its event is parked (or what the projection chose), and the first and
    /// the longest wait in between, for [all processors](ProcessorOptions::retries).
    pub const fn processor_retries(mut self, retries: u32, first: Duration, longest: Duration) -> Self {
        self.settings.processors = self.settings.processors.retries(retries, first, longest);
        self
    }

    /// How much may be parked before a processor halts, for [all processors](ProcessorOptions::parking).
    pub const fn parking(mut self, limits: ParkingLimits) -> Self {
        self.settings.processors = self.settings.processors.parking(limits);
        self
    }

    /// How many ranges of slices of one processor this node works on at once, for
    /// [all processors](ProcessorOptions::workers).
    pub const fn workers(mut self, workers: usize) -> Self {
        self.settings.processors = self.settings.processors.workers(workers);
        self
    }

    /// How one processor is run, by its name without a version.
    pub fn processor_options(mut self, name: impl Into<String>, options: ProcessorOptions) -> Self {
        self.settings.of_processor.insert(name.into(), options);
        self
    }

    /// Lets other nodes work on the projections and reactors: this one answers commands and queries, sees where they
    /// are and waits for them.
    pub const fn looks_on(mut self) -> Self {
        self.settings.node.looks_on = true;
        self
    }

    /// A check at start: lines about what is missing.
    pub fn check(mut self, check: impl FnOnce(&Services) -> Vec<String> + Send + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// The backend, for extension crates.
    #[must_use]
    pub const fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// Checks the wiring, prepares the projections' tables, starts the processors.
    ///
    /// # Errors
    ///
    /// [`StartError`] with everything that is wrong, at once.
    pub async fn start(mut self) -> Result<App, StartError> {
        self.backend.provide(&mut self.services);
        let live = self.live.clone().unwrap_or_default();
        if self.live.is_some() {
            let live = Live::new(self.backend.clone(), Arc::new(live.clone()));
            self.services.replace(Arc::new(Views::with_live(self.backend.clone(), live)));
        }
        let mut services = self.services;
        let names = self.runners.iter().chain(self.inline.iter().map(|entry| &entry.runner));
        let names: Vec<String> = names.map(|runner| runner.name()).chain(live.iter().cloned()).collect();
        let mut wrong: Vec<String> = self.checks.into_iter().flat_map(|check| check(&services)).collect();
        wrong.extend(services.twice().iter().map(|t| format!("`{t}` was provided twice")));
        wrong.extend(self.commands.twice().iter().cloned());
        wrong.extend(wrong_names(&names));
        wrong.extend(self.settings.wrong(&names));
        if !wrong.is_empty() {
            return Err(StartError(wrong));
        }
        let Settings {
            retry,
            timeout,
            max_events,
            cache,
            verify,
            node,
            processors,
            of_processor,
            clock,
            entropy,
        } = self.settings;
        let ids = Ids::new(clock, entropy);
        let sender = Sender::default();
        let mut node = NodeContext {
            backend: self.backend.clone(),
            services: Arc::new(services.clone()),
            ids: ids.clone(),
            sender: sender.clone(),
            settings: node,
            pages: Pages::new(self.backend.clone(), processor::wanted_by_any(&self.runners)),
            lease: Arc::default(),
            node: ids.next(),
        };
        let mut never_behind = live;
        never_behind.extend(self.inline.iter().map(|entry| entry.runner.name()));
        let inline = inline::start(&node, self.backend.clone(), self.inline, &self.retired).await;
        let inline = inline.map_err(StartError)?;
        warn_of_orphans(&*self.backend, &self.runners, &never_behind).await;
        for runner in &self.runners {
            let prepared = processor::prepare(&*self.backend, &**runner).await;
            wrong.extend(prepared.err().map(|e| format!("{}: {}", runner.name(), crate::chain(&e))));
        }
        if !wrong.is_empty() {
            return Err(StartError(wrong));
        }
        let store: Arc<dyn EventStore> = match &inline {
            Some(inline) => {
                services.replace(Arc::new(WithinTx::<B::Tx>(Arc::new(inline.clone()))));
                Arc::new(inline.clone())
            }
            None => self.backend.clone(),
        };
        node.services = Arc::new(services.clone());
        let closing = CancellationToken::new();
        let lifecycle = Lifecycle::new(closing.clone());
        let options = |runner: Arc<dyn Runner>| {
            let own = of_processor.get(base_name(&runner.name())).copied();
            (runner, own.unwrap_or(processors))
        };
        let runners = self.runners.into_iter().map(options).collect();
        let tasks = lifecycle.tasks().clone();
        let bus = Arc::new(Bus {
            repository: Repository { store, snapshots: self.backend },
            cache: Cache::new(cache),
            services,
            ids,
            lifecycle,
            commands: self.commands,
            interceptors: self.interceptors,
            retry,
            timeout,
            max_events,
            verify,
        });
        sender.connect(&bus);
        let processors = processor::start(&node, runners, &tasks, &closing);
        Ok(App(Arc::new(Inner { bus, processors, queries: self.queries, never_behind })))
    }
}

fn wrong_names(names: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for name in names {
        let base = base_name(name);
        wrong.extend(limits::stored_name("processor name", base).err().map(|e| e.to_string()));
        if !seen.insert(base) {
            wrong.push(two_named(base));
        }
    }
    wrong
}

/// A name without its version.
fn base_name(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(base, _version)| base)
}

impl Settings {
    /// What is out of range, a line each.
    fn wrong(&self, names: &[String]) -> Vec<String> {
        let mut wrong = self.processors.problems("all processors");
        if self.node.lease < Duration::from_millis(100) {
            wrong.push(format!("a lease of {:?} is too short: at least 100 ms", self.node.lease));
        }
        for (name, options) in &self.of_processor {
            wrong.extend(options.problems(name));
            if !names.iter().any(|known| base_name(known) == name) {
                wrong.push(format!("there are options for {name:?}, and no processor has this name"));
            }
        }
        wrong
    }
}

fn two_named(base: &str) -> String {
    format!("two processors are named {base:?}: each needs its own name")
}

/// A renamed projection starts from nothing; that should not go unseen.
async fn warn_of_orphans(backend: &dyn AnyBackend, runners: &[Arc<dyn Runner>], here: &BTreeSet<String>) {
    let Ok((mut orphans, new)) = processor::others(backend, runners).await else { return };
    orphans.retain(|name| !here.contains(name));
    for processor in new.iter().filter(|_| !orphans.is_empty()) {
        tracing::warn!(
            processor,
            not_run_here = ?orphans,
            "starts from nothing, and the store knows processors that this app does not run: was it renamed?"
        );
    }
}

/// Everything that is wrong with the wiring, at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the app cannot start:\n  {}", .0.join("\n  "))]
pub struct StartError(
    /// One line for each mistake.
    pub Vec<String>,
);
