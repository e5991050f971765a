//! The message, and the input that a run has it in.

use std::sync::Arc;

use es_core::id::Ids;
use es_core::store::{Append, ExpectedVersion, NewEvent, StreamId, check};
use es_core::{Aggregate as _, BoxError, Commit, Event as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::{MessageEvent, Messages, Publish, Published, Topic};
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
    /// The topic or the key is empty, the topic has a `/`, or JSON cannot hold the body. No log would take it: topic and key have
    /// more than 246 bytes together, or control characters; the body has about a million bytes, or goes deeper than 64 levels.
    pub fn new<T: Serialize>(topic: &str, key: &str, body: &T) -> Result<Self, BoxError> {
        let message = Self { topic: topic.to_owned(), key: key.to_owned(), body: Publish::of(body)?.body };
        message.fits()?;
        Ok(message)
    }

    /// Whether a log will take it: once its local transaction has committed it is too late to find out. One that was read
    /// from somewhere was not made by [`new`](Self::new).
    pub(super) fn fits(&self) -> Result<(), BoxError> {
        let (topic, Publish { body }) = self.published()?;
        let payload = MessageEvent::Published(Published { body }).encode()?;
        let append = Append {
            stream: StreamId::new(format!("{}-{topic}", Messages::NAME))?,
            expected: ExpectedVersion::Any,
            events: vec![NewEvent::new(Ids::default().next(), payload, Arc::default())],
        };
        Ok(check::commit(&Commit { appends: vec![append], ..Commit::default() })?)
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

    #[test]
    fn what_no_log_takes_is_no_message() {
        let why = |topic: &str, key: &str, body: &Value| {
            let read = HalfMessage { topic: topic.to_owned(), key: key.to_owned(), body: body.clone() };
            let error = HalfMessage::new(topic, key, body).expect_err("it is too much").to_string();
            assert_eq!(read.fits().expect_err("it was read").to_string(), error);
            error
        };
        let fits = "k".repeat(255 - "message-paid/".len());
        HalfMessage::new("paid", &fits, &()).expect("it fits");
        assert!(why("paid", &format!("{fits}k"), &Value::Null).contains("stream id"));
        assert!(why("paid", "o\n1", &Value::Null).contains("stream id"));
        assert!(why("paid", "o-1", &Value::from("x".repeat(1_100_000))).contains("payload"));
        let deep = |levels| (0..levels).fold(Value::Null, |deep, _| Value::from(vec![deep]));
        HalfMessage::new("paid", "o-1", &deep(60)).expect("it fits");
        assert!(why("paid", "o-1", &deep(70)).contains("payload"));
    }
}
