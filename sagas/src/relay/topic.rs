//! The messages of a topic, as they were published.

use std::borrow::Cow;

use es_core::projection::Code;
use es_core::store::EventFilter;
use es_core::{Aggregate as _, BoxError, Event as _, RecordedEvent, StreamId};

use super::mapping::{BY_STREAM, Message, Publishes};
use crate::message::{MessageEvent, Messages, Published};

/// A mapping for what was [published](crate::message::Publishing) to one topic: each message as it is, in the order of its
/// key; its type is the topic. The relay has the name of the topic, or [another](Self::named).
///
/// ```
/// # use es_core::{App, memory::MemoryBackend};
/// use sagas::message::{Envelope, Publishing as _};
/// use sagas::relay::{Relays as _, TopicMessages};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), es_core::BoxError> {
/// let (sender, mut arrives) = tokio::sync::mpsc::channel::<Envelope>(16);
/// let app = App::on(MemoryBackend::new()).relay(TopicMessages::of("transfers"), sender).start().await?;
/// app.publish("transfers", "t-1", &"done")?.await?;
/// let message = arrives.recv().await.expect("it is sent");
/// assert_eq!((&*message.r#type, message.data), ("transfers", "done".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TopicMessages {
    topic: Cow<'static, str>,
    name: Cow<'static, str>,
}

impl TopicMessages {
    /// Those of a topic.
    pub fn of(topic: impl Into<Cow<'static, str>>) -> Self {
        let topic = topic.into();
        Self { name: topic.clone(), topic }
    }

    /// With another name for the relay: a topic that goes to several receivers has a relay for each.
    #[must_use]
    pub fn named(self, relay: impl Into<Cow<'static, str>>) -> Self {
        Self { name: relay.into(), ..self }
    }

    /// What the names of its streams begin with.
    fn prefix(&self) -> String {
        format!("{}-{}/", Messages::NAME, self.topic)
    }
}

impl Publishes for TopicMessages {
    fn name(&self) -> String {
        self.name.clone().into_owned()
    }

    fn filter() -> EventFilter {
        EventFilter::of::<Published>()
    }

    fn code() -> Code {
        Code::default().handling::<Published>().keyed_by(BY_STREAM)
    }

    fn key(&self, event: &RecordedEvent) -> Result<String, BoxError> {
        let stream = event.stream.as_str();
        Ok(stream.strip_prefix(&self.prefix()).unwrap_or(stream).to_owned())
    }

    fn stream(&self, key: &str) -> Option<StreamId> {
        StreamId::new(self.prefix() + key).ok()
    }

    fn messages(&self, event: &RecordedEvent) -> Result<Vec<Message>, BoxError> {
        if !event.stream.as_str().starts_with(&self.prefix()) {
            return Ok(Vec::new());
        }
        let message = |MessageEvent::Published(published)| {
            Message { r#type: None, body: Ok(published.body) }.typed(&*self.topic)
        };
        Ok(MessageEvent::decode(event)?.into_iter().map(message).collect())
    }
}
