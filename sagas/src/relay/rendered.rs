//! An event as the messages that go out: the same whenever it is asked.

use es_core::event::is_of_a_newer_program;
use es_core::guarded::handle_now;
use es_core::processor::Definite;
use es_core::{BoxError, Metadata, RecordedEvent, chain};

use super::Relay;
use super::mapping::{Message, Publishes};
use crate::message::sequence::PARTS;
use crate::message::{Envelope, Sequence};

/// The largest message, in bytes of its envelope as JSON.
pub const MAX_MESSAGE: usize = 1 << 20;

impl<M: Publishes> Relay<M> {
    /// The messages of an event, behind one of the same key.
    pub(super) fn rendered(
        &self,
        event: &RecordedEvent,
        key: &str,
        mut previous: Option<Sequence>,
        source: &str,
    ) -> Result<Vec<(Sequence, Envelope)>, BoxError> {
        let position = event.place();
        let messages = handle_now(event, || self.mapping.messages(event))?;
        if messages.len() > PARTS as usize {
            return Err(format!("it becomes {} messages; the most are {PARTS}", messages.len()).into());
        }
        let (relay, single) = (self.mapping.name(), messages.len() == 1);
        let mut rendered = Vec::with_capacity(messages.len());
        for (ordinal, message) in (0_u32..).zip(messages) {
            let sequence = Sequence::of_event(position, ordinal);
            let id = if single {
                format!("{}/{relay}", event.id)
            } else {
                format!("{}/{relay}/{ordinal}", event.id)
            };
            let mut envelope = envelope(event, message, id, source)?;
            envelope.relay = Some(relay.clone());
            envelope.partitionkey = Some(key.to_owned());
            envelope.sequence = Some(sequence.to_string());
            envelope.previous = previous.map(|previous| previous.to_string());
            let size = serde_json::to_vec(&envelope)?.len();
            if size > MAX_MESSAGE {
                let most = "the largest has";
                return Err(format!("message {} has {size} bytes; {most} {MAX_MESSAGE}", envelope.id).into());
            }
            previous = Some(sequence);
            rendered.push((sequence, envelope));
        }
        Ok(rendered)
    }
}

fn envelope(event: &RecordedEvent, message: Message, id: String, source: &str) -> Result<Envelope, BoxError> {
    let r#type = message.r#type.unwrap_or_else(|| event.name.to_string());
    let mut envelope = Envelope::new(id, source, r#type, message.body?);
    envelope.subject = Some(event.stream.as_str().to_owned());
    envelope.time = Some(event.recorded_at);
    let cause = Metadata::caused_by(event);
    (envelope.correlationid, envelope.causationid) = (cause.correlation, cause.causation);
    (envelope.tenant, envelope.traceparent) = (cause.tenant, cause.trace_parent);
    envelope.tracestate = cause.trace_state;
    Ok(envelope)
}

/// A mapping is pure: to ask it again does not help, unless another program is asked.
pub(super) fn for_good(error: BoxError) -> BoxError {
    if is_of_a_newer_program(&*error) { error } else { Definite::new(chain(&*error)).into() }
}
