//! A message on its way: an envelope of [CloudEvents 1.0](https://github.com/cloudevents/spec), in its JSON format.

use std::collections::BTreeMap;

use es_core::{Metadata, Timestamp};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// The media type of an envelope as a document: the structured mode of the HTTP binding.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// A message on its way. Attributes have the names and types of the specification, those of extensions too: where it
/// knows no number that is large enough (a position), there is text.
///
/// What came from another sender may lack every extension, and may have others, or other values: they are
/// [kept](Self::others).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the event was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// `application/json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// What it says.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// Which of the sender's relays sent it. Messages of a relay and key are in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The key by which it is in order (extension `partitioning`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitionkey: Option<String>,
    /// Its place among the messages of its relay and key (extension `sequence`): it grows, with gaps. An inbox
    /// compares it as a number. That of a relay of this crate sorts as text, too: it is the position of the event in 20 digits;
    /// the second message of an event has `.0001` behind that, and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The sequence that was sent before it for its relay and key; none for the first. Who has not received that one has
    /// missed something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The flow that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<Uuid>,
    /// The event that it tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causationid: Option<Uuid>,
    /// For whom, where one sender serves several customers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of the W3C trace context (extension `distributed tracing`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Of the W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// What else the sender said: also under the name of an extension that is known here, where it is no value of that one (a
    /// `correlationid` that is no UUID).
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// Extensions are read if they fit: they are not of the specification, and another sender may mean something else by them.
impl TryFrom<Map<String, Value>> for Envelope {
    type Error = serde_json::Error;

    fn try_from(mut all: Map<String, Value>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            specversion: needed(&mut all, "specversion")?,
            id: needed(&mut all, "id")?,
            source: needed(&mut all, "source")?,
            r#type: needed(&mut all, "type")?,
            subject: optional(&mut all, "subject")?,
            time: optional(&mut all, "time")?,
            datacontenttype: optional(&mut all, "datacontenttype")?,
            data: all.remove("data").unwrap_or_default(),
            relay: if_it_fits(&mut all, "relay"),
            partitionkey: if_it_fits(&mut all, "partitionkey"),
            sequence: if_it_fits(&mut all, "sequence"),
            previous: if_it_fits(&mut all, "previous"),
            correlationid: if_it_fits(&mut all, "correlationid"),
            causationid: if_it_fits(&mut all, "causationid"),
            tenant: if_it_fits(&mut all, "tenant"),
            traceparent: if_it_fits(&mut all, "traceparent"),
            tracestate: if_it_fits(&mut all, "tracestate"),
            others: all.into_iter().collect(),
        })
    }
}

fn optional<T: DeserializeOwned>(
    all: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, serde_json::Error> {
    let value = all.remove(name).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| serde_json::Error::custom(format!("{name}: {error}")))
}

fn needed(all: &mut Map<String, Value>, name: &'static str) -> Result<String, serde_json::Error> {
    optional(all, name)?.ok_or_else(|| serde_json::Error::missing_field(name))
}

fn if_it_fits<T: DeserializeOwned>(all: &mut Map<String, Value>, name: &str) -> Option<T> {
    let read = T::deserialize(all.get(name)?).ok()?;
    all.remove(name);
    Some(read)
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

    #[test]
    fn what_another_sender_means_by_an_extension_is_kept() {
        let foreign = json!({
            "specversion": "1.0", "id": "7", "source": "/mycontext", "type": "com.example.someevent",
            "correlationid": "order-7", "causationid": 7, "relay": true, "previous": 12, "tenant": "t", "data": [1],
        });
        let read: Envelope = serde_json::from_str(&foreign.to_string()).unwrap();
        assert_eq!(
            (read.correlationid, read.causationid, &read.relay, &read.previous),
            (None, None, &None, &None)
        );
        assert_eq!(
            (read.others["correlationid"].as_str(), read.tenant.as_deref()),
            (Some("order-7"), Some("t"))
        );
        assert_eq!(serde_json::to_value(&read).unwrap(), foreign);
        let known = json!({ "correlationid": "0af76519-16cd-43dd-8448-eb211c80319c" });
        let mut one = foreign;
        one.as_object_mut().unwrap().extend(known.as_object().unwrap().clone());
        assert!(serde_json::from_value::<Envelope>(one).unwrap().correlationid.is_some());
        assert!(serde_json::from_value::<Envelope>(json!({ "specversion": "1.0", "id": 7 })).is_err());
    }
}
