//! Given events, when an event, a time or a refusal, then commands, timers and a state: a process, without a store.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use es_core::command::{ErrorOf, IdOf, NamedCommand};
use es_core::event::{Event, IntoEvents};
use es_core::store::{NewEvent, Position, StreamId, Version};
use es_core::testing::epoch;
use es_core::{Aggregate, BoxError, Command, RecordedEvent, Timestamp};
use pretty_assertions::assert_eq;
use uuid::Uuid;

use crate::book::Book;
use crate::data::Data;
use crate::instance::{Instance, Moment, ToSend};
use crate::message::{Publish, Topic};
use crate::process::{OnTimer, Process, Rejected, Sends, Timer};
use crate::rows::Waits;

/// Begins a test of a process: nothing has happened, and it is [`epoch`].
///
/// It does what the engine does, but for the store: events go through their stored form, states as well, an instance whose
/// handler fails is parked, and time goes on only when it is told.
pub fn process<P: Process>() -> Given<P> {
    Given(World {
        book: Book::new(crate::runner::definitions::<P>()),
        now: epoch(),
        position: 0,
        open: Vec::new(),
        touched: None,
        of: PhantomData,
    })
}

/// A process, and what has come to it.
#[derive(Debug)]
struct World<P> {
    book: Book,
    now: Timestamp,
    position: u64,
    /// Commands that were not answered, oldest first.
    open: Vec<ToSend>,
    /// The instance that took the last input in.
    touched: Option<String>,
    of: PhantomData<fn() -> P>,
}

impl<P: Process> World<P> {
    fn take(&mut self, stream: &StreamId, event: &impl Event) -> Result<Vec<ToSend>, BoxError> {
        self.position += 1;
        let id = Uuid::from_u128(u128::from(self.position) << 64 | 1);
        let new = NewEvent::new(id, event.encode()?, Default::default());
        let (version, position) = (Version(self.position), Some(Position(self.position)));
        let stored = new.into_recorded(stream.clone(), version, position, self.now);
        if !crate::definition::filter(self.book.definitions()).matches(&stored) {
            return Ok(Vec::new());
        }
        self.take_stored(&stored)?;
        Ok(self.flush())
    }

    fn take_stored(&mut self, event: &RecordedEvent) -> Result<(), BoxError> {
        let definitions = self.book.definitions().to_vec();
        let steps =
            definitions.iter().map(|definition| definition.steps(event)).collect::<Result<Vec<_>, _>>()?;
        for (of, steps) in steps.into_iter().enumerate() {
            for (nth, step) in (0_u32..).zip(steps) {
                let (id, touched) = (self.id(), &mut self.touched);
                let admits = |key: &str| {
                    *touched = Some(key.to_owned());
                    true
                };
                let taken = self.book.event(event, of, nth, &step, admits, &move || id);
                taken.map_err(|(_, error)| error)?;
            }
        }
        Ok(())
    }

    /// What was sent since the last time.
    fn flush(&mut self) -> Vec<ToSend> {
        let sends: Vec<ToSend> = self.book.flushed().into_iter().map(|sending| sending.send).collect();
        self.open.extend(sends.iter().cloned());
        sends
    }

    /// Of an instance that begins now.
    fn id(&self) -> Uuid {
        Uuid::from_u128((u128::from(self.position) << 64) | 2)
    }

    fn moment(&self) -> Moment {
        Moment { at: self.now, head: Position(self.position) }
    }

    /// Time goes on: what is due fires, in order, at its time.
    fn elapse(&mut self, time: Duration) -> Vec<ToSend> {
        let until = self.now.checked_add(time).expect("a time that there is");
        let mut sends = Vec::new();
        while let Some((due, waits)) = self.book.next_timer().filter(|(due, _)| *due <= until) {
            self.now = due.max(self.now);
            self.touched = Some(waits.key.clone());
            assert!(self.book.fired(&waits, self.moment()), "it is set");
            sends.extend(self.flush());
        }
        self.now = until;
        sends
    }

    /// The oldest command of a type that was not answered is refused.
    fn refuse<C: Command>(&mut self, why: Rejected<Data>) -> Vec<ToSend> {
        let is = |send: &ToSend| send.command.aggregate == C::Aggregate::NAME && send.command.name == C::NAME;
        let Some(i) = self.open.iter().position(is) else {
            panic!("no {} was sent, or all of them were answered: {:?}", C::NAME, named(&self.open));
        };
        let send = self.open.remove(i);
        self.touched = Some(send.key.clone());
        let id = self.id();
        self.book.answered(&send, Some(why), self.moment(), &move || id);
        self.flush()
    }

    /// Every command that was not answered is accepted.
    fn accept(&mut self) {
        for send in std::mem::take(&mut self.open) {
            let id = self.id();
            self.book.answered(&send, None, self.moment(), &move || id);
        }
        drop(self.flush());
    }
}

fn named(sends: &[ToSend]) -> Vec<&NamedCommand> {
    sends.iter().map(|send| &send.command).collect()
}

/// A process, before what it is tested for.
#[must_use = "a test without `.when..` checks nothing"]
#[derive(Debug)]
pub struct Given<P>(World<P>);

impl<P: Process> Given<P> {
    /// Something has happened. What the process sent for it is open: it can be refused, or accepted with `accepted` behind a
    /// `when`.
    ///
    /// # Panics
    ///
    /// If an event cannot be written and read back, or a handler fails.
    #[track_caller]
    pub fn given<E: Event>(self, events: impl IntoEvents<E>) -> Self {
        self.given_in(&fixture(), events)
    }

    /// Something has happened to this aggregate.
    ///
    /// # Panics
    ///
    /// As [`given`](Self::given).
    #[track_caller]
    pub fn given_to<A: Aggregate>(self, id: &A::Id, events: impl IntoEvents<A::Event>) -> Self {
        self.given_in(&stream::<A>(id), events)
    }

    #[track_caller]
    fn given_in<E: Event>(mut self, stream: &StreamId, events: impl IntoEvents<E>) -> Self {
        for event in events.into_events() {
            let taken = self.0.take(stream, &event);
            taken.unwrap_or_else(|e| panic!("the process failed: {}", es_core::chain(&*e)));
            self.0.not_parked();
        }
        self
    }

    /// Time has gone by.
    ///
    /// # Panics
    ///
    /// If a handler fails.
    #[track_caller]
    pub fn given_elapsed(mut self, time: Duration) -> Self {
        drop(self.0.elapse(time));
        self.0.not_parked();
        self
    }

    /// This happens.
    ///
    /// # Panics
    ///
    /// If the event cannot be written and read back, or is for nobody because it cannot be decoded.
    #[track_caller]
    #[must_use = "a test without `.then..` checks nothing"]
    pub fn when<E: Event>(self, event: impl IntoEvents<E>) -> Then<P> {
        Then::after(self.0, |world| world.take_all(&fixture(), event))
    }

    /// This happens to an aggregate.
    ///
    /// # Panics
    ///
    /// As [`when`](Self::when).
    #[track_caller]
    #[must_use = "a test without `.then..` checks nothing"]
    pub fn when_to<A: Aggregate>(self, id: &A::Id, event: impl IntoEvents<A::Event>) -> Then<P> {
        Then::after(self.0, |world| world.take_all(&stream::<A>(id), event))
    }

    /// So much time goes by.
    ///
    /// # Panics
    ///
    /// If that is more than there is.
    #[track_caller]
    #[must_use = "a test without `.then..` checks nothing"]
    pub fn when_elapsed(self, time: Duration) -> Then<P> {
        Then::after(self.0, |world| world.elapse(time))
    }

    /// The domain refuses a command: the oldest of its type that the process has sent.
    ///
    /// # Panics
    ///
    /// If it has sent none.
    #[track_caller]
    #[must_use = "a test without `.then..` checks nothing"]
    #[expect(clippy::needless_pass_by_value, reason = "a refusal is written in place")]
    pub fn when_refused<C: Command>(self, error: ErrorOf<C>) -> Then<P>
    where
        P: Sends<C>,
    {
        let why = Data::of(&error).unwrap_or_else(|e| panic!("the refusal cannot be written: {e}"));
        Then::after(self.0, |world| world.refuse::<C>(Rejected::Domain(why)))
    }

    /// A command is refused before its handler is asked: there is no such aggregate, say.
    ///
    /// # Panics
    ///
    /// If the process has sent none.
    #[track_caller]
    #[must_use = "a test without `.then..` checks nothing"]
    pub fn when_refused_otherwise<C: Command>(self, why: &str) -> Then<P>
    where
        P: Sends<C>,
    {
        Then::after(self.0, |world| world.refuse::<C>(Rejected::Otherwise(why.to_owned())))
    }
}

impl<P: Process> World<P> {
    #[track_caller]
    fn take_all<E: Event>(&mut self, stream: &StreamId, events: impl IntoEvents<E>) -> Vec<ToSend> {
        let take = |event: E| {
            let taken = self.take(stream, &event);
            taken.unwrap_or_else(|e| panic!("the process failed: {}", es_core::chain(&*e)))
        };
        events.into_events().into_iter().flat_map(take).collect()
    }

    #[track_caller]
    fn not_parked(&self) {
        if let Some(Instance { key, parked: Some(parked), .. }) = self.instance() {
            panic!("instance {key:?} is parked: {}", parked.error);
        }
    }

    fn instance(&self) -> Option<&Instance> {
        self.book.now(self.touched.as_deref()?)
    }
}

fn fixture() -> StreamId {
    StreamId::new("fixture").expect("a short name")
}

#[track_caller]
fn stream<A: Aggregate>(id: &A::Id) -> StreamId {
    StreamId::new(format!("{}-{id}", A::NAME)).unwrap_or_else(|e| panic!("{e}"))
}

/// What came of it, to be checked; and what happens next.
#[derive(Debug)]
pub struct Then<P> {
    world: World<P>,
    /// What was sent and not checked yet.
    sent: std::collections::VecDeque<ToSend>,
}

#[expect(
    clippy::return_self_not_must_use,
    clippy::must_use_candidate,
    reason = "a check is done when it returns"
)]
impl<P: Process> Then<P> {
    #[track_caller]
    fn after(mut world: World<P>, when: impl FnOnce(&mut World<P>) -> Vec<ToSend>) -> Self {
        let sent = when(&mut world).into();
        Self { world, sent }
    }

    /// What has happened so far is given; commands that were not answered stay so.
    pub fn and(self) -> Given<P> {
        Given(self.world)
    }

    /// The commands that were sent are accepted.
    pub fn accepted(mut self) -> Self {
        self.world.accept();
        self
    }

    #[track_caller]
    fn instance(&self) -> &Instance {
        self.world.instance().expect("there is no instance: the event started none, and found none")
    }

    #[track_caller]
    fn went_well(&self) {
        self.world.not_parked();
    }

    /// It sends this, next.
    ///
    /// # Panics
    ///
    /// If it sends something else, or nothing more.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
    pub fn then_sends<C: Command>(mut self, id: &IdOf<C>, command: C) -> Self
    where
        P: Sends<C>,
    {
        self.went_well();
        let expected = NamedCommand::of(id, &command).unwrap_or_else(|e| panic!("{}", es_core::chain(&e)));
        let sent = self.sent.pop_front().map(|send| send.command);
        assert_eq!(Some(expected), sent, "what it sends next (expected < > actual)");
        self
    }

    /// It publishes this, next.
    ///
    /// # Panics
    ///
    /// If it does something else, or nothing more.
    #[track_caller]
    pub fn then_publishes<T: serde::Serialize>(mut self, topic: &str, key: &str, body: &T) -> Self {
        self.went_well();
        let message = || -> Result<NamedCommand, BoxError> {
            Ok(NamedCommand::of(&Topic::new(topic, key)?, &Publish::of(body)?)?)
        };
        let expected = message().unwrap_or_else(|e| panic!("{}", es_core::chain(&*e)));
        let sent = self.sent.pop_front().map(|send| send.command);
        assert_eq!(Some(expected), sent, "what it publishes next (expected < > actual)");
        self
    }

    /// A timer is set that is due so long from now.
    ///
    /// # Panics
    ///
    /// If there is none of this type, or it is another one.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
    pub fn then_timer<T: Timer>(self, after: Duration, timer: T) -> Self
    where
        P: OnTimer<T>,
    {
        self.went_well();
        let expected = Data::of(&timer).unwrap_or_else(|e| panic!("the timer cannot be written: {e}"));
        let due = self.world.now.checked_add(after).expect("a time that there is");
        let set = self.instance().timers.get(T::NAME).map(|set| (set.due, set.data.clone()));
        assert_eq!(Some((due, expected)), set, "timer {} (expected < > actual)", T::NAME);
        self
    }

    /// No timer of this type is set.
    ///
    /// # Panics
    ///
    /// If there is one.
    #[track_caller]
    pub fn then_no_timer<T: Timer>(self) -> Self
    where
        P: OnTimer<T>,
    {
        self.went_well();
        let set = self.world.instance().and_then(|instance| instance.timers.get(T::NAME));
        assert!(set.is_none(), "timer {} is set: {set:?}", T::NAME);
        self
    }

    /// The instance has ended, or ends once its commands are answered.
    ///
    /// # Panics
    ///
    /// If it goes on.
    #[track_caller]
    pub fn then_ended(self) -> Self {
        self.went_well();
        assert!(!self.instance().is_running(), "the instance goes on");
        self
    }

    /// The instance goes on.
    ///
    /// # Panics
    ///
    /// If it ends.
    #[track_caller]
    pub fn then_goes_on(self) -> Self {
        self.went_well();
        assert!(self.instance().is_running(), "the instance ends");
        self
    }

    /// Nothing is sent and nothing published, nothing more than was checked.
    ///
    /// # Panics
    ///
    /// If there is something.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.went_well();
        let sent: Vec<&NamedCommand> = self.sent.iter().map(|send| &send.command).collect();
        assert!(sent.is_empty(), "it sends: {sent:?}");
        self
    }

    /// The instance that took it in has this state.
    ///
    /// # Panics
    ///
    /// If it has another one.
    #[track_caller]
    pub fn then_state(self, expected: P) -> Self
    where
        P: Debug + PartialEq,
    {
        self.went_well();
        let state = self.instance().state.as_ref().map(|state| state.read::<P>().expect("it was written"));
        assert_eq!(Some(expected), state, "state (expected < > actual)");
        self
    }

    /// There is no instance of this key.
    ///
    /// # Panics
    ///
    /// If there is one.
    #[track_caller]
    pub fn then_no_instance(self, key: &P::Key) -> Self {
        let found = self.world.book.now(&key.to_string());
        assert!(found.is_none(), "there is an instance of {key}: {found:?}");
        self
    }

    /// The handler failed, and the instance is parked; gives why.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    #[must_use]
    pub fn then_parked(self) -> String {
        let parked = self.instance().parked.as_ref();
        parked.expect("the instance is not parked").error.clone()
    }
}

impl Book {
    /// The timer that is due next.
    fn next_timer(&self) -> Option<(Timestamp, Waits)> {
        let waits = |instance: &Instance| {
            let timers = instance.timers.iter().filter(|(_, timer)| !timer.fired);
            let of = |(name, timer): (&String, &crate::instance::SetTimer)| {
                let (key, id, name) = (instance.key.clone(), instance.id, name.clone());
                (timer.due, Waits { key, id, name, input: timer.input, ordinal: timer.ordinal })
            };
            timers.map(of).collect::<Vec<_>>()
        };
        let all = self.all().flat_map(waits);
        all.min_by(|(a, one), (b, other)| {
            (a, &one.key, one.input, one.ordinal).cmp(&(b, &other.key, other.input, other.ordinal))
        })
    }
}
