//! A message of the program's own, appended to the log.

use es_core::command::Sending;
use es_core::{App, BoxError};
use serde::Serialize;

use super::{Publish, Topic};

/// `app.publish(topic, key, &body)`: a message is an event of the log. It goes out through a
/// [relay](crate::relay::Relays) with the mapping of its [topic](crate::relay::TopicMessages).
pub trait Publishing {
    /// A message of a topic, in order with the others of its key. Add options, such as an idempotency key or a transaction
    /// that it belongs to (`.within(&mut tx)`), then `.await`.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend};
    /// use sagas::message::Publishing as _;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), es_core::BoxError> {
    /// let app = App::on(MemoryBackend::new()).start().await?;
    /// app.publish("transfers", "t-1", &"done")?.idempotency_key("t-1/done").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The topic or the key is empty, the topic has a `/`, or JSON cannot hold the body.
    fn publish<T: Serialize>(
        &self,
        topic: &str,
        key: &str,
        body: &T,
    ) -> Result<Sending<'_, Publish>, BoxError>;
}

impl Publishing for App {
    fn publish<T: Serialize>(
        &self,
        topic: &str,
        key: &str,
        body: &T,
    ) -> Result<Sending<'_, Publish>, BoxError> {
        Ok(self.send(&Topic::new(topic, key)?, Publish::of(body)?))
    }
}
