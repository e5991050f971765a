//! Given events, when a command, then events or an error: an aggregate, without a store.

use std::fmt::Debug;
use std::sync::Arc;

use futures::FutureExt;
use pretty_assertions::assert_eq;
use uuid::Uuid;

use super::{SeededEntropy, TestClock};
use crate::clock::{Clock, Timestamp};
use crate::command::{CommandError, Context};
use crate::event::{Event, IntoEvents, Metadata};
use crate::id::Ids;
use crate::services::{FromServices, Scope, Services};
use crate::store::{NewEvent, Position, RecordedEvent, StreamId, Version};
use crate::{Apply, BoxError, Command, Failure, Handle, Target};

/// Begins a test of an aggregate: what has happened to it. `()` for one that does not exist.
///
/// Every event, given or decided, is written and read back, so a payload that its codec cannot hold
/// fails here and not in production.
///
/// ```
/// # use es_core::testing::conformance::domain::*;
/// # use es_core::testing::given;
/// given::<Account>([opened("ada"), deposited(10)]).when(Withdraw { amount: 4 }).then(withdrawn(4));
/// given::<Account>([opened("ada"), deposited(10)])
///     .when(Withdraw { amount: 11 })
///     .then_error(AccountError::Overdrawn { balance: 10 });
/// given::<Account>(()).when(Withdraw { amount: 1 }).then_not_found();
/// ```
///
/// There is nothing to check before there was a command:
///
/// ```compile_fail,E0599
/// # use es_core::testing::conformance::domain::*;
/// # use es_core::testing::given;
/// given::<Account>([opened("ada")]).then(withdrawn(4));
/// ```
///
/// # Panics
///
/// If an event cannot be written and read back.
#[track_caller]
pub fn given<A: Apply>(history: impl IntoEvents<A::Event>) -> Given<A> {
    let mut state = A::default();
    let mut version = Version(0);
    for event in history.into_events() {
        version.0 += 1;
        written(&event).for_each(|event| state.apply(&event));
    }
    Given {
        state,
        version,
        services: Services::default(),
        clock: TestClock::default(),
        metadata: Metadata::default(),
    }
}

/// An aggregate and what surrounds it, before the command.
#[must_use = "a test without `.when(..)` checks nothing"]
#[derive(Debug)]
pub struct Given<A> {
    state: A,
    version: Version,
    services: Services,
    clock: TestClock,
    metadata: Metadata,
}

impl<A: Apply> Given<A> {
    /// A value that the handler asks for by type.
    pub fn with<T: Send + Sync + 'static>(mut self, service: T) -> Self {
        self.services.provide(service);
        self
    }

    /// The time of the command; [`epoch`](super::epoch) unless it is set.
    pub fn at(self, time: Timestamp) -> Self {
        self.clock.set(time);
        self
    }

    /// Who asks.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.metadata.actor = Some(actor.into());
        self
    }

    /// For whom.
    pub fn for_tenant(mut self, tenant: impl Into<String>) -> Self {
        self.metadata.tenant = Some(tenant.into());
        self
    }

    /// Sends a command to it. For handlers that do not wait: all that are sync, and async ones whose
    /// services answer at once.
    ///
    /// # Panics
    ///
    /// If the handler waits, asks for something that was not given by [`with`](Self::with), panics, or
    /// decides an event that cannot be written and read back.
    #[track_caller]
    pub fn when<C: Command<Aggregate = A>>(self, cmd: C) -> Then<A>
    where
        A: Handle<C>,
    {
        match self.decide(cmd).now_or_never() {
            Some(outcome) => Then::new(C::NAME, outcome),
            None => panic!("the handler of {} waits for something: use `.when_async(cmd).await`", C::NAME),
        }
    }

    /// The same, for a handler that waits.
    ///
    /// # Panics
    ///
    /// As [`when`](Self::when), but for the waiting.
    pub async fn when_async<C: Command<Aggregate = A>>(self, cmd: C) -> Then<A>
    where
        A: Handle<C>,
    {
        Then::new(C::NAME, self.decide(cmd).await)
    }

    async fn decide<C: Command<Aggregate = A>>(self, cmd: C) -> Outcome<A>
    where
        A: Handle<C>,
    {
        let stream = stream("fixture");
        let exists = self.version.0 > 0;
        match <A as Handle<C>>::TARGET {
            Target::Existing if !exists => return Err(CommandError::NotFound { stream }),
            Target::New if exists => return Err(CommandError::AlreadyExists { stream }),
            Target::Existing | Target::New | Target::Either => {}
        }
        if exists && self.state.ended() {
            return Err(CommandError::Ended { stream });
        }
        let context = self.context(stream);
        let env = FromServices::from_services(Scope::with(&self.services, &context))
            .unwrap_or_else(|missing| panic!("{missing} (here: add `.with(..)` to the fixture)"));
        match Handle::<C>::handle(&self.state, cmd, env).await {
            Ok(events) => Ok(events),
            Err(Failure::Refused(refusal)) => Err(CommandError::Refused(refusal)),
            Err(Failure::Service(error)) => Err(CommandError::Service(error)),
        }
    }

    fn context(&self, stream: StreamId) -> Context {
        let ids = Ids::new(Arc::new(self.clock.clone()), Arc::new(SeededEntropy::new(0)));
        let command_id = ids.next();
        let mut metadata = self.metadata.clone();
        metadata.correlation = Some(command_id);
        metadata.causation = Some(command_id);
        let (now, version) = (self.clock.now(), self.version);
        let (metadata, also) = (Arc::new(metadata), Arc::default());
        Context { command_id, now, stream, version, metadata, ids, also, beside: Vec::new() }
    }
}

type Outcome<A> = Result<Vec<<A as crate::Aggregate>::Event>, CommandError<<A as crate::Aggregate>::Error>>;

/// What the command led to, to be checked.
#[must_use = "a test without `.then..` checks nothing"]
pub struct Then<A: Apply> {
    command: &'static str,
    outcome: Outcome<A>,
}

// By hand: events need no `Debug` to be events.
impl<A: Apply> Debug for Then<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Then").field("command", &self.command).finish_non_exhaustive()
    }
}

impl<A: Apply> Then<A> {
    #[track_caller]
    fn new(command: &'static str, outcome: Outcome<A>) -> Self {
        if let Ok(events) = &outcome {
            events.iter().for_each(|event| written(event).for_each(drop));
        }
        Self { command, outcome }
    }

    /// The outcome itself, for checks that are not here.
    ///
    /// # Errors
    ///
    /// What the command ended with.
    pub fn outcome(self) -> Result<Vec<A::Event>, CommandError<A::Error>> {
        self.outcome
    }
}

impl<A: Apply> Then<A>
where
    A::Event: Debug + PartialEq,
{
    /// It decided exactly these events, in this order.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn then(self, expected: impl IntoEvents<A::Event>) {
        match self.outcome {
            Ok(events) => assert_eq!(
                expected.into_events(),
                events,
                "events of {} (expected < > decided)",
                self.command
            ),
            Err(error) => panic!("{} was expected to decide events and ended with: {error:?}", self.command),
        }
    }

    /// It went through and decided no event.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn then_nothing(self) {
        self.then(Vec::<A::Event>::new());
    }

    /// The domain refused it with this error.
    ///
    /// # Panics
    ///
    /// If it did not.
    #[track_caller]
    pub fn then_error(self, expected: impl Into<A::Error>)
    where
        A::Error: PartialEq,
    {
        let command = self.command;
        match self.failed() {
            CommandError::Refused(refusal) => {
                assert_eq!(expected.into(), refusal, "refusal of {command} (expected < > actual)");
            }
            error => panic!("{command} was expected to be refused by its handler and ended with: {error:?}"),
        }
    }

    /// It needs an aggregate that exists.
    ///
    /// # Panics
    ///
    /// If it ended in another way.
    #[track_caller]
    pub fn then_not_found(self) {
        self.stopped("not to find its aggregate", |e| matches!(e, CommandError::NotFound { .. }));
    }

    /// It creates, and the aggregate exists already.
    ///
    /// # Panics
    ///
    /// If it ended in another way.
    #[track_caller]
    pub fn then_already_exists(self) {
        self.stopped("to find its aggregate there already", |e| {
            matches!(e, CommandError::AlreadyExists { .. })
        });
    }

    /// The aggregate has ended and takes no more commands.
    ///
    /// # Panics
    ///
    /// If it ended in another way.
    #[track_caller]
    pub fn then_ended(self) {
        self.stopped("to find its aggregate ended", |e| matches!(e, CommandError::Ended { .. }));
    }

    /// A service that the handler asked failed; returns its error for a closer look.
    ///
    /// # Panics
    ///
    /// If it ended in another way.
    #[track_caller]
    pub fn then_service_error(self) -> BoxError {
        let command = self.command;
        match self.failed() {
            CommandError::Service(error) => error,
            error => panic!("{command} was expected to fail with its service and ended with: {error:?}"),
        }
    }

    #[track_caller]
    fn stopped(self, expected: &str, is_it: impl FnOnce(&CommandError<A::Error>) -> bool) {
        let command = self.command;
        let error = self.failed();
        assert!(is_it(&error), "{command} was expected {expected} and ended with: {error:?}");
    }

    #[track_caller]
    fn failed(self) -> CommandError<A::Error> {
        match self.outcome {
            Ok(events) => panic!("{} was expected to fail and decided {events:?}", self.command),
            Err(error) => error,
        }
    }
}

/// The event as it is read back: what is stored, and what it then decodes to.
#[track_caller]
pub(super) fn written<E: Event>(event: &E) -> impl Iterator<Item = E> + use<E> {
    let data = event.encode().unwrap_or_else(|e| panic!("{}", crate::chain(&e)));
    let new = NewEvent::new(Uuid::from_u128(1), data, Arc::default());
    let stored = recorded(new, stream("fixture"), Version(1), Position(1));
    E::decode(&stored).unwrap_or_else(|e| panic!("{}", crate::chain(&e))).into_iter()
}

/// A new event as a store would give it back.
pub(super) fn recorded(
    new: NewEvent,
    stream: StreamId,
    version: Version,
    position: Position,
) -> RecordedEvent {
    new.into_recorded(stream, version, Some(position), super::epoch())
}

fn stream(id: &'static str) -> StreamId {
    StreamId::new(id).expect("a short name without control characters")
}
