//! A message on its way: an envelope of [CloudEvents 1.0](https://github.com/cloudevents/spec), in its JSON format.

use std::collections::BTreeMap;

use es_core::{Metadata, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The media type of an envelope as a document: the structured mode of the HTTP binding.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// A message on its way. Attributes have the names and types of the specification, those of extensions too: where it
/// knows no number that is large enough (a position), there is text.
///
/// What came from another sender may lack every extension, and may have others: they are [kept](Self::others).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Envelope {
    /// `1.0`.
    pub specversion: String,
    /// Names the message among those of its source; the same whenever it is sent.
    pub id: String,
    /// Who sends it: a URI.
    pub source: String,
    /// What kind of message: of a published event its stored name, else what the sender chose.
    pub r#type: String,
    /// What it is about: the stream of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the event was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// What it says.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Which of the sender's relays sent it. Messages of a relay and key are in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The key by which it is in order (extension `partitioning`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitionkey: Option<String>,
    /// Its place among the messages of its relay and key (extension `sequence`): it grows, with gaps, and is compared as
    /// text. Of a relay of this crate: the position of the event in 20 digits; the second message of an event has `.0001`
    /// behind that, and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The sequence that was sent before it for its relay and key; none for the first. Who has not received that one has
    /// missed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The flow that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<Uuid>,
    /// The event that it tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causationid: Option<Uuid>,
    /// For whom, where one sender serves several customers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of the W3C trace context (extension `distributed tracing`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Of the W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// What else the sender said.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Envelope {
    /// A message with what the specification requires, and data.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        r#type: impl Into<String>,
        data: Value,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: id.into(),
            source: source.into(),
            r#type: r#type.into(),
            subject: None,
            time: None,
            datacontenttype: Some("application/json".to_owned()),
            data,
            relay: None,
            partitionkey: None,
            sequence: None,
            previous: None,
            correlationid: None,
            causationid: None,
            tenant: None,
            traceparent: None,
            tracestate: None,
            others: BTreeMap::new(),
        }
    }

    /// The metadata of what the message causes: its flow, its tenant, its trace.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.correlation = self.correlationid.or(self.causationid);
        metadata.causation = self.causationid;
        metadata.tenant.clone_from(&self.tenant);
        metadata.trace_parent.clone_from(&self.traceparent);
        metadata.trace_state.clone_from(&self.tracestate);
        metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_another_sender_says_is_kept() {
        let foreign = json!({
            "specversion": "1.0", "id": "7", "source": "/mycontext", "type": "com.example.someevent",
            "time": "2018-04-05T17:31:00Z", "comexampleextension": 5, "data": "text",
        });
        let read: Envelope = serde_json::from_value(foreign.clone()).unwrap();
        assert_eq!(read.others.get("comexampleextension"), Some(&json!(5)));
        assert_eq!(serde_json::to_value(&read).unwrap(), foreign);
    }
}
