//! The wiring of an app: what it runs, and how.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::start::two_named;
use super::wiring::Wiring;
use super::{App, BeforeReady};
use crate::clock::{Clock, SystemClock};
use crate::command::{Interceptor, Registry, RetryPolicy, missing_for};
use crate::engine::Engine;
use crate::entropy::{Entropy, SystemEntropy};
use crate::inline::{Entry, Hook, ProjectionHook, ViewHook};
use crate::limits;
use crate::processor::{
    NodeSettings, ParkingLimits, ProcessorOptions, ProjectionRunner, ReactorRunner, Runner, ViewRunner,
};
use crate::projection::{Project, Reactor, View, tables_of};
use crate::services::Services;
use crate::store::Backend;
use crate::{Command, Commands, Queries};

impl App {
    /// Begins the wiring of an app on this backend.
    pub fn on<B: Backend>(backend: B) -> AppBuilder<B> {
        AppBuilder {
            backend: Arc::new(backend),
            services: Services::default(),
            commands: Registry::default(),
            runners: Vec::new(),
            engines: Vec::new(),
            queries: Wiring::default(),
            inline: Vec::new(),
            retired: BTreeSet::new(),
            live: None,
            checks: Vec::new(),
            interceptors: Vec::new(),
            settings: Settings::default(),
        }
    }
}

pub(super) type Check = Box<dyn FnOnce(&Services) -> Vec<String> + Send>;

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) retry: RetryPolicy,
    pub(super) timeout: Duration,
    pub(super) max_events: usize,
    pub(super) cache: usize,
    pub(super) verify: bool,
    pub(super) node: NodeSettings,
    pub(super) processors: ProcessorOptions,
    /// Options of processors by their names without a version.
    pub(super) of_processor: BTreeMap<String, ProcessorOptions>,
    pub(super) before_ready: BeforeReady,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
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
            before_ready: BeforeReady::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

/// The wiring of an app. Generic over the backend only here, where backends meet what needs them.
#[must_use = "nothing runs before `.start().await`"]
pub struct AppBuilder<B: Backend> {
    pub(super) backend: Arc<B>,
    pub(super) services: Services,
    pub(super) commands: Registry,
    pub(super) runners: Vec<Arc<dyn Runner>>,
    pub(super) engines: Vec<Arc<dyn Engine>>,
    pub(super) queries: Wiring,
    pub(super) inline: Vec<Entry<B::Tx>>,
    pub(super) retired: BTreeSet<String>,
    /// The live views; `None` for an app without views of any kind.
    pub(super) live: Option<BTreeSet<String>>,
    pub(super) checks: Vec<Check>,
    pub(super) interceptors: Vec<Arc<dyn Interceptor>>,
    pub(super) settings: Settings,
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

    /// A value that what an extension crate adds has in common: the first one that asks for it adds it.
    pub fn provide_once<T: Default + Send + Sync + 'static>(self) -> Self {
        if self.services.get::<T>().is_ok() { self } else { self.provide(T::default()) }
    }

    /// What was provided so far, for extension crates.
    #[must_use]
    pub const fn services(&self) -> &Services {
        &self.services
    }

    /// Optional: makes `start` check that everything the aggregate's commands ask for is there, and lets them be
    /// [sent by name](crate::command::Sender::send_named).
    pub fn aggregate<A: Commands>(mut self) -> Self {
        A::register(&mut self.commands);
        self.check(A::missing)
    }

    /// The same for one command: one that is in another crate than its aggregate.
    pub fn command<C: Command>(mut self) -> Self {
        self.commands.add::<C>();
        self.check(missing_for::<C>)
    }

    /// A keyed view, kept up to date from the log. Read it through [`Views`](crate::Views).
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

    /// Work of an extension crate that does not follow the log. The extension keeps the other end of the `Arc`: what starts
    /// its work, say.
    pub fn engine(mut self, engine: Arc<dyn Engine>) -> Self {
        self.engines.push(engine);
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

    /// What queries about a projection do before the app is [ready](App::ready) for them: by default they answer what is
    /// there.
    pub const fn before_ready(mut self, what: BeforeReady) -> Self {
        self.settings.before_ready = what;
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
}
