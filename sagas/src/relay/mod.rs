//! Relays: what is published goes out to other services.
//!
//! The log is the outbox: what goes out is an event that is stored, so there is no second write, and nothing goes out that was
//! rolled back. A mapping ([`#[publishes]`](macro@crate::publishes), or [`TopicMessages`] for what was
//! [published](crate::message::Publishing) to a topic) says which messages an event becomes. A relay sends them through a
//! [`Publisher`], from its first start on.
//!
//! - Messages are in order by their key: the event's stream, or what `#[on(by = ..)]` names. Those of one key are sent one after
//!   the other, those of many keys at the same time; nodes share the keys.
//! - A message is sent at least once. Again means: with the same id, [sequence](crate::message::Envelope::sequence) and
//!   [previous](crate::message::Envelope::previous), so a receiver that remembers the last sequence of each relay and key knows
//!   what it has, and sees a gap. What it has missed, [`Relay::behind`] gives.
//! - A receiver that is away blames no message: the relay waits, however long that takes, and shows why in the state of its
//!   [processor](es_core::processor::ProcessorState::Failing). One relay for each receiver, so that none waits for another.
//! - A message that is refused parks its key; other keys continue. It is retried or discarded like any
//!   [parked sequence](es_core::processor::Processor::retry).
//!
//! ```
//! use es_core::memory::MemoryBackend;
//! use es_core::prelude::*;
//! use sagas::publishes;
//! use sagas::relay::{Message, Relays as _, in_process};
//! use serde::{Deserialize, Serialize};
//! # #[derive(AggregateId, Clone, Debug, PartialEq, Serialize, Deserialize)]
//! # struct OrderId(String);
//! # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
//! # #[error("never")]
//! # struct Never;
//! # #[derive(Aggregate, Clone, Default)]
//! # #[aggregate(id = OrderId, event = OrderEvent, error = Never)]
//! # struct Order;
//! # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) {} }
//! # #[derive(Clone, Serialize, Deserialize)]
//! # struct Place { total: u64 }
//! # #[commands]
//! # impl Order {
//! #     fn place(cmd: Place) -> Result<Placed, Never> { Ok(Placed { total: cmd.total, note: String::new() }) }
//! # }
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Placed { total: u64, note: String }
//! #[derive(Event, Clone)]
//! #[event(prefix = "order")]
//! enum OrderEvent { Placed(Placed) }
//!
//! /// What others are told of orders: not all that we know.
//! #[derive(Serialize)]
//! struct OrderPlaced { total: u64 }
//!
//! struct Orders;
//!
//! #[publishes(name = "orders")]
//! impl Orders {
//!     fn placed(&self, e: &Placed) -> Message {
//!         Message::of(&OrderPlaced { total: e.total }).typed("com.example.order.placed")
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
//! let receiver = in_process(move |message| {
//!     let told = told.clone();
//!     async move { told.send(message).map_err(sagas::relay::PublishError::unavailable) }
//! });
//! let app = App::on(MemoryBackend::new()).relay(Orders, receiver).start().await?;
//! app.send(&OrderId::from("7"), Place { total: 12 }).await?;
//! let message = tells.recv().await.ok_or("it is sent")?;
//! assert_eq!((&*message.r#type, &message.data["total"]), ("com.example.order.placed", &12.into()));
//! assert_eq!(message.subject.as_deref(), Some("order-7"));
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "http")]
mod http;
mod mapping;
mod marks;
mod publisher;
mod rendered;
mod replay;
mod runner;
mod session;
mod topic;

#[cfg(feature = "http")]
pub use self::http::HttpPublisher;
pub use self::mapping::{BY_STREAM, IntoMessages, Message, Publishes};
#[doc(hidden)]
pub use self::mapping::{add, one_key};
pub use self::publisher::{InProcess, PublishError, Publisher, in_process};
pub use self::rendered::MAX_MESSAGE;
pub use self::replay::{Behind, ReplayError};
pub use self::runner::{Relay, Relays};
pub use self::topic::TopicMessages;
