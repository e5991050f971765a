//! What came, held to what a message has to be.

use es_core::limits::{MAX_JSON_DEPTH, MAX_METADATA, MAX_PAYLOAD};
use es_core::store::keys::digest;
use serde_json::Value;

use super::error::InboxError;
use super::lane::Lane;
use crate::message::Envelope;
use crate::message::Sequence;

/// Bytes of an id, a source, a relay, a key, a type and a subject, each.
pub const MAX_ATTRIBUTE: usize = 1_024;
/// Bytes of a message, as JSON: the largest payload of an event, and as much beside it as an event can have.
pub const MAX_MESSAGE: usize = MAX_PAYLOAD + MAX_METADATA;

/// A message that can be taken.
pub(super) struct Checked<'e> {
    pub(super) message: &'e Envelope,
    pub(super) lane: Lane,
    /// Its sequence, and the one that was sent before it; `None`: it has no order.
    pub(super) order: Option<(Sequence, Option<Sequence>)>,
}

/// Holds a message to the limits, and finds its lane.
pub(super) fn check(message: &Envelope) -> Result<Checked<'_>, InboxError> {
    let Envelope {
        specversion, id, source, r#type, subject, relay, partitionkey, sequence, previous, ..
    } = message;
    if specversion != "1.0" {
        return Err(bad("specversion", format!("is {:?}, and has to be \"1.0\"", cut(specversion))));
    }
    text("id", id)?;
    text("source", source)?;
    text("type", r#type)?;
    subject.as_ref().filter(|subject| !subject.is_empty()).map_or(Ok(()), |of| text("subject", of))?;
    if !is_flat(&message.data, MAX_JSON_DEPTH)
        || !message.others.values().all(|value| is_flat(value, MAX_JSON_DEPTH))
    {
        return Err(bad("data", format!("is nested deeper than {MAX_JSON_DEPTH} levels")));
    }
    let bytes = serde_json::to_vec(message).map_err(|error| bad("data", error.to_string()))?.len();
    if bytes > MAX_MESSAGE {
        return Err(bad(
            "data",
            format!("makes a message of {bytes} bytes, over the limit of {MAX_MESSAGE}"),
        ));
    }
    let Some(relay) = relay else {
        return Ok(Checked { message, lane: Lane::of_message(source, id), order: None });
    };
    text("relay", relay)?;
    let needs = |field: &'static str| bad(field, "is missing: a message of a relay has one".to_owned());
    let key = partitionkey.as_deref().ok_or_else(|| needs("partitionkey"))?;
    if !key.is_empty() {
        text("partitionkey", key)?;
    }
    let own = number("sequence", sequence.as_deref().ok_or_else(|| needs("sequence"))?)?;
    let previous = previous.as_deref().map(|text| number("previous", text)).transpose()?;
    if previous.is_some_and(|previous| previous >= own) {
        return Err(bad("previous", format!("is not before the sequence, {own}")));
    }
    Ok(Checked { message, lane: Lane::of_key(source, relay, key), order: Some((own, previous)) })
}

fn bad(field: &'static str, why: String) -> InboxError {
    InboxError::NoMessage { field, why }
}

fn text(field: &'static str, text: &str) -> Result<(), InboxError> {
    if text.is_empty() {
        return Err(bad(field, "is empty".to_owned()));
    }
    if text.len() > MAX_ATTRIBUTE {
        let why = format!("is {} bytes, over the limit of {MAX_ATTRIBUTE}: {:?}", text.len(), cut(text));
        return Err(bad(field, why));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(found) => Err(bad(field, format!("has {found:?}, and may have no control characters"))),
        None => Ok(()),
    }
}

fn number(field: &'static str, text: &str) -> Result<Sequence, InboxError> {
    text.parse().map_err(|why| bad(field, format!("{:?} is no sequence: {why}", cut(text))))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// Whether a value is nested at most so deep: what is nested deeper could be written, and not be read again.
fn is_flat(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(all) => levels > 0 && all.iter().all(|value| is_flat(value, levels - 1)),
        Value::Object(all) => levels > 0 && all.values().all(|value| is_flat(value, levels - 1)),
        _ => true,
    }
}

/// What a message says, as a number: type, subject and data. How it came, and when, is no part of it.
pub(super) fn fingerprint(message: &Envelope) -> String {
    let mut data = String::new();
    canonical(&message.data, &mut data);
    if let Some(binary) = message.others.get("data_base64") {
        canonical(binary, &mut data);
    }
    let subject = message.subject.as_deref().unwrap_or_default();
    format!("{:032x}", digest([message.r#type.as_bytes(), subject.as_bytes(), data.as_bytes()]))
}

/// A value as JSON with sorted keys: the order in which a program keeps them depends on how it was built.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(all) => {
            text.push('[');
            for value in all {
                canonical(value, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(all) => {
            let mut all: Vec<_> = all.iter().collect();
            all.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in all {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_relay() -> Envelope {
        let mut message = Envelope::new("1", "/shop", "order.placed", json!({"n": 1}));
        message.relay = Some("orders".to_owned());
        message.partitionkey = Some("7".to_owned());
        message.sequence = Some("12".to_owned());
        message
    }

    #[test]
    fn what_is_no_message_is_refused_by_the_name_of_its_field() {
        let cases: Vec<(&str, fn(&mut Envelope))> = vec![
            ("specversion", |m| m.specversion = "0.3".to_owned()),
            ("id", |m| m.id.clear()),
            ("id", |m| m.id = "a\0b".to_owned()),
            ("id", |m| m.id = "ä".repeat(5_000)),
            ("source", |m| m.source.clear()),
            ("source", |m| m.source = "/a\u{85}".to_owned()),
            ("type", |m| m.r#type.clear()),
            ("subject", |m| m.subject = Some("a\0".to_owned())),
            ("relay", |m| m.relay = Some(String::new())),
            ("partitionkey", |m| m.partitionkey = None),
            ("partitionkey", |m| m.partitionkey = Some("k".repeat(10_000))),
            ("sequence", |m| m.sequence = None),
            ("sequence", |m| m.sequence = Some("twelve".to_owned())),
            ("sequence", |m| m.sequence = Some("+12".to_owned())),
            ("sequence", |m| m.sequence = Some(String::new())),
            ("sequence", |m| m.sequence = Some("18446744073709551616".to_owned())),
            ("previous", |m| m.previous = Some("12".to_owned())),
            ("previous", |m| m.previous = Some("-1".to_owned())),
            ("data", |m| m.data = json!("x".repeat(2 << 20))),
            ("data", |m| m.data = (0..65).fold(json!(1), |inner, _| json!([inner]))),
        ];
        assert!(check(&of_relay()).is_ok());
        for (n, (wrong, change)) in cases.into_iter().enumerate() {
            let mut message = of_relay();
            change(&mut message);
            match check(&message).map(|_| ()) {
                Err(InboxError::NoMessage { field, why }) => {
                    assert_eq!(field, wrong, "{n}: {why}");
                    assert!(why.len() < 400, "{n}: the value is cut");
                }
                other => panic!("{n}: {wrong} should be refused: {other:?}"),
            }
        }
    }

    #[test]
    fn a_message_at_its_limits_can_be_taken() {
        let mut message = of_relay();
        message.id = "i".repeat(MAX_ATTRIBUTE);
        message.partitionkey = Some(String::new());
        message.previous = Some("0".to_owned());
        message.data = json!("x".repeat(MAX_PAYLOAD));
        assert_eq!(check(&message).unwrap().order, Some(("12".parse().unwrap(), Some("0".parse().unwrap()))));
    }

    #[test]
    fn a_fingerprint_is_of_what_a_message_says() {
        let print = |text: &str| fingerprint(&serde_json::from_str::<Envelope>(text).unwrap());
        let first =
            print(r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1,"b":[2,{}]}}"#);
        let same = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","traceparent":"x","data":{"b":[2,{}],"a":1}}"#;
        assert_eq!(print(same), first);
        assert_eq!(first, "c1431d5ee624791be096289082cd7339", "stored: it never changes");
        for other in [r#""t2","data":{"a":1,"b":[2,{}]}"#, r#""t","data":{"a":1,"b":[[2],{}]}"#] {
            let text = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":{other}}}"#);
            assert_ne!(print(&text), first);
        }
    }
}
