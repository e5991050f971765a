//! The message, and the input that a run has it in.

use es_core::BoxError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::{Publish, Topic};
use crate::saga::SagaInput;

/// A message that is not sent yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfMessage {
    topic: String,
    key: String,
    body: Value,
}

impl HalfMessage {
    /// A message of a topic, in order with the others of its key once they stand in the log: as
    /// [`app.publish`](crate::message::Publishing::publish) takes it.
    ///
    /// # Errors
    ///
    /// The topic or the key is empty, the topic has a `/`, or JSON cannot hold the body.
    pub fn new<T: Serialize>(topic: &str, key: &str, body: &T) -> Result<Self, BoxError> {
        let (topic, body) = (Topic::new(topic, key)?, Publish::of(body)?.body);
        Ok(Self { topic: topic.name().to_owned(), key: topic.key().to_owned(), body })
    }

    /// Where it goes, and what it says.
    pub(super) fn published(&self) -> Result<(Topic, Publish), BoxError> {
        Ok((Topic::new(&self.topic, &self.key)?, Publish { body: self.body.clone() }))
    }
}

/// What a run begins with. Stored: fields are added with a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Prepared<In> {
    pub(super) message: HalfMessage,
    pub(super) input: In,
}

impl<In: SagaInput> SagaInput for Prepared<In> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Data;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Pay {
        cents: u64,
    }
    impl SagaInput for Pay {}

    #[test]
    fn what_a_run_begins_with_is_pinned() {
        let text = r#"{"message":{"topic":"paid","key":"o-1","body":[1,0.1]},"input":{"cents":5}}"#;
        let message = HalfMessage::new("paid", "o-1", &(1, 0.1)).expect("a message");
        let prepared = Prepared { message: message.clone(), input: Pay { cents: 5 } };
        assert_eq!(Data::of(&prepared).expect("JSON").text(), text);
        let read: Prepared<Pay> = Data::of(&prepared).and_then(|data| data.read()).expect("its own");
        assert_eq!((read.message, read.input.cents), (message, 5));
        for (topic, key) in [("", "o-1"), ("a/b", "o-1"), ("paid", "")] {
            HalfMessage::new(topic, key, &()).expect_err("it is none");
        }
    }
}
