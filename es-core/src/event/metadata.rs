//! What is known about an event beside its payload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::RecordedEvent;

/// Where an event comes from. Stored with it, byte for byte.
///
/// Correlation and causation follow Greg Young's rule: an answer takes over the correlation of its
/// cause and names the cause's id as causation, so that a whole flow can be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metadata {
    /// The flow it belongs to; the first command's id unless the caller sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Uuid>,
    /// What directly caused it: the id of the command, or of the event that was reacted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation: Option<Uuid>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// For whom, where one store serves several customers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `traceparent` of the W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    /// `tracestate` of the W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_state: Option<String>,
    /// Whatever else the application wants to keep.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, String>,
}

impl Metadata {
    /// The metadata of something that `event` caused: its flow, its actor, its tenant.
    #[must_use]
    pub fn caused_by(event: &RecordedEvent) -> Self {
        let cause = &event.metadata;
        Self {
            correlation: cause.correlation.or(Some(event.id)),
            causation: Some(event.id),
            actor: cause.actor.clone(),
            tenant: cause.tenant.clone(),
            trace_parent: cause.trace_parent.clone(),
            trace_state: cause.trace_state.clone(),
            user: BTreeMap::new(),
        }
    }

    /// Whether there is nothing but correlation and causation.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self { correlation: _, causation: _, actor, tenant, trace_parent, trace_state, user } = self;
        actor.is_none()
            && tenant.is_none()
            && trace_parent.is_none()
            && trace_state.is_none()
            && user.is_empty()
    }

    /// Bytes of its texts.
    pub(crate) fn size(&self) -> usize {
        let Self { correlation: _, causation: _, actor, tenant, trace_parent, trace_state, user } = self;
        let texts = [actor, tenant, trace_parent, trace_state].into_iter().flatten();
        texts.chain(user.keys()).chain(user.values()).map(String::len).sum()
    }

    /// Bytes of its stored form.
    pub(crate) fn stored_size(&self) -> usize {
        serde_json::to_vec(self).expect("strings and ids serialize").len()
    }
}
