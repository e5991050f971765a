//! Relays: what is published goes out to other services.
//!
//! The log is the outbox. A [mapping](Publishes) says which messages an event becomes; a relay sends them, in the order of
//! their key, through a [`Publisher`].

mod mapping;
mod marks;
mod publisher;
mod rendered;
mod replay;
mod runner;
mod session;
mod topic;

pub use self::mapping::{IntoMessages, Message, Publishes};
#[doc(hidden)]
pub use self::mapping::{add, one_key};
pub use self::publisher::{InProcess, PublishError, Publisher, in_process};
pub use self::rendered::MAX_MESSAGE;
pub use self::replay::{Behind, ReplayError};
pub use self::runner::{Relay, Relays};
pub use self::topic::TopicMessages;
