//! The span around a read of an aggregate; its fields are told in `command/shown.rs`.

use tracing::{Span, debug_span, field};

use super::Loaded;
use crate::Aggregate;
use crate::store::StreamId;

pub(super) fn span<A: Aggregate>(stream: &StreamId) -> Span {
    debug_span!(
        "es.load",
        aggregate = A::NAME,
        %stream,
        from = field::Empty,
        version = field::Empty,
        events = field::Empty,
    )
}

/// What was read.
pub(super) fn read<A>(span: &Span, from: &'static str, loaded: &Loaded<A>, events: u64) {
    span.record("from", from).record("version", loaded.version.0).record("events", events);
}
