//! Events: payload structs, gathered in one enum per aggregate.

mod error;
mod metadata;
mod names;
mod record;
mod recorded;
mod tags;
mod unknown;

use bytes::Bytes;

pub use self::error::{DecodeError, DecodeProblem, EncodeError, is_of_a_newer_program};
pub use self::metadata::Metadata;
pub use self::names::{EventId, Name, Position, StreamId, Version};
pub(crate) use self::record::size;
pub use self::record::{NewEvent, RecordedEvent};
pub use self::recorded::Recorded;
pub use self::tags::Tag;
pub(crate) use self::unknown::{decoded, noting_unknown, noting_unknown_in};

/// The stored name and the current schema version of one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "written in constants by the derive and by hand")]
pub struct EventType {
    /// Stored: never changes, whatever happens to the Rust item.
    pub name: &'static str,
    /// Counts from 1, goes up with each shape.
    pub schema: u32,
}

/// An event ready to be stored: its name, its version, its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "written by the derive and by hand")]
pub struct EventData {
    /// The stored name.
    pub name: Name,
    /// The schema version of `data`.
    pub schema: u32,
    /// The name of the codec that wrote `data`.
    pub codec: Name,
    /// The payload.
    pub data: Bytes,
    /// What conditions and filters find it by.
    pub tags: Vec<Tag>,
}

/// The events of one aggregate, an enum. `#[derive(Event)]` writes this impl.
///
/// Law: `decode` of what `encode` wrote gives the same event, one and only one. Stored names and
/// schemas are formats: `decode` goes on reading every shape that was ever stored.
pub trait Event: IntoEvent<Event = Self> + Clone + Send + Sync + 'static {
    /// Every stored name with its current schema.
    const TYPES: &'static [EventType];

    /// Every stored name that [`decode`](Self::decode) reads: the current ones, old ones, retired ones.
    #[must_use]
    fn sources() -> Vec<&'static str> {
        Self::TYPES.iter().map(|t| t.name).collect()
    }

    /// # Errors
    ///
    /// [`EncodeError`] if the payload or a tag cannot be written.
    fn encode(&self) -> Result<EventData, EncodeError>;

    /// Upcasts, then decodes. One stored event may have become several events, or none.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] for an unknown name, a newer schema, another codec, or malformed bytes.
    fn decode(stored: &RecordedEvent) -> Result<Decoded<Self>, DecodeError>;
}

/// What one stored event means to this program: usually [`Decoded::One`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "one or any number: there is no third case")]
pub enum Decoded<E> {
    /// As it was written, or upcast.
    One(E),
    /// A retired event that was split, or that means nothing any more.
    Many(Vec<E>),
}

impl<E> IntoIterator for Decoded<E> {
    type Item = E;
    type IntoIter = std::iter::Chain<std::option::IntoIter<E>, std::vec::IntoIter<E>>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::One(event) => Some(event).into_iter().chain(Vec::new()),
            Self::Many(events) => None.into_iter().chain(events),
        }
    }
}

/// A payload or the enum itself: whatever can stand for one event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event payload and not an event enum",
    note = "make it the payload of a variant of an enum with `#[derive(Event)]`"
)]
pub trait IntoEvent {
    /// The enum it belongs to.
    type Event: Event;
    /// Wraps the payload.
    fn into_event(self) -> Self::Event;
}

/// One payload struct. It belongs to exactly one enum (coherence says so), hence has one stored name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the payload of an event",
    label = "a handler takes the payload of one variant",
    note = "make it the payload of a variant of an enum with `#[derive(Event)]`"
)]
pub trait Payload: IntoEvent + Send + Sync + Sized + 'static {
    /// The stored name.
    const NAME: &'static str;
    /// Every stored name that can decode to this payload: its own, old names, retired events.
    const SOURCES: &'static [&'static str] = &[Self::NAME];
    /// The payload, if the event is of this variant; else the event back.
    ///
    /// # Errors
    ///
    /// The event, unchanged, if it is of another variant.
    fn from_event(event: Self::Event) -> Result<Self, Self::Event>;
}

/// What a command may return: a payload, the event enum, `Option`, `Vec`, an array, a tuple, or `()`.
#[diagnostic::on_unimplemented(
    message = "a command of this aggregate cannot return `{Self}`",
    label = "not an event of this aggregate",
    note = "return a payload, `Option`, `Vec`, an array or a tuple of payloads, the event enum, or `()`"
)]
pub trait IntoEvents<E> {
    /// The events, in order.
    fn into_events(self) -> Vec<E>;
}

impl<E: Event> IntoEvents<E> for () {
    fn into_events(self) -> Vec<E> {
        Vec::new()
    }
}

impl<T: IntoEvent> IntoEvents<T::Event> for T {
    fn into_events(self) -> Vec<T::Event> {
        vec![self.into_event()]
    }
}

impl<T: IntoEvent> IntoEvents<T::Event> for Option<T> {
    fn into_events(self) -> Vec<T::Event> {
        self.into_iter().map(T::into_event).collect()
    }
}

impl<T: IntoEvent> IntoEvents<T::Event> for Vec<T> {
    fn into_events(self) -> Vec<T::Event> {
        self.into_iter().map(T::into_event).collect()
    }
}

impl<T: IntoEvent, const N: usize> IntoEvents<T::Event> for [T; N] {
    fn into_events(self) -> Vec<T::Event> {
        self.into_iter().map(T::into_event).collect()
    }
}

macro_rules! tuples { ($(($first:ident $($next:ident)+))+) => { $(
    impl<$first: IntoEvent, $($next: IntoEvent<Event = $first::Event>),+> IntoEvents<$first::Event> for ($first, $($next),+) {
        #[expect(non_snake_case, reason = "a type parameter and its value share a name")]
        fn into_events(self) -> Vec<$first::Event> {
            let ($first, $($next),+) = self;
            vec![$first.into_event(), $($next.into_event()),+]
        }
    }
)+ } }
tuples! { (A B) (A B C) (A B C D) (A B C D F) (A B C D F G) }
