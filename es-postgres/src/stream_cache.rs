//! Where streams are, as the last batch of this process left them.
//!
//! Good as long as nobody else appends: each batch says which event it believes to be the last of the log, and the
//! database, behind the gate, says whether it still is. So there is no time at which a stale version is believed. The
//! event's id stands beside its position, since a failover or a restore gives positions to other events.

use es_core::store::StreamId;
use quick_cache::unsync::Cache;
use uuid::Uuid;

/// Streams that are remembered.
const CAPACITY: usize = 20_000;

/// The number and the version of a stream, and the id of its last event, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedStream {
    pub(crate) id: i64,
    pub(crate) version: i64,
    pub(crate) last: Option<Uuid>,
}

#[derive(Debug)]
pub(crate) struct StreamCache {
    /// The last event of the log: its position and its id.
    pub(crate) stamp: Option<(i64, Uuid)>,
    streams: Cache<StreamId, CachedStream>,
}

impl Default for StreamCache {
    fn default() -> Self {
        Self { stamp: None, streams: Cache::new(CAPACITY) }
    }
}

impl StreamCache {
    pub(crate) fn get(&self, stream: &StreamId) -> Option<CachedStream> {
        self.stamp.and_then(|_| self.streams.get(stream).copied())
    }

    pub(crate) fn learn(&mut self, stream: StreamId, known: CachedStream) {
        self.streams.insert(stream, known);
    }

    /// Another process has appended, or may have.
    pub(crate) fn forget(&mut self) {
        self.stamp = None;
        self.streams.clear();
    }
}
