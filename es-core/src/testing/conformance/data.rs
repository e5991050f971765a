//! Events and commits for the suites.

use std::sync::Arc;

use crate::Event;
use crate::event::{EventData, Tag};
use crate::id::Ids;
use crate::store::{
    Append, AppendCondition, Check, Commit, EventFilter, EventId, ExpectedVersion, NewEvent, Position,
    RecordedEvent, StreamId, Version,
};

pub(super) const ANY: ExpectedVersion = ExpectedVersion::Any;
pub(super) const NO_STREAM: ExpectedVersion = ExpectedVersion::NoStream;
pub(super) const EXISTS: ExpectedVersion = ExpectedVersion::Exists;

pub(super) const fn exact(version: u64) -> ExpectedVersion {
    ExpectedVersion::Exact(Version(version))
}

pub(super) fn id(text: &str) -> StreamId {
    StreamId::new(text).expect("a short name without control characters")
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::parse(text).expect("a short name without control characters")
}

pub(super) fn new_id() -> EventId {
    Ids::default().next()
}

/// An event with a new id, this type and these bytes.
pub(super) fn raw(name: &'static str, schema: u32, json: &str) -> NewEvent {
    let data = EventData {
        name: name.into(),
        schema,
        codec: crate::codec::JSON.into(),
        data: json.to_owned().into(),
        tags: Vec::new(),
    };
    NewEvent::new(new_id(), data, Arc::default())
}

/// An event with a new id and this type.
pub(super) fn event(name: &'static str) -> NewEvent {
    raw(name, 1, "{}")
}

pub(super) fn tagged(name: &'static str, tags: &[&str]) -> NewEvent {
    NewEvent { tags: tags.iter().map(|t| tag(t)).collect(), ..event(name) }
}

/// Some events with new ids.
pub(super) fn events(n: usize) -> Vec<NewEvent> {
    (0..n).map(|_| event("noted")).collect()
}

/// A typed event with a new id.
pub(super) fn encoded<E: Event>(event: &E) -> NewEvent {
    NewEvent::new(new_id(), event.encode().expect("the domain's events encode"), Arc::default())
}

pub(super) fn append(stream: &StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Commit {
    Commit::default().and(stream.as_str(), expected, events)
}

pub(super) fn filter_condition(filter: EventFilter, after: Position) -> AppendCondition {
    AppendCondition { fail_if_events_match: filter, after }
}

impl Commit {
    /// And these events for this stream.
    pub(super) fn and(mut self, stream: &str, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        self.appends.push(Append { stream: id(stream), expected, events });
        self
    }

    /// And this stream where it is expected.
    pub(super) fn checking(mut self, stream: &str, expected: ExpectedVersion) -> Self {
        self.checks.push(Check { stream: id(stream), expected });
        self
    }

    /// And nothing that matches after a position.
    pub(super) fn under(mut self, filter: EventFilter, after: Position) -> Self {
        self.condition = Some(filter_condition(filter, after));
        self
    }
}

/// The positions of events.
pub(super) fn places(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|e| e.place().0).collect()
}

/// The versions of events.
pub(super) fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|e| e.version.0).collect()
}

/// The ids of events.
pub(super) fn ids(events: &[RecordedEvent]) -> Vec<EventId> {
    events.iter().map(|e| e.id).collect()
}
