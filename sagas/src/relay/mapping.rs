//! What is published of the log: events into messages.

use std::collections::BTreeSet;

use es_core::codec::to_value;
use es_core::guarded::handle_now;
use es_core::limits::row_key;
use es_core::projection::Code;
use es_core::store::EventFilter;
use es_core::{BoxError, RecordedEvent, StreamId};
use serde::Serialize;
use serde_json::Value;

/// Which messages events become: pure, so that the same event gives the same messages whenever it is asked.
/// [`#[publishes]`](macro@crate::publishes) writes this impl.
///
/// A mapping is what a relay tells the world, so it is changed like an interface: what was sent by the mapping of before is
/// not sent again, and [asked for again](super::Relay::behind) it comes in its new form. A program that finds the
/// [key](Self::key) of events by another rule than before does not start unless every message of before was sent, nothing is
/// parked, and no program with the other rule is at work: what one range of keys has sent and another one has not would be left
/// out, or sent twice in two orders. Another name for the relay makes it another one, which begins with the events from its start
/// on, and whose lanes are new to receivers. With
/// [`Backfill::Skip`](es_core::processor::Backfill::Skip) for it, it goes on from here all the same. How many messages an event becomes is
/// best left as it is: what was on its way while the program was replaced comes again, and if it was one message and is two
/// now, it has another id under the same sequence, which inboxes refuse (422).
///
/// ```
/// # use es_core::{BoxError, Event, Payload, RecordedEvent, store::EventFilter};
/// # use sagas::relay::{Message, Publishes};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Placed { total: u64 }
/// # #[derive(Event, Clone)]
/// # #[event(prefix = "order")]
/// # enum OrderEvent { Placed(Placed) }
/// struct Orders;
///
/// impl Publishes for Orders {
///     fn name(&self) -> String {
///         "orders".to_owned()
///     }
///     fn filter() -> EventFilter {
///         EventFilter::of::<Placed>()
///     }
///     fn messages(&self, event: &RecordedEvent) -> Result<Vec<Message>, BoxError> {
///         let placed = |OrderEvent::Placed(placed)| Message::of(&placed.total).typed("shop.order.placed");
///         Ok(OrderEvent::decode(event)?.into_iter().map(placed).collect())
///     }
/// }
/// ```
pub trait Publishes: Send + Sync + 'static {
    /// Stored: names the relay, its checkpoint and its messages.
    fn name(&self) -> String;

    /// Which events it looks at.
    fn filter() -> EventFilter;

    /// Which code it is, with the [rule](Code::keyed_by) by which it finds keys: [`BY_STREAM`] unless it says another number.
    /// Whoever writes [`key`](Self::key) says one, and another one with another rule: a program that goes by other keys than
    /// before does not start while that could lose messages.
    #[must_use]
    fn code() -> Code {
        Code::of(&Self::filter()).keyed_by(BY_STREAM)
    }

    /// The key by which the messages of an event are in order: its stream. It has 1 to 255 bytes and no NUL: an event with
    /// another one is parked under its stream.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    fn key(&self, event: &RecordedEvent) -> Result<String, BoxError> {
        Ok(event.stream.as_str().to_owned())
    }

    /// The stream that has all events of a key; `None` if they are in several: then the log is searched for them.
    fn stream(&self, key: &str) -> Option<StreamId> {
        StreamId::new(key).ok()
    }

    /// The messages of an event, in order.
    ///
    /// # Errors
    ///
    /// Why it has none though it should: then its key is parked.
    fn messages(&self, event: &RecordedEvent) -> Result<Vec<Message>, BoxError>;
}

/// Stands for the keys of events that go by their streams: see [`Publishes::code`].
pub const BY_STREAM: u64 = 1;

/// The key of an event. One that cannot be stored could not be parked either, so it is none.
pub(super) fn key_of(mapping: &impl Publishes, event: &RecordedEvent) -> Result<String, BoxError> {
    handle_now(event, || {
        let key = mapping.key(event)?;
        row_key(&key)?;
        Ok(key)
    })
}

/// What an event says to other services.
#[derive(Debug)]
pub struct Message {
    pub(crate) r#type: Option<String>,
    pub(crate) body: Result<Value, BoxError>,
}

impl Message {
    /// A message with this body. Its type is the stored name of the event, unless it is [given](Self::typed).
    pub fn of<T: Serialize>(body: &T) -> Self {
        Self { r#type: None, body: to_value(body) }
    }

    /// Of this type: it should begin with a domain of the sender's, as in `com.example.order.placed`.
    #[must_use]
    pub fn typed(self, r#type: impl Into<String>) -> Self {
        Self { r#type: Some(r#type.into()), ..self }
    }

    pub(crate) fn or_typed(mut self, r#type: &str) -> Self {
        self.r#type.get_or_insert_with(|| r#type.to_owned());
        self
    }
}

/// What a handler of `#[publishes]` may return: a [`Message`], an `Option` or a `Vec` of them, or a `Result` with one of
/// these.
#[diagnostic::on_unimplemented(
    message = "a handler of `#[publishes]` cannot return `{Self}`",
    label = "no `Message`, and no `Option`, `Vec` or `Result` of messages",
    note = "return `Message::of(&body)`, or `None` if the event says nothing to others"
)]
pub trait IntoMessages {
    /// All of them, with the error boxed.
    ///
    /// # Errors
    ///
    /// The handler's own.
    fn boxed(self) -> Result<Vec<Message>, BoxError>;
}

impl IntoMessages for Message {
    fn boxed(self) -> Result<Vec<Self>, BoxError> {
        Ok(vec![self])
    }
}

impl IntoMessages for Option<Message> {
    fn boxed(self) -> Result<Vec<Message>, BoxError> {
        Ok(self.into_iter().collect())
    }
}

impl IntoMessages for Vec<Message> {
    fn boxed(self) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl<T: IntoMessages, E: Into<BoxError>> IntoMessages for Result<T, E> {
    fn boxed(self) -> Result<Vec<Message>, BoxError> {
        self.map_err(Into::into)?.boxed()
    }
}

/// Adds what a handler returned; for the macro.
#[doc(hidden)]
pub fn add(to: &mut Vec<Message>, messages: Vec<Message>, r#type: &str) {
    to.extend(messages.into_iter().map(|message| message.or_typed(r#type)));
}

/// The one key of an event; for the macro.
#[doc(hidden)]
pub fn one_key(event: &RecordedEvent, keys: &BTreeSet<String>) -> Result<String, BoxError> {
    match keys.len() {
        0 => Ok(event.stream.as_str().to_owned()),
        1 => Ok(keys.iter().cloned().collect()),
        _ => Err(format!("its messages have several keys, {keys:?}: they cannot be in order by one").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_published_as_they_are_or_not_at_all() {
        for number in [u64::MAX, u64::MAX - 1, 1 << 53] {
            assert_eq!(Message::of(&number).body.unwrap().as_u64(), Some(number));
        }
        assert!(Message::of(&u128::MAX).body.is_err() && Message::of(&f64::NAN).body.is_err());
        // On its way it is text.
        let mut bits = 0x3fb9_9999_9999_999a_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let float = f64::from_bits(bits);
            if float.is_finite() {
                let text = Message::of(&float).body.unwrap().to_string();
                let read: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(read.as_f64().map(f64::to_bits), Some(bits), "{text}");
            }
        }
    }
}
