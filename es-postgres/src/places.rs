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

/// The number and the version of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: i64,
    pub(crate) version: i64,
}

#[derive(Debug)]
pub(crate) struct Places {
    /// The last event of the log: its position and its id.
    pub(crate) stamp: Option<(i64, Uuid)>,
    places: Cache<StreamId, Place>,
}

impl Default for Places {
    fn default() -> Self {
        Self { stamp: None, places: Cache::new(CAPACITY) }
    }
}

impl Places {
    pub(crate) fn place(&self, stream: &StreamId) -> Option<Place> {
        self.stamp.and_then(|_| self.places.get(stream).copied())
    }

    pub(crate) fn learn(&mut self, stream: StreamId, place: Place) {
        self.places.insert(stream, place);
    }

    /// Somebody else has appended, or nobody knows.
    pub(crate) fn forget(&mut self) {
        self.stamp = None;
        self.places.clear();
    }
}
