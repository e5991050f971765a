//! The way of a command: interceptors, attempts, decision, commit.
//!
//! Spans: `es.command` with `command` and `stream` around a whole dispatch.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use tracing::Instrument;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::app::Inner;
use crate::clock::Timestamp;
use crate::codec::{DecodeError, EncodeError};
use crate::command::interceptor::{End, Halted, Stage};
use crate::command::sending::Options;
use crate::command::{
    CommandError, Context, Dispatch, Done, ErrorOf, EventsOf, FromServices, Interceptor, Next, RetryPolicy, Scope,
};
use crate::error::panic_text;
use crate::event::Metadata;
use crate::limits::LimitError;
use crate::query::LoadError;
use crate::repository::{Cost, Held, Loaded, Repository, Slot};
use crate::store::{
    Append, Attempt, Check, Commit, CommitError, Committed, ExpectedVersion, IdempotencyKey, NewEvent, Outcome,
    OutcomeMark, Position, RecordedEvent, Resolution, StoreError, StreamId, Transaction, Version,
};
use crate::{Aggregate, App, Apply, Command, Event, Failure, Handle, Target, chain};

/// What all commands of an app share.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) interceptors: Vec<Arc<dyn Interceptor>>,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Duration,
    pub(crate) max_events: usize,
    /// Whether each payload is decoded once before it is stored.
    pub(crate) verify: bool,
}

/// One command's way, whatever its type.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    app: &'a Inner,
    id: Uuid,
    stream: StreamId,
    metadata: Arc<Metadata>,
    key: Option<IdempotencyKey>,
    expect: Option<Version>,
    timeout: Duration,
    retry: RetryPolicy,
}

type Outcomes<C> = Result<Done<EventsOf<C>>, CommandError<ErrorOf<C>>>;

/// What a handler decided, and what its events will carry.
struct Decision<C: Command> {
    now: Timestamp,
    metadata: Arc<Metadata>,
    verdict: Result<Vec<EventsOf<C>>, ErrorOf<C>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        app: &'a App,
        stream: Result<StreamId, Box<LimitError>>,
        options: Option<Box<Options>>,
    ) -> Result<Self, LimitError> {
        let app = app.inner();
        let stream = stream.map_err(|error| *error)?;
        let Options { key, expect, mut metadata, timeout, retry } = options.map_or_else(Options::default, |o| *o);
        let key = key.map(IdempotencyKey::new).transpose()?;
        let id = app.ids.next();
        // The first command of a flow gives the flow its name.
        metadata.correlation.get_or_insert(id);
        metadata.causation.get_or_insert(id);
        Ok(Self {
            app,
            id,
            stream,
            metadata: Arc::new(metadata),
            key,
            expect,
            timeout: timeout.unwrap_or(app.bus.timeout),
            retry: retry.unwrap_or(app.bus.retry),
        })
    }

    /// Runs the command to its end: within the time limit, and as long as the app runs.
    pub(crate) async fn dispatch<C: Command>(&self, cmd: &C, door: &mut impl Door<C>) -> Outcomes<C> {
        let _running = self.app.lifecycle.enter().ok_or(CommandError::ShuttingDown)?;
        let span = tracing::debug_span!("es.command", command = C::NAME, stream = %self.stream);
        let running = match span.is_disabled() {
            true => Either::Left(self.intercepted(cmd, door)),
            false => Either::Right(Box::pin(self.intercepted(cmd, door).instrument(span))),
        };
        let mut running = pin!(running);
        // Many commands never wait: they need no timer and no signal.
        if let Poll::Ready(outcome) = futures::poll!(running.as_mut()) {
            return outcome;
        }
        let late = |_| Err(CommandError::Unknown { why: "it took longer than its time limit" });
        let limited = Box::pin(async {
            tokio::select! {
                biased;
                outcome = tokio::time::timeout(self.timeout, running) => outcome.unwrap_or_else(late),
                () = self.app.lifecycle.killed() => {
                    Err(CommandError::Unknown { why: "the app was shut down meanwhile" })
                }
            }
        });
        limited.await
    }

    async fn intercepted<C: Command>(&self, cmd: &C, door: &mut impl Door<C>) -> Outcomes<C> {
        match &self.app.bus.interceptors[..] {
            [] => door.run(self, Sent::Plain { cmd }).await,
            chain => Box::pin(self.through_interceptors(chain, cmd.clone(), door)).await,
        }
    }

    async fn through_interceptors<C: Command>(
        &self,
        chain: &[Arc<dyn Interceptor>],
        cmd: C,
        door: &mut impl Door<C>,
    ) -> Outcomes<C> {
        let mut dispatch = Dispatch {
            command: C::NAME,
            stream: self.stream.clone(),
            attempt: 0,
            version: None,
            events: Vec::new(),
            payload: Box::new(cmd),
            metadata: Metadata::clone(&self.metadata),
        };
        let mut end = Through { call: self, door, outcome: None };
        let halted = Next { chain, stage: Stage::Dispatch, end: &mut end }.run(&mut dispatch).await;
        match (halted, end.outcome) {
            (Err(Halted::Interceptor(error)), _) => Err(CommandError::Intercepted(error)),
            (_, Some(outcome)) => outcome,
            (_, None) => Err(CommandError::Intercepted("an interceptor neither went on nor refused".into())),
        }
    }

    fn fingerprint<C: Command>(&self, cmd: &C) -> Result<u128, CommandError<ErrorOf<C>>> {
        let json = serde_json::to_vec(cmd)
            .map_err(|e| CommandError::Codec { what: "the command", source: e.into() })?;
        let mut hash = Xxh3::new();
        for part in [C::Aggregate::NAME.as_bytes(), C::NAME.as_bytes(), self.stream.as_str().as_bytes(), &json] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(hash.digest128())
    }

    fn repository(&self) -> &Repository {
        &self.app.repository
    }

    /// Asks the handler, through the interceptors of this stage.
    async fn decide<C: Command>(
        &self,
        sent: &mut Sent<'_, C>,
        loaded: &Loaded<C::Aggregate>,
    ) -> Result<Decision<C>, CommandError<ErrorOf<C>>> {
        let now = self.app.ids.clock().now();
        match sent {
            Sent::Plain { cmd } => self.ask(C::clone(cmd), loaded, now, self.metadata.clone()).await,
            Sent::Intercepted(dispatch) => {
                dispatch.version = Some(loaded.version);
                let mut end = Asks { call: self, loaded, now, outcome: None };
                let chain = &self.app.bus.interceptors[..];
                let next = Next { chain, stage: Stage::Handle, end: &mut end };
                let halted = Box::pin(next.run(dispatch)).await;
                match (halted, end.outcome) {
                    (Err(Halted::Interceptor(error)), _) => Err(CommandError::Intercepted(error)),
                    (_, Some(outcome)) => outcome.map(|decision: Decision<C>| Decision {
                        metadata: Arc::new(dispatch.metadata.clone()),
                        ..decision
                    }),
                    (_, None) => Err(CommandError::Intercepted("an interceptor neither went on nor refused".into())),
                }
            }
        }
    }

    /// Asks the handler.
    async fn ask<C: Command>(
        &self,
        cmd: C,
        loaded: &Loaded<C::Aggregate>,
        now: Timestamp,
        metadata: Arc<Metadata>,
    ) -> Result<Decision<C>, CommandError<ErrorOf<C>>> {
        self.admit::<C>(loaded)?;
        let context = Context {
            command_id: self.id,
            now,
            stream: self.stream.clone(),
            version: loaded.version,
            metadata,
            ids: self.app.ids.clone(),
        };
        let env = FromServices::from_services(Scope::with_context(&self.app.services, &context))?;
        let handled = AssertUnwindSafe(Handle::<C>::handle(&loaded.state, cmd, env)).catch_unwind().await;
        let verdict = match handled {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(Failure::Refused(refusal))) => Err(refusal),
            Ok(Err(Failure::Service(error))) => return Err(CommandError::Service(error)),
            Err(panic) => {
                return Err(CommandError::Panicked { command: C::NAME, panic: panic_text(&*panic) });
            }
        };
        Ok(Decision { now, metadata: context.metadata, verdict })
    }

    /// Whether the aggregate is where the command needs it.
    fn admit<C: Command>(&self, loaded: &Loaded<C::Aggregate>) -> Result<(), CommandError<ErrorOf<C>>> {
        let stream = || self.stream.clone();
        let exists = loaded.version.0 > 0;
        match <C::Aggregate as Handle<C>>::TARGET {
            Target::Existing if !exists => return Err(CommandError::NotFound { stream: stream() }),
            Target::New if exists => return Err(CommandError::AlreadyExists { stream: stream() }),
            Target::Existing | Target::New | Target::Either => {}
        }
        if exists && loaded.state.ended() {
            return Err(CommandError::Ended { stream: stream() });
        }
        match self.expect {
            Some(expected) if expected != loaded.version => {
                let expected = ExpectedVersion::Exact(expected);
                let source =
                    CommitError::Conflict { stream: stream(), expected, actual: loaded.version, since: Vec::new() };
                Err(CommandError::Conflict { attempts: 1, source })
            }
            _ => Ok(()),
        }
    }

    /// The decision as data: what will be stored if nothing changed since `version`.
    fn commit_of<C: Command>(
        &self,
        cmd: &C,
        version: Version,
        decision: &Decision<C>,
    ) -> Result<Commit, CommandError<ErrorOf<C>>> {
        let expected = match version {
            Version(0) => ExpectedVersion::NoStream,
            version => ExpectedVersion::Exact(version),
        };
        let mut commit = Commit::default();
        let events = match &decision.verdict {
            Ok(events) if !events.is_empty() => self.encode::<C>(events, decision)?,
            _ => Vec::new(),
        };
        if let Some(key) = &self.key {
            let refusal = match &decision.verdict {
                Ok(_) => None,
                Err(refusal) => Some(to_json(refusal)?),
            };
            let outcome = Outcome {
                fingerprint: self.fingerprint(cmd)?,
                stream: self.stream.clone(),
                version,
                position: Position(0),
                events: u32::try_from(events.len()).unwrap_or(u32::MAX),
                refusal,
            };
            commit.outcomes.push(OutcomeMark { key: key.clone(), outcome });
        }
        if !events.is_empty() {
            commit.appends.push(Append { stream: self.stream.clone(), expected, events });
        } else if !commit.outcomes.is_empty() {
            // A remembered refusal is decided on the current state, like any other decision.
            commit.checks.push(Check { stream: self.stream.clone(), expected });
        }
        Ok(commit)
    }

    fn encode<C: Command>(
        &self,
        events: &[EventsOf<C>],
        decision: &Decision<C>,
    ) -> Result<Vec<NewEvent>, CommandError<ErrorOf<C>>> {
        if events.len() > self.app.bus.max_events {
            return Err(LimitError::TooLarge {
                field: "command",
                actual: events.len(),
                limit: self.app.bus.max_events,
                unit: "events",
                value: C::NAME.to_owned(),
            }
            .into());
        }
        let new = |event: &EventsOf<C>| {
            let new = NewEvent::new(self.app.ids.at(decision.now), event.encode()?, decision.metadata.clone());
            if self.app.bus.verify {
                verify::<EventsOf<C>>(&self.stream, &new)?;
            }
            Ok(new)
        };
        events.iter().map(new).collect()
    }

    /// How long to wait before the next attempt, if the error is one that another attempt can mend.
    fn wait_after<E>(&self, error: &CommandError<E>, attempt: u32) -> Option<Duration> {
        let again = match error {
            CommandError::Conflict { .. } => self.expect.is_none(),
            CommandError::Store(error) => matches!(error, StoreError::Transient { .. }),
            _ => false,
        };
        self.retry.wait_after(attempt, &self.app.ids).filter(|_| again)
    }

    /// What the first request under this key led to, if there was one.
    async fn first_outcome<C: Command>(&self, cmd: &C) -> Result<Option<Outcome>, CommandError<ErrorOf<C>>> {
        let Some(key) = &self.key else { return Ok(None) };
        match self.app.store().outcome(key).await? {
            Some(outcome) if outcome.fingerprint != self.fingerprint(cmd)? => {
                Err(CommandError::KeyReused { key: key.clone() })
            }
            found => Ok(found),
        }
    }

    /// Answers like the first time: the refusal, or the events, read back and upcast.
    async fn replay<C: Command>(&self, outcome: Outcome) -> Outcomes<C> {
        let Outcome { stream, version, position, events, refusal, .. } = outcome;
        if let Some(refusal) = refusal {
            let refusal = serde_json::from_slice(&refusal)
                .map_err(|e| CommandError::Codec { what: "the stored refusal", source: e.into() })?;
            return Err(CommandError::Refused(refusal));
        }
        let before = Version(version.0 - u64::from(events));
        let stored = match events {
            0 => Vec::new(),
            n => self.app.store().stream(&stream, before, n as usize).await?,
        };
        let mut events = Vec::with_capacity(stored.len());
        for event in &stored {
            events.extend(EventsOf::<C>::decode(event)?);
        }
        Ok(Done { position, version, events, repeated: true })
    }
}

/// Where a decision goes. Door one commits it, door two stages it.
pub(crate) trait Door<C: Command>: Send {
    fn run(&mut self, call: &Call<'_>, sent: Sent<'_, C>) -> impl Future<Output = Outcomes<C>> + Send;
}

/// The command, bare or as the interceptors have it.
pub(crate) enum Sent<'s, C> {
    Plain { cmd: &'s C },
    Intercepted(&'s mut Dispatch),
}

impl<C: Command> Sent<'_, C> {
    fn cmd(&self) -> &C {
        match self {
            Self::Plain { cmd } => cmd,
            Self::Intercepted(dispatch) => dispatch.payload().expect("`Call` put a `C` in"),
        }
    }

    fn begin_attempt(&mut self, attempt: u32) {
        if let Self::Intercepted(dispatch) = self {
            dispatch.attempt = attempt;
            dispatch.version = None;
            dispatch.events.clear();
        }
    }
}

/// Door one: attempts, until one is decided for good.
pub(crate) struct Commits;

impl<C: Command> Door<C> for Commits {
    async fn run(&mut self, call: &Call<'_>, mut sent: Sent<'_, C>) -> Outcomes<C> {
        let mut attempt = 1;
        loop {
            sent.begin_attempt(attempt);
            let wait = match attempt_once(call, &mut sent).await {
                Ok(done) => return Ok(done),
                Err(CommandError::Refused(refusal)) => return Err(CommandError::Refused(refusal)),
                Err(error) => match call.wait_after(&error, attempt) {
                    Some(wait) => wait,
                    None => return Box::pin(settle(call, sent.cmd(), error, attempt)).await,
                },
            };
            Box::pin(tokio::time::sleep(wait)).await;
            attempt += 1;
        }
    }
}

/// The end of the last attempt: a request that was decided before has its first outcome even so.
async fn settle<C: Command>(
    call: &Call<'_>,
    cmd: &C,
    error: CommandError<ErrorOf<C>>,
    attempt: u32,
) -> Outcomes<C> {
    let error = match error {
        CommandError::Conflict { source, .. } => CommandError::Conflict { attempts: attempt, source },
        error => error,
    };
    if matches!(error, CommandError::Unknown { .. } | CommandError::KeyReused { .. }) {
        return Err(error);
    }
    // It must be known: told `AlreadyExists`, the sender of a repeated request would believe it for good.
    for tried in 1.. {
        let settled = match call.first_outcome(cmd).await {
            Ok(Some(outcome)) => call.replay::<C>(outcome).await,
            Ok(None) => return Err(error),
            Err(unread) => Err(unread),
        };
        match settled.as_ref().err().and_then(|error| call.wait_after(error, tried)) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return settled,
        }
    }
    unreachable!("the policy ends the tries")
}

/// Load, decide, commit; the state goes back into the cache only if the store proved it.
///
/// Split into what waits and what does not: a future holds every local of the function that waits, is
/// moved before it runs, and is as large as its largest branch. So the rare ways are boxed too.
async fn attempt_once<C: Command>(call: &Call<'_>, sent: &mut Sent<'_, C>) -> Outcomes<C> {
    let slot = call.app.cache.slot(&call.stream);
    let mut held = match slot.try_hold() {
        Some(held) => held,
        None => Box::pin(slot.hold()).await,
    };
    let (mut loaded, current) = match held.take::<C::Aggregate>() {
        Some(loaded) => (loaded, false),
        None => (Box::new(Box::pin(load(call, &call.stream)).await?), true),
    };
    let decided = decide_on_truth(call, sent, &mut loaded, current).await;
    let (mut decided, writing) = match prepare(call, sent.cmd(), &loaded, decided) {
        Ok(prepared) => prepared,
        Err(error) => {
            // What refused is the truth about a state that stands; a panic may have left it half changed.
            if !matches!(error, CommandError::Panicked { .. }) {
                held.put(loaded);
            }
            return Err(error);
        }
    };
    if let Some(writing) = writing {
        match writing.await {
            Ok(committed) => decided.committed(committed),
            // An unknown outcome is resolved before anything is said about it.
            Err(CommitError::Unknown(attempt)) => decided.committed(Box::pin(resolve(call.app, &attempt)).await?),
            Err(CommitError::Repeated { outcome, .. }) => {
                held.put(loaded);
                return Box::pin(call.replay::<C>(*outcome)).await;
            }
            Err(error) => {
                // A prefix of the stream stays one. It is read on at once: kept as it is, the next attempt
                // would believe it and be refused again.
                if matches!(&error, CommitError::Conflict { actual, .. } if *actual >= loaded.version)
                    && Box::pin(call.repository().catch_up(&call.stream, &mut *loaded)).await.is_ok()
                {
                    held.put(loaded);
                }
                return Err(error.into());
            }
        }
    }
    conclude(call, &slot, held, loaded, decided)
}

/// Decides; where nothing is written that would prove the kept state, the tail is read first.
async fn decide_on_truth<C: Command>(
    call: &Call<'_>,
    sent: &mut Sent<'_, C>,
    loaded: &mut Loaded<C::Aggregate>,
    mut current: bool,
) -> Result<Decision<C>, CommandError<ErrorOf<C>>> {
    loop {
        let decided = call.decide(sent, loaded).await;
        let proven = match &decided {
            Ok(Decision { verdict: Ok(events), .. }) => !events.is_empty(),
            Err(CommandError::Panicked { .. }) => true,
            Ok(_) | Err(_) => false,
        };
        if proven || current {
            return decided;
        }
        let decided = Box::new(decided);
        if Box::pin(call.repository().catch_up(&call.stream, loaded)).await? == 0 {
            return *decided;
        }
        current = true;
    }
}

/// A decision on its way into the store.
struct Prepared<C: Command> {
    verdict: Result<Vec<EventsOf<C>>, ErrorOf<C>>,
    position: Position,
    version: Version,
    /// The id of its last event; nil if it has none.
    last: Uuid,
}

impl<C: Command> Prepared<C> {
    fn committed(&mut self, committed: Committed) {
        if let Some(version) = committed.versions.first() {
            self.version = *version;
            self.position = committed.position;
        }
    }
}

type Writing<'a> = Option<BoxFuture<'a, Result<Committed, CommitError>>>;

/// The decision as a commit that has begun, if there is anything to write.
fn prepare<'a, C: Command>(
    call: &'a Call<'_>,
    cmd: &C,
    loaded: &Loaded<C::Aggregate>,
    decided: Result<Decision<C>, CommandError<ErrorOf<C>>>,
) -> Result<(Prepared<C>, Writing<'a>), CommandError<ErrorOf<C>>> {
    let decision = decided?;
    let commit = call.commit_of(cmd, loaded.version, &decision)?;
    let last = commit.appends.first().and_then(|append| append.events.last());
    let (version, position) = (loaded.version, loaded.position);
    let last = last.map(|event| event.id).unwrap_or_default();
    let writing = (!commit.is_empty()).then(|| call.app.store().commit(commit));
    Ok((Prepared { verdict: decision.verdict, position, version, last }, writing))
}

/// Takes the events into the kept state, and answers.
fn conclude<C: Command>(
    call: &Call<'_>,
    slot: &Arc<Slot>,
    mut held: Held,
    mut loaded: Box<Loaded<C::Aggregate>>,
    prepared: Prepared<C>,
) -> Outcomes<C> {
    let Prepared { verdict, position, version, last } = prepared;
    let events = match verdict {
        Ok(events) => events,
        Err(refusal) => {
            held.put(loaded);
            return Err(CommandError::Refused(refusal));
        }
    };
    if !events.is_empty() {
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| {
            events.iter().for_each(|event| loaded.state.apply(event));
        }));
        if let Err(panic) = applied {
            // It is stored. The next command loads, meets the same panic, and says so.
            tracing::error!(stream = %call.stream, panic = panic_text(&*panic), "`apply` panicked");
            return Ok(Done { position, version, events, repeated: false });
        }
        (loaded.version, loaded.position, loaded.last) = (version, position, last);
        if Repository::wants_snapshot(&loaded, events.len() as u64) {
            take_snapshot(call.app, slot, &call.stream, &loaded);
        }
        loaded.cost = Cost::default();
    }
    held.put(loaded);
    Ok(Done { position, version, events, repeated: false })
}

async fn load<C: Aggregate + Apply, E>(call: &Call<'_>, stream: &StreamId) -> Result<Loaded<C>, CommandError<E>> {
    let loading = AssertUnwindSafe(call.repository().load(stream)).catch_unwind().await;
    match loading {
        Ok(loaded) => Ok(loaded?),
        Err(panic) => Err(CommandError::Panicked { command: C::NAME, panic: panic_text(&*panic) }),
    }
}

/// Asks until the store answers; the command's time limit ends it.
pub(crate) async fn resolve(app: &Inner, attempt: &Attempt) -> Result<Committed, CommitError> {
    let policy = RetryPolicy::default().with_attempts(u32::MAX);
    for tried in 1.. {
        match app.store().resolve(attempt).await {
            Ok(Resolution::Applied(committed)) => return Ok(committed),
            Ok(Resolution::Never) => {
                let never = std::io::Error::other("the attempt was found not to be applied, and is fenced");
                return Err(StoreError::transient("the commit", never).into());
            }
            Err(error) if error.kind() == crate::ErrorKind::Transient => {
                tokio::time::sleep(policy.wait_after(tried, &app.ids).unwrap_or_default()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the loop has no end of its own")
}

/// In the background: a snapshot that fails costs a longer load, not the command.
fn take_snapshot<A: Apply>(app: &Inner, slot: &Arc<Slot>, stream: &StreamId, loaded: &Loaded<A>) {
    if !slot.begin_snapshot() {
        return;
    }
    let snapshot = std::panic::catch_unwind(AssertUnwindSafe(|| Repository::snapshot_of(stream, loaded)));
    let snapshot = match snapshot {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => {
            tracing::warn!(%stream, error = &*error as &dyn std::error::Error, "snapshot not encoded");
            return slot.end_snapshot();
        }
        Err(panic) => {
            tracing::warn!(%stream, panic = panic_text(&*panic), "snapshot not encoded");
            return slot.end_snapshot();
        }
    };
    let (store, slot) = (app.repository.snapshots.clone(), slot.clone());
    app.lifecycle.spawn(async move {
        let stream = snapshot.stream.clone();
        if let Err(error) = store.put_snapshot(snapshot).await {
            tracing::warn!(%stream, error = &error as &dyn std::error::Error, "snapshot not stored");
        }
        slot.end_snapshot();
    });
}

/// Door two: decides on what is stored and staged, and stages.
pub(crate) struct Stages<'t, T>(pub(crate) &'t mut T);

impl<C: Command, T: Transaction> Door<C> for Stages<'_, T> {
    async fn run(&mut self, call: &Call<'_>, mut sent: Sent<'_, C>) -> Outcomes<C> {
        if self.0.identity() != call.app.store().identity() {
            let what = "the transaction belongs to another store than the app; take it from the app's backend";
            return Err(CommandError::Store(StoreError::misuse(what)));
        }
        sent.begin_attempt(1);
        if let Some(first) = call.first_outcome(sent.cmd()).await? {
            return call.replay::<C>(first).await;
        }
        let mut loaded: Loaded<C::Aggregate> = load(call, &call.stream).await?;
        for append in self.0.staged().appends.iter().filter(|a| a.stream == call.stream) {
            for event in &append.events {
                loaded.version = Version(loaded.version.0 + 1);
                let event = recorded(&call.stream, event, loaded.version);
                EventsOf::<C>::decode(&event)?.into_iter().for_each(|event| loaded.state.apply(&event));
            }
        }
        let decision = call.decide(&mut sent, &loaded).await?;
        let commit = call.commit_of(sent.cmd(), loaded.version, &decision)?;
        let staged = self.0.staged();
        staged.appends.extend(commit.appends);
        staged.outcomes.extend(commit.outcomes);
        let events = decision.verdict.map_err(CommandError::Refused)?;
        let version = Version(loaded.version.0 + events.len() as u64);
        Ok(Done { position: loaded.position, version, events, repeated: false })
    }
}

/// The end of the chain around a dispatch.
struct Through<'x, C: Command, D> {
    call: &'x Call<'x>,
    door: &'x mut D,
    outcome: Option<Outcomes<C>>,
}

impl<C: Command, D: Door<C>> End for Through<'_, C, D> {
    fn run<'a>(&'a mut self, dispatch: &'a mut Dispatch) -> BoxFuture<'a, Result<(), Halted>> {
        Box::pin(async move {
            let outcome = self.door.run(self.call, Sent::Intercepted(dispatch)).await;
            let halted = halted(&outcome);
            self.outcome = Some(outcome);
            halted
        })
    }
}

/// The end of the chain around a decision.
struct Asks<'x, C: Command> {
    call: &'x Call<'x>,
    loaded: &'x Loaded<C::Aggregate>,
    now: Timestamp,
    outcome: Option<Result<Decision<C>, CommandError<ErrorOf<C>>>>,
}

impl<C: Command> End for Asks<'_, C> {
    fn run<'a>(&'a mut self, dispatch: &'a mut Dispatch) -> BoxFuture<'a, Result<(), Halted>> {
        Box::pin(async move {
            let cmd: C = dispatch.payload::<C>().expect("`Call` put a `C` in").clone();
            let metadata = Arc::new(dispatch.metadata.clone());
            let outcome = self.call.ask(cmd, self.loaded, self.now, metadata).await;
            let halted = match &outcome {
                Ok(Decision { verdict: Err(refusal), .. }) => {
                    Err(Halted::Command { kind: crate::ErrorKind::Refused, text: chain(refusal) })
                }
                Ok(Decision { verdict: Ok(events), .. }) => {
                    dispatch.events = events.iter().filter_map(name_of).collect();
                    Ok(())
                }
                Err(error) => Err(Halted::Command { kind: error.kind(), text: chain(error) }),
            };
            self.outcome = Some(outcome);
            halted
        })
    }
}

/// The stored name of an event, as its type lists it.
fn name_of<E: Event>(event: &E) -> Option<&'static str> {
    let name = event.encode().ok()?.name;
    E::TYPES.iter().map(|t| t.name).find(|known| name == *known)
}

fn halted<T, E: std::error::Error + 'static>(outcome: &Result<T, CommandError<E>>) -> Result<(), Halted> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(Halted::Command { kind: error.kind(), text: chain(error) }),
    }
}

fn to_json<E, T: serde::Serialize>(refusal: &T) -> Result<bytes::Bytes, CommandError<E>> {
    let json = serde_json::to_vec(refusal);
    Ok(json.map_err(|e| CommandError::Codec { what: "the refusal", source: e.into() })?.into())
}

/// A new event as it will be read back.
fn recorded(stream: &StreamId, event: &NewEvent, version: Version) -> RecordedEvent {
    RecordedEvent {
        position: None,
        stream: stream.clone(),
        version,
        id: event.id,
        name: event.name.clone(),
        schema: event.schema,
        codec: event.codec.clone(),
        data: event.data.clone(),
        tags: event.tags.clone(),
        metadata: event.metadata.clone(),
        recorded_at: Timestamp::UNIX_EPOCH,
    }
}

/// What was written must be readable: a payload that is not is found before it is stored.
fn verify<E: Event>(stream: &StreamId, event: &NewEvent) -> Result<(), EncodeError> {
    let wrong = |source: DecodeError| EncodeError::RoundTrip { name: event.name.to_string(), source: source.into() };
    E::decode(&recorded(stream, event, Version(0))).map(drop).map_err(wrong)
}

impl<E> From<LoadError> for CommandError<E> {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Limit(e) => Self::Limit(e),
            LoadError::Store(e) => e.into(),
            LoadError::Decode(e) => Self::Decode(e),
        }
    }
}
