//! Messages. The log is the outbox: what is published is an event, with a position, a cause, and no second write.

mod envelope;
pub mod inbox;
mod publish;
pub(crate) mod sequence;

use std::fmt;
use std::str::FromStr;

use es_core::{Aggregate, Apply, BoxError, Event, commands};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::envelope::{Envelope, MEDIA_TYPE};
pub use self::publish::Publishing;
pub use self::sequence::Sequence;

/// A topic, and a key by which its messages are in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    name: String,
    key: String,
}

impl Topic {
    /// Of a name, without `/`, and a key.
    ///
    /// # Errors
    ///
    /// The name or the key is empty, or the name has a `/`.
    pub fn new(name: &str, key: &str) -> Result<Self, BoxError> {
        if key.is_empty() {
            return Err(format!("a message of topic {name:?} needs a key, and an empty one is none").into());
        }
        if name.is_empty() || name.contains('/') {
            return Err(format!("{name:?} is no topic: it needs a name without `/`").into());
        }
        Ok(Self { name: name.to_owned(), key: key.to_owned() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Stored: `topic/key`.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

impl FromStr for Topic {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (name, key) = text.split_once('/').ok_or("a topic has a `/` between name and key")?;
        Self::new(name, key)
    }
}

/// A message was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Published {
    /// What it says.
    pub body: Value,
}

/// What happens to a topic's key.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "message")]
#[non_exhaustive]
pub enum MessageEvent {
    /// A message was published.
    Published(Published),
}

/// The messages of one key of a topic. It has no state: any may follow any.
#[derive(Aggregate, Clone, Copy, Debug, Default)]
#[aggregate(name = "message", id = Topic, event = MessageEvent, error = Never)]
#[non_exhaustive]
pub struct Messages {}

/// Nothing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("a message is never refused")]
#[expect(clippy::exhaustive_enums, reason = "there is none")]
pub enum Never {}

impl Apply for Messages {
    fn apply(&mut self, _: &MessageEvent) {}
}

/// Publishes a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Publish {
    /// What it says.
    pub body: Value,
}

impl Publish {
    /// A message with this body.
    ///
    /// # Errors
    ///
    /// What JSON cannot hold: a NaN, or a number of more than 64 bits.
    pub fn of<T: Serialize>(body: &T) -> Result<Self, BoxError> {
        Ok(Self { body: es_core::codec::to_value(body)? })
    }
}

#[commands]
impl Messages {
    #[create_if_missing]
    fn publish(&self, cmd: Publish) -> Result<Published, Never> {
        Ok(Published { body: cmd.body })
    }
}
