//! A relay among the processors of an app.

use std::sync::Arc;

use es_core::limits::MAX_PAGE;
use es_core::processor::{Execution, Keeps, Opening, Runner, Session};
use es_core::projection::Code;
use es_core::store::{EventFilter, Table};
use es_core::{AppBuilder, Backend, BoxError, EventStore, RecordedEvent};

use super::mapping::{Publishes, key_of};
use super::marks::{Mark, marks};
use super::publisher::Publisher;
use super::session::RelaySession;

/// How many events are taken for each message that may be on its way: so there is work for all while some keys have several.
const BATCH: usize = 8;

/// How many events are read to find the messages of a key: less than a second, in a log of other keys.
const SEARCH: usize = 20_000;

/// A mapping, and how its messages are sent.
#[derive(Clone, Debug)]
pub struct Relay<M> {
    pub(super) mapping: M,
    source: Option<String>,
    pub(super) in_flight: usize,
    pub(super) search: usize,
}

impl<M: Publishes> Relay<M> {
    /// Of a mapping: 64 messages are on their way at the same time, and the source is the store, as `urn:uuid:..`.
    pub const fn of(mapping: M) -> Self {
        Self { mapping, source: None, in_flight: 64, search: SEARCH }
    }

    /// Who sends the messages: a URI, as in `https://shop.example.com/orders`. An id of a message is unique among those of its
    /// source. It must not change: receivers know a relay by it.
    #[must_use]
    pub fn source(mut self, uri: impl Into<String>) -> Self {
        self.source = Some(uri.into());
        self
    }

    /// How many messages are on their way at the same time, at least one, for each range of slices: a node works on as many
    /// ranges as it has [workers](es_core::processor::ProcessorOptions::workers).
    #[must_use]
    pub fn in_flight(self, messages: usize) -> Self {
        Self { in_flight: messages.max(1), ..self }
    }

    /// How many events one call of [`behind`](Self::behind) reads, about, before it gives what it has found: 20,000 unless it is
    /// said. With fewer, an answer comes sooner, and it takes more of them.
    #[must_use]
    pub fn search(self, events: usize) -> Self {
        Self { search: events.max(1), ..self }
    }

    pub(super) fn source_on(&self, store: &dyn EventStore) -> String {
        self.source.clone().unwrap_or_else(|| store.identity().urn().to_string())
    }
}

impl<M: Publishes> From<M> for Relay<M> {
    fn from(mapping: M) -> Self {
        Self::of(mapping)
    }
}

/// `.relay(mapping, publisher)` on the builder of an app.
pub trait Relays: Sized {
    /// Sends what a mapping makes of events, for events from now on: a mapping, or a [`Relay`] with more to say.
    ///
    /// Messages of one key are sent in order and one at a time, those of many keys at the same time, and nodes share the keys.
    /// After a crash messages are sent again as they were.
    #[must_use]
    fn relay<M: Publishes>(self, relay: impl Into<Relay<M>>, publisher: impl Publisher) -> Self;
}

impl<B: Backend> Relays for AppBuilder<B> {
    fn relay<M: Publishes>(self, relay: impl Into<Relay<M>>, publisher: impl Publisher) -> Self {
        let (backend, relay) = (self.backend().clone(), Arc::new(relay.into()));
        let name = relay.mapping.name();
        match marks(&name) {
            Ok(table) => self.runner(RelayRunner { backend, relay, publisher: Arc::new(publisher), table }),
            Err(error) => self.check(move |_| vec![format!("relay {name}: {error}")]),
        }
    }
}

struct RelayRunner<B, M, P> {
    backend: Arc<B>,
    relay: Arc<Relay<M>>,
    publisher: Arc<P>,
    table: Table<Mark>,
}

impl<B: Backend, M: Publishes, P: Publisher> Runner for RelayRunner<B, M, P> {
    fn name(&self) -> String {
        self.relay.mapping.name()
    }

    fn filter(&self) -> EventFilter {
        M::filter()
    }

    fn code(&self) -> Code {
        M::code()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn execution(&self) -> Execution {
        let mut execution = Execution::default();
        execution.splits = true;
        execution.page = self.relay.in_flight.saturating_mul(BATCH).min(MAX_PAGE);
        execution
    }

    fn keys(&self, event: &RecordedEvent) -> Result<Vec<String>, BoxError> {
        Ok(vec![key_of(&self.relay.mapping, event)?])
    }

    fn open(&self, opening: Opening<'_>) -> Box<dyn Session> {
        let (backend, relay, publisher) = (self.backend.clone(), self.relay.clone(), self.publisher.clone());
        Box::new(RelaySession::new(backend, relay, publisher, self.table.clone(), opening))
    }
}
